"""Match the PSF and flux of an aligned reference to those of a science image, and subtract it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core import io
from otrain_core.errors import ImageError, MissingProgramError, UpstreamFailed
from otrain_core.images.alard_lupton import alard_lupton
from otrain_core.images.align import OPTIONS, Aligned, align_reference
from otrain_core.images.backends import Inputs, Matched, noise_correlation, noise_spread
from otrain_core.images.common_stars import flux_relation, star_residual, stars_flux_scale
from otrain_core.images.frames import (
    MASK_BAD,
    MASK_MISSING,
    MASK_REFERENCE,
    MASK_SATURATED,
    Held,
    Image,
    read_image,
    read_planes,
    write_planes,
)
from otrain_core.images.pixels import fill_bad, sampled
from otrain_core.images.wcs import image_wcs
from otrain_core.plan.pipelines import SubtractOptions
from otrain_core.plan.telescopes import Detector
from otrain_core.programs import find_program

log = logging.getLogger(__name__)
UNUSABLE = MASK_MISSING | MASK_SATURATED | MASK_BAD  # a pixel with one of these bits is NaN in the difference
MIN_COMMON = 0.05  # least fraction of pixels that are good in both images
MIN_STARS = 3  # least number of stars found in both images
RemoveStars = Callable[..., tuple[Image, dict[str, Any]]]


@dataclass
class Difference:
    """Result of a subtraction; all planes are (height, width).

    Attributes
    ----------
    diff : numpy.ndarray
        float32, science image minus matched reference [ADU of the science image]; NaN where masked.
    noise : numpy.ndarray
        float32, 1 sigma of `diff` [ADU]; NaN where masked.
    mask : numpy.ndarray
        uint8, bits of the science mask and `MASK_REFERENCE`.
    reference : numpy.ndarray
        float32, the aligned reference scaled to the flux of the science image, with its own
        PSF; NaN where missing.
    kernel : numpy.ndarray or None
        float32 (n_terms, size, size), kernel that the science image was convolved with, see `Matched`.
    record : dict
        Quality of the subtraction: method, convolved, n_stamps, flux_scale, noise_spread, seeing_px, ...
    """

    diff: np.ndarray
    noise: np.ndarray
    mask: np.ndarray
    reference: np.ndarray
    kernel: np.ndarray | None = None
    record: dict[str, Any] = field(default_factory=dict)


def subtract_files(
    *,
    prepared: str | Path | Held,
    psf_record: str | Path,
    reference: str | Path,
    difference: str | Path | Held,
    record: str | Path,
    image: str,
    detector: Detector | None = None,
    wcs: str | Path | None = None,
    injected: str | Path | None = None,
    options: SubtractOptions = OPTIONS,
    remove_stars: RemoveStars | None = None,
) -> None:
    """Align the reference of an image, subtract it, and write the difference and its quality record.

    Parameters
    ----------
    prepared : path-like or Held
        Planes written by `otrain_core.images.prepare`.
    psf_record : path-like
        JSON record of the PSF, with the seeing and, if it was refined, the WCS.
    reference : path-like
        FITS image.
    difference : path-like or Held
        Output: the planes diff, noise, mask, science, reference and, if the science image was convolved, kernel.
    record : path-like
        Output: the quality record (JSON).
    image : str
        Name of the science image.
    detector : otrain_core.plan.telescopes.Detector, optional
        Its gain, read noise and saturation are used for a reference whose header lacks them.
    wcs : path-like, optional
        FITS header with the WCS of the science image.
    injected : path-like, optional
        Table of the injected sources, which are not used to match the pattern of the stars. Stars of kind
        ``removed`` are first subtracted from the reference. Sources of negative flux are added to it, except those
        of kind ``vanished``, which it already contains.
    options : SubtractOptions
    remove_stars : callable, optional
        `otrain_core.stars.removed_stars.remove_stars` (default: no star is removed).

    Raises
    ------
    ImageError
        See `read_image`, `align_reference` and `subtract_images`.
    UpstreamFailed
        The file of the reference marks the failure of an earlier step.
    """
    planes, header = read_planes(prepared, image=image)
    psf = io.read_json(psf_record)
    other = _read_reference(reference, image=image, detector=detector)
    removed: dict[str, Any] = {}
    truth = io.read_table(injected) if injected is not None else None
    if truth is not None and remove_stars is not None:
        other, removed = _without_removed(other, truth, image=image, remove_stars=remove_stars)
    aligned = align_reference(
        other,
        science_data=planes["sci"],
        science_noise=planes["noise"],
        science_mask=planes["mask"],
        science_wcs=image_wcs(header, wcs, image=image, record=psf),
        injected=truth[truth["kind"] != "removed"] if truth is not None else None,
        name=image,
        seeing=psf.get("seeing_px"),
        options=options,
    )
    result = subtract_images(
        planes["sci"],
        planes["noise"],
        planes["mask"],
        aligned,
        name=image,
        seeing=psf.get("seeing_px"),
        options=options,
    )
    written = {
        "diff": result.diff,
        "noise": result.noise,
        "mask": result.mask,
        "science": planes["sci"],
        "reference": result.reference,
    }
    if result.kernel is not None:
        written["kernel"] = result.kernel
    write_planes(difference, written, header)
    io.write_json(record, {"image": image, **aligned.record, **result.record, **removed})


def _read_reference(path: str | Path, *, image: str, detector: Detector | None) -> Image:
    """Read the reference; errors name the science image, and their key says that the reference is at fault."""
    try:
        return read_image(path, name=image, detector=detector)
    except UpstreamFailed:
        raise
    except ImageError as error:
        key = "reference" if error.key == "path" else f"reference {error.key}"
        message = error.message if str(path) in error.message else f"{path}: {error.message}"
        raise ImageError(image, key, message) from None


def _without_removed(
    reference: Image, truth: Any, *, image: str, remove_stars: RemoveStars
) -> tuple[Image, dict[str, Any]]:
    """The reference without the stars of kind ``removed`` and with the fading sources (negative flux) added, and the
    entries for the quality record.
    """
    stars = truth[(truth["kind"] == "removed") | ((truth["flux"] < 0) & (truth["kind"] != "vanished"))]
    if len(stars) == 0:
        return reference, {}
    reference, record = remove_stars(reference, stars, name=image)
    rest = {f"removed_{key}": value for key, value in record.items() if key != "removed"}
    return reference, {"removed": record["removed"], **rest}


def subtract_images(
    science: np.ndarray,
    noise: np.ndarray,
    mask: np.ndarray,
    aligned: Aligned,
    *,
    name: str,
    seeing: float | None = None,
    options: SubtractOptions = OPTIONS,
) -> Difference:
    """Difference of a science image and a reference on the same grid.

    The sharper of the two images is convolved to the PSF of the other. If that is the
    science image, the result is divided by the sum of the kernel. In both cases the
    difference is in ADU of the science image and has the PSF of the less sharp image.

    Parameters
    ----------
    science, noise : numpy.ndarray
        float32 (height, width), the background-subtracted image and its 1 sigma noise
        [ADU]; NaN where missing.
    mask : numpy.ndarray
        uint8 (height, width), bits of `otrain_core.images.frames`. A pixel with only
        `MASK_COSMIC` set is good if it has a value.
    aligned : Aligned
        From `otrain_core.images.align.align_reference`.
    name : str
        Of the science image, for errors.
    seeing : float, optional
        FWHM of the science image [px] (default: from the stars).
    options : SubtractOptions
        The order of the kernel is lowered if there are too few stars for it.

    Returns
    -------
    Difference

    Raises
    ------
    ImageError
        Too few stars, no good pixels in common, a reference that contains the science image or is not linear, or a
        difference that fails the quality limits.
    MissingProgramError
        The program of the method is not installed and there is no fallback.
    """
    used = available_method(options, name=name)
    start = time.process_time()
    inputs = _inputs(science, noise, mask, aligned, name=name, seeing=seeing)
    relation = {"noise_correlation": noise_correlation(inputs), **flux_relation(inputs.stars)}
    _refuse_pair(relation, options, name=name)
    matched = _match(inputs, used, options)
    result = _masked(science, mask, inputs, matched)
    spread, centre = noise_spread(result.diff, result.noise, inputs)
    radius = max(inputs.seeing, inputs.seeing_reference)
    residual, n_residual = star_residual(result.diff, result.noise, inputs.stars, radius=radius)
    rejected = matched.record.get("n_stamps_rejected", np.nan)
    result.record = {"method": used}
    if used != options.method:
        result.record["wanted_method"] = options.method
    result.record |= {
        **matched.record,
        "flux_scale_stars": stars_flux_scale(inputs.stars),
        **relation,
        "rejected_fraction": rejected / (rejected + matched.record["n_stamps"]),
        "noise_spread": spread,
        "noise_centre": centre,
        "star_residual": residual,
        "star_residual_stars": n_residual,
        "seeing_px": inputs.seeing,
        "seeing_reference_px": inputs.seeing_reference,
        "masked_fraction": float(np.isnan(result.diff).mean()),
        "cpu_seconds": time.process_time() - start,
    }
    _refuse_unclean(result.record, options, name=name)
    result.reference = (aligned.data * np.float32(matched.record["flux_scale"])).astype(np.float32)
    return result


def _inputs(
    science: np.ndarray, noise: np.ndarray, mask: np.ndarray, aligned: Aligned, *, name: str, seeing: float | None
) -> Inputs:
    """Input of a back end, in which bad pixels are filled.

    Raises
    ------
    ImageError
        Too few good pixels in common, or too few stars.
    """
    bad_science = ((mask & UNUSABLE) > 0) | ~np.isfinite(science) | ~np.isfinite(noise)
    bad_reference = (aligned.mask > 0) | ~np.isfinite(aligned.data) | ~np.isfinite(aligned.noise)
    if (~(bad_science | bad_reference)).mean() < MIN_COMMON:
        raise ImageError(name, "subtract", "science image and reference have no good pixels in common")
    stars = aligned.stars
    if len(stars) < MIN_STARS:
        raise ImageError(name, "subtract", f"{len(stars)} stars found in both images; at least {MIN_STARS} are needed")
    seeing = float(seeing) if seeing and np.isfinite(seeing) else float(stars["fwhm"].median())
    return Inputs(
        name=name,
        science=np.where(bad_science & ~np.isfinite(science), 0, fill_bad(science, mask)).astype(np.float32),
        noise=np.where(np.isfinite(noise), noise, np.float32(np.nanmedian(sampled(noise)))),
        bad_science=bad_science,
        reference=fill_bad(aligned.data, aligned.mask),
        reference_noise=np.where(bad_reference, np.float32(np.nanmedian(sampled(aligned.noise))), aligned.noise),
        bad_reference=bad_reference,
        smoothing=aligned.smoothing,
        stars=stars,
        seeing=seeing,
        # `seeing` and "fwhm" are measured in different ways: only the ratio of the two "fwhm" is reliable.
        seeing_reference=seeing * float((stars["fwhm_reference"] / stars["fwhm"]).median()),
    )


def _match(inputs: Inputs, method: str, options: SubtractOptions) -> Matched:
    """Run the back end of a method."""
    if method == "alard-lupton":
        return alard_lupton(inputs, options)
    if method == "zogy":
        from otrain_core.images.zogy import zogy

        return zogy(inputs, options)
    if method == "sfft":
        from otrain_core.images.sfft import sfft

        return sfft(inputs, options)
    from otrain_core.images.hotpants import hotpants

    return hotpants(inputs, options)


def _masked(science: np.ndarray, mask: np.ndarray, inputs: Inputs, matched: Matched) -> Difference:
    """The difference of a back end with its mask, NaN where it is unusable; its record is still empty."""
    out_mask = mask.copy()
    out_mask[~np.isfinite(science) & (mask == 0)] |= MASK_MISSING
    out_mask[matched.contaminated_reference | inputs.bad_reference] |= MASK_REFERENCE
    out_mask[matched.contaminated_science & ~inputs.bad_science] |= MASK_BAD
    unusable = (out_mask & (UNUSABLE | MASK_REFERENCE)) > 0
    unusable |= inputs.bad_science  # also pixels without a value because of a cosmic ray
    diff, sigma = matched.diff.astype(np.float32), matched.noise.astype(np.float32)
    diff[unusable], sigma[unusable] = np.nan, np.nan
    return Difference(diff, sigma, out_mask, inputs.reference, matched.kernel)


def _refuse_pair(relation: dict[str, float], options: SubtractOptions, *, name: str) -> None:
    """Refuse a reference that contains the science image, or whose fluxes are not proportional to those of the science image."""
    correlation, slope = relation["noise_correlation"], relation["flux_slope"]
    if correlation > options.max_noise_correlation:
        same = "the science image and the reference are the same exposure"
        part = "the science image is one of the exposures of the reference"
        raise ImageError(
            name,
            "reference",
            f"{same if correlation > 0.9 else part} (the correlation of their noise is {correlation:.2f}, and "
            f"subtract.max_noise_correlation is {options.max_noise_correlation:g}): new sources would be subtracted from "
            "themselves; use a reference made from other exposures",
        )
    away = 1 + options.max_flux_slope, 1 - options.max_flux_slope
    if relation["flux_slope_low"] > away[0] or relation["flux_slope_high"] < away[1]:
        raise ImageError(
            name,
            "reference",
            f"the fluxes of stars in the reference vary as those in the science image to the power of {slope:.2f} "
            f"(1 is expected, within subtract.max_flux_slope of {options.max_flux_slope:g}): the pixels of one of the "
            "images are not linear (asinh, square root or logarithmic scale, or saturation)",
        )
    if relation["flux_scatter"] > options.max_flux_scatter:
        raise ImageError(
            name,
            "reference",
            f"the flux ratios of stars in both images scatter by {100 * relation['flux_scatter']:.0f} % "
            f"(subtract.max_flux_scatter allows {100 * options.max_flux_scatter:.0f} %): the filters differ, there were "
            "clouds, or different stars were matched",
        )


def _refuse_unclean(record: dict[str, Any], options: SubtractOptions, *, name: str) -> None:
    """Refuse a difference with too large residuals in the sky or in bright stars."""
    spread, residual = record["noise_spread"], record["star_residual"]
    if not np.isfinite(spread):
        raise ImageError(
            name, "subtract", "no usable pixel is left in the difference: bad pixels are spread over the whole image"
        )
    if not spread <= options.max_noise_spread:
        raise ImageError(
            name,
            "subtract",
            f"away from sources the scatter of the difference is {spread:.2f} times its noise "
            f"(subtract.max_noise_spread is {options.max_noise_spread:g}): the reference is misaligned, the gain or read "
            "noise is wrong, or the background has structure",
        )
    if residual > options.max_star_residual:
        raise ImageError(
            name,
            "subtract",
            f"bright stars leave {100 * residual:.0f} % of their flux in the difference (subtract.max_star_residual "
            f"allows {100 * options.max_star_residual:.0f} %): the reference is misaligned, or the kernel does not fit",
        )
    error = record.get("model_error_low", np.nan)
    if error > options.max_model_error:
        raise ImageError(
            name,
            "subtract",
            f"the kernel leaves at least {100 * error:.0f} % of the signal of bright stars unexplained "
            f"(subtract.max_model_error allows {100 * options.max_model_error:.0f} %): the reference is misaligned, or no "
            "kernel matches the two PSFs",
        )


def available_method(options: SubtractOptions, *, name: str) -> str:
    """The subtraction method to use: `options.method`, or `options.fallback` (with a warning) if its program is missing.

    Raises
    ------
    MissingProgramError
        The program is missing and `options.fallback` is "none".
    """
    if options.method != "hotpants":
        return options.method
    try:
        find_program("hotpants", path=options.hotpants_program)
    except MissingProgramError as error:
        if options.fallback == "none":
            raise
        log.warning("image %s: %s; using subtract.fallback: %s", name, error, options.fallback)
        return options.fallback
    return options.method
