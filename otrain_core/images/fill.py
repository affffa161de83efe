"""Pixels that have a value but no measurement: fill values. Also the refusal of raw frames of colour cameras."""

from __future__ import annotations

import numpy as np
from astropy.io import fits

from otrain_core.errors import ImageError
from otrain_core.images.windows import sliding
from otrain_core.widths import mad_sigma

AREA, SQUARE = 100, 7  # least number of pixels of an area inside the image, and side of the squares in it [px]
FAR = 6.0  # distance from the sky [sigma] beyond which every pixel with a fill value is masked
RUN = 24  # least number of adjacent border pixels of one exact value, more than noise produces
SOLID = 0.97  # least fraction of an area that remains without its holes
REACH = 2  # [px], border around an area where a resampling mixed the fill value with the sky
COLOUR_CARDS = ("BAYERPAT", "CFAPAT", "BAYER", "CFA-PAT")


def fill_values(data: np.ndarray, *, fill: float | None = None, saturation: float | None = None) -> np.ndarray:
    """Find the pixels that another program filled where it had no data, such as the 0 of SWarp, Siril and many mosaics.

    These are areas of one exact value that touch the border of the image along at least 24 px or have at least 100 px
    inside it. The two pixels around an area are included, because a resampling mixed them with the value. If the value
    is far from the sky, all other pixels with this value are included too.

    Parameters
    ----------
    data : numpy.ndarray
        (height, width); NaN where missing.
    fill : float, optional
        A value that is always a fill value.
    saturation : float, optional
        In the unit of the pixels. Values above nine tenths of it are not fill values; without it, the largest value of
        the image (unless 0) is not one.

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
    """The eight most frequent values at most that fill a square of `SQUARE` px somewhere."""
    rows = sliding(data[:, 1:] == data[:, :-1], SQUARE - 1, 1, np.logical_and, beyond=True)
    flat = sliding(rows, SQUARE, 0, np.logical_and, beyond=True)
    flat &= sliding(data[1:] == data[:-1], SQUARE - 1, 0, np.logical_and, beyond=True)
    values, count = np.unique(data[flat], return_counts=True)
    return [float(value) for value in values[np.argsort(-count, kind="stable")][:8]]


def _solid(groups: np.ndarray, n_groups: int) -> np.ndarray:
    """Which groups are solid areas: at least `AREA` px, most of them in squares of `SQUARE` px inside the group."""
    from scipy import ndimage

    size = np.bincount(groups.ravel(), minlength=n_groups + 1)
    inner = ndimage.binary_opening(groups > 0, np.ones((SQUARE, SQUARE)))
    held = np.bincount(groups.ravel(), weights=inner.ravel(), minlength=n_groups + 1)
    return (size >= AREA) & (size < groups.size / 2) & (held > 0.8 * size)


def _border_values(data: np.ndarray) -> list[float]:
    """Values that at least `RUN` adjacent pixels of the border have."""
    values: set[float] = set()
    for line in (data[0], data[-1], data[:, 0], data[:, -1]):
        starts = np.flatnonzero(np.concatenate([[True], line[1:] != line[:-1]]))
        lengths = np.diff(np.append(starts, len(line)))
        values.update(float(value) for value in line[starts[lengths >= RUN]] if np.isfinite(value))
    return sorted(values)


def check_mosaic(data: np.ndarray, header: fits.Header, *, image: str) -> None:
    """Refuse a raw frame of a colour camera: the header names a colour pattern, and the levels of its four pixels differ.

    Raises
    ------
    ImageError
        The frame is raw (key: the card with the pattern).
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
            f"this is a raw frame of a colour camera ({str(header[key]).strip()}), whose pixels see different colours: "
            "extract one colour (green) or debayer it first",
        )
