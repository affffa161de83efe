"""Labels of candidates: True by injected sources, False by everything else, each with its reason (step `crossmatch`)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.errors import ImageError
from otrain_core.io import read_json, read_table, write_json, write_table
from otrain_core.positions import match_one_to_one, nearest
from otrain_core.sky.causes import name_causes
from otrain_core.stars.kinds import REAL_KINDS, STAMP_RADIUS

if TYPE_CHECKING:
    from otrain_core.plan.pipelines import CrossmatchOptions

FLUX_SNR = 20.0  # the flux scale is judged on matches above this S/N
MAG_BIN = 0.5
DIPOLE = 0.23  # a star residual with more of its signal negative is a dipole, of a misaligned star
BRIGHT_SNR = 10.0  # injected sources above this S/N must come back
MIN_BRIGHT = 10  # an image is judged on no fewer sources
MAX_WITHOUT_FLUX = 0.1  # a larger share of the matches without a flux is refused
NEAR_FALSE = 1.0  # no False may stand this near to a true source [seeing]


def crossmatch_files(
    *,
    candidates: str | Path,
    injected: str | Path,
    psf_record: str | Path,
    labelled: str | Path,
    record: str | Path,
    image: str,
    options: CrossmatchOptions,
    subtract_record: str | Path | None = None,
    known: str | Path | None = None,
    sky_truth: str | Path | None = None,
) -> None:
    """Read candidates, injected sources and known objects, write the labelled table and its record.

    Parameters
    ----------
    candidates, injected : path-like
        Tables of the steps `detect` and `inject`.
    psf_record : path-like
        Record of the step `psf`, with seeing and 5-sigma limit.
    labelled, record : path-like
        Table and record to write.
    image : str
    options : CrossmatchOptions
    subtract_record : path-like, optional
        Record of the step `subtract`, which tells which stars were taken out of the reference.
    known : path-like, optional
        Table of known variables and moving objects (ra, dec).
    sky_truth : path-like, optional
        Truth of a simulated image.

    Raises
    ------
    ImageError
        Those of `crossmatch_candidates`.
    """
    psf = read_json(psf_record)
    limit = psf.get("limit_mag")
    table, counts = crossmatch_candidates(
        read_table(candidates),
        read_table(injected),
        image=image,
        seeing=psf["seeing_px"],
        options=options,
        seeing_arcsec=psf["seeing_arcsec"],
        limit_mag=float("nan") if limit is None else limit,
        known=read_table(known) if known else None,
        sky_truth=read_table(sky_truth) if sky_truth else None,
        removed=removed_stars(read_json(subtract_record)) if subtract_record else (),
    )
    write_table(labelled, table)
    write_json(record, counts)


def removed_stars(record: dict[str, Any]) -> list[int]:
    """Ids of the stars that the subtraction took out of the reference, by its record."""
    removed = record.get("removed") or []
    return removed.get("removed", []) if isinstance(removed, dict) else removed


def crossmatch_candidates(
    candidates: pd.DataFrame,
    injected: pd.DataFrame,
    *,
    image: str,
    seeing: float,
    options: CrossmatchOptions,
    known: pd.DataFrame | None = None,
    seeing_arcsec: float = np.nan,
    sky_truth: pd.DataFrame | None = None,
    removed: Collection[int] = (),
    limit_mag: float = np.nan,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Label every candidate and say why.

    Label 1 (True): matched one to one within ``radius`` with an injected source of the same sign or a real star
    that was set down, or taken out of the reference or of the science image. Label -1 (left out): flagged EDGE;
    matched, but with more than ``max_flux_ratio`` times the flux of the source, so that most
    of it is something else, or with no flux; not matched, but within ``exclusion`` of a source; so near to a
    star that was to be taken out of the reference and was not; within the stamp of a transplanted star, which brings its
    faint neighbours along; within ``known_radius`` of a known object. Label 0 (False): all others.

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
    options : CrossmatchOptions
    known : pandas.DataFrame, optional
        Known variables and moving objects: ra, dec [deg].
    sky_truth : pandas.DataFrame, optional
        Truth of a simulated image (kind, x, y, size, width, angle, flux); it names the cause
        of every False in the column ``artefact`` (a star's residual with much negative signal is a dipole).
    removed : collection of int
        Ids of the kind "removed" that were taken out of the reference, and of sources of negative flux that were
        added to it; others of these do not count.
    limit_mag : float
        5-sigma limit of the science image, which gives the S/N of an injected source.

    Returns
    -------
    labelled : pandas.DataFrame
        The candidates with sign (-1: of negative flux), label (1, 0, -1), reason, injection (id, -1: none), kind (of the
        matched source, '' for none), artefact (of a False: what made it, by the truth of a simulated image or else by
        the column ``cause``; '': unknown) and seeing [px].
    record : dict
        Counts, completeness against magnitude and flux scale (see `_completeness`,
        `_flux_scale`) of the injected sources; ``bright_injected`` and ``bright_recovered`` of
        the usable ones above S/N 10 (a match with a foreign flux is not recovered); ``n_matched`` of the injected
        and ``n_without_flux`` of them; ``near_injection_false``, False within one FWHM of a source,
        which is 0 by construction; ``kinds``: n, recovered and flux_bias of every kind.

    Raises
    ------
    ImageError
        No usable seeing, a column is missing, known objects without a WCS, or a subtraction
        that evidently failed.
    """
    _check_input(candidates, injected, known, image=image, seeing=seeing)
    truth, kept_stars = _countable(injected, removed)
    table = candidates.copy()
    is_known = _near_known(table, known, image=image, radius=options.known_radius * seeing_arcsec)
    matches = _match(table, truth, kept_stars, is_known, seeing=seeing, options=options)
    partner, matched = matches.partner, matches.matched
    ids, kinds = truth["id"].to_numpy(int), truth["kind"].to_numpy(str)
    table["label"] = matches.label
    table["reason"] = _reasons(matches, ids, kinds, seeing=seeing, options=options)
    table["injection"] = np.where(matched, ids[partner] if len(ids) else -1, -1).astype(int)
    table["kind"] = np.where(matched, kinds[partner] if len(kinds) else "", "").astype(object)
    table["sign"] = np.where(table["flux"] < 0, -1, 1)
    table["artefact"] = ""
    if sky_truth is None and "cause" in table:
        table["artefact"] = table["cause"].fillna("").astype(object).where(table["label"] == 0, "")
    if sky_truth is not None:
        _name_artefacts(table, _without(sky_truth, truth[kinds == "removed"], seeing), seeing=seeing)
    table["seeing"] = float(seeing)
    record = _record(table, truth, matches, image=image, seeing=seeing, limit_mag=limit_mag)
    _check_subtraction(image, record, options)
    return table, record


