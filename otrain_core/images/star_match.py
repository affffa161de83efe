"""Mapping between two images from their stars: pairing of stars, correction of a first guess, and pattern matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import cKDTree

from otrain_core.images.patterns import LEVELS, similarities
from otrain_core.images.polynomials import polynomial
from otrain_core.images.resample import Mapping, identity
from otrain_core.widths import SIGMA_PER_MAD

MIN_STARS = 5  # least number of matched stars for an alignment
SEARCH = 30.0  # largest offset between WCS and stars that is searched [px]


def _vote(predicted: np.ndarray, target: np.ndarray, search: float) -> tuple[np.ndarray, int, float]:
    """Most frequent offset target - predicted [px], number of pairs with it, and the number expected by chance."""
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


def mutual_pairs(predicted: np.ndarray, target: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Mutual nearest neighbours within `radius`.

    Parameters
    ----------
    predicted, target : numpy.ndarray
        (n, 2) and (m, 2), positions [px].
    radius : float
        [px].

    Returns
    -------
    ours, theirs : numpy.ndarray
        int, rows of `predicted` and `target`.
    """
    tree, back = cKDTree(target), cKDTree(predicted)
    distance, index = tree.query(predicted, distance_upper_bound=radius)
    ours = np.flatnonzero(np.isfinite(distance))
    theirs = index[ours]
    _, nearest = back.query(target[theirs])
    mutual = nearest == ours
    return ours[mutual], theirs[mutual]


def fit_correction(mapping: Mapping, science: np.ndarray, target: np.ndarray, lowest: int) -> tuple[Mapping, float]:
    """Fit the polynomial correction of a mapping; its degree minimises the Bayesian information criterion.

    Parameters
    ----------
    mapping : Mapping
        First guess, without its own correction.
    science, target : numpy.ndarray
        (n, 2), positions of the same stars in the science image and in the reference [px].
    lowest : int
        Lowest degree to try (-1: no correction). The highest is 3.

    Returns
    -------
    mapping : Mapping
    scatter : float
        Root mean square of the residuals along one axis [reference px].
    """
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
        int, rows of the same stars in the tables of the science image and of the reference.
    record : dict
        n_stars, offset [px], scatter [px], order, agree (whether the stars confirm the first guess).
    """

    mapping: Mapping
    ours: np.ndarray
    theirs: np.ndarray
    record: dict[str, Any]

    def positions(self, science: pd.DataFrame, reference: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Positions (n, 2) of the matched stars in the science image and in the reference [px]."""
        return places(science)[self.ours], places(reference)[self.theirs]


def places(stars: pd.DataFrame) -> np.ndarray:
    """Positions (n, 2), x and y [px]."""
    return stars[["x", "y"]].to_numpy()


def _unmatched(mapping: Mapping) -> Match:
    """A mapping that the stars do not confirm."""
    nothing = np.zeros(0, dtype=int)
    record = {"n_stars": 0, "agree": False, "offset": np.nan, "scatter": np.nan, "order": -1}
    return Match(mapping, nothing, nothing, record)


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
        From `otrain_core.images.common_stars.find_stars`, each in the pixels of its image.
    search : float
        Largest offset of the first guess [reference px].
    lowest : int
        Lowest degree of the correction (-1: no correction).

    Returns
    -------
    Match
        If the stars do not confirm the first guess, it has no stars and the mapping is unchanged.
    """
    xy, target = places(science), places(reference)
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
        ours, theirs = mutual_pairs(current, target, radius)
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
    """Correction after the rejection of outliers, the pairs that are kept (bool), and its scatter [px]."""
    keep = np.ones(len(science), dtype=bool)
    for _ in range(5):
        corrected, scatter = fit_correction(mapping, science[keep], target[keep], lowest)
        error = np.hypot(*(np.column_stack(corrected(*science.T)) - target).T)
        limit = max(3 * SIGMA_PER_MAD * np.median(error[keep]), 0.02)
        if np.array_equal(keep, error < limit) or (error < limit).sum() < MIN_STARS:
            break
        keep = error < limit
    return corrected, keep, scatter


def _inside(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Which points (n, 2) lie within `SEARCH` of the area covered by `target`."""
    low, high = target.min(axis=0) - SEARCH, target.max(axis=0) + SEARCH
    return np.isfinite(points).all(axis=1) & (points > low).all(axis=1) & (points < high).all(axis=1)


def star_mapping(
    science: pd.DataFrame, reference: pd.DataFrame, shape: tuple[int, int], *, same_shape: bool = False
) -> Mapping | None:
    """Mapping between two images from the patterns of their stars, which may be rotated, scaled and mirrored.

    Parameters
    ----------
    science, reference : pandas.DataFrame
        From `otrain_core.images.common_stars.find_stars`, each in the pixels of its image.
    shape : tuple of int
        (height, width) of the science image.
    same_shape : bool
        Whether the reference has the same shape; then a common grid is tried first.

    Returns
    -------
    Mapping or None
        None if no pattern matches.
    """
    if min(len(science), len(reference)) < MIN_STARS:
        return None
    if same_shape:
        match = refine(identity(shape), science, reference)
        if match.record["agree"]:
            return match.mapping
    xy, target = places(science), places(reference)
    for n_science, n_reference in LEVELS:
        for guess in similarities(xy[:n_science], target[:n_reference]):
            match = refine(Mapping(guess, shape), science, reference, search=5.0, lowest=1)
            if match.record["agree"]:
                return fit_correction(identity(shape), *match.positions(science, reference), 1)[0]
    return None
