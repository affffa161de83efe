"""Align a reference image to the pixel grid of a science image, resampling it once.

The first guess of the mapping comes from the two WCSs or from the pattern of the
stars (`otrain_core.images.patterns`). Stars found in both images then correct it, before the one and only interpolation. With SWarp the two WCSs are
all there is, and what they are off by stays: such are the dipoles of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import cKDTree

from otrain_core.errors import ImageError
from otrain_core.images.common_stars import aperture_flux, find_stars
from otrain_core.images.frames import Image
from otrain_core.images.patterns import LEVELS, similarities
from otrain_core.images.polynomials import polynomial
from otrain_core.images.prepare import Prepared, prepare_image
from otrain_core.images.resample import Mapping, identity, overlap_problem, pixel_area, resample
from otrain_core.images.swarp import resample_by_swarp
from otrain_core.images.wcs import pixel_to_sky, sky_to_pixel
from otrain_core.plan.pipelines import PrepareOptions, SubtractOptions
from otrain_core.widths import SIGMA_PER_MAD

OPTIONS = SubtractOptions()
MIN_STARS = 5  # matched stars below which nothing is said about an alignment
MIN_RADIUS = 3.0  # a star this near to an injected source is not used to find the pattern [px]
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
    best, best_scatter, least = mapping, np.nan, np.inf
    for order in range(lowest, 4):
        terms = polynomial(x, y, mapping.shape, order)
        if order > lowest and 3 * len(terms) > n:
            break
        coefficients = np.linalg.lstsq(terms.T, residual.T, rcond=None)[0].T if len(terms) else np.zeros((2, 0))
        scatter = float(np.sqrt(np.mean((residual - coefficients @ terms) ** 2)))
        criterion = 2 * n * np.log(scatter**2 + 1e-10) + 2 * len(terms) * np.log(n)
        if order == lowest or criterion < least:
            cx, cy = coefficients
            best, best_scatter, least = Mapping(mapping.base, mapping.shape, order, cx, cy), scatter, criterion
    return best, best_scatter


@dataclass
class Match:
    """A mapping from science to reference pixels and the stars that support it.

    Attributes
    ----------
    mapping : Mapping
    ours, theirs : numpy.ndarray
        Rows of the tables of stars of the science image and of the reference that are the same stars.
    record : dict
        n_stars, offset [px], scatter [px], order, agree (whether the stars support the first guess).
    """

    mapping: Mapping
    ours: np.ndarray
    theirs: np.ndarray
    record: dict[str, Any]

    def positions(self, science: pd.DataFrame, reference: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """x, y of the matched stars, each in its own pixels."""
        return _xy(science)[self.ours], _xy(reference)[self.theirs]


def _xy(stars: pd.DataFrame) -> np.ndarray:
    return stars[["x", "y"]].to_numpy()


def _unmatched(mapping: Mapping) -> Match:
    none = np.zeros(0, dtype=int)
    record = {"n_stars": 0, "agree": False, "offset": np.nan, "scatter": np.nan, "order": -1}
    return Match(mapping, none, none, record)


def refine(
    mapping: Mapping,
    science: pd.DataFrame,
    reference: pd.DataFrame,
    *,
    search: float = SEARCH,
    lowest: int = -1,
) -> Match:
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
    Match
        Without stars, and with the mapping as it came, where the stars do not support it.
    """
    xy, target = _xy(science), _xy(reference)
    if min(len(xy), len(target)) < MIN_STARS:
        return _unmatched(mapping)
    predicted = np.column_stack(mapping(*xy.T))
    inside = _inside(predicted, target)
    bright_p, bright_t = predicted[inside][:400], target[:400]
    if len(bright_p) < MIN_STARS:
        return _unmatched(mapping)
    offset, votes, chance = _vote(bright_p, bright_t, search)
    if votes < max(MIN_STARS, 0.1 * min(len(bright_p), len(bright_t)), chance + 5 * np.sqrt(chance + 1)):
        return _unmatched(mapping)
    corrected, ours, theirs, scatter = mapping, np.zeros(0, dtype=int), np.zeros(0, dtype=int), np.nan
    current = predicted + offset
    radius = 2.5
    for _ in range(8):
        previous = (ours, theirs)
        ours, theirs = _pairs(current, target, radius)
        if len(ours) < MIN_STARS:
            return _unmatched(mapping)
        corrected, keep, scatter = _clipped_correction(mapping, xy[ours], target[theirs], lowest)
        ours, theirs = ours[keep], theirs[keep]
        if np.array_equal(previous[0], ours) and np.array_equal(previous[1], theirs):
            break
        current = np.column_stack(corrected(*xy.T))
        radius = max(1.0, min(2.5, 6 * scatter))
    record = {
        "n_stars": len(ours),
        "agree": True,
        "offset": float(np.hypot(*offset)),
        "scatter": scatter,
        "order": corrected.order,
    }
    return Match(corrected, ours, theirs, record)


