"""Match the candidates of an image with its true sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from otrain_core.positions import match_one_to_one, nearest
from otrain_core.stars.kinds import STAMP_RADIUS

if TYPE_CHECKING:
    from otrain_core.plan.pipelines import CrossmatchOptions


@dataclass
class Matches:
    """Relation of the candidates to the true sources; every array is (N,).

    Attributes
    ----------
    partner : numpy.ndarray
        Index of the matched source, -1 for none.
    distance, near_distance : numpy.ndarray
        Distances to the matched and to the nearest source [px].
    near : numpy.ndarray
        Index of the nearest source within the exclusion radius, -1 for none.
    ratio : numpy.ndarray
        Measured flux divided by true flux, NaN without a match.
    edge, foreign, excluded, stays, carried, known : numpy.ndarray
        bool, reasons to leave a candidate out: it is at the edge; most of its flux is not from the matched source; it is
        close to a source but not its match; it is close to a star that is still in the reference; it is in the stamp of a
        transplanted star; it is close to a known object.
    """

    partner: np.ndarray
    distance: np.ndarray
    near: np.ndarray
    near_distance: np.ndarray
    ratio: np.ndarray
    edge: np.ndarray
    foreign: np.ndarray
    excluded: np.ndarray
    stays: np.ndarray
    carried: np.ndarray
    known: np.ndarray

    @property
    def matched(self) -> np.ndarray:
        return self.partner >= 0

    @property
    def label(self) -> np.ndarray:
        """1 (True), 0 (False) or -1 (left out); the first condition that holds decides."""
        conditions = [self.edge, self.foreign, self.matched, self.excluded, self.stays, self.carried, self.known]
        return np.select(conditions, [-1, -1, 1, -1, -1, -1, -1], default=0).astype(int)


def match_sources(
    table: pd.DataFrame,
    truth: pd.DataFrame,
    kept_stars: pd.DataFrame,
    is_known: np.ndarray,
    *,
    seeing: float,
    options: CrossmatchOptions,
) -> Matches:
    """Find the matching source of every candidate, and the reasons to leave candidates out.

    Parameters
    ----------
    table : pandas.DataFrame
        Candidates: x, y [px], flux, edge.
    truth : pandas.DataFrame
        Sources that are new in the difference: x, y [px], flux, kind.
    kept_stars : pandas.DataFrame
        Stars that could not be removed from the reference: x, y [px].
    is_known : numpy.ndarray
        (N,) bool, whether a known object is close.
    seeing : float
        FWHM [px].
    options : CrossmatchOptions
    """
    x, y = table["x"].to_numpy(float), table["y"].to_numpy(float)
    xi, yi = truth["x"].to_numpy(float), truth["y"].to_numpy(float)
    partner, distance = _match_by_sign(table, truth, radius=options.radius * seeing)
    matched = partner >= 0
    ratio = np.full(len(table), np.nan)
    ratio[matched] = table["flux"].to_numpy(float)[matched] / truth["flux"].to_numpy(float)[partner[matched]]
    near, near_distance = nearest(x, y, xi, yi, radius=options.exclusion * seeing)
    excluded = ~matched & (near >= 0)
    stay, _ = nearest(x, y, kept_stars["x"], kept_stars["y"], radius=options.exclusion * seeing)
    moved = truth["kind"].to_numpy(str) == "transplanted"
    stamp, _ = nearest(x, y, xi[moved], yi[moved], radius=STAMP_RADIUS * seeing)
    return Matches(
        partner=partner,
        distance=distance,
        near=near,
        near_distance=near_distance,
        ratio=ratio,
        edge=table["edge"].to_numpy(bool),
        foreign=matched & ~((ratio > 0) & (ratio <= options.max_flux_ratio)),
        excluded=excluded,
        stays=~matched & ~excluded & (stay >= 0),
        carried=~matched & ~excluded & (stay < 0) & (stamp >= 0),
        known=is_known,
    )


def _match_by_sign(table: pd.DataFrame, truth: pd.DataFrame, *, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Source of every candidate (-1 for none) and its distance; positive candidates match positive sources only.

    A candidate without a flux counts as positive.
    """
    flux = table["flux"].to_numpy(float)
    fades = truth["flux"].to_numpy(float) < 0
    partner, distance = np.full(len(table), -1), np.full(len(table), np.nan)
    for candidates, sources in ((~(flux < 0), ~fades), (flux < 0, fades)):
        rows, numbers = np.flatnonzero(candidates), np.flatnonzero(sources)
        found, away = match_one_to_one(
            *(table[name].to_numpy(float)[rows] for name in "xy"),
            *(truth[name].to_numpy(float)[numbers] for name in "xy"),
            radius=radius,
        )
        matched = found >= 0
        partner[rows[matched]], distance[rows[matched]] = numbers[found[matched]], away[matched]
    return partner, distance
