"""Flaws of detectors and of image reduction: warm pixels, banding, digitisation, resampling, holes, missing data.

All flaws are off by default. The rows of the truth have the same format as in `otrain_core.sky.artefacts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import ndimage

from otrain_core.sky.artefacts import Rows, row_of
from otrain_core.sky.optics import Exposure

if TYPE_CHECKING:
    from otrain_core.plan.telescopes import SimulatedSky

# A star may become a hole of the reference if its peak exceeds this fraction of the saturation level,
BRIGHT_PEAK = 0.3
BRIGHT_SNR = 100.0  # or this many times the noise of the background.
MAX_GAPS = 0.6  # largest fraction of an image without data
SCATTERED = 0.003  # largest fraction of isolated bad pixels
LANCZOS = 3  # half width of the Lanczos kernel [px]


def add_warm_pixels(
    data: np.ndarray,
    places: np.ndarray,
    rng: np.random.Generator,
    *,
    noise: float,
    share: float = 1.0,
    smear: float = 0,
) -> Rows:
    """Add the dark current of warm pixels at fixed positions; a stack of shifted frames smears it.

    Parameters
    ----------
    data : numpy.ndarray
        (height, width) [ADU], changed in place.
    places : numpy.ndarray
        (n, 3): x and y as fractions of the width and height, and the charge [noise of the background].
    rng : numpy.random.Generator
        Draws the 5 % scatter of the charge between exposures.
    noise : float
        Noise of the background [ADU].
    share : float
        Fraction of the charge that remains.
    smear : float
        Gaussian width (sigma) over which a stack spreads the charge [px].

    Returns
    -------
    list of dict
        One ``warm_pixel`` row per pixel.
    """
    height, width = data.shape
    x, y = np.floor(places[:, 0] * width).astype(int), np.floor(places[:, 1] * height).astype(int)
    charge = noise * share * places[:, 2] * (1 + 0.05 * rng.normal(size=len(places)))
    added = np.zeros(data.shape)
    np.add.at(added, (y, x), charge)
    data += (ndimage.gaussian_filter(added, smear) if smear else added).astype(np.float32)
    size = 1 + 2.4 * smear
    return [row_of("warm_pixel", xi, yi, size, flux=flux) for xi, yi, flux in zip(x, y, charge, strict=True)]


def warm_places(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the warm pixels of a detector: (n, 3), x and y as fractions of the width and height, and the charge.

    The charge follows a power law between 3 and 150 times the noise of the background.
    """
    x, y, rank = rng.random((3, n))
    return np.column_stack([x, y, np.minimum(3 * (1 - rank) ** (-1 / 1.2), 150)])


def banding(shape: tuple[int, int], rng: np.random.Generator, *, amplitude: float) -> np.ndarray:
    """Random offsets of rows, and half as large ones of columns, from the readout [unit of `amplitude`]."""
    rows, columns = rng.normal(0, amplitude, shape[0]), rng.normal(0, 0.5 * amplitude, shape[1])
    return np.add.outer(rows, columns).astype(np.float32)


def resample(data: np.ndarray, shift: np.ndarray, *, method: str) -> np.ndarray:
    """Resample an image, which correlates its noise; a source at x moves to x - shift.

    Parameters
    ----------
    data : numpy.ndarray
        (height, width), without NaN.
    shift : numpy.ndarray
        (2,) along x and y, between -0.5 and 0.5 [px].
    method : str
        bilinear or lanczos (half width 3 px).
    """
    for axis, step in enumerate(shift[::-1]):
        offset = np.arange(-LANCZOS, LANCZOS + 1) - step
        weights = np.maximum(1 - np.abs(offset), 0)
        if method == "lanczos":
            weights = np.where(np.abs(offset) < LANCZOS, np.sinc(offset) * np.sinc(offset / LANCZOS), 0)
        data = ndimage.correlate1d(data, weights / weights.sum(), axis=axis, mode="nearest")
    return data


