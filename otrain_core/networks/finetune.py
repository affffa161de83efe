"""Fine-tuning of the shipped model on all labels, for labels that are too few for a test set (`otrain train`).

`otrain_core.studies.finetune` is the study of fine-tuning (rule finetune), which keeps a test set and scores it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.cubes.cube_format import read_cube
from otrain_core.cubes.inputs import column
from otrain_core.io import digest, write_json, write_table
from otrain_core.jobs.provenance import provenance
from otrain_core.networks.predict import model_inputs
from otrain_core.networks.train import finetune_model

if TYPE_CHECKING:
    from otrain_core.plan.config import Experiment, FinetuneOptions

EVEN_ODDS = 0.5  # threshold of a fine-tuned network


def finetune_files(
    *,
    cube: str | Path,
    split: str | Path,
    model: str | Path,
    history: str | Path,
    record: str | Path,
    onnx: str | Path,
    experiment: Experiment,
    seed: int,
    finetune: FinetuneOptions | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Fine-tune the shipped model on all cutouts of a cube. No cutouts are held out, so there are no scores.

    Parameters
    ----------
    cube, model, history, record, experiment, seed, finetune, threads
        As for `otrain_core.networks.train.train_files`. There is no ``metrics.json``, so that the registry does not
        import such a training and it cannot become a champion.
    split, onnx : path-like
        Further files to write: a split whose only set is train, and the model for classification, with threshold 0.5.

    Returns
    -------
    dict
        Content of `record`.

    Raises
    ------
    OtrainError
        There is no shipped model, or the cube has no channel that it requires.
    """
    from otrain_core.networks.architecture import save_model
    from otrain_core.networks.export_onnx import N_CHECKED, export_model, model_record

    arrays = read_cube(cube)
    table = split_of_all(arrays)
    network, epochs, result = finetune_model(
        arrays, table, experiment=experiment, options=finetune, seed=seed, threads=threads
    )
    result |= {"test_set": None, "cube_digest": digest(cube)} | provenance()
    write_table(split, table)
    write_table(history, epochs)
    save_model(network, model)
    write_json(record, result)
    metrics: dict[str, Any] = {key: str(arrays[key]) for key in ("telescope", "pipeline") if key in arrays}
    metrics |= {"experiment": "fine-tuned", "headline": {"threshold": EVEN_ODDS}}
    checked = model_inputs(network, arrays, np.arange(min(len(table), N_CHECKED)))
    export_model(
        network, onnx, about=model_record(metrics, result, arrays, table.assign(score=np.nan)), cutouts=checked
    )
    return result


def split_of_all(cube: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Split whose only set is train: index, candid, image, label, set."""
    labels = np.asarray(cube["labels"]).astype(int)
    table = {
        "index": np.arange(len(labels)),
        "candid": cube["candids"],
        "image": column(cube, "images", "").astype(str),
    }
    return pd.DataFrame(table | {"label": labels, "set": "train"})
