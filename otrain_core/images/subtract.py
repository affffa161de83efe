"""Match an aligned reference to a science image in PSF and flux, and subtract it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from otrain_core.errors import ImageError, MissingProgramError
from otrain_core.images.alard_lupton import alard_lupton
from otrain_core.images.align import Aligned
from otrain_core.images.backends import Inputs, noise_spread
from otrain_core.images.common_stars import find_stars, star_residual, stars_flux_scale
from otrain_core.images.frames import MASK_BAD, MASK_MISSING, MASK_REFERENCE, MASK_SATURATED
from otrain_core.images.pixels import fill_bad
from otrain_core.programs import find_program

log = logging.getLogger(__name__)
UNUSABLE = MASK_MISSING | MASK_SATURATED | MASK_BAD  # a pixel with one of these has no difference
MAX_STAR_RESIDUAL = 0.3  # default of max_star_residual


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