def expose_flaws(
    data: np.ndarray,
    exposure: Exposure,
    sky: SimulatedSky,
    rng: np.random.Generator,
    *,
    warm: np.ndarray,
    stacked: float | None = None,
) -> Rows:
    """Add warm pixels, banding and the digitisation of the converter, in place.

    Parameters
    ----------
    data : numpy.ndarray
        (height, width) [ADU].
    exposure : Exposure
    sky : SimulatedSky
    rng : numpy.random.Generator
    warm : numpy.ndarray
        From `warm_places`.
    stacked : float, optional
        For a reference, the number of frames of which it is the mean; None for a single frame.

    Returns
    -------
    list of dict
        Rows of the warm pixels.
    """
    rows: Rows = []
    if len(warm) and (stacked is None or sky.reference_warm_pixels):
        share, smear = (1.0, 0.0) if stacked is None else (sky.reference_warm_pixels, rng.uniform(0.4, 1.2))
        # The charge is in units of the noise of one frame, which is higher than that of the mean.
        noise = exposure.noise * np.sqrt(stacked or 1)
        rows = add_warm_pixels(data, warm, rng, noise=noise, share=share, smear=smear)
    if sky.banding:
        data += banding(data.shape, rng, amplitude=sky.banding * exposure.noise)
    np.minimum(data, np.float32(exposure.saturation), out=data)
    if sky.quantisation:
        # The mean of n frames has n times finer steps, and sqrt(n) times lower noise, than one frame.
        step = np.float32(sky.quantisation * exposure.noise / np.sqrt(max(stacked or 1, 1)))
        np.multiply(np.round(data / step), step, out=data)
    return rows


def add_holes(
    data: np.ndarray, stars: pd.DataFrame, exposure: Exposure, rng: np.random.Generator, *, share: float
) -> Rows:
    """Replace bright stars by holes: NaN, 0, a level below the sky, or the star with its sign inverted.

    Parameters
    ----------
    data : numpy.ndarray
        (height, width) [ADU] with the sky, changed in place.
    stars : pandas.DataFrame
        x, y [px], flux [ADU] on this image.
    exposure : Exposure
    rng : numpy.random.Generator
    share : float
        Fraction of the bright stars that become holes.

    Returns
    -------
    list of dict
        One ``hole`` row per hole.
    """
    peak = stars.flux * exposure.psf.peak
    bright = stars[(peak > BRIGHT_PEAK * exposure.saturation) | (peak > BRIGHT_SNR * exposure.noise)]
    y, x = np.indices(data.shape, dtype=np.float32)
    rows = []
    for star in bright[rng.random(len(bright)) < share].itertuples():
        # The hole covers the star down to the noise, or only its core.
        reach = float(exposure.psf.half_size(exposure.noise / star.flux))
        radius = exposure.psf.fwhm * rng.uniform(0.5, min(2.5, reach / exposure.psf.fwhm))
        hole = (x - star.x) ** 2 + (y - star.y) ** 2 < radius**2
        form = rng.choice(["nan", "zero", "low", "negative"], p=[0.25, 0.2, 0.3, 0.25])
        if not hole.any():
            continue
        if form == "negative":
            data[hole] = 2 * exposure.sky - data[hole]
        else:
            low = exposure.sky - exposure.noise * np.exp(rng.uniform(np.log(3), np.log(100)))
            data[hole] = {"nan": np.nan, "zero": 0.0, "low": low}[form]
        rows.append(row_of("hole", star.x, star.y, 2 * radius))
    return rows


def gaps(shape: tuple[int, int], rng: np.random.Generator, *, share: float) -> tuple[np.ndarray, Rows]:
    """Draw pixels without data: borders, corners of a rotated frame, blocks, single pixels and columns.

    Parameters
    ----------
    shape : tuple of int
        (height, width).
    rng : numpy.random.Generator
    share : float
        Mean fraction of the pixels; at most `MAX_GAPS` of an image.

    Returns
    -------
    mask : numpy.ndarray
        (height, width) bool.
    rows : list of dict
        ``no_data`` rows: rectangles that contain the gaps and may extend beyond the image.
    """
    height, width = shape
    y, x = np.indices(shape, dtype=np.float32)
    mask, rows = np.zeros(shape, bool), []
    chosen = np.flatnonzero(rng.random(4) < 0.5)
    forms = [("border", "turned", "blocks", "scattered")[k] for k in (chosen if len(chosen) else [rng.integers(4)])]
    total = min(share * rng.uniform(0.3, 1.7), MAX_GAPS)
    for form in forms:
        part = total / len(forms)
        if form in ("border", "turned"):
            n = int(rng.integers(1, 5))
            angle = rng.uniform(5, 85) if form == "turned" else 0.0
            for turn in angle + 90 * rng.permutation(4)[:n]:
                cos, sin = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
                along = (x - width / 2) * cos + (y - height / 2) * sin
                edge, far = np.quantile(along, 1 - part / n), 2.0 * (width + height)
                mask |= along > edge
                middle = edge + far / 2
                x0, y0 = width / 2 + middle * cos, height / 2 + middle * sin
                rows.append(row_of("no_data", x0, y0, far, width=far, angle=turn))
        elif form == "blocks":
            n = int(rng.integers(1, 4))
            for _ in range(n):
                wide = np.sqrt(part / n * width * height) * np.exp(rng.uniform(-0.8, 0.8))
                high = part / n * width * height / wide
                x0, y0 = rng.uniform(0, width), rng.uniform(0, height)
                mask |= (np.abs(x - x0) <= wide / 2) & (np.abs(y - y0) <= high / 2)
                rows.append(row_of("no_data", x0, y0, wide, width=high))
        else:
            n = rng.poisson(min(part, SCATTERED) * width * height)
            xs, ys = rng.integers(width, size=n), rng.integers(height, size=n)
            mask[ys, xs] = True
            rows += [row_of("no_data", *place, 1.0) for place in zip(xs, ys, strict=True)]
            if rng.random() < 0.5:
                column = int(rng.integers(width))
                mask[:, column] = True
                rows.append(row_of("no_data", column, (height - 1) / 2, height, width=1.0, angle=90.0))
    return mask, rows