def _clipped_correction(
    mapping: Mapping, science: np.ndarray, target: np.ndarray, lowest: int
) -> tuple[Mapping, np.ndarray, float]:
    """Correction without pairs that lie far off, which pairs it keeps (bool), and its scatter [px]."""
    keep = np.ones(len(science), dtype=bool)
    for _ in range(5):
        corrected, scatter = _fit_correction(mapping, science[keep], target[keep], lowest)
        error = np.hypot(*(np.column_stack(corrected(*science.T)) - target).T)
        limit = max(3 * SIGMA_PER_MAD * np.median(error[keep]), 0.02)
        if np.array_equal(keep, error < limit) or (error < limit).sum() < MIN_STARS:
            break
        keep = error < limit
    return corrected, keep, scatter


def _inside(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    low, high = target.min(axis=0) - SEARCH, target.max(axis=0) + SEARCH
    return np.isfinite(points).all(axis=1) & (points > low).all(axis=1) & (points < high).all(axis=1)


def wcs_mapping(
    science_wcs: Any, reference_wcs: Any, shape: tuple[int, int], reference_shape: tuple[int, int] | None = None
) -> Mapping:
    """Science pixel to sky to reference pixel, exact at every call.

    Parameters
    ----------
    science_wcs, reference_wcs : astropy.wcs.WCS
        Celestial, whatever the order of their axes and their frames.
    shape, reference_shape : tuple of int
        Of the two images. Far outside the reference its distortion has no inverse and is left out; with its shape known,
        that is said of no pixel inside.
    """

    def base(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rx, ry = sky_to_pixel(reference_wcs, *pixel_to_sky(science_wcs, x, y), shape=reference_shape)
        return np.nan_to_num(rx, nan=-1e6), np.nan_to_num(ry, nan=-1e6)

    return Mapping(base, shape)


def star_mapping(
    science: pd.DataFrame, reference: pd.DataFrame, shape: tuple[int, int], *, same_shape: bool = False
) -> Mapping | None:
    """Mapping between the two patterns of stars (turned, scaled and mirrored ones too), or None.

    Parameters
    ----------
    science, reference : pandas.DataFrame
        From `find_stars`, each in its own pixels.
    shape : tuple of int
        Of the science image.
    same_shape : bool
        Whether both images have this shape: they may be on one grid, which is tried first.
    """
    if min(len(science), len(reference)) < MIN_STARS:
        return None
    if same_shape:
        match = refine(identity(shape), science, reference)
        if match.record["agree"]:
            return match.mapping
    xy, target = _xy(science), _xy(reference)
    for n_science, n_reference in LEVELS:
        for guess in similarities(xy[:n_science], target[:n_reference]):
            match = refine(Mapping(guess, shape), science, reference, search=5.0, lowest=1)
            if match.record["agree"]:
                return _fit_correction(identity(shape), *match.positions(science, reference), 1)[0]
    return None


def _not_injected(stars: pd.DataFrame, injected: pd.DataFrame | None, *, radius: float) -> pd.DataFrame:
    """The stars with no injected source within `radius` [px]."""
    if injected is None or len(injected) == 0 or len(stars) == 0:
        return stars
    places = injected[["x", "y"]].to_numpy(dtype=float)
    distance, _ = cKDTree(places[np.isfinite(places).all(axis=1)]).query(_xy(stars))
    return stars[distance > radius]


def _uncorrected(match: Match, science: pd.DataFrame, reference: pd.DataFrame) -> Match:
    """With the first guess of a mapping that `refine` corrected, and how far off the stars are from it [science px]."""
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
    """The mapping of two WCSs with what the stars say about it, and what it hangs on ('wcs', 'stars', 'swarp').

    None where the stars speak against the WCSs and the method may do without them.
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
    # A WCS with a noisy distortion serves to match the stars; a plain map between them may fit better.
    plain, _ = _fit_correction(identity(guess.shape), *match.positions(stars, stars_reference), 1)
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
    """The stars of `Aligned`."""
    table = stars.iloc[match.ours].reset_index(drop=True)
    pixel = 1 / np.sqrt(pixel_area(match.mapping))
    table["fwhm_reference"] = stars_reference["fwhm"].to_numpy()[match.theirs] * pixel
    # Both fluxes in one aperture on the sky: their ratio must not hang on the seeings.
    radius = 1.5 * float(np.median(table[["fwhm", "fwhm_reference"]].max(axis=1))) if len(table) else 1.0
    table["flux"] = aperture_flux(science_data, science_mask, table["x"], table["y"], radius)
    x, y = _xy(stars_reference)[match.theirs].T
    table["flux_reference"] = aperture_flux(prepared.sci, prepared.mask, x, y, radius / pixel)
    positive = (table["flux"] > 0) & (table["flux_reference"] > 0)
    return table[positive].reset_index(drop=True)


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
    injected: pd.DataFrame | None = None,
    name: str | None = None,
    seeing: float | None = None,
    options: SubtractOptions = OPTIONS,
) -> Located:
    """Find the mapping from science to reference pixels; parameters as `align_reference`."""
    name = name or reference.name
    shape = science_data.shape
    method = options.align
    if method in ("wcs", "swarp") and (science_wcs is None or reference.wcs is None):
        missing = "science image" if science_wcs is None else "reference"
        raise ImageError(name, "wcs", f"align: {method} is chosen but the {missing} has no celestial WCS")
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
            counts = f"{len(stars)} stars in the science image, {len(stars_reference)} in the reference"
            if problem:
                raise ImageError(name, "reference", problem)
            raise ImageError(name, "align", f"the stars of the reference could not be matched ({counts})")
        found = "stars", refine(mapping, stars, stars_reference, search=5.0)
    used, match = found
    problem = overlap_problem(match.mapping, reference.shape)
    if problem:
        raise ImageError(name, "reference", problem)
    table = _common_stars(
        match, stars, stars_reference, science_data=science_data, science_mask=science_mask, prepared=prepared
    )
    record = {"align": used, **{f"align_{key}": value for key, value in match.record.items()}}
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
    injected : pandas.DataFrame, optional
        x, y [px] of sources put into the science image: no stars of the reference.
    name : str, optional
        Name of the science image, for errors (default: the reference's).
    seeing : float, optional
        FWHM of the science image [px], about that of the reference too (default: 3).
    options : SubtractOptions
        Its `align` and `resampling` count. wcs: both WCSs, corrected by the stars where enough are
        matched. stars: the pattern of the stars. auto: wcs where both images have one and the stars
        agree with it (or are too few to tell), else stars; stars too where the stars the WCS matched
        follow a plain polynomial better. swarp: SWarp by the WCSs alone; the stars serve to measure
        what they are off by (align_scatter, along one axis [px]).

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