def _check_input(
    candidates: pd.DataFrame, injected: pd.DataFrame, known: pd.DataFrame | None, *, image: str, seeing: float
) -> None:
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


@dataclass
class Matches:
    """How the candidates stand to the true sources, every array (N,).

    Attributes
    ----------
    partner : numpy.ndarray
        Index of the matched source, -1 for none.
    distance, near_distance : numpy.ndarray
        To the matched, and to the nearest source [px].
    near : numpy.ndarray
        Index of the nearest source within the exclusion radius, -1 for none.
    ratio : numpy.ndarray
        Measured over true flux, NaN where there is no match.
    edge, foreign, excluded, stays, carried, known : numpy.ndarray
        bool, why a candidate may be left out: at the edge, most of its flux is something else's, beside a source
        without being its match, beside a star that is still in the reference, in the stamp of a transplanted star,
        beside a known object.
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
        """1 (True), 0 (False) or -1 (left out); the first reason that holds decides."""
        conditions = [self.edge, self.foreign, self.matched, self.excluded, self.stays, self.carried, self.known]
        return np.select(conditions, [-1, -1, 1, -1, -1, -1, -1], default=0).astype(int)


def _match(
    table: pd.DataFrame,
    truth: pd.DataFrame,
    kept_stars: pd.DataFrame,
    is_known: np.ndarray,
    *,
    seeing: float,
    options: CrossmatchOptions,
) -> Matches:
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
    """Source of every candidate (-1: none) and its distance: what brightened matches what brightens, faded what fades.

    A candidate without a flux may be either.
    """
    flux = table["flux"].to_numpy(float)
    fades = truth["flux"].to_numpy(float) < 0
    partner, distance = np.full(len(table), -1), np.full(len(table), np.nan)
    for candidates, sources in ((~(flux < 0), ~fades), (flux < 0, fades)):
        rows, of = np.flatnonzero(candidates), np.flatnonzero(sources)
        found, away = match_one_to_one(
            *(table[name].to_numpy(float)[rows] for name in "xy"),
            *(truth[name].to_numpy(float)[of] for name in "xy"),
            radius=radius,
        )
        matched = found >= 0
        partner[rows[matched]], distance[rows[matched]] = of[found[matched]], away[matched]
    return partner, distance


def _reasons(
    matches: Matches, ids: np.ndarray, kinds: np.ndarray, *, seeing: float, options: CrossmatchOptions
) -> np.ndarray:
    """Why each candidate has its label, as text."""
    words = [f"{kind} star" if kind in REAL_KINDS else "injection" for kind in kinds]
    sources = [f"{word} {number}" for word, number in zip(words, ids, strict=True)]
    fwhm, near_fwhm = matches.distance / seeing, matches.near_distance / seeing
    reasons = np.full(len(fwhm), f"no injection within {options.exclusion:.1f} FWHM", dtype=object)
    reasons[matches.known] = f"known object within {options.known_radius:.1f} FWHM"
    reasons[matches.carried] = "in the stamp of a transplanted star"
    reasons[matches.stays] = "star not removed from the reference"
    for index in np.flatnonzero(matches.excluded):
        reasons[index] = f"not the match of {sources[matches.near[index]]} at {near_fwhm[index]:.2f} FWHM"
    for index in np.flatnonzero(matches.matched):
        reasons[index] = f"{sources[matches.partner[index]]} at {fwhm[index]:.2f} FWHM"
    for index in np.flatnonzero(matches.foreign):
        ratio = matches.ratio[index]
        reasons[index] += f", {ratio:.1f} times its flux" if np.isfinite(ratio) else ", without a flux"
    reasons[matches.edge] = "EDGE"
    return reasons.astype(str)


def _name_artefacts(table: pd.DataFrame, sky_truth: pd.DataFrame, *, seeing: float) -> None:
    """Set the column artefact of every False by the truth of a simulated image."""
    false = table["label"] == 0
    x, y, flux = (table.loc[false, name].to_numpy(float) for name in ("x", "y", "flux"))
    table.loc[false, "artefact"] = name_causes(sky_truth, x, y, flux, seeing=seeing)
    dipole = (table["artefact"] == "star") & (table["negative"] > DIPOLE)
    table.loc[dipole, "artefact"] = "dipole"


def _record(
    table: pd.DataFrame, truth: pd.DataFrame, matches: Matches, *, image: str, seeing: float, limit_mag: float
) -> dict[str, Any]:
    """Counts, completeness and flux scale of one image, see `crossmatch_candidates`."""
    label, kinds = matches.label, truth["kind"].to_numpy(str)
    recovered = np.zeros(len(truth), dtype=bool)
    recovered[matches.partner[matches.matched & ~matches.foreign]] = True
    real = np.isin(kinds, REAL_KINDS)
    real_candidate = np.isin(table["kind"].to_numpy(str), REAL_KINDS)
    with np.errstate(over="ignore"):
        snr = 5 * 10 ** (0.4 * (limit_mag - truth["mag"].to_numpy(float)))
    bright = ~real & truth["usable"].to_numpy(bool) & (snr > BRIGHT_SNR)
    beside, _ = nearest(table["x"], table["y"], truth["x"], truth["y"], radius=NEAR_FALSE * seeing)
    inside, alone = ~matches.edge, ~matches.matched & ~matches.excluded & ~matches.stays & ~matches.carried
    artefacts = table.loc[label == 0, "artefact"].value_counts().sort_index()
    record: dict[str, Any] = {
        "image": image,
        "n_candidates": len(table),
        "n_true": int(((label == 1) & ~real_candidate).sum()),
        "n_real_stars": int(((label == 1) & real_candidate).sum()),
        "n_false": int((label == 0).sum()),
        "n_left_out": int((label == -1).sum()),
        "left_out": {
            "edge": int(matches.edge.sum()),
            "not_the_match": int((matches.excluded & inside).sum()),
            "foreign_flux": int((matches.foreign & inside).sum()),
            "not_removed": int((matches.stays & inside).sum()),
            "in_a_stamp": int((matches.carried & inside).sum()),
            "known_object": int((matches.known & inside & alone).sum()),
        },
        "artefacts": {str(name): int(n) for name, n in artefacts.items()},
        "near_injection_false": int(((label == 0) & (beside >= 0)).sum()),
        "n_injected": int((~real).sum()),
        "n_recovered": int((recovered & ~real).sum()),
        "bright_injected": int(bright.sum()),
        "bright_recovered": int((bright & recovered).sum()),
    }
    record |= _completeness(truth["mag"].to_numpy(float)[~real], recovered[~real])
    flux, fluxerr = table["flux"].to_numpy(float), table["fluxerr"].to_numpy(float)
    # Matches with a foreign flux count here: where the subtraction scales every flux, they are the ones that tell.
    injected = matches.matched & inside & ~real_candidate
    record |= _flux_scale(flux, fluxerr, matches.ratio, injected)
    record["n_matched"] = int(injected.sum())
    record["n_without_flux"] = int((injected & ~np.isfinite(matches.ratio)).sum())
    record["kinds"] = {}
    for kind in sorted(set(kinds.tolist())):
        mine = matches.matched & inside & (table["kind"].to_numpy(str) == kind)
        record["kinds"][kind] = {
            "n": int((kinds == kind).sum()),
            "recovered": int((recovered & (kinds == kind)).sum()),
            "flux_bias": _flux_scale(flux, fluxerr, matches.ratio, mine)["flux_bias"],
        }
    return record


def _countable(injected: pd.DataFrame, removed: Collection[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sources that are new in the difference, and those that the reference was to lose or gain and did not."""
    truth = injected.copy()
    for column, value in (("kind", "random"), ("usable", True)):
        if column not in truth:
            truth[column] = value
    truth["usable"] = truth["usable"].astype(bool)
    in_reference = (truth["kind"] == "removed") | ((truth["flux"] < 0) & (truth["kind"] != "vanished"))
    stays = in_reference & ~truth["id"].isin([int(number) for number in removed])
    return truth[~stays].reset_index(drop=True), truth[stays].reset_index(drop=True)


