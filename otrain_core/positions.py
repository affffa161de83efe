"""Matching of positions in pixels."""

from __future__ import annotations

import numpy as np


def match_one_to_one(
    x: np.ndarray, y: np.ndarray, x_ref: np.ndarray, y_ref: np.ndarray, *, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Match two lists so that no entry of either is used twice.

    The closest pair is matched first, then the closest of what is left, within
    `radius`; ties go to the first in order.

    Returns
    -------
    partner : numpy.ndarray
        (n,) index into the reference list, -1 where unmatched.
    distance : numpy.ndarray
        (n,) same unit as the positions, NaN where unmatched.
    """
    from scipy.spatial import cKDTree

    partner, distance = np.full(len(x), -1), np.full(len(x), np.nan)
    if len(x) == 0 or len(x_ref) == 0:
        return partner, distance
    pairs = cKDTree(np.column_stack([x, y])).sparse_distance_matrix(
        cKDTree(np.column_stack([x_ref, y_ref])), radius, output_type="ndarray"
    )
    taken = np.zeros(len(x_ref), dtype=bool)
    for pair in pairs[np.lexsort((pairs["j"], pairs["i"], pairs["v"]))]:
        if partner[pair["i"]] < 0 and not taken[pair["j"]]:
            partner[pair["i"]], distance[pair["i"]] = pair["j"], pair["v"]
            taken[pair["j"]] = True
    return partner, distance


def nearest(x, y, x_ref, y_ref, *, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Nearest reference entry within `radius`: its index (-1: none) and its distance."""
    from scipy.spatial import cKDTree

    if len(x) == 0 or len(x_ref) == 0:
        return np.full(len(x), -1), np.full(len(x), np.inf)
    distance, index = cKDTree(np.column_stack([x_ref, y_ref])).query(
        np.column_stack([x, y]), distance_upper_bound=radius
    )
    return np.where(np.isfinite(distance), index, -1), distance
