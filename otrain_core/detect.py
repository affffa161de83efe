"""Detection of candidates on the noise-weighted difference image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from otrain_core.errors import ImageError
from otrain_core.io import MASK_MISSING

SIGMA = 1 / np.sqrt(8 * np.log(2))  # standard deviation of a Gaussian of unit FWHM
PEAK_MOVED = 1.5  # a windowed centroid farther than this [seeing] from the start has run away
FIT_RADIUS = 1.5  # photometry uses the pixels within this radius [seeing]
MIN_COVER = 0.5  # with a smaller share of the PSF on usable pixels the photometry is flagged

# Bits of the column `flags`; the lower ones are those of sep (1 deblended, 2 truncated, ...).
FLAG_MASKED = 256  # a masked pixel within one seeing FWHM
FLAG_COVER = 512  # less than half of the PSF falls on usable pixels
FLAG_CENTROID = 1024  # the windowed centroid failed, the isophotal one is given

COLUMNS = {
    "candid": str,
    "image": str,
    "x": float,
    "y": float,
    "ra": float,
    "dec": float,
    "flux": float,
    "fluxerr": float,
    "mag": float,
    "magerr": float,
    "snr": float,
    "fwhm": float,
    "ellipticity": float,
    "flags": int,
    "edge": bool,
    "time": str,
    "filter": str,
    "method": str,
}


def gaussian_kernel(fwhm: float) -> np.ndarray:
    """Matched filter of a Gaussian PSF: odd-sided, normalised to 1, float32; `fwhm` in px."""
    half = max(1, int(np.ceil(1.5 * fwhm)))
    offset = np.arange(-half, half + 1)
    profile = np.exp(-0.5 * (offset / (SIGMA * fwhm)) ** 2)
    kernel = np.outer(profile, profile)
    return (kernel / kernel.sum()).astype(np.float32)


def detect_candidates(
    diff: np.ndarray,
    noise: np.ndarray,
    mask: np.ndarray,
    *,
    image: str,
    seeing: float,
    zero_point: float,
    wcs: Any = None,
    psf: Any = None,
    telescope: str = "",
    time: str = "",
    filter: str = "",
    size: int = 32,
    threshold: float = 4.5,
    min_area: int = 1,
    edge: int = 0,
    fwhm_ratio: tuple[float, float] = (0.0, 20.0),
    max_candidates: int = 5000,
    both_signs: bool = False,
    rescale_noise: bool = True,
) -> pd.DataFrame:
    """Find candidates and measure them.

    Pixels are detected where the difference, filtered with a Gaussian of the seeing
    and weighted by the noise of every pixel, exceeds `threshold` (the matched filter
    of `sep`, Barbary 2016, after SExtractor, Bertin & Arnouts 1996). Positions are
    windowed centroids; fluxes are those of the PSF that fit best (weighted least
    squares within 1.5 FWHM), so a point source gets its total flux; FWHMs are the width of
    the circular Gaussian that fits best, which stays meaningful at low S/N.

    Parameters
    ----------
    diff, noise : numpy.ndarray
        Difference and its 1-sigma noise [ADU], (height, width). NaN: missing.
    mask : numpy.ndarray
        uint8 (height, width), bits `otrain_core.io.MASK_*`; a masked pixel is not used.
    image, telescope : str
        Names, from which ``candid`` is made: ``{telescope}-{image}-0001`` in order of y, x.
    seeing : float
        FWHM of the PSF of the difference [px].
    zero_point : float
        Magnitude of 1 ADU.
    wcs : astropy.wcs.WCS, optional
        Without it ``ra`` and ``dec`` are NaN.
    psf : otrain_core.psf.PSFModel, optional
        Its ``stamp(x, y) -> (array, y0, x0)`` gives the PSF; without it a Gaussian of the
        seeing is taken, which misses the wings of a real PSF.
    time, filter : str
        Copied to every candidate.
    size : int
        Side of the cutouts to come [px].
    threshold : float
        [sigma], after the matched filter.
    min_area : int
        Smallest number of connected pixels above the threshold.
    edge : int
        Candidates nearer than this to the border are flagged ``edge`` [px]; 0: half a cutout.
        So are those with a pixel within 1.5 FWHM that is missing for no other reason.
    fwhm_ratio : tuple of float
        Accepted range of FWHM over seeing.
    max_candidates : int
    both_signs : bool
        Also detect negative sources (their flux is negative, their magnitude NaN).
    rescale_noise : bool
        Multiply the noise by the robust spread of the filtered, noise-weighted difference, so
        that thresholds and errors hold where the noise of neighbouring pixels is correlated
        (after resampling and convolution) or the gain is not known well.

    Returns
    -------
    pandas.DataFrame
        Columns `COLUMNS`, sorted by y, then x. ``snr`` is |flux| / fluxerr.

    Raises
    ------
    ImageError
        No usable pixel, no usable seeing, or more than `max_candidates` candidates.
    """
    if not (np.isfinite(seeing) and seeing > 0):
        raise ImageError(image, "detect.seeing", f"a positive seeing [px] is needed, found {seeing}")
    with np.errstate(invalid="ignore"):
        bad = (mask != 0) | ~np.isfinite(diff) | ~(noise > 0) | ~np.isfinite(noise)
    if bad.all():
        raise ImageError(image, "detect", "no usable pixel in the difference")
    data = np.where(bad, 0, diff).astype(np.float32)
    error = np.where(bad, np.median(noise[~bad]), noise).astype(np.float32)

    if rescale_noise:
        error *= np.float32(filtered_spread(data, error, bad, seeing))
    signs = (1, -1) if both_signs else (1,)
    objects = np.concatenate([_extract(data, error, bad, image, seeing, threshold, min_area, sign) for sign in signs])
    x, y, lost = _centres(data, bad, objects, seeing)
    keep = ~lost
    objects, x, y = objects[keep], x[keep], y[keep]
    if len(x) > max_candidates:
        raise ImageError(
            image,
            "detect.max_candidates",
            f"{len(x)} candidates, more than {max_candidates}: the subtraction failed or the threshold is too low",
        )
    order = np.lexsort((x, y))
    objects, x, y = objects[order], x[order], y[order]

    flags = objects["flag"].astype(int) | np.where(objects["centred"], 0, FLAG_CENTROID)
    flux, fluxerr, cover = psf_fluxes(data, error, bad, x, y, seeing=seeing, psf=psf)
    fwhm = gaussian_widths(data, error, bad, x, y, seeing=seeing)
    if psf is not None:
        fwhm *= _point_source_scale(psf, diff.shape, seeing)
    flags |= np.where(cover < MIN_COVER, FLAG_COVER, 0)
    flags |= np.where(_any_near(bad, x, y, seeing), FLAG_MASKED, 0)
    height, width = diff.shape
    margin = edge or size // 2
    # Pixels that a cosmic ray or saturation took are no edge: what they leave behind is bogus to learn.
    missing = (mask == MASK_MISSING) | (~np.isfinite(diff) & (mask == 0))
    at_edge = (x < margin) | (y < margin) | (x > width - 1 - margin) | (y > height - 1 - margin)
    at_edge |= _any_near(missing, x, y, FIT_RADIUS * seeing)

    ra, dec = (wcs.all_pix2world(x, y, 0) if len(x) else (x, y)) if wcs is not None else (np.full(len(x), np.nan),) * 2
    positive = flux > 0
    mag = np.full(len(x), np.nan)
    mag[positive] = zero_point - 2.5 * np.log10(flux[positive])
    magerr = np.full(len(x), np.nan)
    magerr[positive] = 2.5 / np.log(10) * fluxerr[positive] / flux[positive]

    table = pd.DataFrame(
        {
            "x": x,
            "y": y,
            "ra": ra,
            "dec": dec,
            "flux": flux,
            "fluxerr": fluxerr,
            "mag": mag,
            "magerr": magerr,
            "snr": np.abs(flux) / fluxerr,
            "fwhm": fwhm,
            "ellipticity": window_ellipticities(data, bad, x, y, seeing=seeing),
            "flags": flags,
            "edge": at_edge,
        }
    )
    ratio = table["fwhm"] / seeing
    table = table[(ratio >= fwhm_ratio[0]) & (ratio <= fwhm_ratio[1])].reset_index(drop=True)
    table["image"], table["time"], table["filter"], table["method"] = image, time, filter, "difference"
    prefix = f"{telescope}-{image}" if telescope else image
    table["candid"] = [f"{prefix}-{number:04d}" for number in range(1, len(table) + 1)]
    return table[list(COLUMNS)].astype(COLUMNS)


class BroadenedPSF:
    """A PSF convolved with a round Gaussian, for differences in which the science image was convolved.

    Parameters
    ----------
    psf : otrain_core.psf.PSFModel
    fwhm, target : float
        FWHM [px] of the PSF and of the PSF wanted; the Gaussian makes up for the difference.
    """

    def __init__(self, psf: Any, *, fwhm: float, target: float):
        self.psf, self.sigma = psf, SIGMA * np.sqrt(max(target**2 - fwhm**2, 0.0))
        self.pad = int(np.ceil(3 * self.sigma))

    def stamp(self, x: float, y: float) -> tuple[np.ndarray, int, int]:
        """As `otrain_core.psf.PSFModel.stamp`, on a stamp larger by three sigma on every side."""
        from scipy.ndimage import fourier_gaussian

        stamp, y0, x0 = self.psf.stamp(x, y)
        padded = np.pad(stamp, self.pad)
        # In Fourier space, as the Gaussian may be narrower than a pixel.
        return np.fft.ifft2(fourier_gaussian(np.fft.fft2(padded), self.sigma)).real, y0 - self.pad, x0 - self.pad


def filtered_spread(data: np.ndarray, error: np.ndarray, bad: np.ndarray, seeing: float) -> float:
    """Robust standard deviation of the matched-filtered difference in units of its expected noise.

    1 for independent noise of the given size. Masked pixels do not count; `seeing` in px.
    """
    from scipy.ndimage import gaussian_filter

    sigma = SIGMA * seeing
    weight = np.where(bad, 0, 1 / error.astype(float) ** 2)
    # The square of a Gaussian is a Gaussian narrower by sqrt(2), with integral 1 / (4 pi sigma^2).
    signal = gaussian_filter(data * weight, sigma, mode="constant")
    variance = gaussian_filter(weight, sigma / np.sqrt(2), mode="constant") / (4 * np.pi * sigma**2)
    significance = signal[~bad] / np.sqrt(variance[~bad])
    spread = 1.4826 * float(np.median(np.abs(significance - np.median(significance))))
    return spread if np.isfinite(spread) and spread > 0 else 1.0


def _extract(
    data: np.ndarray,
    error: np.ndarray,
    bad: np.ndarray,
    image: str,
    seeing: float,
    threshold: float,
    min_area: int,
    sign: int,
) -> np.ndarray:
    import sep

    sep.set_extract_pixstack(max(300_000, data.size // 4))
    sep.set_sub_object_limit(4096)
    try:
        objects = sep.extract(
            sign * data,
            threshold,
            err=error,
            mask=bad,
            minarea=min_area,
            filter_kernel=gaussian_kernel(seeing),
            filter_type="matched",
            clean=False,  # with a matched filter sep's cleaning removes isolated sources too
        )
    except Exception as problem:  # sep raises bare Exceptions when a buffer overflows
        raise ImageError(
            image, "detect", f"far too many pixels above the threshold, the subtraction failed ({problem})"
        ) from None
    columns = {name: objects[name] for name in ("x", "y", "xcpeak", "ycpeak", "flag")}
    result = np.zeros(
        len(objects),
        dtype=[("x", float), ("y", float), ("xcpeak", int), ("ycpeak", int), ("flag", int)]
        + [("sign", int), ("centred", bool)],
    )
    for name, values in columns.items():
        result[name] = values
    result["sign"] = sign
    return result


def _centres(
    data: np.ndarray, bad: np.ndarray, objects: np.ndarray, seeing: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windowed centroids; where they run away or land on a masked pixel, the peak or nothing."""
    import sep

    x, y = objects["x"].copy(), objects["y"].copy()
    for sign in (1, -1):
        mine = objects["sign"] == sign
        if not mine.any():
            continue
        # Starting from the filtered peak keeps a blend or a ring from starting in a hole.
        x0, y0 = objects["xcpeak"][mine].astype(float), objects["ycpeak"][mine].astype(float)
        xw, yw, _ = sep.winpos(sign * data, x0, y0, np.full(len(x0), SIGMA * seeing), mask=bad)
        good = np.hypot(xw - x0, yw - y0) < PEAK_MOVED * seeing
        good &= ~_at(bad, xw, yw, outside=True)
        x[mine], y[mine] = np.where(good, xw, x[mine]), np.where(good, yw, y[mine])
        objects["centred"][mine] = good
    masked = _at(bad, x, y, outside=True)
    x[masked], y[masked] = objects["xcpeak"][masked], objects["ycpeak"][masked]
    return x, y, _at(bad, x, y, outside=True)