def _without(sky_truth: pd.DataFrame, removed: pd.DataFrame, seeing: float) -> pd.DataFrame:
    """The simulator's truth without the stars that the reference no longer has."""
    if len(removed) == 0 or len(sky_truth) == 0:
        return sky_truth
    near, _ = nearest(sky_truth["x"], sky_truth["y"], removed["x"], removed["y"], radius=0.5 * seeing)
    return sky_truth[~((near >= 0) & sky_truth["kind"].isin(["star", "galaxy", "variable"]))]


def _check_subtraction(image: str, record: dict[str, Any], options: CrossmatchOptions) -> None:
    """Refuse an image whose injected sources show that its subtraction failed."""

    def refuse(found: str, key: str, limit: float) -> None:
        message = f"{found} (crossmatch.{key} is {limit:g}): the subtraction failed"
        raise ImageError(image, "crossmatch", message)

    matched, void = record["n_matched"], record["n_without_flux"]
    if matched >= MIN_BRIGHT and void > MAX_WITHOUT_FLUX * matched:
        raise ImageError(image, "crossmatch", f"{void} of {matched} injected sources that were found have no flux")
    bias, scatter, n_flux = record["flux_bias"], record["flux_scatter"], record["n_flux"]
    if n_flux >= MIN_BRIGHT and not abs(bias) <= options.max_flux_bias:
        found = f"the fluxes of {n_flux} bright injected sources are off by {100 * bias:+.0f} % (median)"
        refuse(found, "max_flux_bias", options.max_flux_bias)
    if n_flux >= MIN_BRIGHT and not scatter <= options.max_flux_scatter:
        found = f"the fluxes of {n_flux} bright injected sources scatter by {100 * scatter:.0f} %"
        refuse(found, "max_flux_scatter", options.max_flux_scatter)
    bright, back = record["bright_injected"], record["bright_recovered"]
    if bright >= MIN_BRIGHT and back < options.min_recovered * bright:
        found = f"only {back} of {bright} sources injected above S/N {BRIGHT_SNR:g} were found again with their flux"
        refuse(found, "min_recovered", options.min_recovered)


