"""Stars of an image for the alignment and the PSF matching: positions, fluxes and sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from otrain_core.images.extraction import extract
from otrain_core.images.frames import MASK_MISSING
from otrain_core.images.pixels import any_near, fill_bad, sampled
from otrain_core.widths import FWHM_PER_SIGMA, mad_sigma

MIN_RESIDUAL_STARS = 5
MIN_RELATION_STARS = 8  # least number of stars for the relation of their fluxes in both images
MAX_RELATION_STARS = 300
ALIKE = 0.7  # largest change in flux of a star that is used in a fit [natural logarithm]
MIN_ALIKE = 5
RESIDUAL_SNR = 20  # least S/N, with the noise of the difference, of a star in `star_residual`


def find_stars(
    data: np.ndarray, noise: np.ndarray, mask: np.ndarray, *, threshold: float = 5.0, max_stars: int = 1500
) -> pd.DataFrame:
    """Find sources without masked pixels near their centre, the brightest first.

    Parameters
    ----------
    data, noise : numpy.ndarray
        float32 (height, width), the background-subtracted image and its 1 sigma noise [ADU].
    mask : numpy.ndarray
        (height, width), not 0 where a pixel must not be used.
    threshold : float
        Detection threshold [sigma].
    max_stars : int
        Largest number of sources.

    Returns
    -------
    pandas.DataFrame
        x, y (windowed centroid) [px], flux (within three half-light radii) and peak [ADU], fwhm
        (twice the half-light radius) [px].
    """
    import sep

    bad = mask.astype(bool) | ~np.isfinite(data) | ~np.isfinite(noise)
    filled = fill_bad(data, np.where(bad, np.uint8(MASK_MISSING), np.uint8(0)))
    error = np.where(bad, np.float32(np.nanmedian(sampled(noise))), noise)
    most = max(1_000_000, data.size // 2)
    for factor in (1, 4, 16):
        try:
            found = extract(filled, threshold * factor, most=most, err=error, mask=bad, minarea=4, deblend_cont=0.02)
            break
        except Exception as failure:  # sep raises a plain Exception if a buffer overflows
            if factor == 16 or "full" not in str(failure) and "limit" not in str(failure):
                raise
    column, row = np.rint(found["x"]).astype(int), np.rint(found["y"]).astype(int)
    inside = (column > 2) & (row > 2) & (column < data.shape[1] - 3) & (row < data.shape[0] - 3)
    found = found[inside & ~any_near(bad, column, row, 2)]
    found = found[np.argsort(-found["flux"], kind="stable")][:max_stars]
    if len(found) == 0:
        return pd.DataFrame({key: np.zeros(0) for key in ("x", "y", "flux", "peak", "fwhm")})
    # One aperture for all sources, so that blends and structures of the background do not widen it.
    reach = np.full(len(found), 5 * np.median(np.sqrt(found["a"] * found["b"])) + 1)
    radius, _ = sep.flux_radius(filled, found["x"], found["y"], reach, 0.5, normflux=None, subpix=5)
    good = np.isfinite(radius) & (radius > 0.4)
    found, radius = found[good], radius[good]
    typical = np.median(radius) if len(radius) else 1.0
    aperture, _, _ = sep.sum_circle(filled, found["x"], found["y"], 3 * typical, subpix=5)
    x, y, flag = sep.winpos(filled, found["x"], found["y"], 2 * typical / FWHM_PER_SIGMA)
    moved = (flag > 0) | (np.hypot(x - found["x"], y - found["y"]) > 1.0)
    table = pd.DataFrame(
        {
            "x": np.where(moved, found["x"], x),
            "y": np.where(moved, found["y"], y),
            "flux": aperture.astype(float),
            "peak": found["peak"].astype(float),
            "fwhm": 2 * radius,
        }
    )
    return table[table["flux"] > 0].reset_index(drop=True)


def aperture_flux(data: np.ndarray, mask: np.ndarray, x: Any, y: Any, radius: float) -> np.ndarray:
    """Flux in circles, above the level of a ring around each.

    Parameters
    ----------
    data : numpy.ndarray
        float32 (height, width) [ADU].
    mask : numpy.ndarray
        (height, width), not 0 where a pixel must not be used.
    x, y : array_like
        (n,), centres [px].
    radius : float
        [px].

    Returns
    -------
    numpy.ndarray
        (n,) [ADU].
    """
    import sep

    bad = (mask > 0) | ~np.isfinite(data)
    filled = fill_bad(data, np.where(bad, np.uint8(MASK_MISSING), np.uint8(0)))
    positions = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    flux, _, _ = sep.sum_circle(filled, *positions, radius, bkgann=(1.5 * radius + 1, 2 * radius + 3), subpix=5)
    return flux


def alike_stars(stars: pd.DataFrame) -> pd.DataFrame:
    """Stars whose flux ratio is like that of the others, the brightest first; all if these are fewer than `MIN_ALIKE`.

    It keeps holes of the reference, variable stars and blends out of the fit of a kernel or a PSF.

    Parameters
    ----------
    stars : pandas.DataFrame
        flux, flux_reference [ADU], both positive.
    """
    change = np.abs(np.log(stars["flux"] / stars["flux_reference"] / stars_flux_scale(stars)))
    chosen = stars[change < ALIKE] if (change < ALIKE).sum() >= MIN_ALIKE else stars
    return chosen.sort_values("flux", ascending=False, kind="stable")


def stars_flux_scale(stars: pd.DataFrame) -> float:
    """Median flux ratio science image / reference of the brighter half of the stars."""
    bright = stars.nlargest(max(3, len(stars) // 2), "flux")
    return float((bright["flux"] / bright["flux_reference"]).median())


def flux_relation(stars: pd.DataFrame) -> dict[str, float]:
    """Relation between the fluxes of the brighter half of the stars in the reference and in the science image.

    Parameters
    ----------
    stars : pandas.DataFrame
        flux, flux_reference [ADU], both positive and in the same aperture on the sky.

    Returns
    -------
    dict
        ``flux_slope``: exponent of the relation (Theil 1950, Sen 1968: the median of the slopes of all pairs of stars
        in logarithms), 1 for two linear images; ``flux_slope_low``, ``flux_slope_high``: its 95 % interval;
        ``flux_scatter``: robust standard deviation of the natural logarithm of the flux ratio. All are NaN with fewer
        than `MIN_RELATION_STARS` stars.
    """
    bright = stars.nlargest(min(MAX_RELATION_STARS, max(MIN_RELATION_STARS, len(stars) // 2)), "flux")
    if len(bright) < MIN_RELATION_STARS:
        return dict.fromkeys(("flux_slope", "flux_slope_low", "flux_slope_high", "flux_scatter"), np.nan)
    ours, theirs = np.log(bright["flux"].to_numpy()), np.log(bright["flux_reference"].to_numpy())
    slope, low, high = _theil_sen(ours, theirs)
    return {
        "flux_slope": slope,
        "flux_slope_low": low,
        "flux_slope_high": high,
        "flux_scatter": float(mad_sigma(theirs - ours)),
    }


def _theil_sen(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Median of the slopes of all pairs, and its 95 % interval (Sen 1968, JASA 63, 1379, Eq. 2.6).

    The result is that of `scipy.stats.theilslopes`, whose import would take a third of a CPU second per image.
    """
    dx, dy = x[:, None] - x, y[:, None] - y
    slopes = np.sort(dy[dx > 0] / dx[dx > 0])
    if not len(slopes):
        return np.nan, np.nan, np.nan
    n, ties = len(x), np.concatenate([np.unique(values, return_counts=True)[1] for values in (x, y)])
    variance = (n * (n - 1) * (2 * n + 5) - (ties * (ties - 1) * (2 * ties + 5)).sum()) / 18
    half = 1.959964 * np.sqrt(variance)
    low = max(int(np.round((len(slopes) - half) / 2)) - 1, 0)
    high = min(int(np.round((len(slopes) + half) / 2)), len(slopes) - 1)
    return float(np.median(slopes)), float(slopes[low]), float(slopes[high])


