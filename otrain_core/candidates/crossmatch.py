"""Labels of candidates: True by injected sources, False by everything else, each with its reason."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.errors import ImageError
from otrain_core.positions import match_one_to_one, nearest, unit_vectors
from otrain_core.sky.causes import name_causes
from otrain_core.stars.kinds import REAL_KINDS

FLUX_SNR = 20.0  # the flux scale is judged on matches above this S/N
MAG_BIN = 0.5
DIPOLE = 0.23  # a star residual with more of its signal negative is a dipole, of a misaligned star
BRIGHT_SNR = 10.0  # injected sources above this S/N must come back
MIN_BRIGHT = 10  # an image is judged on no fewer sources
NEAR_FALSE = 1.0  # no False may stand this near to a true source [seeing]


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
    removed: Collection[int] = (),
    limit_mag: float = np.nan,
    max_flux_bias: float = np.inf,
    min_recovered: float = 0.0,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Label every candidate and say why.

    Label 1 (True): matched one to one within `radius` with an injected source or a real star
    that was set down or taken out of the reference. Label -1 (left out): flagged EDGE;
    matched, but with more than `max_flux_ratio` times the flux of the source, so that most
    of it is something else; not matched, but within `exclusion` of a source; so near to a
    star that was to be taken out of the reference and was not; within `known_radius` of a
    known object. Label 0 (False): all others.

    Parameters
    ----------
    candidates : pandas.DataFrame
        As from `otrain_core.candidates.detect.detect_candidates`.
    injected : pandas.DataFrame
        Injected sources and real stars: id, x, y [px of the same image], mag, flux [ADU], kind
        (without this column: all injected) and usable (without: everywhere).
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
        of every False in the column ``artefact`` (a star's residual with much negative signal is a dipole).
    removed : collection of int
        Ids of the kind "removed" that were taken out of the reference; others do not count.
    limit_mag : float
        5-sigma limit of the science image, which gives the S/N of an injected source.
    max_flux_bias : float
        A larger median flux bias, on at least 10 bright matches, is refused.
    min_recovered : float
        A smaller recovered share of the usable sources injected above S/N 10, of at least
        10, is refused.

    Returns
    -------
    labelled : pandas.DataFrame
        The candidates with label (1, 0, -1), reason, injection (id, -1: none), kind (of the
        matched source, '' for none), artefact ('': unknown, 'noise': a simulated image shows
        nothing there) and seeing [px].
    record : dict
        Counts, completeness against magnitude and flux scale (see `_completeness`,
        `_flux_scale`) of the injected sources; ``bright_injected`` and ``bright_recovered`` of
        the usable ones above S/N 10; ``near_injection_false``, False within one FWHM of a source,
        which is 0 by construction; ``kinds``: n, recovered and flux_bias of every kind.

    Raises
    ------
    ImageError
        No usable seeing, a column is missing, known objects without a WCS, or a subtraction
        that evidently failed.
    """
    if not (np.isfinite(seeing) and seeing > 0):
        raise ImageError(image, "crossmatch.seeing", f"a positive seeing [px] is needed, found {seeing}")
    for name, table, columns in (
        ("candidates", candidates, ("x", "y", "flux", "fluxerr", "negative", "edge")),
        ("injected", injected, ("id", "x", "y", "mag", "flux")),
        ("known", pd.DataFrame(columns=["ra", "dec"]) if known is None else known, ("ra", "dec")),
    ):
        for column in columns:
            if column not in table:
                raise ImageError(image, f"crossmatch.{name}", f"the table of {name} has no column {column!r}")
    truth, kept_stars = _countable(injected, removed)
    table = candidates.copy()
    x, y = table["x"].to_numpy(float), table["y"].to_numpy(float)
    xi, yi = truth["x"].to_numpy(float), truth["y"].to_numpy(float)
    partner, distance = match_one_to_one(x, y, xi, yi, radius=radius * seeing)
    matched = partner >= 0
    ids, kinds = truth["id"].to_numpy(int), truth["kind"].to_numpy(str)
    injection = np.where(matched, ids[partner] if len(ids) else -1, -1)
    ratio = np.full(len(table), np.nan)
    ratio[matched] = table["flux"].to_numpy(float)[matched] / truth["flux"].to_numpy(float)[partner[matched]]

    near, near_distance = nearest(x, y, xi, yi, radius=exclusion * seeing)
    excluded = ~matched & (near >= 0)
    foreign = matched & (np.abs(ratio) > max_flux_ratio)
    stay, _ = nearest(x, y, kept_stars["x"], kept_stars["y"], radius=exclusion * seeing)
    stays = ~matched & ~excluded & (stay >= 0)
    is_known = _near_known(table, known, image=image, radius=known_radius * seeing_arcsec)
    edge = table["edge"].to_numpy(bool)

    label = np.select([edge, foreign, matched, excluded, stays, is_known], [-1, -1, 1, -1, -1, -1], default=0)
    fwhm = distance / seeing
    words = [f"{kind} star" if kind in REAL_KINDS else "injection" for kind in kinds]
    sources = [f"{word} {number}" for word, number in zip(words, ids, strict=True)]
    reasons = np.full(len(table), f"no injection within {exclusion:.1f} FWHM", dtype=object)
    for index in np.flatnonzero(is_known):
        reasons[index] = f"known object within {known_radius:.1f} FWHM"
    reasons[stays] = "star not removed from the reference"
    for index in np.flatnonzero(excluded):
        reasons[index] = f"not the match of {sources[near[index]]} at {near_distance[index] / seeing:.2f} FWHM"
    for index in np.flatnonzero(matched):
        reasons[index] = f"{sources[partner[index]]} at {fwhm[index]:.2f} FWHM"
    for index in np.flatnonzero(foreign):
        reasons[index] += f", {abs(ratio[index]):.1f} times its flux"
    reasons[edge] = "EDGE"
    table["label"] = label.astype(int)
    table["reason"] = reasons.astype(str)
    table["injection"] = injection.astype(int)
    table["kind"] = np.where(matched, kinds[partner] if len(kinds) else "", "").astype(object)
    table["artefact"] = ""
    if sky_truth is not None:
        false = label == 0
        table.loc[false, "artefact"] = name_causes(
            _without(sky_truth, truth[kinds == "removed"], seeing),
            x[false],
            y[false],
            table["flux"].to_numpy(float)[false],
            seeing=seeing,
        )
        dipole = (table["artefact"] == "star") & (table["negative"] > DIPOLE)
        table.loc[dipole, "artefact"] = "dipole"
    table["seeing"] = float(seeing)

    recovered = np.zeros(len(truth), dtype=bool)
    recovered[partner[matched]] = True
    real = np.isin(kinds, REAL_KINDS)
    real_candidate = np.isin(table["kind"].to_numpy(str), REAL_KINDS)
    flux, fluxerr = table["flux"].to_numpy(float), table["fluxerr"].to_numpy(float)
    with np.errstate(over="ignore"):
        snr = 5 * 10 ** (0.4 * (limit_mag - truth["mag"].to_numpy(float)))
    bright = ~real & truth["usable"].to_numpy(bool) & (snr > BRIGHT_SNR)
    beside, _ = nearest(x, y, xi, yi, radius=NEAR_FALSE * seeing)
    record = {
        "image": image,
        "n_candidates": len(table),
        "n_true": int(((label == 1) & ~real_candidate).sum()),
        "n_real_stars": int(((label == 1) & real_candidate).sum()),
        "n_false": int((label == 0).sum()),
        "n_left_out": int((label == -1).sum()),
        "left_out": {
            "edge": int(edge.sum()),
            "not_the_match": int((excluded & ~edge).sum()),
            "foreign_flux": int((foreign & ~edge).sum()),
            "not_removed": int((stays & ~edge).sum()),
            "known_object": int((is_known & ~edge & ~matched & ~excluded & ~stays).sum()),
        },
        "artefacts": {
            str(name): int(n) for name, n in table.loc[label == 0, "artefact"].value_counts().sort_index().items()
        },
        "near_injection_false": int(((label == 0) & (beside >= 0)).sum()),
        "n_injected": int((~real).sum()),
        "n_recovered": int((recovered & ~real).sum()),
        "bright_injected": int(bright.sum()),
        "bright_recovered": int((bright & recovered).sum()),
        **_completeness(truth["mag"].to_numpy(float)[~real], recovered[~real]),
        **_flux_scale(flux, fluxerr, ratio, (label == 1) & ~real_candidate),
        "kinds": {},
    }
    for kind in sorted(set(kinds.tolist())):
        mine = (label == 1) & (table["kind"].to_numpy(str) == kind)
        record["kinds"][kind] = {
            "n": int((kinds == kind).sum()),
            "recovered": int((recovered & (kinds == kind)).sum()),
            "flux_bias": _flux_scale(flux, fluxerr, ratio, mine)["flux_bias"],
        }
    _check_subtraction(image, record, max_flux_bias=max_flux_bias, min_recovered=min_recovered)
    return table, record


