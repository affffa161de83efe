"""Windows that slide over a plane, in few passes."""

from __future__ import annotations

import numpy as np


def sliding(
    plane: np.ndarray, size: int, axis: int, combine: np.ufunc, *, beyond: bool | float | None = None
) -> np.ndarray:
    """Each `size` neighbours along an axis combined by an idempotent operation.

    What is combined already is combined again: four passes do for a window of 9, with bool at 1 byte a pixel.

    Parameters
    ----------
    plane : numpy.ndarray
        (height, width)
    size : int
        Of the window [px].
    axis : int
    combine : numpy.ufunc
        As `numpy.maximum` or `numpy.logical_and`.
    beyond : optional
        Value of ``size // 2`` pixels beyond either end; without it there are none, and the result is shorter by size - 1.
    """
    planes, width = np.moveaxis(plane, axis, 0), 1
    if beyond is not None:
        planes = np.pad(planes, [(size // 2, size // 2), (0, 0)], constant_values=beyond)
    while width < size:
        step = min(width, size - width)
        planes, width = combine(planes[:-step], planes[step:]), width + step
    return np.moveaxis(planes, 0, axis)


def dilated(plane: np.ndarray, reach: int) -> np.ndarray:
    """Whether a True pixel lies in the square of ``2 reach + 1`` px about each pixel."""
    for axis in (0, 1):
        plane = sliding(plane, 2 * reach + 1, axis, np.logical_or, beyond=False)
    return plane