def _near_known(table: pd.DataFrame, known: pd.DataFrame | None, *, image: str, radius: float) -> np.ndarray:
    """Whether a known object lies within `radius` arcsec of each candidate."""
    if known is None or len(known) == 0 or len(table) == 0:
        return np.zeros(len(table), dtype=bool)
    from astropy import units
    from astropy.coordinates import SkyCoord

    ra, dec = table["ra"].to_numpy(float), table["dec"].to_numpy(float)
    located = np.isfinite(ra) & np.isfinite(dec)
    if not located.any() or not np.isfinite(radius):
        raise ImageError(image, "crossmatch.known", "known objects need the WCS of the image, which has none")
    known_ra, known_dec = known["ra"].to_numpy(float), known["dec"].to_numpy(float)
    usable = np.isfinite(known_ra) & (np.abs(known_dec) <= 90)
    near = np.zeros(len(table), dtype=bool)
    if usable.any():
        catalogue = SkyCoord(known_ra[usable], known_dec[usable], unit="deg")
        _, distance, _ = SkyCoord(ra[located], dec[located], unit="deg").match_to_catalog_sky(catalogue)
        near[located] = distance < radius * units.arcsec
    return near


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
    return {"completeness": bins, "completeness_50_mag": completeness_limit(mag, recovered)}


def completeness_limit(mag: np.ndarray, recovered: np.ndarray, *, share: float = 0.5) -> float:
    """Magnitude at which this share of the sources is recovered.

    Fits ``top / (1 + exp((mag - m50) / width))`` by maximum likelihood and returns where
    it crosses the share; `top` allows for bright sources lost on masked pixels.

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
    if top <= share:
        return float("nan")
    crossing = m50 + width * np.log(top / share - 1)
    return float(crossing) if mag.min() <= crossing <= mag.max() else float("nan")


def _flux_scale(flux: np.ndarray, fluxerr: np.ndarray, ratio: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """Median of measured over injected flux, minus 1, and its scatter (half of what holds 68 %), above S/N 20."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bright = true & np.isfinite(ratio) & (np.abs(flux) / fluxerr > FLUX_SNR)
    values = ratio[bright] - 1
    if len(values) == 0:
        return {"flux_bias": np.nan, "flux_scatter": np.nan, "n_flux": 0}
    median = np.median(values)
    return {
        "flux_bias": float(median),
        "flux_scatter": float(np.diff(np.percentile(values, [16, 84]))[0] / 2),
        "n_flux": len(values),
    }