def choose_stamps(
    stars: pd.DataFrame, bad: np.ndarray, *, half: int, margin: int, max_stamps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose bright stars with similar flux ratios and few bad pixels, spread over the field.

    The field is divided into cells. The brightest star of each cell is taken, then the
    second brightest, and so on, until there are enough.

    Parameters
    ----------
    stars : pandas.DataFrame
        x, y [px], flux, flux_reference [ADU].
    bad : numpy.ndarray
        bool (height, width)
    half : int
        Half width of a stamp [px], of which at most 10 % may be bad.
    margin : int
        Least distance from the edge of the image [px].
    max_stamps : int

    Returns
    -------
    x, y : numpy.ndarray
        int (n,), the nearest pixels of the stars.
    """
    stars = alike_stars(stars)
    height, width = bad.shape
    x, y = np.rint(stars["x"].to_numpy()).astype(int), np.rint(stars["y"].to_numpy()).astype(int)
    inside = (x >= margin) & (y >= margin) & (x < width - margin) & (y < height - margin)
    order = np.argsort(-stars["flux"].to_numpy(), kind="stable")
    order = order[inside[order]]
    total = np.pad(bad.astype(np.int32), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)

    def count(reach: int) -> np.ndarray:
        x0, x1, y0, y1 = x[order] - reach, x[order] + reach + 1, y[order] - reach, y[order] + reach + 1
        return total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]

    order = order[(count(2) == 0) & (count(half) <= 0.1 * (2 * half + 1) ** 2)]
    cells = max(1, int(np.sqrt(max_stamps)))
    cell = (y[order] * cells // height) * cells + x[order] * cells // width
    rank = pd.Series(cell).groupby(cell).cumcount().to_numpy()
    chosen = order[np.argsort(rank, kind="stable")][:max_stamps]
    chosen = np.sort(chosen)
    return x[chosen], y[chosen]


def star_residual(
    diff: np.ndarray, noise: np.ndarray, stars: pd.DataFrame, *, radius: float, max_stars: int = 100
) -> tuple[float, int]:
    """Fraction of their flux that bright stars leave in the difference, and the number of stars used.

    It is the median over the brightest unmasked stars of the sum of |difference| within `radius`
    of the star, minus the sum expected from noise alone, divided by the flux of the star. It is
    about 0 if the kernel fits, and about 1 if the star is at different places in the two images.

    Parameters
    ----------
    diff, noise : numpy.ndarray
        float32 (height, width) [ADU]; stars with a NaN within `radius` are not used.
    stars : pandas.DataFrame
        x, y [px], flux [ADU].
    radius : float
        The FWHM [px].
    max_stars : int

    Returns
    -------
    residual : float
        NaN with fewer than `MIN_RESIDUAL_STARS` stars.
    n_stars : int
    """
    half = int(np.ceil(radius))
    offset = np.arange(-half, half + 1)
    stars = stars.sort_values("flux", ascending=False, kind="stable")
    height, width = diff.shape
    shares = []
    for x, y, flux in stars[["x", "y", "flux"]].to_numpy():
        column, row = round(x), round(y)
        if not (half <= column < width - half and half <= row < height - half):
            continue
        area = slice(row - half, row + half + 1), slice(column - half, column + half + 1)
        near = np.hypot(offset[None, :] + column - x, offset[:, None] + row - y) <= radius
        pixels, sigma = diff[area][near], noise[area][near]
        if not np.isfinite(pixels).all() or flux < RESIDUAL_SNR * np.sqrt((sigma**2).sum()):
            continue
        shares.append((np.abs(pixels).sum() - np.sqrt(2 / np.pi) * sigma.sum()) / flux)
        if len(shares) == max_stars:
            break
    if len(shares) < MIN_RESIDUAL_STARS:
        return np.nan, len(shares)
    return float(np.median(shares)), len(shares)
