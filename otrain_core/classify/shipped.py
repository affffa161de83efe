"""The model that comes with O'TRAIN, `universal`: its files, and its scores on a cube (step `shipped`)."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from otrain_core.errors import CubeError, OtrainError
from otrain_core.io import digest, write_table

NAME = "universal"
FOLDER = Path(__file__).with_name("models")
SCORE_COLUMNS = ("index", "score", "threshold")

log = logging.getLogger("otrain")


def shipped_file(kind: str = "onnx") -> Path:
    """File of the shipped model.

    Parameters
    ----------
    kind : {'onnx', 'keras'}
        For use, or for fine-tuning.

    Raises
    ------
    OtrainError
        This installation has none.
    """
    path = FOLDER / f"{NAME}.{kind}"
    if not path.is_file():
        raise OtrainError(
            f"{path}: this installation has no shipped model; name another one (-m), or build it with `make universal`"
        )
    return path


def shipped_card() -> dict[str, Any] | None:
    """What ``universal.json`` says of the shipped model (`otrain_core.classify.card`), None where there is no model.

    Raises
    ------
    OtrainError
        A card that cannot be read.
    """
    if not (FOLDER / f"{NAME}.onnx").is_file():
        return None
    path = FOLDER / f"{NAME}.json"
    try:
        card = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise OtrainError(f"{path}: not a readable card ({error})") from None
    if not isinstance(card, dict):
        raise OtrainError(f"{path}: not a card")
    return card


def shipped_digest() -> str:
    """Digest of the shipped model, '' where there is none: another model scores anew."""
    path = FOLDER / f"{NAME}.onnx"
    return digest(path) if path.is_file() else ""


def shipped_files(*, cube: str | Path, scores: str | Path, threads: int = 1) -> None:
    """Score every cutout of a cube with the shipped model (step `shipped`).

    Parameters
    ----------
    cube : path-like
        ``cube.npz``
    scores : path-like
        CSV written, `SCORE_COLUMNS`: row of the cube, score, and the threshold of the model. It has no rows where this
        installation has no shipped model, or where the cutouts do not fit it; the log then says why.
    threads : int
        CPU threads.
    """
    import numpy as np
    import pandas as pd

    from otrain_core.arrays import read_stack
    from otrain_core.classify.classifier import Classifier
    from otrain_core.cubes.inputs import SAMPLING

    found = pd.DataFrame({name: [] for name in SCORE_COLUMNS})
    try:
        classifier = Classifier.load(shipped_file(), threads=threads)
        if classifier.threshold is None:
            raise CubeError("the shipped model has no threshold")
        arrays = read_stack(cube, mmap=("cube",), only=("cube", "channels", *SAMPLING))
        values = classifier.score(arrays)
        found = pd.DataFrame({"index": np.arange(len(values)), "score": values, "threshold": classifier.threshold})
    except OtrainError as error:
        log.warning("%s is not scored with the shipped model: %s", cube, error)
    write_table(scores, found)
