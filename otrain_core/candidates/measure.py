"""Measure sources at given positions: PSF fluxes, widths and ellipticities; and the noise of the difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import fft

from otrain_core.images.kernel import KernelField
from otrain_core.images.pixels import add_stamp, nearest_pixel, sampled, stamps

SIGMA = 1 / np.sqrt(8 * np.log(2))  # standard deviation of a Gaussian of unit FWHM
FIT_RADIUS = 1.5  # photometry uses the pixels within this radius [seeing]


class BroadenedPSF:
    """A PSF convolved with a round Gaussian, for differences in which the science image was convolved.

    Parameters
    ----------
    psf : otrain_core.stars.psf_model.PSFModel
    fwhm, target : float
        FWHM [px] of the PSF and of the convolved PSF.
    """

    def __init__(self, psf: Any, *, fwhm: float, target: float):
        self.psf, self.sigma = psf, SIGMA * np.sqrt(max(target**2 - fwhm**2, 0.0))
        self.pad = int(np.ceil(3 * self.sigma))

    def stamp(self, x: float, y: float) -> tuple[np.ndarray, int, int]:
        """Like `otrain_core.stars.psf_model.PSFModel.stamp`, with a stamp larger by three sigma on every side."""
        from scipy.ndimage import fourier_gaussian

        stamp, y0, x0 = self.psf.stamp(x, y)
        padded = np.pad(stamp, self.pad)
        # In Fourier space, because the Gaussian may be narrower than a pixel.
        return np.fft.ifft2(fourier_gaussian(np.fft.fft2(padded), self.sigma)).real, y0 - self.pad, x0 - self.pad

    def convolved(self, plane: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
        """Part of the science image convolved like the difference; `corner` is the row and column of its first pixel."""
        from scipy.ndimage import gaussian_filter

        return gaussian_filter(plane, self.sigma, mode="constant")


class ConvolvedPSF:
    """A PSF convolved with the position-dependent kernel of the science image.

    Parameters
    ----------
    psf : otrain_core.stars.psf_model.PSFModel
    kernel : otrain_core.images.kernel.KernelField
        Kernels of sum 1.
    """

    def __init__(self, psf: Any, kernel: KernelField):
        self.psf, self.kernel = psf, kernel

    def stamp(self, x: float, y: float) -> tuple[np.ndarray, int, int]:
        """Like `otrain_core.stars.psf_model.PSFModel.stamp`, with a stamp larger by half the kernel on every side."""
        stamp, y0, x0 = self.psf.stamp(x, y)
        kernel = self.kernel.at(x, y)
        half = kernel.shape[0] // 2
        return _convolve(stamp, kernel), y0 - half, x0 - half

    def convolved(self, plane: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
        """Like `BroadenedPSF.convolved`, with the kernel at the centre of the plane."""
        kernel = self.kernel.at(corner[1] + plane.shape[1] / 2, corner[0] + plane.shape[0] / 2)
        half = kernel.shape[0] // 2
        return _convolve(plane, kernel)[half : half + plane.shape[0], half : half + plane.shape[1]]


def _convolve(plane: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The full convolution, larger than the plane by half the kernel on every side."""
    shape = [n + m - 1 for n, m in zip(plane.shape, kernel.shape, strict=True)]
    size = [fft.next_fast_len(n, real=True) for n in shape]
    wide = fft.irfft2(fft.rfft2(plane, size) * fft.rfft2(kernel, size), size)
    return wide[: shape[0], : shape[1]].copy()


def difference_psf(
    psf: Any, seeing: float, subtraction: Mapping[str, Any], planes: Mapping[str, np.ndarray]
) -> tuple[Any, float]:
    """PSF and seeing [px] of the difference.

    If the science image was convolved for the difference, its PSF is convolved too: with the kernel if the planes have one,
    otherwise with a Gaussian that broadens the seeing to that of the reference.

    Parameters
    ----------
    psf : otrain_core.stars.psf_model.PSFModel
        PSF of the science image.
    seeing : float
        FWHM of the science image [px].
    subtraction : mapping
        Record of `otrain_core.images.subtract`.
    planes : mapping
        Planes of the difference: ``diff``, and ``kernel`` if there is one.

    Returns
    -------
    psf : object
        With the method ``stamp`` of `PSFModel`.
    seeing : float
        [px]
    """
    if "kernel" in planes:
        wider = subtraction["convolved"] == "science" and subtraction["seeing_reference_px"] > seeing
        target = subtraction["seeing_reference_px"] if wider else seeing
        return ConvolvedPSF(psf, KernelField.from_kernels(planes["kernel"], planes["diff"].shape)), target
    if subtraction.get("convolved") == "science" and subtraction["seeing_reference_px"] > seeing:
        target = subtraction["seeing_reference_px"]
        return BroadenedPSF(psf, fwhm=seeing, target=target), target
    return psf, seeing


