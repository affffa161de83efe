"""Pixels that hold no measurement although they have a value: fill values, and frames of raw colours."""

from __future__ import annotations

import numpy as np
from astropy.io import fits

from otrain_core.errors import ImageError
from otrain_core.images.windows import sliding
from otrain_core.widths import mad_sigma

AREA, SQUARE = 100, 7  # an area inside of the image has so many pixels, and squares of this side lie in it
FAR = 6.0  # a fill value so many sigma from the sky is one wherever it stands
RUN = 24  # pixels of one exact value in a row along the border that noise does not give
SOLID = 0.97  # least share of such an area without its holes
REACH = 2  # pixels about it that a resampling mixed with the fill value
COLOUR_CARDS = ("BAYERPAT", "CFAPAT", "BAYER", "CFA-PAT")


def fill_values(data: np.ndarray, *, fill: float | None = None, saturation: float | None = None) -> np.ndarray:
    """Pixels that another program filled where it had no data, as SWarp, Siril and many mosaics do with 0.

    These are areas of one exact value that touch the border of the image along at least 24 px, or hold at least 100 px
    inside of it, with the two pixels about them, which a resampling mixed with the value; and, where the value is far
    from the sky, all other pixels that have it.

    Parameters
    ----------
    data : numpy.ndarray
        (height, width); NaN where missing.
    fill : float, optional
        A value that is a fill value wherever it stands.
    saturation : float, optional
        In the unit of the pixels: what is above nine tenths of it is light, or without it the largest value but 0.

    Returns
    -------
    numpy.ndarray
        bool (height, width).
    """
    from scipy import ndimage

    filled = np.zeros(data.shape, bool)
    if fill is not None:
        filled |= data == np.float32(fill)
    if min(data.shape) < RUN or not np.isfinite(data).any():
        return filled
    highest = 0.9 * saturation if saturation is not None else float(np.nanmax(data))
    for value in sorted({*_border_values(data), *_inner_values(data)}):
        if value >= highest and value != 0:
            continue
        groups, n_groups = ndimage.label(data == value, np.ones((3, 3)))
        lines = (groups[0], groups[-1], groups[:, 0], groups[:, -1])
        chosen = np.bincount(np.concatenate(lines), minlength=n_groups + 1) >= RUN
        chosen |= _solid(groups, n_groups)
        chosen[0] = False
        area = chosen[groups]
        whole = ndimage.binary_erosion(
            np.pad(ndimage.binary_dilation(area, np.ones((3, 3))), 1, mode="edge"), np.ones((3, 3)), border_value=1
        )[1:-1, 1:-1]
        if area.any() and not area.all() and area.sum() >= SOLID * whole.sum():
            filled |= ndimage.binary_dilation(area, np.ones((3, 3)), iterations=REACH)
            sky = data[np.isfinite(data) & ~area]
            if abs(value - np.median(sky)) > FAR * mad_sigma(sky):
                filled |= data == value
    return filled


def _inner_values(data: np.ndarray) -> list[float]:
    """Values that fill a square of `SQUARE` px somewhere."""
    rows = sliding(data[:, 1:] == data[:, :-1], SQUARE - 1, 1, np.logical_and, beyond=True)
    flat = sliding(rows, SQUARE, 0, np.logical_and, beyond=True)
    flat &= sliding(data[1:] == data[:-1], SQUARE - 1, 0, np.logical_and, beyond=True)
    values, count = np.unique(data[flat], return_counts=True)
    return [float(value) for value in values[np.argsort(-count, kind="stable")][:8]]


def _solid(groups: np.ndarray, n_groups: int) -> np.ndarray:
    """Which groups are areas: at least `AREA` px, most of them within squares of `SQUARE` px that lie in the group."""
    from scipy import ndimage

    size = np.bincount(groups.ravel(), minlength=n_groups + 1)
    inner = ndimage.binary_opening(groups > 0, np.ones((SQUARE, SQUARE)))
    held = np.bincount(groups.ravel(), weights=inner.ravel(), minlength=n_groups + 1)
    return (size >= AREA) & (size < groups.size / 2) & (held > 0.8 * size)


def _border_values(data: np.ndarray) -> list[float]:
    """Values of which the border has a run of at least `RUN` pixels."""
    values: set[float] = set()
    for line in (data[0], data[-1], data[:, 0], data[:, -1]):
        starts = np.flatnonzero(np.concatenate([[True], line[1:] != line[:-1]]))
        lengths = np.diff(np.append(starts, len(line)))
        values.update(float(value) for value in line[starts[lengths >= RUN]] if np.isfinite(value))
    return sorted(values)


def check_mosaic(data: np.ndarray, header: fits.Header, *, image: str) -> None:
    """Refuse a raw frame of a colour camera: its header names the pattern, and the four kinds of pixels have levels of their own.

    Raises
    ------
    ImageError
        Names the pattern and what to do.
    """
    key = next((key for key in COLOUR_CARDS if str(header.get(key, "") or "").strip()), None)
    if key is None or min(data.shape) < 16:
        return
    phases = [data[y::2, x::2] for y in (0, 1) for x in (0, 1)]
    levels = [float(np.nanmedian(phase)) for phase in phases]
    steps = phases[0][:, 1:] - phases[0][:, :-1]
    steps = steps[np.isfinite(steps)]
    noise = mad_sigma(steps, 0.0) / np.sqrt(2) if steps.size else 0.0
    if max(levels) - min(levels) > 0.5 * noise:
        raise ImageError(
            image,
            key,
            f"a raw frame of a colour camera ({str(header[key]).strip()}), whose pixels see different colours: extract "
            "one colour (green) or debayer it first",
        )
