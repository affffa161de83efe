"""Values, neighbourhoods and stamps of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from otrain_core.images.frames import MASK_MISSING

FILLED_AT_A_TIME = 20_000  # pixels, to limit the memory
ENOUGH = 500_000  # pixels that suffice for the median of a plane


def nearest_pixel(position: np.ndarray) -> np.ndarray:
    """Index of the pixel that contains a coordinate; halves are always rounded up."""
    return np.floor(np.asarray(position, dtype=float) + 0.5).astype(int)


def value_at(plane: np.ndarray, x: np.ndarray, y: np.ndarray, *, outside: bool) -> np.ndarray:
    """Values of a bool plane (height, width) at the positions (n,) [px]; `outside` for positions off the plane or NaN."""
    finite = np.isfinite(x) & np.isfinite(y)
    column, row = nearest_pixel(np.where(finite, x, -1)), nearest_pixel(np.where(finite, y, -1))
    inside = finite & (column >= 0) & (row >= 0) & (column < plane.shape[1]) & (row < plane.shape[0])
    result = np.full(len(x), outside)
    result[inside] = plane[row[inside], column[inside]]
    return result


def any_near(plane: np.ndarray, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Whether a True pixel of `plane` lies within `radius` px of each position (n,) [px]."""
    if len(x) == 0 or not plane.any():
        return np.zeros(len(x), dtype=bool)
    near, dx, dy = stamps(plane, x, y, int(np.ceil(radius)) + 1, fill=False)
    return (near & (dx**2 + dy**2 <= radius**2)).any(axis=(1, 2))


def add_stamp(image: np.ndarray, stamp: np.ndarray, y0: int, x0: int) -> None:
    """Add a stamp to an image in place, without the part that is off the image.

    The first row and column of the stamp fall on the pixel (y0, x0).
    """
    height, width = image.shape
    bottom, left = max(y0, 0), max(x0, 0)
    top, right = min(y0 + stamp.shape[0], height), min(x0 + stamp.shape[1], width)
    if bottom < top and left < right:
        image[bottom:top, left:right] += stamp[bottom - y0 : top - y0, left - x0 : right - x0]


def stamps(
    plane: np.ndarray, x: np.ndarray, y: np.ndarray, half: int, *, fill: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut out stamps around the pixels nearest to positions.

    Parameters
    ----------
    plane : numpy.ndarray
        (height, width)
    x, y : numpy.ndarray
        (n,) [px].
    half : int
        Half width of the stamps [px].
    fill : scalar
        Value of pixels off the plane.

    Returns
    -------
    stamps : numpy.ndarray
        (n, 2 half + 1, 2 half + 1)
    dx, dy : numpy.ndarray
        (n, 1, 2 half + 1) and (n, 2 half + 1, 1), offsets of the pixels from the positions [px].
    """
    padded = np.pad(plane, half + 1, constant_values=fill)
    offset = np.arange(-half, half + 1)
    column, row = nearest_pixel(x), nearest_pixel(y)
    rows = np.clip(row[:, None] + offset + half + 1, 0, padded.shape[0] - 1)[:, :, None]
    columns = np.clip(column[:, None] + offset + half + 1, 0, padded.shape[1] - 1)[:, None, :]
    dx = (column[:, None] + offset - np.asarray(x)[:, None])[:, None, :]
    dy = (row[:, None] + offset - np.asarray(y)[:, None])[:, :, None]
    return padded[rows, columns], dx, dy


def sampled(plane: np.ndarray) -> np.ndarray:
    """A view of a large plane with one to two million evenly spaced pixels at most, which suffice for a median."""
    step = max(1, int(np.sqrt(plane.size / ENOUGH)))
    return plane[::step, ::step]


def fill_bad(data: np.ndarray, bad: np.ndarray, *, sigma: float = 1.5) -> np.ndarray:
    """Copy of a plane with missing pixels replaced by a weighted mean of their neighbours.

    Pixels far from any good pixel become 0, the level of the background. Saturated pixels keep their value.

    Parameters
    ----------
    data : numpy.ndarray
        float32 (height, width), background subtracted.
    bad : numpy.ndarray
        uint8 mask; pixels with `MASK_MISSING` are replaced, as are those that are not finite.
    sigma : float
        Width of the Gaussian weight [px].

    Returns
    -------
    numpy.ndarray
        float32 (height, width).
    """
    hole = ~np.isfinite(data) | ((bad & MASK_MISSING) > 0)
    filled = np.where(hole, np.float32(0), data).astype(np.float32, copy=False)
    reach = int(4 * sigma + 0.5)
    rows, columns = _near_good(hole, reach)
    profile = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    profile = (profile / profile.sum()).astype(np.float32)
    step, means = np.arange(-reach, reach + 1), np.zeros(len(rows), np.float32)
    for part in np.array_split(np.arange(len(rows)), 1 + len(rows) // FILLED_AT_A_TIME):
        at = _mirrored(rows[part, None] + step, hole.shape[0]), _mirrored(columns[part, None] + step, hole.shape[1])
        around = at[0][:, :, None], at[1][:, None, :]
        weight = (~hole[around]).astype(np.float32) @ profile @ profile
        value = filled[around] @ profile @ profile
        means[part] = np.divide(value, weight, out=np.zeros_like(value), where=weight > 0.05)
    filled[rows, columns] = means
    return filled


def _mirrored(index: np.ndarray, size: int) -> np.ndarray:
    """Map indices beyond an axis back onto it by mirroring at its ends, where the last pixel is repeated."""
    index = index % (2 * size)
    return np.minimum(index, 2 * size - 1 - index)


def _near_good(hole: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of holes, except those inside large holes that are farther than `reach` from good pixels."""
    from scipy import ndimage

    rows, columns = np.nonzero(hole)
    sides = [np.minimum(reach, size - np.arange(0, size, reach)) for size in hole.shape]
    part = rows // reach, columns // reach
    shape = len(sides[0]), len(sides[1])
    held = np.bincount(np.ravel_multi_index(part, shape), minlength=shape[0] * shape[1]).reshape(shape)
    deep = ndimage.binary_erosion(held == np.outer(*sides), np.ones((3, 3)), border_value=1)
    edge = ~deep[part]
    return rows[edge], columns[edge]