def filtered_significance(data: np.ndarray, error: np.ndarray, bad: np.ndarray, seeing: float) -> np.ndarray:
    """Matched-filtered difference in units of its expected noise.

    Parameters
    ----------
    data, error : numpy.ndarray
        Difference and its 1-sigma noise [ADU], (height, width), finite.
    bad : numpy.ndarray
        bool (height, width), pixels that are not used.
    seeing : float
        FWHM [px].

    Returns
    -------
    numpy.ndarray
        (height, width), NaN at the pixels `bad`.
    """
    from scipy.ndimage import gaussian_filter

    sigma = SIGMA * seeing
    weight = np.where(bad, np.float32(0), 1 / error**2)
    # The square of a Gaussian is a Gaussian narrower by sqrt(2), with integral 1 / (4 pi sigma^2).
    signal = gaussian_filter(data * weight, sigma, mode="constant")
    variance = gaussian_filter(weight, sigma / np.sqrt(2), mode="constant") / (4 * np.pi * sigma**2)
    return np.divide(signal, np.sqrt(variance), out=np.full(data.shape, np.nan), where=~bad & (variance > 0))


def filtered_spread(data: np.ndarray, error: np.ndarray, bad: np.ndarray, seeing: float) -> float:
    """Robust standard deviation of the matched-filtered difference in units of its expected noise.

    It is 1 for independent noise of size `error`. Parameters as in `filtered_significance`.
    """
    significance = sampled(filtered_significance(data, error, bad, seeing))[~sampled(bad)]
    spread = 1.4826 * float(np.median(np.abs(significance - np.median(significance))))
    return spread if np.isfinite(spread) and spread > 0 else 1.0


def negative_shares(
    data: np.ndarray, error: np.ndarray, bad: np.ndarray, x: np.ndarray, y: np.ndarray, *, seeing: float
) -> np.ndarray:
    """Negative share of the significant signal (beyond 3 sigma) within 1.5 FWHM of each position, (N,).

    It is 0 for a clean new source and about one half for the dipole of a misaligned star.

    Parameters
    ----------
    data, error, bad
        See `filtered_significance`.
    x, y : numpy.ndarray
        [px], (N,)
    seeing : float
        FWHM [px].
    """
    radius = FIT_RADIUS * seeing
    values, dx, dy = stamps(data, x, y, int(np.ceil(radius)) + 1, fill=0)
    significance = values / stamps(error, x, y, int(np.ceil(radius)) + 1, fill=1)[0]
    use = (dx**2 + dy**2 <= radius**2) & ~stamps(bad, x, y, int(np.ceil(radius)) + 1, fill=True)[0]
    use &= np.abs(significance) > 3
    total = np.where(use, np.abs(significance), 0).sum(axis=(1, 2))
    negative = np.where(use & (significance < 0), -significance, 0).sum(axis=(1, 2))
    return np.divide(negative, total, out=np.zeros(len(x)), where=total > 0)


