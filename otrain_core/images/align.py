"""Align a reference image to the pixel grid of a science image, resampling it once.

The first guess of the mapping comes from the two WCSs or from the pattern of the
stars (astroalign; Beroiz et al. 2020, A&C 32, 100384). Stars found in both images
then correct it, before the one and only interpolation. With SWarp the two WCSs are
all there is, and what they are off by stays: such are the dipoles of the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import cKDTree

from otrain_core.errors import ImageError
from otrain_core.images.common_stars import aperture_flux, find_stars
from otrain_core.images.frames import Image
from otrain_core.images.polynomials import polynomial
from otrain_core.images.prepare import Prepared, prepare_image
from otrain_core.images.resample import Mapping, identity, overlap_problem, pixel_area, resample
from otrain_core.images.swarp import resample_by_swarp
from otrain_core.plan.pipelines import PrepareOptions
from otrain_core.widths import SIGMA_PER_MAD

MIN_STARS = 5  # matched stars below which nothing is said about an alignment
SEARCH = 30.0  # largest offset between WCS and stars that is looked for [px]


@dataclass
class Aligned:
    """A reference on the grid of a science image.

    Attributes
    ----------
    data : numpy.ndarray
        float32 (height, width), background subtracted, reference ADU per science
        pixel; NaN where the reference has no value.
    noise : numpy.ndarray
        float32 (height, width), 1 sigma [ADU] of independent pixels of the same area,
        that is before the interpolation correlated them; NaN where data is.
    mask : numpy.ndarray
        uint8 (height, width), `MASK_MISSING` and `MASK_SATURATED` of the reference.
    stars : pandas.DataFrame
        Stars found in both images: x, y (science pixels), flux, flux_reference [ADU],
        peak (science), fwhm, fwhm_reference [science px]; both fluxes are in one aperture on the sky.
    smoothing : numpy.ndarray
        Mean autocorrelation of the interpolation, (2k+1, 2k+1): how the noise of the
        resampled pixels is correlated; its centre is 1 where nothing was interpolated.
    record : dict
        How the alignment was done and how good it is.
    """

    data: np.ndarray
    noise: np.ndarray
    mask: np.ndarray
    stars: pd.DataFrame
    smoothing: np.ndarray
    record: dict[str, Any] = field(default_factory=dict)


def prepare_reference(image: Image, *, seeing: float) -> Prepared:
    """Background, noise and mask of a reference on its own grid, found as those of a science image are.

    One way of measuring the background for both leaves the same error under the same
    bright star, which the subtraction takes away.
    """
    return prepare_image(image, seeing=seeing, options=PrepareOptions(cosmics="none", saturation_grow=1))


def _vote(predicted: np.ndarray, target: np.ndarray, search: float) -> tuple[np.ndarray, int, float]:
    """Most frequent offset target - predicted, how many pairs share it, how many would by chance."""
    dx = (target[None, :, 0] - predicted[:, None, 0]).ravel()
    dy = (target[None, :, 1] - predicted[:, None, 1]).ravel()
    near = (np.abs(dx) < search) & (np.abs(dy) < search)
    bins = int(2 * search)
    histogram, _, _ = np.histogram2d(dx[near], dy[near], bins=bins, range=[[-search, search]] * 2)
    votes = ndimage.uniform_filter(histogram, 3, mode="constant") * 9
    peak = np.unravel_index(np.argmax(votes), votes.shape)
    centre = np.array(peak) * 2 * search / bins - search + search / bins
    close = near & (np.hypot(dx - centre[0], dy - centre[1]) < 2)
    if close.any():
        centre = np.array([np.median(dx[close]), np.median(dy[close])])
    return centre, int(round(votes[peak])), float(histogram.sum() * 9 / bins**2)


def _pairs(predicted: np.ndarray, target: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Mutual nearest neighbours within `radius`."""
    tree, back = cKDTree(target), cKDTree(predicted)
    distance, index = tree.query(predicted, distance_upper_bound=radius)
    ours = np.flatnonzero(np.isfinite(distance))
    theirs = index[ours]
    _, nearest = back.query(target[theirs])
    mutual = nearest == ours
    return ours[mutual], theirs[mutual]


