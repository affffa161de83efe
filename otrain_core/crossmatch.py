"""Labels of candidates: True by injected sources, False by everything else, each with its reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from otrain_core.errors import ImageError

STAR_REACH = 1.5  # a residual this near to a star [seeing] belongs to it,
HALO_REACH = 6.0  # or, if the star has so much more flux, within its halo
HALO_FLUX = 100.0
FLUX_SNR = 20.0  # the flux scale is judged on matches above this S/N
MAG_BIN = 0.5


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


def crossmatch_candidates(
    candidates: pd.DataFrame,
    injected: pd.DataFrame,
    *,
    image: str,
    seeing: float,
    radius: float = 0.75,
    exclusion: float = 2.0,
    max_flux_ratio: float = 3.0,
    known: pd.DataFrame | None = None,
    known_radius: float = 2.0,
    seeing_arcsec: float = np.nan,
    sky_truth: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Label every candidate and say why.

    Label 1 (True): matched one to one with an injected source within `radius`. Label -1
    (left out): flagged EDGE; matched, but with more than `max_flux_ratio` times the
    injected flux, so that most of it is something else; not matched, but within
    `exclusion` of an injection; within `known_radius` of a known object. Label 0
    (False): all others.

    Parameters
    ----------
    candidates : pandas.DataFrame
        As from `otrain_core.detect.detect_candidates`.
    injected : pandas.DataFrame
        Injected sources: id, x, y [px of the same image], mag, flux [ADU].
    image : str
        Name, for errors.
    seeing, seeing_arcsec : float
        FWHM [px], [arcsec]; the latter is needed for known objects only.
    radius, exclusion, known_radius : float
        [seeing FWHM].
    max_flux_ratio : float
    known : pandas.DataFrame, optional
        Known variables and moving objects: ra, dec [deg].
    sky_truth : pandas.DataFrame, optional
        Truth of a simulated image (kind, x, y, size, width, angle, flux); it names the cause
        of every False in the column ``artefact``.

    Returns
    -------
    labelled : pandas.DataFrame
        The candidates with label (1, 0, -1), reason, injection (id, -1: none), artefact
        ('': unknown, 'noise': a simulated image shows nothing there) and seeing [px].
    record : dict
        Counts, completeness against magnitude and flux scale (see `_completeness`,
        `_flux_scale`).

    Raises
    ------
    ImageError
        No usable seeing, a column is missing, or known objects without a WCS.
    """
    if not (np.isfinite(seeing) and seeing > 0):
        raise ImageError(image, "crossmatch.seeing", f"a positive seeing [px] is needed, found {seeing}")
    for name, table, columns in (
        ("candidates", candidates, ("x", "y", "flux", "fluxerr", "edge")),
        ("injected", injected, ("id", "x", "y", "mag", "flux")),
    ):
        for column in columns:
            if column not in table:
                raise ImageError(image, f"crossmatch.{name}", f"the table of {name} has no column {column!r}")
    table = candidates.copy()
    x, y = table["x"].to_numpy(float), table["y"].to_numpy(float)
    xi, yi = injected["x"].to_numpy(float), injected["y"].to_numpy(float)
    partner, distance = match_one_to_one(x, y, xi, yi, radius=radius * seeing)
    matched = partner >= 0
    ids = injected["id"].to_numpy(int)
    injection = np.where(matched, ids[partner] if len(ids) else -1, -1)
    ratio = np.full(len(table), np.nan)
    ratio[matched] = table["flux"].to_numpy(float)[matched] / injected["flux"].to_numpy(float)[partner[matched]]

    near, near_distance = _nearest(x, y, xi, yi, radius=exclusion * seeing)
    excluded = ~matched & (near >= 0)
    foreign = matched & (np.abs(ratio) > max_flux_ratio)
    is_known = _near_known(table, known, image=image, radius=known_radius * seeing_arcsec)
    edge = table["edge"].to_numpy(bool)

    label = np.select([edge, foreign, matched, excluded, is_known], [-1, -1, 1, -1, -1], default=0)
    fwhm = distance / seeing
    reasons = np.full(len(table), f"no injection within {exclusion:.1f} FWHM", dtype=object)
    for index in np.flatnonzero(is_known):
        reasons[index] = f"known object within {known_radius:.1f} FWHM"
    for index in np.flatnonzero(excluded):
        reasons[index] = f"not the match of injection {ids[near[index]]} at {near_distance[index] / seeing:.2f} FWHM"
    for index in np.flatnonzero(matched):
        reasons[index] = f"injection {injection[index]} at {fwhm[index]:.2f} FWHM"
    for index in np.flatnonzero(foreign):
        reasons[index] += f", {abs(ratio[index]):.1f} times its flux"
    reasons[edge] = "EDGE"
    table["label"] = label.astype(int)
    table["reason"] = reasons.astype(str)
    table["injection"] = injection.astype(int)
    table["artefact"] = ""
    if sky_truth is not None:
        false = label == 0
        table.loc[false, "artefact"] = name_causes(
            sky_truth, x[false], y[false], table["flux"].to_numpy(float)[false], seeing=seeing
        )
    table["seeing"] = float(seeing)

    recovered = np.zeros(len(injected), dtype=bool)
    recovered[partner[matched]] = True
    record = {
        "image": image,
        "n_candidates": len(table),
        "n_true": int((label == 1).sum()),
        "n_false": int((label == 0).sum()),
        "n_left_out": int((label == -1).sum()),
        "left_out": {
            "edge": int(edge.sum()),
            "not_the_match": int((excluded & ~edge).sum()),
            "foreign_flux": int((foreign & ~edge).sum()),
            "known_object": int((is_known & ~edge & ~matched & ~excluded).sum()),
        },
        "artefacts": {
            str(name): int(n) for name, n in table.loc[label == 0, "artefact"].value_counts().sort_index().items()
        },
        "n_injected": len(injected),
        "n_recovered": int(recovered.sum()),
        **_completeness(injected["mag"].to_numpy(float), recovered),
        **_flux_scale(table["flux"].to_numpy(float), table["fluxerr"].to_numpy(float), ratio, (label == 1)),
    }
    return table, record


