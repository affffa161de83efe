"""Select the inputs of a network from a cube: channels of pixels, and planes that are constant per cutout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from otrain_core.errors import ConfigError, CubeError

IMAGES = ("difference", "science", "reference")  # channels in which neighbouring sources are visible
# Columns of a cube that a network can read as planes, with the value for unknown ones [arcsec/px; px].
SAMPLING = {"pixel_scale": 1.0, "seeing": 3.0}
BLOCK = 4096  # number of cutouts that are read at a time from a cube larger than the memory
FEW = 256  # number of cutouts of which all channels are in memory at a time


def select_inputs(
    cube: Mapping[str, np.ndarray],
    *,
    inputs: Sequence[str],
    size: int | None,
    rows: np.ndarray | None = None,
    optional: Sequence[str] = ("psf",),
    least: int | None = None,
) -> np.ndarray:
    """Select channels of a cube, cropped about the candidate (pixel side // 2).

    Parameters
    ----------
    cube : mapping of arrays
        ``cube`` (N, S, S, C), ``channels`` (C names), and ``pixel_scale`` and ``seeing`` (N,)
        if they are among the inputs.
    inputs : sequence of str
        Names of the channels, in the order of the result. Columns in `SAMPLING` become planes with the value of the
        cutout in every pixel.
    size : int or None
        Side of the cropped cutouts [px]; None keeps S.
    rows : numpy.ndarray, optional
        Indices or mask of the cutouts to select; only these are read from a memory-mapped cube (default: all).
    optional : sequence of str
        Channels and columns that the cube may lack.
    least : int, optional
        Cutouts smaller than `size`, but at least of this side, are padded with missing pixels.

    Returns
    -------
    numpy.ndarray
        float32 (n, size, size, len(inputs)); missing pixels, unknown values and missing channels are NaN.

    Raises
    ------
    CubeError
        The cube lacks a channel or column, or its cutouts are too small.
    ConfigError
        The inputs have no channel of pixels.
    """
    stack, names = cube["cube"], [str(name) for name in np.atleast_1d(cube["channels"])]
    if stack.ndim != 4 or stack.shape[3] != len(names):
        raise CubeError(f"the cube has the shape {stack.shape}, which does not agree with its {len(names)} channels")
    pixels = [name for name in inputs if name not in SAMPLING and (name in names or name not in optional)]
    if not pixels:
        raise ConfigError(f"inputs: at least one channel of pixels is needed, found {', '.join(inputs) or 'none'}")
    for name in inputs:
        if name in SAMPLING and name not in cube and name not in optional:
            raise CubeError(f"the cube lacks the column {name!r}, which the network needs")
        if name not in SAMPLING and name not in names and name not in optional:
            raise CubeError(f"channel {name!r} is not in the cube (it has {', '.join(names)})")
    side = min(stack.shape[1:3])
    size = size or side
    if size > side and side < (least or size):
        raise CubeError(f"cutouts of {size} px are needed, but those of the cube have {side} px")
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
    """Call `select_inputs` for blocks of cutouts, for cubes larger than the memory.

    Parameters
    ----------
    cube, inputs, size, rows
        As for `select_inputs`.
    block : int
        Number of cutouts per block.

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
    """A column of a cube, (N,); `missing` for each cutout if the cube does not have the column."""
    return np.asarray(cube[name]) if name in cube else np.full(len(cube["labels"]), missing)
