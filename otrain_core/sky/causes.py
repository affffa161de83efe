"""Name the cause of each False candidate of a simulated image."""

from __future__ import annotations

import numpy as np
import pandas as pd

from otrain_core.positions import nearest

STAR_REACH = 1.5  # a residual closer than this to a source belongs to the source [seeing]
HALO_REACH = 6.0  # the halo of a source that is brighter than the residual by HALO_FLUX reaches this far [seeing]
HALO_FLUX = 100.0
DIPOLE = 0.23  # negative share of the signal above which a star residual is the dipole of a misaligned star
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


def name_causes(
    sky_truth: pd.DataFrame, x: np.ndarray, y: np.ndarray, flux: np.ndarray, *, seeing: float
) -> np.ndarray:
    """Name the cause of each candidate.

    The causes are tried in this order: the nearest artefact whose extent reaches the position, the nearest variable
    or asteroid within 1.5 FWHM, the nearest star or galaxy within 1.5 FWHM, and the brightest source within 6 FWHM
    that has more than 100 times the flux of the candidate. If none fits, the cause is 'noise'.

    Parameters
    ----------
    sky_truth : pandas.DataFrame
        Truth of the image: kind, x, y, size, width, angle, flux.
    x, y, flux : numpy.ndarray
        (n,) position [px] and flux [ADU] of the candidates.
    seeing : float
        FWHM [px].

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
    # Variables are stars, so they have a halo as well.
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


def name_artefacts(truth: pd.DataFrame, x: np.ndarray, y: np.ndarray, *, margin: float) -> np.ndarray:
    """Kind of the nearest simulated artefact that covers each position.

    Parameters
    ----------
    truth : pandas.DataFrame
        Columns kind, x, y, size, width, angle as in `truth.csv`.
    x, y : numpy.ndarray
        (n,) positions [px].
    margin : float
        Distance by which the extent of every artefact is enlarged [px].

    Returns
    -------
    numpy.ndarray
        (n,) str; '' where there is no artefact.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    names = np.full(x.size, "", dtype="U10")
    closest = np.full(x.size, np.inf)
    for row in truth[truth.kind.isin(KINDS)].itertuples():
        cos, sin = np.cos(np.deg2rad(row.angle)), np.sin(np.deg2rad(row.angle))
        along = np.abs((x - row.x) * cos + (y - row.y) * sin)
        across = np.abs((y - row.y) * cos - (x - row.x) * sin)
        outside = np.hypot(np.maximum(along - row.size / 2, 0), np.maximum(across - row.width / 2, 0))
        hit = (outside <= margin) & (outside < closest)
        names[hit], closest[hit] = row.kind, outside[hit]
    return names