def nearest_pixel(position: np.ndarray) -> np.ndarray:
    """Index of the pixel that holds a coordinate (halves go up, always)."""
    return np.floor(np.asarray(position, dtype=float) + 0.5).astype(int)


def _at(plane: np.ndarray, x: np.ndarray, y: np.ndarray, *, outside: bool) -> np.ndarray:
    finite = np.isfinite(x) & np.isfinite(y)
    column, row = nearest_pixel(np.where(finite, x, -1)), nearest_pixel(np.where(finite, y, -1))
    inside = finite & (column >= 0) & (row >= 0) & (column < plane.shape[1]) & (row < plane.shape[0])
    result = np.full(len(x), outside)
    result[inside] = plane[row[inside], column[inside]]
    return result


def _any_near(plane: np.ndarray, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Whether a True pixel of `plane` lies within `radius` px of each position."""
    if len(x) == 0 or not plane.any():
        return np.zeros(len(x), dtype=bool)
    stamps, dx, dy = _stamps(plane, x, y, int(np.ceil(radius)) + 1, fill=False)
    return (stamps & (dx**2 + dy**2 <= radius**2)).any(axis=(1, 2))


def _stamps(
    plane: np.ndarray, x: np.ndarray, y: np.ndarray, half: int, *, fill: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, K, K) stamps about the nearest pixels, and the offsets of their pixels from the positions."""
    padded = np.pad(plane, half, constant_values=fill)
    offset = np.arange(-half, half + 1)
    column, row = nearest_pixel(x), nearest_pixel(y)
    rows = (row[:, None] + offset + half)[:, :, None]
    columns = (column[:, None] + offset + half)[:, None, :]
    dx = (column[:, None] + offset - np.asarray(x)[:, None])[:, None, :]
    dy = (row[:, None] + offset - np.asarray(y)[:, None])[:, :, None]
    return padded[rows, columns], dx, dy


def psf_fluxes(
    data: np.ndarray,
    error: np.ndarray,
    bad: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    *,
    seeing: float,
    psf: Any = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flux of the PSF at given positions by weighted least squares within 1.5 FWHM.

    Returns
    -------
    flux, fluxerr : numpy.ndarray
        [ADU], total flux of the PSF; the error is that of independent pixel noise.
    cover : numpy.ndarray
        Share of the PSF within the radius that falls on usable pixels.
    """
    radius = max(FIT_RADIUS * seeing, 1.5)
    half = int(np.ceil(radius)) + 1
    values, dx, dy = _stamps(data, x, y, half, fill=0)
    weights = 1 / _stamps(error, x, y, half, fill=1)[0].astype(float) ** 2
    weights *= ~_stamps(bad, x, y, half, fill=True)[0]
    inside = dx**2 + dy**2 <= radius**2
    if psf is None:
        profile = np.exp(-0.5 * (dx**2 + dy**2) / (SIGMA * seeing) ** 2)
        profile /= 2 * np.pi * (SIGMA * seeing) ** 2
    else:
        profile = np.zeros(values.shape)
        for index, (xi, yi) in enumerate(zip(x, y, strict=True)):
            stamp, y0, x0 = psf.stamp(xi, yi)
            _paste(profile[index], stamp, y0 - (nearest_pixel(yi) - half), x0 - (nearest_pixel(xi) - half))
    profile = profile * inside
    whole = profile.sum(axis=(1, 2))
    norm = (profile**2 * weights).sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        flux = (profile * values * weights).sum(axis=(1, 2)) / norm
        return flux, 1 / np.sqrt(norm), (profile * (weights > 0)).sum(axis=(1, 2)) / whole


def _paste(target: np.ndarray, stamp: np.ndarray, y0: int, x0: int) -> None:
    """Add the part of `stamp`, whose corner is at (y0, x0), that overlaps `target`."""
    top, left = max(y0, 0), max(x0, 0)
    bottom, right = min(y0 + stamp.shape[0], target.shape[0]), min(x0 + stamp.shape[1], target.shape[1])
    if bottom > top and right > left:
        target[top:bottom, left:right] += stamp[top - y0 : bottom - y0, left - x0 : right - x0]


def gaussian_widths(
    data: np.ndarray, error: np.ndarray, bad: np.ndarray, x: np.ndarray, y: np.ndarray, *, seeing: float
) -> np.ndarray:
    """FWHM [px] of the circular Gaussian that fits best at given positions.

    The width on a logarithmic grid from 0.25 to 6 times the seeing whose least-squares
    amplitude removes most chi2 (the maximum-likelihood width for known position), refined
    by a parabola. One pixel is the narrowest that can be measured.
    """
    half = int(np.clip(np.ceil(3 * seeing), 4, 16))
    values, dx, dy = _stamps(data, x, y, half, fill=0)
    weights = 1 / _stamps(error, x, y, half, fill=1)[0].astype(float) ** 2
    weights *= ~_stamps(bad, x, y, half, fill=True)[0]
    widths = np.geomspace(max(0.25 * seeing, 1.0), 6 * seeing, 25)
    gain = np.empty((len(widths), len(x)))
    for index, width in enumerate(widths):
        # Separable profiles keep the memory at one stack of stamps.
        px, py = (np.exp(-0.5 * (d / (SIGMA * width)) ** 2) for d in (dx, dy))
        amplitude = np.einsum("nij,nij->n", values * weights, px * py)
        norm = np.einsum("nij,nij->n", weights, (px * py) ** 2)
        gain[index] = np.divide(np.abs(amplitude), np.sqrt(norm), out=np.zeros(len(x)), where=norm > 0)
    best = np.clip(gain.argmax(axis=0), 1, len(widths) - 2)
    at = np.arange(len(x))
    left, middle, right = gain[best - 1, at], gain[best, at], gain[best + 1, at]
    curvature = left - 2 * middle + right
    shift = np.divide(0.5 * (left - right), curvature, out=np.zeros(len(x)), where=curvature < 0)
    step = np.log(widths[1] / widths[0])
    return widths[best] * np.exp(step * np.clip(shift, -1, 1))


def _point_source_scale(psf: Any, shape: tuple[int, int], seeing: float) -> float:
    """Seeing over the Gaussian width of the PSF itself, so that a point source gets the seeing."""
    x, y = (shape[1] - 1) // 2, (shape[0] - 1) // 2
    stamp, y0, x0 = psf.stamp(x, y)
    centre = (np.array([x - x0], dtype=float), np.array([y - y0], dtype=float))
    clear = np.zeros(stamp.shape, dtype=bool)
    return seeing / float(gaussian_widths(stamp, np.ones_like(stamp), clear, *centre, seeing=seeing)[0])


def window_ellipticities(
    data: np.ndarray, bad: np.ndarray, x: np.ndarray, y: np.ndarray, *, seeing: float
) -> np.ndarray:
    """Ellipticity 1 - b/a from second moments in a round Gaussian window of the seeing.

    The window's own rounding is taken out by subtracting its inverse covariance from
    the inverse of the measured one, exact for a Gaussian. 0 to 1.
    """
    half = max(3, int(np.ceil(1.5 * seeing)))
    values, dx, dy = _stamps(data, x, y, half, fill=0)
    width = SIGMA * seeing
    window = np.exp(-0.5 * (dx**2 + dy**2) / width**2) * ~_stamps(bad, x, y, half, fill=True)[0]
    weighted = values * window
    total = weighted.sum(axis=(1, 2))
    weighted = weighted * np.sign(total)[:, None, None]
    total = np.maximum(np.abs(total), 1e-12)
    xx, yy, xy = ((weighted * term).sum(axis=(1, 2)) / total for term in (dx**2, dy**2, dx * dy))
    # Negative lobes can make moments negative: the smallest width counted is a quarter pixel.
    mean, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    major = np.clip(mean + spread, 0.25**2, None)
    minor = np.clip(mean - spread, 0.25**2, None)
    inverse_major = np.clip(1 / major - 1 / width**2, 1 / (5 * width) ** 2, None)
    inverse_minor = np.clip(1 / minor - 1 / width**2, 1 / (5 * width) ** 2, None)
    return 1 - np.sqrt(inverse_major / inverse_minor)
