"""Scores of the shipped model on a cube (step `shipped`)."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from otrain_core.arrays import read_stack
from otrain_core.classify.classifier import Classifier
from otrain_core.classify.shipped import shipped_file
from otrain_core.cubes.inputs import SAMPLING
from otrain_core.errors import CubeError, OtrainError
from otrain_core.io import write_table

SCORE_COLUMNS = ("index", "score", "threshold")

log = logging.getLogger("otrain")


def shipped_files(*, cube: str | Path, scores: str | Path, threads: int = 1) -> None:
    """Score every cutout of a cube with the shipped model (step `shipped`).

    Parameters
    ----------
    cube : path-like
        ``cube.npz``
    scores : path-like
        CSV to write, with `SCORE_COLUMNS`: row of the cube, score, and threshold of the model. It has no rows if this
        installation has no shipped model or the cutouts do not fit the model; the log then gives the reason.
    threads : int
        CPU threads.
    """
    found = pd.DataFrame({name: [] for name in SCORE_COLUMNS})
    try:
        classifier = Classifier.load(shipped_file(), threads=threads)
        if classifier.threshold is None:
            raise CubeError("the shipped model has no threshold")
        arrays = read_stack(cube, mmap=("cube",), only=("cube", "channels", *SAMPLING))
        values = classifier.score(arrays)
        found = pd.DataFrame({"index": np.arange(len(values)), "score": values, "threshold": classifier.threshold})
    except OtrainError as error:
        log.warning("%s: cannot be scored with the shipped model: %s", cube, error)
    write_table(scores, found)