def _fit_correction(mapping: Mapping, science: np.ndarray, target: np.ndarray, lowest: int) -> tuple[Mapping, float]:
    """Polynomial of the degree with the least Bayesian information criterion, and its scatter [px]."""
    x, y = science.T
    base_x, base_y = mapping.base(x, y)
    residual = np.array([target[:, 0] - base_x, target[:, 1] - base_y])
    n = len(x)
    best: tuple[float, Mapping, float] | None = None
    for order in range(lowest, 4):
        terms = polynomial(x, y, mapping.shape, order)
        if order > lowest and 3 * len(terms) > n:
            break
        coefficients = np.linalg.lstsq(terms.T, residual.T, rcond=None)[0].T if len(terms) else np.zeros((2, 0))
        scatter = float(np.sqrt(np.mean((residual - coefficients @ terms) ** 2)))
        criterion = 2 * n * np.log(scatter**2 + 1e-10) + 2 * len(terms) * np.log(n)
        if best is None or criterion < best[0]:
            best = criterion, Mapping(mapping.base, mapping.shape, order, *coefficients), scatter
    return best[1], best[2]


def refine(
    mapping: Mapping,
    science: pd.DataFrame,
    reference: pd.DataFrame,
    *,
    search: float = SEARCH,
    lowest: int = -1,
) -> tuple[Mapping, np.ndarray, np.ndarray, dict[str, Any]]:
    """Match the stars of both images and correct the mapping.

    Parameters
    ----------
    mapping : Mapping
        First guess.
    science, reference : pandas.DataFrame
        From `find_stars`, each in its own pixels.
    search : float
        Largest offset of the first guess [reference px].
    lowest : int
        Lowest degree of the correction (-1: none at all is allowed).

    Returns
    -------
    mapping : Mapping
    science_index, reference_index : numpy.ndarray
        Rows of the two tables that are the same stars.
    record : dict
        n_stars, offset [px], scatter [px], order, agree (whether the stars support the guess).
    """
    xy, target = science[["x", "y"]].to_numpy(), reference[["x", "y"]].to_numpy()
    none = np.zeros(0, dtype=int)
    record: dict[str, Any] = {"n_stars": 0, "agree": False, "offset": np.nan, "scatter": np.nan, "order": -1}
    if min(len(xy), len(target)) < MIN_STARS:
        return mapping, none, none, record
    predicted = np.column_stack(mapping(*xy.T))
    inside = _inside(predicted, target)
    bright_p, bright_t = predicted[inside][:400], target[:400]
    if len(bright_p) < MIN_STARS:
        return mapping, none, none, record
    offset, votes, chance = _vote(bright_p, bright_t, search)
    if votes < max(MIN_STARS, 0.1 * min(len(bright_p), len(bright_t)), chance + 5 * np.sqrt(chance + 1)):
        return mapping, none, none, record
    current: Callable[..., np.ndarray] = lambda: predicted + offset  # noqa: E731
    corrected, ours, theirs, scatter = mapping, none, none, np.nan
    radius = 2.5
    for _ in range(8):
        previous = (ours, theirs)
        ours, theirs = _pairs(current(), target, radius)
        if len(ours) < MIN_STARS:
            return mapping, none, none, record
        keep = np.ones(len(ours), dtype=bool)
        for _ in range(5):
            corrected, scatter = _fit_correction(mapping, xy[ours[keep]], target[theirs[keep]], lowest)
            error = np.hypot(*(np.column_stack(corrected(*xy[ours].T)) - target[theirs]).T)
            limit = max(3 * SIGMA_PER_MAD * np.median(error[keep]), 0.02)
            if np.array_equal(keep, error < limit) or (error < limit).sum() < MIN_STARS:
                break
            keep = error < limit
        ours, theirs = ours[keep], theirs[keep]
        if np.array_equal(previous[0], ours) and np.array_equal(previous[1], theirs):
            break
        current = lambda mapping=corrected: np.column_stack(mapping(*xy.T))  # noqa: E731
        radius = max(1.0, min(2.5, 6 * scatter))
    record = {
        "n_stars": len(ours),
        "agree": True,
        "offset": float(np.hypot(*offset)),
        "scatter": scatter,
        "order": corrected.order,
    }
    return corrected, ours, theirs, record


