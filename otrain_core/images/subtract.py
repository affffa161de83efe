"""Match an aligned reference to a science image in PSF and flux, and subtract it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from otrain_core.errors import ImageError, MissingProgramError
from otrain_core.images.align import Aligned
from otrain_core.images.common_stars import choose_stamps, fill_bad, find_stars, star_residual, stars_flux_scale
from otrain_core.images.kernel import Convolver, KernelField, fit_kernel, make_basis, polynomial, polynomial_map
from otrain_core.io import MASK_BAD, MASK_MISSING, MASK_REFERENCE, MASK_SATURATED
from otrain_core.programs import find_program

log = logging.getLogger(__name__)
UNUSABLE = MASK_MISSING | MASK_SATURATED | MASK_BAD  # a pixel with one of these has no difference
CONTAMINATED = 0.02  # share of the kernel that may lie on bad pixels
MAX_STAR_RESIDUAL = 0.3  # default of max_star_residual
STAMPS_PER_TERM = 3  # stars needed for each term of the kernel's spatial polynomial


@dataclass
class Difference:
    """What a subtraction yields, all (height, width).

    Attributes
    ----------
    diff : numpy.ndarray
        float32, science - matched reference [ADU of the science image]; NaN where masked.
    noise : numpy.ndarray
        float32, 1 sigma of `diff` [ADU]; NaN where masked.
    mask : numpy.ndarray
        uint8, bits of the science mask and `MASK_REFERENCE`.
    reference : numpy.ndarray
        float32, the aligned reference scaled to the flux of the science image, not
        matched in PSF; NaN where missing.
    record : dict
        Quality: method, convolved, n_stamps, flux_scale, noise_spread, seeings, ...
    """

    diff: np.ndarray
    noise: np.ndarray
    mask: np.ndarray
    reference: np.ndarray
    record: dict[str, Any] = field(default_factory=dict)


def subtract_images(
    science: np.ndarray,
    noise: np.ndarray,
    mask: np.ndarray,
    aligned: Aligned,
    *,
    name: str,
    seeing: float | None = None,
    method: str = "alard-lupton",
    fallback: str = "none",
    hotpants_program: str | None = None,
    hotpants_options: Mapping[str, Any] | None = None,
    kernel_order: int = 2,
    background_order: int = 1,
    kernel_half_width: int = 0,
    max_stamps: int = 200,
    sigma_clip: float = 3.0,
    max_noise_spread: float = 2.0,
    max_star_residual: float = MAX_STAR_RESIDUAL,
) -> Difference:
    """Difference of a science image and a reference on the same grid.

    The sharper of the two images is convolved to the PSF of the other. Where that is
    the science image, the result is divided by the kernel's sum: the difference is in
    ADU of the science image either way, with the PSF of the less sharp image.

    Parameters
    ----------
    science, noise : numpy.ndarray
        float32 (height, width), background subtracted, and its 1 sigma noise [ADU];
        NaN where missing.
    mask : numpy.ndarray
        uint8, bits of `otrain_core.io`. A pixel with `MASK_COSMIC` alone counts as good
        if it has a value.
    aligned : Aligned
        From `otrain_core.images.align.align_reference`.
    name : str
        Of the science image, for errors.
    seeing : float, optional
        FWHM of the science image [px] (default: from the stars).
    method : {'alard-lupton', 'zogy', 'hotpants'}
    fallback : {'none', 'alard-lupton', 'zogy'}
        Used where the program of `method` is not installed; the record then has
        ``wanted_method``.
    hotpants_program : str, optional
        Path of the program (default: looked for on PATH).
    hotpants_options : mapping, optional
        Command-line options by name, see `otrain_core.images.hotpants.hotpants_command`.
    kernel_order, background_order : int
        Degree of the variation of the kernel (lowered where stars are few) and of the
        differential background.
    kernel_half_width : int
        [px]; 0: from the seeings.
    max_stamps : int
    sigma_clip : float
    max_noise_spread : float
        Largest accepted robust spread of diff / noise away from sources.
    max_star_residual : float
        Largest accepted median residual of bright stars, see `star_residual`.

    Returns
    -------
    Difference

    Raises
    ------
    ImageError
        Too few stars, no common good pixels, or a difference that is not clean.
    MissingProgramError
        The back end is not installed and there is no fallback.
    """
    used = available_method(method, fallback=fallback, program=hotpants_program, name=name)
    start = time.process_time()
    bad_science = ((mask & UNUSABLE) > 0) | ~np.isfinite(science) | ~np.isfinite(noise)
    bad_reference = (aligned.mask > 0) | ~np.isfinite(aligned.data) | ~np.isfinite(aligned.noise)
    if (~(bad_science | bad_reference)).mean() < 0.05:
        raise ImageError(name, "subtract", "science image and reference have no good pixels in common")
    stars = aligned.stars
    if len(stars) < 3:
        raise ImageError(name, "subtract", f"{len(stars)} stars found in both images; at least 3 are needed")
    seeing = float(seeing) if seeing and np.isfinite(seeing) else float(stars["fwhm"].median())
    # The ratio of two sizes measured alike is safer than two sizes measured in two ways.
    seeing_reference = seeing * float((stars["fwhm_reference"] / stars["fwhm"]).median())
    inputs = Inputs(
        name=name,
        science=np.where(bad_science & ~np.isfinite(science), 0, fill_bad(science, mask)).astype(np.float32),
        noise=np.where(np.isfinite(noise), noise, np.nanmedian(noise)).astype(np.float32),
        bad_science=bad_science,
        reference=fill_bad(aligned.data, aligned.mask),
        reference_noise=np.where(bad_reference, np.nanmedian(aligned.noise), aligned.noise).astype(np.float32),
        bad_reference=bad_reference,
        smoothing=aligned.smoothing,
        stars=stars,
        seeing=seeing,
        seeing_reference=seeing_reference,
    )
    options = {
        "kernel_order": kernel_order,
        "background_order": background_order,
        "kernel_half_width": kernel_half_width,
        "max_stamps": max_stamps,
        "sigma_clip": sigma_clip,
    }
    if used == "alard-lupton":
        matched = alard_lupton(inputs, **options)
    else:
        from otrain_core.images.hotpants import hotpants
        from otrain_core.images.zogy import zogy

        if used == "hotpants":
            options |= {"program": hotpants_program, "options": hotpants_options}
        matched = {"zogy": zogy, "hotpants": hotpants}[used](inputs, **options)
    out_mask = mask.copy()
    out_mask[~np.isfinite(science) & (mask == 0)] |= MASK_MISSING
    out_mask[matched.contaminated_reference | bad_reference] |= MASK_REFERENCE
    out_mask[matched.contaminated_science & ~bad_science] |= MASK_BAD
    unusable = (out_mask & (UNUSABLE | MASK_REFERENCE)) > 0
    unusable |= bad_science  # a cosmic ray may leave no value
    diff, sigma = matched.diff.astype(np.float32), matched.noise.astype(np.float32)
    diff[unusable], sigma[unusable] = np.nan, np.nan
    spread, centre = noise_spread(diff, sigma, inputs)
    residual, n_residual = star_residual(diff, sigma, stars, radius=max(seeing, seeing_reference))
    rejected = matched.record.get("n_stamps_rejected", np.nan)
    record = {
        "method": used,
        **({"wanted_method": method} if used != method else {}),
        **matched.record,
        "flux_scale_stars": stars_flux_scale(stars),
        "rejected_fraction": rejected / (rejected + matched.record["n_stamps"]),
        "noise_spread": spread,
        "noise_centre": centre,
        "star_residual": residual,
        "star_residual_stars": n_residual,
        "seeing_px": seeing,
        "seeing_reference_px": seeing_reference,
        "masked_fraction": float(unusable.mean()),
        "cpu_seconds": time.process_time() - start,
    }
    if not spread <= max_noise_spread:
        raise ImageError(
            name,
            "subtract",
            f"the difference spreads by {spread:.2f} times its noise away from sources (max_noise_spread is "
            f"{max_noise_spread:g}): misaligned reference, wrong gain or read noise, or structured background",
        )
    if residual > max_star_residual:
        raise ImageError(
            name,
            "subtract",
            f"bright stars leave {100 * residual:.0f} % of their flux in the difference (at most "
            f"{100 * max_star_residual:.0f} % are accepted): misaligned reference, or no kernel that fits",
        )
    reference = (aligned.data * np.float32(matched.record["flux_scale"])).astype(np.float32)
    return Difference(diff, sigma, out_mask, reference, record)


def available_method(method: str, *, fallback: str = "none", program: str | None = None, name: str = "") -> str:
    """The back end to use: `method`, or `fallback` (with a warning) where its program is not installed.

    Raises
    ------
    MissingProgramError
        The program is missing and `fallback` is none.
    """
    if method != "hotpants":
        return method
    try:
        find_program("hotpants", path=program)
    except MissingProgramError as error:
        if fallback == "none":
            raise
        log.warning("image %s: %s; subtract.fallback: %s is used", name, error, fallback)
        return fallback
    return method


@dataclass
class Inputs:
    """Science and reference, filled so that nothing in them is NaN."""

    name: str
    science: np.ndarray
    noise: np.ndarray
    bad_science: np.ndarray
    reference: np.ndarray
    reference_noise: np.ndarray
    bad_reference: np.ndarray
    smoothing: np.ndarray
    stars: pd.DataFrame
    seeing: float
    seeing_reference: float


@dataclass
class Matched:
    """Result of a back end, before masking."""

    diff: np.ndarray
    noise: np.ndarray
    contaminated_reference: np.ndarray
    contaminated_science: np.ndarray
    record: dict[str, Any]


def kernel_sizes(seeing: float, sharper: float, half_width: int = 0) -> tuple[tuple[float, ...], int, int]:
    """Widths of the Gaussians, half width of the kernel and of the stamps [px].

    The middle Gaussian is the one that brings the sharper PSF to the other; the
    others are half and twice as wide, as HOTPANTS recommends.
    """
    match = max(np.sqrt(max(seeing**2 - sharper**2, 0)) / 2.355, 0.9, 0.25 * seeing)
    half = half_width or int(np.clip(np.ceil(max(5 * match, 2 * seeing)), 6, 25))
    return (0.6 * match, 1.2 * match, 2.4 * match), half, int(np.clip(np.ceil(2.5 * seeing), 6, 25))


def alard_lupton(
    inputs: Inputs,
    *,
    kernel_order: int,
    background_order: int,
    kernel_half_width: int,
    max_stamps: int,
    sigma_clip: float,
) -> Matched:
    """Alard-Lupton subtraction; see `otrain_core.images.kernel`.

    Raises
    ------
    ImageError
        Too few stars to fit a kernel.
    """
    convolve_science = inputs.seeing_reference > inputs.seeing
    sides = [
        (inputs.reference, inputs.reference_noise, inputs.bad_reference),
        (inputs.science, inputs.noise, inputs.bad_science),
    ]
    (source, source_noise, source_bad), (target, target_noise, target_bad) = sides[:: -1 if convolve_science else 1]
    broad, sharp = sorted((inputs.seeing, inputs.seeing_reference), reverse=True)
    sigmas, width, half = kernel_sizes(broad, sharp, kernel_half_width)
    if min(source.shape) < 4 * (half + width) + 1:
        raise ImageError(inputs.name, "subtract", f"an image of {source.shape} px is too small for its seeing")
    basis = make_basis(sigmas, width)
    smoothing = None if convolve_science else inputs.smoothing
    bad = source_bad | target_bad
    x, y = choose_stamps(inputs.stars, bad, half=half, margin=half + width + 1, max_stamps=max_stamps)
    ratio = stars_flux_scale(inputs.stars)
    ratio = 1 / ratio if convolve_science else ratio
    sigma_match = max(np.sqrt(max(broad**2 - sharp**2, 0)) / 2.355, 0.5)
    variance = target_noise**2 + source_noise**2 * np.float32(ratio**2 / (4 * np.pi * sigma_match**2))
    order = kernel_order
    while order > 0 and len(x) < STAMPS_PER_TERM * (order + 1) * (order + 2) / 2:
        order -= 1
    try:
        fit = fit_kernel(
            source,
            target,
            variance,
            source_noise**2,
            bad,
            x,
            y,
            basis=basis,
            smoothing=smoothing,
            half=half,
            order=order,
            background_order=min(background_order, order + 1),
            sigma_clip=sigma_clip,
        )
    except (ValueError, np.linalg.LinAlgError) as error:
        raise ImageError(inputs.name, "subtract", f"no kernel could be fitted: {error}") from None
    if not np.isfinite(fit.scale) or fit.scale <= 0:
        raise ImageError(inputs.name, "subtract", f"the fitted flux ratio is {fit.scale:g}; a positive one is needed")
    difference = target - fit.apply(source) - fit.background_map()
    difference -= sky_level(difference, target_noise, quiet_pixels(inputs) & ~bad, min(background_order, order + 1))
    # A target that was interpolated has less noise in a pixel than before.
    calm = np.float32(inputs.smoothing[tuple(n // 2 for n in inputs.smoothing.shape)] if convolve_science else 1)
    noise = np.sqrt(calm * target_noise**2 + convolved_variance(source_noise**2, fit, smoothing))
    contaminated = contaminated_pixels(source_bad, fit)
    if convolve_science:
        difference *= np.float32(-1 / fit.scale)
        noise /= np.float32(fit.scale)
    nothing = np.zeros(source.shape, dtype=bool)
    record = {
        "convolved": "science" if convolve_science else "reference",
        "flux_scale": 1 / fit.scale if convolve_science else fit.scale,
        "n_stamps": fit.record["n_stamps"],
        "n_stamps_rejected": fit.record["n_rejected"],
        "stamp_chi2": fit.record["stamp_chi2"],
        "model_error": fit.record["model_error"],
        "kernel_order": order,
        "kernel_half_width": width,
        "kernel_sigmas": [float(s) for s in sigmas],
    }
    return Matched(
        difference,
        noise,
        nothing if convolve_science else contaminated,
        contaminated if convolve_science else nothing,
        record,
    )


def convolved_variance(variance: np.ndarray, fit: KernelField, smoothing: np.ndarray | None) -> np.ndarray:
    """Variance of the convolved image, from the variance of its pixels.

    The shape of the kernel is taken at the centre of the field, its power at each
    pixel; `smoothing` is the autocorrelation that an earlier interpolation left.
    """
    height, width = fit.shape
    kernel = fit.at((width - 1) / 2, (height - 1) / 2)
    power = (kernel**2).sum()
    factor = 1.0
    if smoothing is not None and smoothing.size > 1:
        factor = _correlated_power(kernel, smoothing) / power
    half = kernel.shape[0] // 2
    outside = np.float32(np.median(variance))
    smooth = Convolver(variance - outside, half)(kernel**2 / power) + outside
    return np.maximum(smooth, 0) * fit.power() * np.float32(factor)


def _correlated_power(kernel: np.ndarray, smoothing: np.ndarray) -> float:
    """Variance of white unit noise after the interpolation, then the kernel."""
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
    """Where more than `CONTAMINATED` of the kernel's weight would lie on bad pixels or outside the frame."""
    height, width = fit.shape
    kernel = np.abs(fit.at((width - 1) / 2, (height - 1) / 2))
    kernel /= kernel.sum()
    # A good pixel counts 1, a bad one and all beyond the edge 0: what is missing from 1 is the bad weight.
    good = Convolver((~bad).astype(np.float32), kernel.shape[0] // 2)(kernel)
    return (1 - good > CONTAMINATED) | bad


def quiet_pixels(inputs: Inputs) -> np.ndarray:
    """Pixels away from sources of either image, bool."""
    source = np.zeros(inputs.science.shape, dtype=bool)
    for image, sigma in ((inputs.science, inputs.noise), (inputs.reference, inputs.reference_noise)):
        source |= ndimage.uniform_filter(image / sigma, 3) > 1.0  # 3 sigma of the mean of nine pixels
    return ~ndimage.maximum_filter(source, 2 * max(1, round(inputs.seeing / 2)) + 1)


def sky_level(diff: np.ndarray, noise: np.ndarray, use: np.ndarray, order: int, *, cell: int = 32) -> np.ndarray:
    """Polynomial through the clipped means of a difference in cells, without its sources.

    The few pixels of sky in the stamps, in the wings of bright stars, say less about the
    differential background than all the sky does. In a crowded field, where less than
    half of the pixels are away from sources, those few are no fair sample and the level
    of the fit stands.
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
    at = [(column + 0.5) * cell - 0.5, (row + 0.5) * cell - 0.5]
    weight = np.sqrt(count[filled])
    terms = polynomial(*at, diff.shape, order)
    solution = np.linalg.lstsq((terms * weight).T, total[filled] / count[filled] * weight, rcond=None)[0]
    return polynomial_map(solution, diff.shape, order)


def noise_spread(diff: np.ndarray, noise: np.ndarray, inputs: Inputs) -> tuple[float, float]:
    """Robust sigma and median of diff / noise in pixels away from sources of either image."""
    use = quiet_pixels(inputs) & np.isfinite(diff)
    if use.sum() < 100:
        use = np.isfinite(diff)
    values = diff[use] / noise[use]
    if values.size == 0:
        return np.nan, np.nan
    middle = float(np.median(values))
    return float(1.4826 * np.median(np.abs(values - middle))), middle


def aligned_from_arrays(
    data: np.ndarray,
    noise: np.ndarray,
    mask: np.ndarray,
    *,
    science: np.ndarray,
    science_noise: np.ndarray,
    science_mask: np.ndarray,
) -> Aligned:
    """`Aligned` for a reference that is on the science grid already (nothing is resampled).

    Arrays as in `Aligned`; stars are found in both and matched within 1.5 px.
    """
    from scipy.spatial import cKDTree

    ours, theirs = find_stars(science, science_noise, science_mask), find_stars(data, noise, mask)
    if len(ours) and len(theirs):
        distance, index = cKDTree(theirs[["x", "y"]]).query(ours[["x", "y"]], distance_upper_bound=1.5)
        ours, theirs = ours[np.isfinite(distance)], theirs.iloc[index[np.isfinite(distance)]]
    else:
        ours, theirs = ours[:0], theirs[:0]
    stars = ours.reset_index(drop=True)
    stars["flux_reference"] = theirs["flux"].to_numpy()
    stars["fwhm_reference"] = theirs["fwhm"].to_numpy()
    return Aligned(data, noise, mask, stars, np.ones((1, 1)), {"align": "none", "align_n_stars": len(stars)})
