"""Sliding windows over a plane, computed in few passes."""

from __future__ import annotations

import numpy as np


def sliding(
    plane: np.ndarray, size: int, axis: int, combine: np.ufunc, *, beyond: bool | float | None = None
) -> np.ndarray:
    """Combine every `size` neighbouring pixels along an axis by an idempotent operation.

    Each pass combines the windows of the pass before, so that a window of 9 px takes four passes.

    Parameters
    ----------
    plane : numpy.ndarray
        (height, width)
    size : int
        Of the window [px].
    axis : int
    combine : numpy.ufunc
        Such as `numpy.maximum` or `numpy.logical_and`.
    beyond : scalar, optional
        Value of ``size // 2`` pixels added at either end. Without it the result is shorter by ``size - 1``.

    Returns
    -------
    numpy.ndarray
    """
    planes, width = np.moveaxis(plane, axis, 0), 1
    if beyond is not None:
        planes = np.pad(planes, [(size // 2, size // 2), (0, 0)], constant_values=beyond)
    while width < size:
        step = min(width, size - width)
        planes, width = combine(planes[:-step], planes[step:]), width + step
    return np.moveaxis(planes, 0, axis)


def dilated(plane: np.ndarray, reach: int) -> np.ndarray:
    """Morphological dilation of a bool plane by a square of ``2 reach + 1`` px."""
    for axis in (0, 1):
        plane = sliding(plane, 2 * reach + 1, axis, np.logical_or, beyond=False)
    return plane
