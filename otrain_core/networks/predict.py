"""Scores of a Keras model for the cutouts of a cube."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from otrain_core.cubes.inputs import column, input_blocks, select_inputs
from otrain_core.networks.devices import memory_told


def score_cube(model, cube: Mapping[str, np.ndarray], split: pd.DataFrame) -> pd.DataFrame:
    """Score all cutouts of a cube; channels and size are taken from the model.

    Returns
    -------
    pandas.DataFrame
        index, candid, image, label, sign (-1: fainter than in the reference), score (probability of True), set (train,
        validation, test, or unused if the cutout is not in the split).

    Raises
    ------
    CubeError
        A channel of the model is not in the cube, or the cutouts are too small.
    """
    n = len(cube["cube"])
    sets = np.full(n, "unused", dtype=object)
    sets[split["index"].to_numpy(int)] = split["set"].to_numpy()
    return pd.DataFrame(
        {
            "index": np.arange(n),
            "candid": column(cube, "candids", ""),
            "image": column(cube, "images", ""),
            "label": np.asarray(cube["labels"], dtype=int),
            "sign": column(cube, "signs", 1),
            "score": score_rows(model, cube),
            "set": sets,
        }
    )


def score_real_stars(model, cube: Mapping[str, np.ndarray], table: pd.DataFrame) -> pd.DataFrame:
    """Score the real stars in the test images, which were not used for training, tuning or calibration.

    Parameters
    ----------
    model : keras.Model
    cube : dict of arrays
        ``real_stars.npz``, in the format of a cube.
    table : pandas.DataFrame
        From `score_cube`; the images of its test set are used.

    Returns
    -------
    pandas.DataFrame
        candid, image, mag, kind, score.
    """
    tested = np.isin(column(cube, "images", ""), table.loc[table["set"] == "test", "image"].unique().astype(str))
    rows = np.flatnonzero(tested)
    scores = score_rows(model, cube, rows) if len(rows) else np.empty(0)
    names = {"candid": "candids", "image": "images", "mag": "mags", "kind": "kinds"}
    return pd.DataFrame({name: cube[key][rows] for name, key in names.items()} | {"score": scores})


def predict(model, cutouts: np.ndarray) -> np.ndarray:
    """Output (float32) of a Keras model for cutouts in its input format."""
    with memory_told(f"batches of 256 cutouts of {cutouts.shape[1]} px"):
        return np.asarray(model.predict(cutouts, batch_size=256, verbose=0), dtype=np.float32)


def score_cutouts(model, cutouts: np.ndarray | Iterable[np.ndarray]) -> np.ndarray:
    """Probability of True, float32 (N,), for cutouts from `select_inputs` or `input_blocks`."""
    blocks = [cutouts] if isinstance(cutouts, np.ndarray) else cutouts
    scores = [predict(model, block)[:, 1] for block in blocks if len(block)]
    return np.concatenate([*scores, np.empty(0, np.float32)])


def score_rows(model, cube: Mapping[str, np.ndarray], rows: np.ndarray | None = None) -> np.ndarray:
    """Probability of True (float32) for rows of a cube (default: all); only the pixels of these rows are read.

    Raises
    ------
    CubeError
        A channel of the model is not in the cube, or the cutouts are too small.
    """
    from otrain_core.networks.architecture import input_stage

    blocks = input_blocks(cube, inputs=input_stage(model).channels, size=model.input_shape[1], rows=rows)
    return score_cutouts(model, blocks)


def model_inputs(model, cube: Mapping[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Rows of a cube in the input format of a model; only the pixels of these rows are read."""
    from otrain_core.networks.architecture import input_stage

    return select_inputs(cube, inputs=input_stage(model).channels, size=model.input_shape[1], rows=rows)
