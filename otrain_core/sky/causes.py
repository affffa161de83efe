"""What made a False candidate, from the truth of a simulated image."""

from __future__ import annotations

import numpy as np
import pandas as pd

STAR_REACH = 1.5  # a residual this near to a star [seeing] belongs to it,
HALO_REACH = 6.0  # or, if the star has so much more flux, within its halo
HALO_FLUX = 100.0


def nearest(x, y, x_ref, y_ref, *, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Nearest reference entry within `radius`: its index (-1: none) and its distance."""
    from scipy.spatial import cKDTree

    if len(x) == 0 or len(x_ref) == 0:
        return np.full(len(x), -1), np.full(len(x), np.inf)
    distance, index = cKDTree(np.column_stack([x_ref, y_ref])).query(
        np.column_stack([x, y]), distance_upper_bound=radius
    )
    return np.where(np.isfinite(distance), index, -1), distance


def name_causes(
    sky_truth: pd.DataFrame, x: np.ndarray, y: np.ndarray, flux: np.ndarray, *, seeing: float
) -> np.ndarray:
    """What the simulator put where each candidate stands.

    Artefacts first (nearest whose extent reaches the position), then the nearest variable or
    asteroid within 1.5 FWHM, then the nearest star or galaxy within 1.5 FWHM, then one within
    6 FWHM with more than 100 times the flux of the candidate; 'noise' where there is none of them.

    Parameters
    ----------
    sky_truth : pandas.DataFrame
        kind, x, y, size, width, angle, flux.
    x, y, flux : numpy.ndarray
        (n,) position [px] and flux [ADU] of the candidates.
    seeing : float
        [px].

    Returns
    -------
    numpy.ndarray
        (n,) str.
    """
    from scipy.spatial import cKDTree

    from otrain_core.sky.artefacts import name_artefacts

    names = name_artefacts(sky_truth, x, y, margin=0.5 * seeing).astype("U16")
    moving = sky_truth[sky_truth["kind"].isin(["variable", "asteroid"])]
    near, _ = nearest(x, y, moving["x"], moving["y"], radius=STAR_REACH * seeing)
    mine = (names == "") & (near >= 0)
    names[mine] = moving["kind"].to_numpy(str)[near[mine]]
    # A variable has the halo of a star.
    sources = sky_truth[sky_truth["kind"].isin(["star", "galaxy", "variable"])]
    unknown = np.flatnonzero(names == "")
    if len(sources) and len(unknown):
        tree = cKDTree(sources[["x", "y"]].to_numpy(float))
        positions = np.column_stack([x[unknown], y[unknown]])
        kinds, fluxes = sources["kind"].to_numpy(str), sources["flux"].to_numpy(float)
        for index, reach in zip(unknown, tree.query_ball_point(positions, HALO_REACH * seeing), strict=True):
            reach = np.array(sorted(reach), dtype=int)
            away = np.hypot(*(tree.data[reach] - [x[index], y[index]]).T)
            if len(reach) and away.min() <= STAR_REACH * seeing:
                names[index] = kinds[reach[away.argmin()]]
            elif len(reach) and fluxes[reach].max() > HALO_FLUX * abs(flux[index]):
                names[index] = kinds[reach[fluxes[reach].argmax()]]
    names[names == ""] = "noise"
    return names
