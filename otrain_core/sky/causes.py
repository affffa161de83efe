"""What made a False candidate, from the truth of a simulated image."""

from __future__ import annotations

import numpy as np
import pandas as pd

from otrain_core.positions import nearest

STAR_REACH = 1.5  # a residual this near to a star [seeing] belongs to it,
HALO_REACH = 6.0  # or, if the star has so much more flux, within its halo
HALO_FLUX = 100.0


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


KINDS = (
    "cosmic",
    "hot_pixel",
    "warm_pixel",
    "bad_column",
    "trail",
    "ghost",
    "bleed",
    "crosstalk",
    "saturated",
    "hole",
    "no_data",
)


def name_artefacts(truth: pd.DataFrame, x: np.ndarray, y: np.ndarray, *, margin: float) -> np.ndarray:
    """Kind of the nearest simulated artefact that reaches each position.

    Parameters
    ----------
    truth : pandas.DataFrame
        Columns kind, x, y, size, width, angle as in `truth.csv`.
    x, y : numpy.ndarray
        (n,) positions [px].
    margin : float
        A position this near to the extent of an artefact belongs to it [px].

    Returns
    -------
    numpy.ndarray
        (n,) str; '' where no artefact reaches.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    names = np.full(x.size, "", dtype="U10")
    nearest = np.full(x.size, np.inf)
    for row in truth[truth.kind.isin(KINDS)].itertuples():
        cos, sin = np.cos(np.deg2rad(row.angle)), np.sin(np.deg2rad(row.angle))
        along = np.abs((x - row.x) * cos + (y - row.y) * sin)
        across = np.abs((y - row.y) * cos - (x - row.x) * sin)
        outside = np.hypot(np.maximum(along - row.size / 2, 0), np.maximum(across - row.width / 2, 0))
        hit = (outside <= margin) & (outside < nearest)
        names[hit], nearest[hit] = row.kind, outside[hit]
    return names