def _nearest(x, y, x_ref, y_ref, *, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Nearest reference entry within `radius`: its index (-1: none) and its distance."""
    from scipy.spatial import cKDTree

    if len(x) == 0 or len(x_ref) == 0:
        return np.full(len(x), -1), np.full(len(x), np.inf)
    distance, index = cKDTree(np.column_stack([x_ref, y_ref])).query(
        np.column_stack([x, y]), distance_upper_bound=radius
    )
    return np.where(np.isfinite(distance), index, -1), distance


def _near_known(table: pd.DataFrame, known: pd.DataFrame | None, *, image: str, radius: float) -> np.ndarray:
    """Whether a known object lies within `radius` arcsec of each candidate."""
    from scipy.spatial import cKDTree

    if known is None or len(known) == 0 or len(table) == 0:
        return np.zeros(len(table), dtype=bool)
    ra, dec = table["ra"].to_numpy(float), table["dec"].to_numpy(float)
    if not (np.isfinite(ra) & np.isfinite(dec)).all() or not np.isfinite(radius):
        raise ImageError(image, "crossmatch.known_objects", "known objects need the WCS of the image, which has none")
    tree = cKDTree(unit_vectors(known["ra"].to_numpy(float), known["dec"].to_numpy(float)))
    chord = 2 * np.sin(np.deg2rad(radius / 3600) / 2)
    return np.isfinite(tree.query(unit_vectors(ra, dec), distance_upper_bound=chord)[0])


def unit_vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Directions on the sky: ra, dec [deg] to unit vectors (n, 3)."""
    ra, dec = np.deg2rad(ra), np.deg2rad(dec)
    return np.column_stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


def name_causes(
    sky_truth: pd.DataFrame, x: np.ndarray, y: np.ndarray, flux: np.ndarray, *, seeing: float
) -> np.ndarray:
    """What the simulator put where each candidate stands.

    Artefacts first (nearest whose extent reaches the position), then the nearest star or
    galaxy within 1.5 FWHM, then a star within 6 FWHM with more than 100 times the flux
    of the candidate; 'noise' where there is none of them.

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

    from otrain_core.artefacts import name_artefacts

    names = name_artefacts(sky_truth, x, y, margin=0.5 * seeing).astype("U16")
    sources = sky_truth[sky_truth["kind"].isin(["star", "galaxy"])]
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


def _completeness(mag: np.ndarray, recovered: np.ndarray) -> dict[str, Any]:
    """Recovered share in bins of half a magnitude, and the magnitude where it is 50 %.

    The latter is that of a logistic curve fitted to the single sources by maximum
    likelihood; NaN where the sources do not constrain it.
    """
    mag, recovered = mag[np.isfinite(mag)], recovered[np.isfinite(mag)]
    bins = []
    if len(mag):
        low, high = np.floor(mag.min() / MAG_BIN) * MAG_BIN, np.ceil(mag.max() / MAG_BIN) * MAG_BIN
        edges = np.linspace(low, max(high, low + MAG_BIN), max(1, int(round((high - low) / MAG_BIN))) + 1)
        where = np.clip(np.searchsorted(edges, mag, side="right") - 1, 0, len(edges) - 2)
        for index in range(len(edges) - 1):
            inside = where == index
            bins.append(
                {
                    "mag_low": float(edges[index]),
                    "mag_high": float(edges[index + 1]),
                    "injected": int(inside.sum()),
                    "recovered": int(recovered[inside].sum()),
                    "completeness": float(recovered[inside].mean()) if inside.any() else np.nan,
                }
            )
    return {"completeness": bins, "completeness_50_mag": fifty_percent(mag, recovered)}


def fifty_percent(mag: np.ndarray, recovered: np.ndarray) -> float:
    """Magnitude at which half of the sources are recovered.

    Fits ``top / (1 + exp((mag - m50) / width))`` by maximum likelihood and returns where
    it crosses one half; `top` allows for bright sources lost on masked pixels.

    Returns
    -------
    float
        NaN with fewer than 10 sources, when all or none are recovered, or when the
        crossing lies outside the range of the sources.
    """
    from scipy.optimize import minimize

    if len(mag) < 10 or recovered.all() or not recovered.any():
        return float("nan")

    def parts(values):
        m50, log_width, logit_top = values
        width, top = np.exp(np.clip(log_width, -4, 3)), 1 / (1 + np.exp(-np.clip(logit_top, -30, 30)))
        return m50, width, top

    def cost(values):
        m50, width, top = parts(values)
        p = np.clip(top / (1 + np.exp(np.clip((mag - m50) / width, -60, 60))), 1e-9, 1 - 1e-9)
        return -(np.log(p[recovered]).sum() + np.log1p(-p[~recovered]).sum())

    start = (np.percentile(mag[recovered], 95), np.log(0.3), 3.0)
    best = minimize(cost, start, method="Nelder-Mead", options={"maxiter": 2000, "xatol": 1e-4, "fatol": 1e-6})
    m50, width, top = parts(best.x)
    if top <= 0.5:
        return float("nan")
    crossing = m50 + width * np.log(2 * top - 1)
    return float(crossing) if mag.min() <= crossing <= mag.max() else float("nan")


def _flux_scale(flux: np.ndarray, fluxerr: np.ndarray, ratio: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """Median of measured over injected flux, minus 1, and its robust scatter, above S/N 20."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bright = true & (flux / fluxerr > FLUX_SNR)
    values = ratio[bright] - 1
    if len(values) == 0:
        return {"flux_bias": np.nan, "flux_scatter": np.nan, "n_flux": 0}
    median = np.median(values)
    return {
        "flux_bias": float(median),
        "flux_scatter": float(1.4826 * np.median(np.abs(values - median))),
        "n_flux": len(values),
    }
