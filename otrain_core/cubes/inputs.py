"""What a network reads of a cube: channels of pixels, and planes of one number for each cutout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from otrain_core.errors import ConfigError, CubeError

IMAGES = ("difference", "science", "reference")  # channels in which a neighbour stands
# Columns of a cube that a network can read as planes [arcsec/px; px], and what stands for them where unknown.
SAMPLING = {"pixel_scale": 1.0, "seeing": 3.0}
BLOCK = 4096  # cutouts read at a time from a cube that need not fit in memory
FEW = 256  # cutouts of which all channels are in memory at a time


def select_inputs(
    cube: Mapping[str, np.ndarray],
    *,
    inputs: Sequence[str],
    size: int | None,
    rows: np.ndarray | None = None,
    optional: Sequence[str] = ("psf",),
    least: int | None = None,
) -> np.ndarray:
    """Channels of a cube, cropped about the candidate (pixel side // 2).

    Parameters
    ----------
    cube : mapping of arrays
        ``cube`` (N, S, S, C), ``channels`` (C names), and ``pixel_scale`` and ``seeing`` (N,)
        where they are asked for.
    inputs : sequence of str
        Names of the channels wanted, in this order. Those of `SAMPLING` become planes of the one
        number that the cube has for the cutout.
    size : int or None
        Side of the cropped cutouts; None keeps S.
    rows : numpy.ndarray, optional
        Cutouts wanted, and the only ones read from a cube mapped into memory (default: all).
    optional : sequence of str
        Channels and columns that the cube need not have.
    least : int, optional
        Cutouts of this side or more, but smaller than `size`, get a rim of missing pixels.

    Returns
    -------
    numpy.ndarray
        float32 (n, size, size, len(inputs)); missing pixels, unknown numbers and channels that the cube does not
        have are NaN.

    Raises
    ------
    CubeError
        A channel or column that the cube does not have, or a size larger than its cutouts.
    ConfigError
        No channel of pixels among the inputs.
    """
    stack, names = cube["cube"], [str(name) for name in np.atleast_1d(cube["channels"])]
    if stack.ndim != 4 or stack.shape[3] != len(names):
        raise CubeError(f"the cube of shape {stack.shape} does not fit its {len(names)} channels")
    pixels = [name for name in inputs if name not in SAMPLING and (name in names or name not in optional)]
    if not pixels:
        raise ConfigError(f"inputs: at least one channel of pixels is needed beside {', '.join(inputs) or 'nothing'}")
    for name in inputs:
        if name in SAMPLING and name not in cube and name not in optional:
            raise CubeError(f"the cube does not have the column {name!r} that the network reads")
        if name not in SAMPLING and name not in names and name not in optional:
            raise CubeError(f"channel {name!r} is not in the cube (it has {', '.join(names)})")
    side = min(stack.shape[1:3])
    size = size or side
    if size > side and side < (least or size):
        raise CubeError(f"cutouts of {size} px were asked for, those of the cube have {side} px")
    whole, size = size, min(size, side)
    top, left = (length // 2 - size // 2 for length in stack.shape[1:3])
    index = [names.index(name) for name in pixels]
    if rows is None:
        cutouts = np.ascontiguousarray(stack[:, top : top + size, left : left + size, index], dtype=np.float32)
    else:
        rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows, dtype=np.intp)
        cutouts = np.empty((len(rows), size, size, len(index)), np.float32)
        for start in range(0, len(rows), FEW):
            some = stack[rows[start : start + FEW]]
            cutouts[start : start + FEW] = some[:, top : top + size, left : left + size, index]
    if pixels == list(inputs) and size == whole:
        return cutouts
    joined = np.full((len(cutouts), whole, whole, len(inputs)), np.nan, np.float32)
    inner = slice(whole // 2 - size // 2, whole // 2 - size // 2 + size)
    for k, name in enumerate(inputs):
        if name in SAMPLING and name in cube:
            column = np.asarray(cube[name], np.float32)
            joined[..., k] = (column if rows is None else column[rows])[:, None, None]
        elif name in pixels:
            joined[:, inner, inner, k] = cutouts[..., pixels.index(name)]
    return joined


def input_blocks(
    cube: Mapping[str, np.ndarray],
    *,
    inputs: Sequence[str],
    size: int | None,
    rows: np.ndarray | None = None,
    block: int = BLOCK,
) -> Iterator[np.ndarray]:
    """The same as `select_inputs`, some cutouts at a time: for cubes mapped into memory.

    Parameters
    ----------
    cube, inputs, size, rows
        As for `select_inputs`.
    block : int
        Cutouts at a time.

    Yields
    ------
    numpy.ndarray
        float32 (up to `block`, size, size, len(inputs)).

    Raises
    ------
    CubeError, ConfigError
        As `select_inputs`.
    """
    rows = np.arange(len(cube["cube"])) if rows is None else np.asarray(rows)
    for start in range(0, len(rows), block):
        yield select_inputs(cube, inputs=inputs, size=size, rows=rows[start : start + block])


def column(cube: Mapping[str, np.ndarray], name: str, missing: Any = np.nan) -> np.ndarray:
    """A column of the cube, or `missing` for every cutout where the cube does not have it."""
    return np.asarray(cube[name]) if name in cube else np.full(len(cube["labels"]), missing)