def _inside(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    low, high = target.min(axis=0) - SEARCH, target.max(axis=0) + SEARCH
    return np.isfinite(points).all(axis=1) & (points > low).all(axis=1) & (points < high).all(axis=1)


def wcs_mapping(science_wcs: Any, reference_wcs: Any, shape: tuple[int, int]) -> Mapping:
    """Science pixel to sky to reference pixel, exact at every call."""
    from astropy.wcs.utils import wcs_to_celestial_frame

    frames = [wcs_to_celestial_frame(wcs) for wcs in (science_wcs, reference_wcs)]
    same = frames[0].is_equivalent_frame(frames[1])

    def base(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lon, lat = science_wcs.all_pix2world(x, y, 0)
        if not same:
            from astropy.coordinates import SkyCoord

            sky = SkyCoord(lon, lat, unit="deg", frame=frames[0]).transform_to(frames[1])
            lon, lat = sky.spherical.lon.deg, sky.spherical.lat.deg
        rx, ry = reference_wcs.wcs_world2pix(lon, lat, 0)
        if reference_wcs.has_distortion:
            # Far outside the reference its distortion has no inverse; those pixels are missing anyway.
            height, width = reference_wcs.array_shape or np.ceil(2 * reference_wcs.wcs.crpix[::-1])
            near = (np.abs(rx - width / 2) < width) & (np.abs(ry - height / 2) < height)
            rx[near], ry[near] = reference_wcs.all_world2pix(lon[near], lat[near], 0, quiet=True)
        return np.nan_to_num(rx, nan=-1e6), np.nan_to_num(ry, nan=-1e6)

    return Mapping(base, shape)


def star_mapping(science: pd.DataFrame, reference: pd.DataFrame, shape: tuple[int, int]) -> Mapping | None:
    """Similarity between the two patterns of stars (mirrored ones too), or None."""
    import astroalign

    xy, target = science[["x", "y"]].to_numpy()[:150], reference[["x", "y"]].to_numpy()[:150]
    if min(len(xy), len(target)) < MIN_STARS:
        return None
    for flip in (1.0, -1.0):
        try:
            transform, _ = astroalign.find_transform(xy * [flip, 1.0], target, max_control_points=60)
        except (astroalign.MaxIterError, ValueError, TypeError):
            continue
        matrix = transform.params @ np.diag([flip, 1.0, 1.0])

        def base(x: np.ndarray, y: np.ndarray, m: np.ndarray = matrix) -> tuple[np.ndarray, np.ndarray]:
            return m[0, 0] * x + m[0, 1] * y + m[0, 2], m[1, 0] * x + m[1, 1] * y + m[1, 2]

        guess = Mapping(base, shape)
        _, ours, theirs, record = refine(guess, science, reference, search=5.0, lowest=1)
        if not record["agree"]:
            continue
        # The random choices of the pattern search must leave no trace: start again from the pairs themselves.
        return _fit_correction(identity(shape), *_positions(science, reference, ours, theirs), 1)[0]
    return None


def _uncorrected(
    mapping: Mapping, science: np.ndarray, target: np.ndarray, record: dict[str, Any]
) -> tuple[Mapping, dict[str, Any]]:
    """The first guess of a mapping that `refine` corrected, and how far off the stars are from it [science px]."""
    plain = Mapping(mapping.base, mapping.shape)
    if len(science) == 0:
        return plain, record
    error = (np.column_stack(plain(*science.T)) - target) / np.sqrt(pixel_area(plain))
    offset = float(np.hypot(*np.median(error, axis=0)))
    return plain, {**record, "offset": offset, "scatter": float(np.sqrt(np.mean(error**2))), "order": -1}


@dataclass
class Located:
    """A prepared reference and where its pixels are on the science grid (see `Aligned`)."""

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
    name: str | None = None,
    method: str = "auto",
    seeing: float | None = None,
) -> Located:
    """Find the mapping from science to reference pixels; parameters as `align_reference`."""
    name = name or reference.name
    shape = science_data.shape
    if method in ("wcs", "swarp") and (science_wcs is None or reference.wcs is None):
        missing = "science image" if science_wcs is None else "reference"
        raise ImageError(name, "wcs", f"align: {method} is chosen but the {missing} has no celestial WCS")
    prepared = prepare_reference(reference, seeing=seeing or 3.0)
    stars = find_stars(science_data, science_noise, science_mask)
    stars_reference = find_stars(prepared.sci, prepared.noise, prepared.mask)
    mapping, problem = None, None
    if method != "stars" and science_wcs is not None and reference.wcs is not None:
        mapping = wcs_mapping(science_wcs, reference.wcs, shape)
        problem = overlap_problem(mapping, reference.shape)
        if problem is None:
            mapping, ours, theirs, record = refine(mapping, stars, stars_reference)
            few = min(len(stars), len(stars_reference)) < 3 * MIN_STARS
            if method == "auto" and not record["agree"] and not few:
                mapping = None
        elif method in ("wcs", "swarp"):
            raise ImageError(name, "reference", problem)
        else:
            mapping = None
    used = "wcs"
    if method == "swarp":
        used = "swarp"
        mapping, record = _uncorrected(mapping, *_positions(stars, stars_reference, ours, theirs), record)
    elif mapping is None:
        used = "stars"
        mapping = star_mapping(stars, stars_reference, shape)
        if mapping is None:
            counts = f"{len(stars)} stars in the science image, {len(stars_reference)} in the reference"
            if problem:
                raise ImageError(name, "reference", problem)
            raise ImageError(name, "align", f"the stars of the reference could not be matched ({counts})")
        mapping, ours, theirs, record = refine(mapping, stars, stars_reference, search=5.0)
    elif method == "auto" and len(ours) >= 4 * MIN_STARS:
        # A WCS with a noisy distortion serves to match the stars; a plain map between them may fit better.
        plain, _ = _fit_correction(identity(shape), *_positions(stars, stars_reference, ours, theirs), 1)
        plain = refine(plain, stars, stars_reference, search=5.0)
        if plain[3]["agree"] and len(plain[1]) >= 0.9 * len(ours) and plain[3]["scatter"] < 0.7 * record["scatter"]:
            mapping, ours, theirs, record = plain
            used = "stars"
    problem = overlap_problem(mapping, reference.shape)
    if problem:
        raise ImageError(name, "reference", problem)
    table = stars.iloc[ours].reset_index(drop=True)
    pixel = 1 / np.sqrt(pixel_area(mapping))
    table["fwhm_reference"] = stars_reference["fwhm"].to_numpy()[theirs] * pixel
    # Both fluxes in one aperture on the sky: their ratio must not hang on the seeings.
    radius = 1.5 * float(np.median(table[["fwhm", "fwhm_reference"]].max(axis=1))) if len(table) else 1.0
    table["flux"] = aperture_flux(science_data, science_mask, table["x"], table["y"], radius)
    x, y = stars_reference[["x", "y"]].to_numpy()[theirs].T
    table["flux_reference"] = aperture_flux(prepared.sci, prepared.mask, x, y, radius / pixel)
    positive = (table["flux"] > 0) & (table["flux_reference"] > 0)
    table = table[positive].reset_index(drop=True)
    record = {"align": used, **{f"align_{key}": value for key, value in record.items()}}
    return Located(mapping, prepared, table, record)


def align_reference(
    reference: Image,
    *,
    science_data: np.ndarray,
    science_noise: np.ndarray,
    science_mask: np.ndarray,
    science_wcs: Any = None,
    name: str | None = None,
    method: str = "auto",
    resampling: str = "bilinear",
    seeing: float | None = None,
) -> Aligned:
    """Bring the reference onto the science grid.

    Parameters
    ----------
    reference : Image
        As read; its background is subtracted here.
    science_data, science_noise : numpy.ndarray
        float32 (height, width), the prepared science image [ADU].
    science_mask : numpy.ndarray
        Non-zero where a science pixel must not be used.
    science_wcs : astropy.wcs.WCS or None
    name : str, optional
        Name of the science image, for errors (default: the reference's).
    method : {'auto', 'wcs', 'stars', 'swarp'}
        wcs: both WCSs, corrected by the stars where enough are matched. stars: the
        pattern of the stars. auto: wcs where both images have one and the stars
        agree with it (or are too few to tell), else stars; stars too where the stars
        the WCS matched follow a plain polynomial better. swarp: SWarp by the WCSs
        alone; the stars serve to measure what they are off by (align_scatter, along
        one axis [px]).
    resampling : {'bilinear', 'lanczos3'}
        Interpolation of swarp.
    seeing : float, optional
        FWHM of the science image [px], about that of the reference too (default: 3).

    Returns
    -------
    Aligned

    Raises
    ------
    ImageError
        No WCS where one is needed, no overlap, too few matched stars, or SWarp failed.
    MissingProgramError
        SWarp is chosen and not installed.
    """
    located = locate_reference(
        reference,
        science_data=science_data,
        science_noise=science_noise,
        science_mask=science_mask,
        science_wcs=science_wcs,
        name=name,
        method=method,
        seeing=seeing,
    )
    prepared = located.prepared
    if method == "swarp":
        planes = resample_by_swarp(
            prepared,
            located.mapping,
            wcs=reference.wcs,
            target_wcs=science_wcs,
            resampling=resampling,
            name=name or reference.name,
        )
        located.record["resampling"] = resampling
    else:
        planes = resample(prepared.sci, prepared.noise, prepared.mask, located.mapping)
    data, noise, mask, smoothing = planes
    record = {**located.record, "overlap": float(np.isfinite(data).mean())}
    return Aligned(data, noise, mask, located.stars, smoothing, record)


def _positions(
    science: pd.DataFrame, reference: pd.DataFrame, ours: np.ndarray, theirs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return science[["x", "y"]].to_numpy()[ours], reference[["x", "y"]].to_numpy()[theirs]
