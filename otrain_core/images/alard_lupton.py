"""Subtraction with a fitted kernel that varies over the field, after Alard & Lupton (1998, ApJ 503, 325)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from otrain_core.errors import ImageError
from otrain_core.images.backends import Inputs, Matched, affordable_order, kernel_sizes
from otrain_core.images.common_stars import choose_stamps, stars_flux_scale
from otrain_core.images.kernel import Convolver, KernelField, make_basis
from otrain_core.images.kernel_fit import fit_kernel
from otrain_core.images.kernel_stamps import Stamps, cut_stamps
from otrain_core.images.pixels import sampled
from otrain_core.images.polynomials import polynomial, polynomial_map
from otrain_core.plan.pipelines import SubtractOptions
from otrain_core.widths import FWHM_PER_SIGMA

CONTAMINATED = 0.02  # largest fraction of the kernel's weight that may lie on bad pixels
MIN_COMPARED = 5  # least number of common stamps in a comparison of two orders of the kernel
WINSORISED = 0.95  # quantile of the gains at which they are clipped


def alard_lupton(inputs: Inputs, options: SubtractOptions) -> Matched:
    """Subtract the reference by the method of Alard & Lupton; see `otrain_core.images.kernel`.

    Raises
    ------
    ImageError
        The image is too small for its seeing, too few stars to fit a kernel, or a flux ratio that is not positive.
    """
    side = sides(inputs)
    broad, sharp = sorted((inputs.seeing, inputs.seeing_reference), reverse=True)
    sigmas, width, half = kernel_sizes(broad, sharp, options.kernel_half_width)
    if min(side.source.shape) < 4 * (half + width) + 1:
        raise ImageError(inputs.name, "subtract", f"the image of {side.source.shape} px is too small for its seeing")
    bad = inputs.bad_science | inputs.bad_reference
    x, y = choose_stamps(inputs.stars, bad, half=half, margin=half + width + 1, max_stamps=options.max_stamps)
    sigma_match = max(np.sqrt(max(broad**2 - sharp**2, 0)) / FWHM_PER_SIGMA, 0.5)
    ratio = 1 / stars_flux_scale(inputs.stars) if side.convolve_science else stars_flux_scale(inputs.stars)
    variance = side.target_noise**2 + side.source_noise**2 * np.float32(ratio**2 / (4 * np.pi * sigma_match**2))

    try:
        order = affordable_order(options.kernel_order, x, y, side.source.shape)
        stamps = cut_stamps(
            side.source,
            side.target,
            variance,
            side.source_noise**2,
            bad,
            x,
            y,
            basis=make_basis(sigmas, width),
            half=half,
            background_order=min(options.background_order, order + 1),
            smoothing=side.source_smoothing,
        )
        fit = _fit(stamps, range(order + 1) if options.kernel_order == "auto" else [order], options)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise ImageError(inputs.name, "subtract", f"no kernel could be fitted: {error}") from None
    return subtract_convolved(
        inputs,
        side,
        fit,
        {
            "n_stamps": fit.record["n_stamps"],
            "n_stamps_rejected": fit.record["n_rejected"],
            "stamp_chi2": fit.record["stamp_chi2"],
            "model_error": fit.record["model_error"],
            "model_error_low": fit.record["model_error_low"],
            "kernel_order": fit.order,
            "kernel_half_width": width,
            "kernel_sigmas": [float(s) for s in sigmas],
        },
    )


@dataclass
class Sides:
    """The image to be convolved (source) and the other one (target); planes as in `Inputs`."""

    source: np.ndarray
    source_noise: np.ndarray
    source_bad: np.ndarray
    source_smoothing: np.ndarray | None
    target: np.ndarray
    target_noise: np.ndarray
    target_calm: np.float32  # variance of a pixel of the target over that before its interpolation
    convolve_science: bool


def sides(inputs: Inputs) -> Sides:
    """Assign the sharper image as the one to convolve."""
    if inputs.seeing_reference > inputs.seeing:
        return Sides(
            source=inputs.science,
            source_noise=inputs.noise,
            source_bad=inputs.bad_science,
            source_smoothing=None,
            target=inputs.reference,
            target_noise=inputs.reference_noise,
            target_calm=np.float32(inputs.smoothing[tuple(n // 2 for n in inputs.smoothing.shape)]),
            convolve_science=True,
        )
    return Sides(
        source=inputs.reference,
        source_noise=inputs.reference_noise,
        source_bad=inputs.bad_reference,
        source_smoothing=inputs.smoothing,
        target=inputs.science,
        target_noise=inputs.noise,
        target_calm=np.float32(1),
        convolve_science=False,
    )


def subtract_convolved(inputs: Inputs, side: Sides, fit: KernelField, record: dict[str, Any]) -> Matched:
    """Difference by a fitted kernel, its noise, and the pixels that depend on bad pixels.

    Parameters
    ----------
    inputs : Inputs
    side : Sides
    fit : KernelField
        Matches the source to the target.
    record : dict
        Entries of the back end for the quality record.

    Raises
    ------
    ImageError
        A flux ratio that is not positive.
    """
    if not np.isfinite(fit.scale) or fit.scale <= 0:
        raise ImageError(inputs.name, "subtract", f"the fitted flux ratio is {fit.scale:g}; a positive one is needed")
    bad = inputs.bad_science | inputs.bad_reference
    difference = side.target - fit.apply(side.source) - fit.background_map()
    difference -= sky_level(difference, side.target_noise, inputs.quiet & ~bad, fit.background_order)
    noise = np.sqrt(
        side.target_calm * side.target_noise**2 + convolved_variance(side.source_noise**2, fit, side.source_smoothing)
    )
    contaminated, nothing = contaminated_pixels(side.source_bad, fit), np.zeros(side.source.shape, dtype=bool)
    if not side.convolve_science:
        record = {"convolved": "reference", "flux_scale": fit.scale} | record
        return Matched(difference, noise, contaminated, nothing, record)
    difference *= np.float32(-1 / fit.scale)
    noise /= np.float32(fit.scale)
    record = {"convolved": "science", "flux_scale": 1 / fit.scale} | record
    return Matched(difference, noise, nothing, contaminated, record, (fit.kernels / fit.scale).astype(np.float32))


def _fit(stamps: Stamps, orders: Sequence[int], options: SubtractOptions) -> KernelField:
    """Fit kernels of these orders; a higher order is chosen only if it predicts stamps outside the fit better."""
    fits = [
        fit_kernel(
            stamps,
            order=order,
            background_order=min(options.background_order, order + 1),
            sigma_clip=options.sigma_clip,
        )
        for order in orders
    ]
    best = fits[0]
    for other in fits[1:]:
        if predicts_better(other.predicted_chi2, best.predicted_chi2):
            best = other
    return best


def predicts_better(chi2: np.ndarray, than: np.ndarray) -> bool:
    """Whether the first of two fits predicts the stamps better: its mean gain exceeds two standard errors.

    The largest gains and losses are clipped, so that a few variable stars do not decide.

    Parameters
    ----------
    chi2, than : numpy.ndarray
        `KernelField.predicted_chi2` of the two fits.
    """
    known = np.isfinite(chi2) & np.isfinite(than)
    if known.sum() < MIN_COMPARED:
        return False
    gain = than[known] - chi2[known]
    limit = np.quantile(np.abs(gain), WINSORISED)
    gain = np.clip(gain, -limit, limit)
    return bool(gain.mean() > 2 * gain.std() / np.sqrt(len(gain)))


def convolved_variance(variance: np.ndarray, fit: KernelField, smoothing: np.ndarray | None) -> np.ndarray:
    """Variance of an image after its convolution.

    The shape of the kernel is that at the centre of the field, its power that at each pixel.

    Parameters
    ----------
    variance : numpy.ndarray
        float32 (height, width), of the pixels before the convolution.
    fit : KernelField
    smoothing : numpy.ndarray or None
        Autocorrelation of the noise that an earlier interpolation left (None: white noise).
    """
    height, width = fit.shape
    kernel = fit.at((width - 1) / 2, (height - 1) / 2)
    power = (kernel**2).sum()
    factor = 1.0
    if smoothing is not None and smoothing.size > 1:
        factor = _correlated_power(kernel, smoothing) / power
    half = kernel.shape[0] // 2
    outside = np.float32(np.median(sampled(variance)))
    smooth = Convolver(variance - outside, half)(kernel**2 / power) + outside
    return np.maximum(smooth, 0) * fit.power() * np.float32(factor)


def _correlated_power(kernel: np.ndarray, smoothing: np.ndarray) -> float:
    """Variance of white unit noise after the interpolation and the convolution with the kernel."""
    half, reach = kernel.shape[0] // 2, smoothing.shape[0] // 2
    padded = np.pad(kernel, reach)
    inner = slice(reach, reach + 2 * half + 1)
    total = 0.0
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            moved = padded[inner.start + dy : inner.stop + dy, inner.start + dx : inner.stop + dx]
            total += smoothing[dy + reach, dx + reach] * (kernel * moved).sum()
    return float(total)


def contaminated_pixels(bad: np.ndarray, fit: KernelField) -> np.ndarray:
    """Bad pixels, and pixels where more than `CONTAMINATED` of the kernel's weight is on bad pixels or outside the frame."""
    height, width = fit.shape
    kernel = np.abs(fit.at((width - 1) / 2, (height - 1) / 2))
    kernel /= kernel.sum()
    # Good pixels are 1, bad pixels and those beyond the edge 0: the convolution is the weight on good pixels.
    good = Convolver((~bad).astype(np.float32), kernel.shape[0] // 2)(kernel)
    return (1 - good > CONTAMINATED) | bad


def sky_level(diff: np.ndarray, noise: np.ndarray, use: np.ndarray, order: int, *, cell: int = 32) -> np.ndarray:
    """Differential background that the kernel fit left: a polynomial through clipped means in cells, without sources.

    All sky pixels of the image constrain the background better than the few in the stamps,
    which lie in the wings of bright stars. In a crowded field, where less than half of the
    pixels are away from sources, the sky pixels are not a fair sample, and the result is 0.

    Parameters
    ----------
    diff, noise : numpy.ndarray
        float32 (height, width) [ADU].
    use : numpy.ndarray
        bool (height, width), pixels away from sources.
    order : int
        Degree of the polynomial.
    cell : int
        Side of a cell [px].

    Returns
    -------
    numpy.ndarray
        float32 (height, width) [ADU].
    """
    if use.mean() < 0.5:
        return np.zeros(diff.shape, dtype=np.float32)
    good = use & (np.abs(diff) < 3 * noise)
    height, width = (n - n % cell for n in diff.shape)
    blocks = (height // cell, cell, width // cell, cell)
    count = good[:height, :width].reshape(blocks).sum(axis=(1, 3))
    total = np.where(good, diff, 0)[:height, :width].reshape(blocks).sum(axis=(1, 3))
    filled = count >= cell**2 / 10
    if filled.sum() < 3 * (order + 1) * (order + 2) / 2:
        return np.zeros(diff.shape, dtype=np.float32)
    row, column = np.nonzero(filled)
    weight = np.sqrt(count[filled])
    terms = polynomial((column + 0.5) * cell - 0.5, (row + 0.5) * cell - 0.5, diff.shape, order)
    solution = np.linalg.lstsq((terms * weight).T, total[filled] / count[filled] * weight, rcond=None)[0]
    return polynomial_map(solution, diff.shape, order)
