"""The keys of a cube, and reading a cube."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.arrays import read_stack
from otrain_core.errors import CubeError

TABLE1 = ("cube", "labels", "mags", "errmags", "filters", "fwhms", "candids")
# Keys of a cube and the columns of the cutouts they come from. Those of Table 1 of Makhlouf et al. (2022) come first.
CUBE_COLUMNS = {
    "mags": "mag",
    "errmags": "magerr",
    "filters": "filter",
    "fwhms": "fwhm",
    "candids": "candid",
    "images": "image",
    "x": "x",
    "y": "y",
    "ra": "ra",
    "dec": "dec",
    "snr": "snr",
    "seeing": "seeing",
    "pixel_scale": "pixel_scale",
    "reasons": "reason",
    "artefacts": "artefact",
    "injections": "injection",
    "kinds": "kind",
    "times": "time",
    "fields": "field",
    "grid_x": "grid_x",
    "grid_y": "grid_y",
    "signs": "sign",
}
# Keys with numbers.
NUMBERS = (
    *("mags", "errmags", "fwhms", "x", "y", "ra", "dec", "snr", "seeing", "pixel_scale"),
    *("injections", "grid_x", "grid_y", "signs", "n_missing"),
)
SENTINELS = (-99.0, 99.0, 0.0)  # missing magnitudes in the cubes of the original O'TRAIN


def no_rows(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A cube without cutouts, with the same keys."""
    n, cube = len(arrays["labels"]), arrays["cube"]
    none = {
        key: array[:0] for key, array in arrays.items() if key not in ("cube", "channels") and array.shape[:1] == (n,)
    }
    return dict(arrays) | none | {"cube": np.empty((0, *cube.shape[1:]), cube.dtype)}


def read_cube(path: str | Path, *, mmap: bool = False, both_classes: bool = True) -> dict[str, np.ndarray]:
    """Read and check a cube.

    Cubes of the original O'TRAIN, which have only the keys of Table 1, are accepted: their labels may be one-hot
    (False, True), the cube may have no channel axis, and sentinels for magnitudes are read as missing.

    Parameters
    ----------
    path : path-like
    mmap : bool
        Map ``cube`` into memory instead of reading it.
    both_classes : bool
        Refuse a cube without both classes. A cube of real stars has one class, or no rows.

    Returns
    -------
    dict of numpy.ndarray
        ``cube`` float32 (N, H, W, C), ``labels`` uint8, ``channels``, ``kinds``, and the other keys of the file.

    Raises
    ------
    CubeError
        The file is not readable, a key of Table 1 is missing, shapes do not agree, a column has text instead of
        numbers, labels are not 0 or 1, or a class is missing.
    """
    arrays = read_stack(path, mmap=("cube",) if mmap else ())
    for key in TABLE1:
        if key not in arrays:
            raise CubeError(f"{path}: key {key!r} is missing; a cube needs {', '.join(TABLE1)}")
    if arrays["cube"].ndim == 3:
        arrays["cube"] = arrays["cube"][..., None]
    cube = arrays["cube"]
    if cube.ndim != 4 or cube.dtype.kind not in "fiu" or 0 in cube.shape[1:]:
        raise CubeError(f"{path}: cube: numbers of shape (N, H, W, C) are needed, found {cube.dtype} {cube.shape}")
    arrays["cube"] = cube.astype(np.float32, copy=False)
    arrays["labels"] = _plain_labels(arrays["labels"], path)
    _check_columns(arrays, path)
    arrays.setdefault("kinds", np.full(len(cube), ""))
    if both_classes and len(np.unique(arrays["labels"])) < 2:
        raise CubeError(f"{path}: labels: both classes are needed, but the cube has only one")
    if "channels" not in arrays:
        for key in ("mags", "errmags"):
            values = arrays[key].astype(np.float64)
            arrays[key] = np.where(np.isin(values, SENTINELS if key == "mags" else SENTINELS[:2]), np.nan, values)
        arrays["channels"] = np.array(["difference", *(f"channel{n}" for n in range(2, cube.shape[3] + 1))])
    channels = np.atleast_1d(arrays["channels"])
    if channels.ndim != 1 or len(channels) != cube.shape[3]:
        raise CubeError(f"{path}: channels: {channels.size} names for the {cube.shape[3]} channels of the cube")
    if channels.dtype.kind != "U" or len(set(channels.tolist())) < len(channels):
        raise CubeError(f"{path}: channels: a unique name is needed for each channel, found {channels.tolist()}")
    arrays["channels"] = channels
    return arrays


def _plain_labels(labels: np.ndarray, path: str | Path) -> np.ndarray:
    """Labels (N,) as uint8; one-hot ones (False, True) are accepted."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    known = labels.dtype.kind in "biuf" and np.isin(labels, (0, 1)).all()
    if known and labels.ndim == 2 and labels.shape[1] == 2 and (labels.sum(axis=1) == 1).all():
        return labels.argmax(axis=1).astype(np.uint8)
    if not known or labels.ndim != 1:
        raise CubeError(f"{path}: labels: must be 0 (False) or 1 (True) for each cutout")
    return labels.astype(np.uint8)


def _check_columns(arrays: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Refuse columns that do not have one value of the right type per cutout."""
    n = len(arrays["cube"])
    for key in dict.fromkeys((*TABLE1[1:], *CUBE_COLUMNS, "n_missing")):
        if key not in arrays:
            continue
        column = arrays[key]
        if column.ndim != 1 or len(column) != n:
            found = f"{len(column)} entries" if column.ndim == 1 else f"the shape {column.shape}"
            raise CubeError(f"{path}: {key} has {found} for {n} cutouts")
        if key in NUMBERS and column.dtype.kind not in "biuf":
            raise CubeError(f"{path}: {key}: numbers are needed, found {column.dtype}")


def kept_false_share(cube_record: dict[str, Any]) -> float:
    """Fraction of the labelled False candidates that are in the cube after balancing (1 where unknown)."""
    kept, found = cube_record.get("n_false"), cube_record.get("n_labelled_false")
    return kept / found if kept and found and kept <= found else 1.0