def degrade(
    data: np.ndarray,
    exposure: Exposure,
    sky: SimulatedSky,
    rng: np.random.Generator,
    *,
    warm: np.ndarray,
    stars: pd.DataFrame | None = None,
    stacked: float | None = None,
) -> tuple[np.ndarray, Rows]:
    """Add the flaws of the detector and of the image reduction to a frame.

    The order is: flaws of the detector (see `expose_flaws`), resampling, smoothing, holes, removal of the sky,
    clipping at 0, gaps.

    Parameters
    ----------
    data : numpy.ndarray
        (height, width) [ADU]; may be changed in place.
    exposure : Exposure
        Its `shift` and `level` are set.
    sky : SimulatedSky
    rng : numpy.random.Generator
    warm, stacked
        See `expose_flaws`.
    stars : pandas.DataFrame, optional
        x, y [px], flux [ADU] of the stars, for the holes of a reference.

    Returns
    -------
    data : numpy.ndarray
        float32 [ADU].
    rows : list of dict
        Warm pixels, holes and gaps, in pixels before the shift.
    """
    reference = stacked is not None
    rows = expose_flaws(data, exposure, sky, rng, warm=warm, stacked=stacked)
    method = sky.reference_resampled if reference else sky.resampled
    if method != "none":
        exposure.shift = rng.uniform(-0.5, 0.5, 2)
        data = resample(data, exposure.shift, method=method)
    if reference and sky.reference_smoothing:
        data = ndimage.gaussian_filter(data, sky.reference_smoothing, mode="nearest")
    late: Rows = []
    if reference and sky.reference_holes and stars is not None:
        places = stars.assign(x=stars.x - exposure.shift[0], y=stars.y - exposure.shift[1])
        late += add_holes(data, places, exposure, rng, share=sky.reference_holes)
    removed = sky.sky_removed in ("both", "reference" if reference else "science")
    exposure.level = float(sky.offset * exposure.noise - (exposure.sky if removed else 0))
    data += np.float32(exposure.level)
    if sky.clipped:
        np.maximum(data, 0, out=data)  # NaN stays
    share = sky.reference_no_data if reference else sky.no_data
    if share:
        mask, more = gaps(data.shape, rng, share=share)
        data[mask] = np.nan if sky.no_data_value is None else sky.no_data_value
        late += more
    moved = [row | {"x": row["x"] + exposure.shift[0], "y": row["y"] + exposure.shift[1]} for row in late]
    return data, rows + moved


def on_science(rows: Rows, *, reference: Exposure, science: Exposure) -> Rows:
    """Convert rows from pixels of the reference to pixels of the science image."""
    if not rows:
        return []
    x, y = ([row[axis] for row in rows] for axis in ("x", "y"))
    x, y = science.wcs.world_to_pixel_values(*reference.wcs.pixel_to_world_values(x, y))
    turned = np.linalg.inv(science.wcs.pixel_scale_matrix) @ reference.wcs.pixel_scale_matrix
    angle, ratio = np.degrees(np.arctan2(turned[1, 0], turned[0, 0])), reference.scale / science.scale
    return [
        row
        | {"x": float(xi), "y": float(yi), "angle": float(row["angle"] + angle)}
        | {key: row[key] * ratio for key in ("size", "width")}
        for row, xi, yi in zip(rows, x, y, strict=True)
    ]