def _countable(injected: pd.DataFrame, removed: Collection[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sources that are new in the difference, and stars that were to be taken out of the reference and were not."""
    truth = injected.copy()
    for column, value in (("kind", "random"), ("usable", True)):
        if column not in truth:
            truth[column] = value
    truth["usable"] = truth["usable"].astype(bool)
    stays = (truth["kind"] == "removed") & ~truth["id"].isin([int(number) for number in removed])
    return truth[~stays].reset_index(drop=True), truth[stays].reset_index(drop=True)


def _without(sky_truth: pd.DataFrame, removed: pd.DataFrame, seeing: float) -> pd.DataFrame:
    """The simulator's truth without the stars that the reference no longer has."""
    if len(removed) == 0 or len(sky_truth) == 0:
        return sky_truth
    near, _ = nearest(sky_truth["x"], sky_truth["y"], removed["x"], removed["y"], radius=0.5 * seeing)
    return sky_truth[~((near >= 0) & sky_truth["kind"].isin(["star", "galaxy", "variable"]))]


def _check_subtraction(image: str, record: dict[str, Any], *, max_flux_bias: float, min_recovered: float) -> None:
    """Refuse an image whose injected sources show that its subtraction failed."""
    bias, n_flux = record["flux_bias"], record["n_flux"]
    if n_flux >= MIN_BRIGHT and abs(bias) > max_flux_bias:
        raise ImageError(
            image,
            "crossmatch",
            f"the fluxes of {n_flux} bright injected sources are off by {100 * bias:+.0f} % (median; "
            f"crossmatch.max_flux_bias is {max_flux_bias:g}): the subtraction failed",
        )
    bright, back = record["bright_injected"], record["bright_recovered"]
    if bright >= MIN_BRIGHT and back < min_recovered * bright:
        raise ImageError(
            image,
            "crossmatch",
            f"only {back} of {bright} sources injected above S/N {BRIGHT_SNR:g} were found again "
            f"(crossmatch.min_recovered is {min_recovered:g}): the subtraction failed",
        )


def _near_known(table: pd.DataFrame, known: pd.DataFrame | None, *, image: str, radius: float) -> np.ndarray:
    """Whether a known object lies within `radius` arcsec of each candidate."""
    from scipy.spatial import cKDTree

    if known is None or len(known) == 0 or len(table) == 0:
        return np.zeros(len(table), dtype=bool)
    ra, dec = table["ra"].to_numpy(float), table["dec"].to_numpy(float)
    if not (np.isfinite(ra) & np.isfinite(dec)).all() or not np.isfinite(radius):
        raise ImageError(image, "crossmatch.known", "known objects need the WCS of the image, which has none")
    tree = cKDTree(unit_vectors(known["ra"].to_numpy(float), known["dec"].to_numpy(float)))
    chord = 2 * np.sin(np.deg2rad(radius / 3600) / 2)
    return np.isfinite(tree.query(unit_vectors(ra, dec), distance_upper_bound=chord)[0])


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