def point_sources(psf: Any, x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """Image of a star of flux 1 at every position.

    Parameters
    ----------
    psf : object
        With the method ``stamp`` of `otrain_core.stars.psf_model.PSFModel`, and ``stamps`` if it can make many at once.
    x, y : numpy.ndarray
        [px], (N,)
    size : int
        [px]

    Returns
    -------
    numpy.ndarray
        (N, size, size); the pixel nearest to the position has index ``size // 2`` on both axes.
    """
    planes, x, y = np.zeros((len(x), size, size)), np.asarray(x, float), np.asarray(y, float)
    left, bottom = nearest_pixel(x) - size // 2, nearest_pixel(y) - size // 2
    made = zip(*psf.stamps(x, y), strict=True) if hasattr(psf, "stamps") else map(psf.stamp, x, y)
    for index, (stamp, y0, x0) in enumerate(made):
        add_stamp(planes[index], stamp, y0 - bottom[index], x0 - left[index])
    return planes


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
    """Flux of the PSF at given positions, by weighted least squares within 1.5 FWHM.

    Parameters
    ----------
    data, error, bad
        See `filtered_significance`.
    x, y : numpy.ndarray
        [px], (N,)
    seeing : float
        FWHM [px].
    psf : object, optional
        See `point_sources`; the default is a Gaussian of the seeing.

    Returns
    -------
    flux, fluxerr : numpy.ndarray
        Total flux of the PSF and its error for independent pixel noise [ADU], (N,); NaN and infinity without a usable
        pixel.
    cover : numpy.ndarray
        Share of the PSF within the radius that falls on usable pixels, (N,).
    """
    radius = max(FIT_RADIUS * seeing, 1.5)
    half = int(np.ceil(radius)) + 1
    values, dx, dy = stamps(data, x, y, half, fill=0)
    weights = 1 / stamps(error, x, y, half, fill=1)[0].astype(float) ** 2
    weights *= ~stamps(bad, x, y, half, fill=True)[0]
    inside = dx**2 + dy**2 <= radius**2
    if psf is None:
        profile = np.exp(-0.5 * (dx**2 + dy**2) / (SIGMA * seeing) ** 2)
        profile /= 2 * np.pi * (SIGMA * seeing) ** 2
    else:
        profile = point_sources(psf, x, y, 2 * half + 1)
    profile = profile * inside
    whole = profile.sum(axis=(1, 2))
    norm = (profile**2 * weights).sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        flux = (profile * values * weights).sum(axis=(1, 2)) / norm
        return flux, 1 / np.sqrt(norm), (profile * (weights > 0)).sum(axis=(1, 2)) / whole


def gaussian_widths(
    data: np.ndarray, error: np.ndarray, bad: np.ndarray, x: np.ndarray, y: np.ndarray, *, seeing: float
) -> np.ndarray:
    """FWHM [px] of the best-fitting circular Gaussian at given positions, (N,).

    The best width on a logarithmic grid from 0.25 to 6 times the seeing is the one whose least-squares amplitude reduces
    chi2 most (maximum likelihood for a known position); a parabola refines it. The smallest width is one pixel. Parameters
    as in `psf_fluxes`.
    """
    half = int(np.clip(np.ceil(3 * seeing), 4, 16))
    values, dx, dy = stamps(data, x, y, half, fill=0)
    weights = 1 / stamps(error, x, y, half, fill=1)[0].astype(float) ** 2
    weights *= ~stamps(bad, x, y, half, fill=True)[0]
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


def point_source_scale(psf: Any, shape: tuple[int, int], seeing: float) -> float:
    """Seeing divided by the Gaussian width of the PSF: widths times this factor are the seeing for a point source."""
    x, y = (shape[1] - 1) // 2, (shape[0] - 1) // 2
    stamp, y0, x0 = psf.stamp(x, y)
    centre = (np.array([x - x0], dtype=float), np.array([y - y0], dtype=float))
    clear = np.zeros(stamp.shape, dtype=bool)
    return seeing / float(gaussian_widths(stamp, np.ones_like(stamp), clear, *centre, seeing=seeing)[0])


def window_ellipticities(
    data: np.ndarray, bad: np.ndarray, x: np.ndarray, y: np.ndarray, *, seeing: float
) -> np.ndarray:
    """Ellipticity 1 - b/a, from 0 to 1, from second moments in a round Gaussian window of the seeing, (N,).

    The window makes sources rounder. This is corrected by subtracting the inverse covariance of the window from the
    inverse of the measured one, which is exact for a Gaussian.
    """
    half = max(3, int(np.ceil(1.5 * seeing)))
    values, dx, dy = stamps(data, x, y, half, fill=0)
    width = SIGMA * seeing
    window = np.exp(-0.5 * (dx**2 + dy**2) / width**2) * ~stamps(bad, x, y, half, fill=True)[0]
    weighted = values * window
    total = weighted.sum(axis=(1, 2))
    weighted = weighted * np.sign(total)[:, None, None]
    total = np.maximum(np.abs(total), 1e-12)
    xx, yy, xy = ((weighted * term).sum(axis=(1, 2)) / total for term in (dx**2, dy**2, dx * dy))
    # Negative lobes can make moments negative; the smallest width allowed is a quarter of a pixel.
    mean, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    major = np.clip(mean + spread, 0.25**2, None)
    minor = np.clip(mean - spread, 0.25**2, None)
    inverse_major = np.clip(1 / major - 1 / width**2, 1 / (5 * width) ** 2, None)
    inverse_minor = np.clip(1 / minor - 1 / width**2, 1 / (5 * width) ** 2, None)
    return 1 - np.sqrt(inverse_major / inverse_minor)
