"""Align a reference image to the pixel grid of a science image with a single resampling.

The first guess of the mapping comes from the two WCSs or from the pattern of the stars
(`otrain_core.images.patterns`). It is corrected by the stars found in both images before
the interpolation. SWarp uses the two WCSs alone, so that their errors remain: these cause
the dipoles of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from otrain_core.errors import ImageError
from otrain_core.images.common_stars import aperture_flux, find_stars
from otrain_core.images.frames import Image
from otrain_core.images.prepare import Prepared, prepare_image
from otrain_core.images.resample import Mapping, identity, overlap_problem, pixel_area, resample
from otrain_core.images.star_match import MIN_STARS, Match, fit_correction, places, refine, star_mapping
from otrain_core.images.swarp import resample_by_swarp
from otrain_core.images.wcs import pixel_to_sky, sky_to_pixel
from otrain_core.plan.pipelines import PrepareOptions, SubtractOptions

OPTIONS = SubtractOptions()
MIN_RADIUS = 3.0  # stars closer than this to an injected source are not used to find the pattern [px]


@dataclass
class Aligned:
    """A reference on the grid of a science image.

    Attributes
    ----------
    data : numpy.ndarray
        float32 (height, width), background subtracted [ADU of the reference per science
        pixel]; NaN where the reference has no value.
    noise : numpy.ndarray
        float32 (height, width), 1 sigma [ADU] of independent pixels of the area of a science
        pixel, that is before the interpolation correlates them; NaN where `data` is.
    mask : numpy.ndarray
        uint8 (height, width), `MASK_MISSING` and `MASK_SATURATED` of the reference.
    stars : pandas.DataFrame
        Stars found in both images: x, y [science px], flux, flux_reference [ADU], peak (science
        image) [ADU], fwhm, fwhm_reference [science px]. Both fluxes are in the same aperture on
        the sky.
    smoothing : numpy.ndarray
        (2k+1, 2k+1), mean autocorrelation of the interpolation, which describes how the noise of
        the resampled pixels is correlated. Without interpolation it is 1 at the centre.
    record : dict
        Method and quality of the alignment.
    """

    data: np.ndarray
    noise: np.ndarray
    mask: np.ndarray
    stars: pd.DataFrame
    smoothing: np.ndarray
    record: dict[str, Any] = field(default_factory=dict)


def prepare_reference(image: Image, *, seeing: float) -> Prepared:
    """Measure the background, noise and mask of a reference on its own grid, as for a science image.

    Errors of the background under bright stars are then the same in both images and cancel
    in the subtraction.

    Parameters
    ----------
    image : Image
    seeing : float
        FWHM of the stars [px].
    """
    return prepare_image(image, seeing=seeing, options=PrepareOptions(cosmics="none", saturation_grow=1))


def wcs_mapping(
    science_wcs: Any, reference_wcs: Any, shape: tuple[int, int], reference_shape: tuple[int, int] | None = None
) -> Mapping:
    """Mapping from science pixels over the sky to reference pixels, without interpolation of the WCSs.

    Parameters
    ----------
    science_wcs, reference_wcs : astropy.wcs.WCS
        Celestial, with any order of the axes and any frame.
    shape : tuple of int
        (height, width) of the science image.
    reference_shape : tuple of int, optional
        (height, width) of the reference. With it, the distortion of its WCS, which has no inverse far from the image,
        is left out there.
    """

    def base(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rx, ry = sky_to_pixel(reference_wcs, *pixel_to_sky(science_wcs, x, y), shape=reference_shape)
        return np.nan_to_num(rx, nan=-1e6), np.nan_to_num(ry, nan=-1e6)

    return Mapping(base, shape)


def _not_injected(stars: pd.DataFrame, injected: pd.DataFrame | None, *, radius: float) -> pd.DataFrame:
    """The stars without an injected source within `radius` [px]."""
    if injected is None or len(injected) == 0 or len(stars) == 0:
        return stars
    sources = injected[["x", "y"]].to_numpy(dtype=float)
    distance, _ = cKDTree(sources[np.isfinite(sources).all(axis=1)]).query(places(stars))
    return stars[distance > radius]


def _uncorrected(match: Match, science: pd.DataFrame, reference: pd.DataFrame) -> Match:
    """The match with the first guess as its mapping, and in its record the offset and scatter of the stars [science px]."""
    plain = Mapping(match.mapping.base, match.mapping.shape)
    record = match.record
    if len(match.ours):
        xy, target = match.positions(science, reference)
        error = (np.column_stack(plain(*xy.T)) - target) / np.sqrt(pixel_area(plain))
        offset = float(np.hypot(*np.median(error, axis=0)))
        record = {**record, "offset": offset, "scatter": float(np.sqrt(np.mean(error**2))), "order": -1}
    return Match(plain, match.ours, match.theirs, record)


def _by_wcs(
    guess: Mapping, stars: pd.DataFrame, stars_reference: pd.DataFrame, *, method: str
) -> tuple[str, Match] | None:
    """Mapping by the two WCSs, checked and corrected with the stars, and the method used ('wcs', 'stars' or 'swarp').

    None if the stars contradict the WCSs and `method` allows an alignment without them.
    """
    match = refine(guess, stars, stars_reference)
    if method == "swarp":
        return "swarp", _uncorrected(match, stars, stars_reference)
    if method == "wcs":
        return "wcs", match
    few = min(len(stars), len(stars_reference)) < 3 * MIN_STARS
    if not match.record["agree"] and not few:
        return None
    if len(match.ours) < 4 * MIN_STARS:
        return "wcs", match
    # If a WCS has a noisy distortion, a plain polynomial between the stars that it matched may fit better.
    plain, _ = fit_correction(identity(guess.shape), *match.positions(stars, stars_reference), 1)
    other = refine(plain, stars, stars_reference, search=5.0)
    enough = other.record["agree"] and len(other.ours) >= 0.9 * len(match.ours)
    if enough and other.record["scatter"] < 0.7 * match.record["scatter"]:
        return "stars", other
    return "wcs", match


def _common_stars(
    match: Match,
    stars: pd.DataFrame,
    stars_reference: pd.DataFrame,
    *,
    science_data: np.ndarray,
    science_mask: np.ndarray,
    prepared: Prepared,
) -> pd.DataFrame:
    """The table `Aligned.stars`."""
    table = stars.iloc[match.ours].reset_index(drop=True)
    pixel = 1 / np.sqrt(pixel_area(match.mapping))
    table["fwhm_reference"] = stars_reference["fwhm"].to_numpy()[match.theirs] * pixel
    # One aperture on the sky for both images, so that the flux ratio does not depend on their seeing.
    radius = 1.5 * float(np.median(table[["fwhm", "fwhm_reference"]].max(axis=1))) if len(table) else 1.0
    table["flux"] = aperture_flux(science_data, science_mask, table["x"], table["y"], radius)
    x, y = places(stars_reference)[match.theirs].T
    table["flux_reference"] = aperture_flux(prepared.sci, prepared.mask, x, y, radius / pixel)
    positive = (table["flux"] > 0) & (table["flux_reference"] > 0)
    return table[positive].reset_index(drop=True)


@dataclass
class Located:
    """A prepared reference on its own grid, and the mapping from the science grid to it.

    Attributes
    ----------
    mapping : Mapping
        Science pixel to reference pixel.
    prepared : Prepared
    stars : pandas.DataFrame
        See `Aligned`.
    record : dict
        Method and quality of the mapping.
    """

    mapping: Mapping
    prepared: Prepared
    stars: pd.DataFrame
    record: dict[str, Any]


def locate_reference(
    reference: Image,
    *,
    science_data: np.ndarray,
    science_noise: np.ndarray,
    science_mask: np.ndarray,
    science_wcs: Any = None,
    injected: pd.DataFrame | None = None,
    name: str | None = None,
    seeing: float | None = None,
    options: SubtractOptions = OPTIONS,
) -> Located:
    """Find the mapping from science to reference pixels; parameters and errors as in `align_reference`."""
    name = name or reference.name
    shape = science_data.shape
    method = options.align
    if method in ("wcs", "swarp") and (science_wcs is None or reference.wcs is None):
        missing = "science image" if science_wcs is None else "reference"
        raise ImageError(name, "wcs", f"subtract.align is {method}, but the {missing} has no celestial WCS")
    prepared = prepare_reference(reference, seeing=seeing or 3.0)
    stars = find_stars(science_data, science_noise, science_mask)
    stars_reference = find_stars(prepared.sci, prepared.noise, prepared.mask)
    found, problem = None, None
    if method != "stars" and science_wcs is not None and reference.wcs is not None:
        guess = wcs_mapping(science_wcs, reference.wcs, shape, reference.shape)
        problem = overlap_problem(guess, reference.shape)
        if problem is None:
            found = _by_wcs(guess, stars, stars_reference, method=method)
        elif method in ("wcs", "swarp"):
            raise ImageError(name, "reference", problem)
    if found is None:
        field = _not_injected(stars, injected, radius=max(MIN_RADIUS, seeing or 3.0))
        mapping = star_mapping(field, stars_reference, shape, same_shape=shape == reference.shape)
        if mapping is None:
            if problem:
                raise ImageError(name, "reference", problem)
            counts = f"{len(stars)} stars in the science image, {len(stars_reference)} in the reference"
            raise ImageError(
                name,
                "align",
                f"the stars of the reference could not be matched to those of the science image ({counts})",
            )
        found = "stars", refine(mapping, stars, stars_reference, search=5.0)
    used, match = found
    problem = overlap_problem(match.mapping, reference.shape)
    if problem:
        raise ImageError(name, "reference", problem)
    table = _common_stars(
        match, stars, stars_reference, science_data=science_data, science_mask=science_mask, prepared=prepared
    )
    record = {"align": used} | {f"align_{key}": value for key, value in match.record.items()}
    return Located(match.mapping, prepared, table, record)


def align_reference(
    reference: Image,
    *,
    science_data: np.ndarray,
    science_noise: np.ndarray,
    science_mask: np.ndarray,
    science_wcs: Any = None,
    injected: pd.DataFrame | None = None,
    name: str | None = None,
    seeing: float | None = None,
    options: SubtractOptions = OPTIONS,
) -> Aligned:
    """Resample the reference to the grid of the science image.

    Parameters
    ----------
    reference : Image
        As read, with its background.
    science_data, science_noise : numpy.ndarray
        float32 (height, width), the prepared science image and its 1 sigma noise [ADU].
    science_mask : numpy.ndarray
        (height, width), not 0 where a science pixel must not be used.
    science_wcs : astropy.wcs.WCS or None
    injected : pandas.DataFrame, optional
        x, y [px] of the sources injected into the science image, which the reference does not contain.
    name : str, optional
        Name of the science image, for errors (default: that of the reference).
    seeing : float, optional
        FWHM of the science image [px], assumed for the reference too (default: 3).
    options : SubtractOptions
        `align` and `resampling` are used. The values of `align` are: "wcs", both WCSs, corrected by the
        stars if enough are matched; "stars", the pattern of the stars; "auto", as "wcs" if both images
        have a WCS and the stars agree with it (or are too few to tell), else as "stars", and also as
        "stars" if the stars matched by the WCSs follow a plain polynomial better; "swarp", SWarp with
        the WCSs alone, where the stars only measure the error of the WCSs (align_scatter, along one
        axis [px]).

    Returns
    -------
    Aligned

    Raises
    ------
    ImageError
        No WCS although one is needed, too little overlap, too few matched stars, or SWarp failed.
    MissingProgramError
        SWarp is chosen but not installed.
    """
    located = locate_reference(
        reference,
        science_data=science_data,
        science_noise=science_noise,
        science_mask=science_mask,
        science_wcs=science_wcs,
        injected=injected,
        name=name,
        seeing=seeing,
        options=options,
    )
    prepared = located.prepared
    if options.align == "swarp":
        planes = resample_by_swarp(
            prepared,
            located.mapping,
            wcs=reference.wcs,
            target_wcs=science_wcs,
            resampling=options.resampling,
            name=name or reference.name,
        )
        located.record["resampling"] = options.resampling
    else:
        planes = resample(prepared.sci, prepared.noise, prepared.mask, located.mapping)
    data, noise, mask, smoothing = planes
    record = {**located.record, "overlap": float(np.isfinite(data).mean())}
    record["to_reference"] = located.mapping.affine().tolist()
    return Aligned(data, noise, mask, located.stars, smoothing, record)
