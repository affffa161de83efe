"""Label the candidates: True if they match an injected source, otherwise False, with a reason (step `crossmatch`)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.candidates.matches import Matches, match_sources
from otrain_core.candidates.recovery import check_subtraction, recovery_record
from otrain_core.errors import ImageError
from otrain_core.io import read_json, read_table, write_json, write_table
from otrain_core.positions import nearest
from otrain_core.sky.causes import DIPOLE, name_causes
from otrain_core.stars.kinds import REAL_KINDS

if TYPE_CHECKING:
    from otrain_core.plan.pipelines import CrossmatchOptions


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
    """Read candidates, injected sources and known objects; write the labelled table and its record.

    Parameters
    ----------
    candidates, injected : path-like
        Tables of the steps `detect` and `inject`.
    psf_record : path-like
        Record of the step `psf`, with seeing and 5-sigma limit.
    labelled, record : path-like
        Table and record to write.
    image : str
        Name of the image.
    options : CrossmatchOptions
    subtract_record : path-like, optional
        Record of the step `subtract`, which lists the stars removed from the reference.
    known : path-like, optional
        Table of known variables and moving objects (ra, dec).
    sky_truth : path-like, optional
        Truth of a simulated image.

    Raises
    ------
    ImageError
        See `crossmatch_candidates`.
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
    """Ids of the stars removed from the reference, from the record of the subtraction."""
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
    """Label every candidate and give the reason.

    Label 1 (True): the candidate matches, one to one and within ``radius``, an injected source of the same sign, or a real
    star that was transplanted, or removed from the reference or from the science image.

    Label -1 (left out): the candidate

    - is flagged EDGE;
    - matches a source, but has no flux, or more than ``max_flux_ratio`` times the flux of the source, so that most of the
      flux is something else;
    - does not match but lies within ``exclusion`` of a source, or of a star that could not be removed from the reference;
    - lies in the stamp of a transplanted star, which contains faint neighbours of the star;
    - lies within ``known_radius`` of a known object.

    Label 0 (False): all others.

    Parameters
    ----------
    candidates : pandas.DataFrame
        See `otrain_core.candidates.detect.detect_candidates`.
    injected : pandas.DataFrame
        Injected sources and real stars: id, x, y [px of the same image], mag, flux [ADU], kind (default: all are
        injected) and usable (default: all are usable).
    image : str
        Name, for errors.
    seeing, seeing_arcsec : float
        FWHM [px] and [arcsec]; the second is needed for known objects only.
    options : CrossmatchOptions
    known : pandas.DataFrame, optional
        Known variables and moving objects: ra, dec [deg].
    sky_truth : pandas.DataFrame, optional
        Truth of a simulated image (kind, x, y, size, width, angle, flux), from which the column ``artefact`` gets the
        cause of every False (the residual of a star with much negative signal is a dipole).
    removed : collection of int
        Ids of the sources of kind "removed" that were removed from the reference, and of the sources of negative flux that
        were added to it. Sources of these kinds that are not listed are ignored.
    limit_mag : float
        5-sigma limit of the science image, from which the S/N of an injected source follows.

    Returns
    -------
    labelled : pandas.DataFrame
        The candidates with sign (-1 for negative flux), label (1, 0, -1), reason, injection (id of the source, -1 for
        none), kind (of the matched source, '' for none), artefact (cause of a False, from the truth of a simulated image
        or else from the column ``cause``; '' if unknown) and seeing [px].
    record : dict
        Counts, completeness against magnitude and flux scale of the injected sources (see
        `otrain_core.candidates.recovery`); ``bright_injected`` and ``bright_recovered``, which count the usable sources
        above S/N 10 (a match with too much flux is not recovered); ``n_matched`` and, of these, ``n_without_flux``;
        ``near_injection_false``, the number of False within one FWHM of a source, 0 by construction; ``kinds``: n,
        recovered and flux_bias of every kind.

    Raises
    ------
    ImageError
        The seeing is not usable, a column is missing, known objects are given without a WCS, or the subtraction evidently
        failed.
    """
    _check_input(candidates, injected, known, image=image, seeing=seeing)
    truth, kept_stars = _countable(injected, removed)
    table = candidates.copy()
    is_known = _near_known(table, known, image=image, radius=options.known_radius * seeing_arcsec)
    matches = match_sources(table, truth, kept_stars, is_known, seeing=seeing, options=options)
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
    record = recovery_record(table, truth, matches, image=image, seeing=seeing, limit_mag=limit_mag)
    check_subtraction(image, record, options)
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


def _reasons(
    matches: Matches, ids: np.ndarray, kinds: np.ndarray, *, seeing: float, options: CrossmatchOptions
) -> np.ndarray:
    """The reason for the label of each candidate, as text."""
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
    """Set the column artefact of every False from the truth of a simulated image."""
    false = table["label"] == 0
    x, y, flux = (table.loc[false, name].to_numpy(float) for name in ("x", "y", "flux"))
    table.loc[false, "artefact"] = name_causes(sky_truth, x, y, flux, seeing=seeing)
    dipole = (table["artefact"] == "star") & (table["negative"] > DIPOLE)
    table.loc[dipole, "artefact"] = "dipole"


def _countable(injected: pd.DataFrame, removed: Collection[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sources that are new in the difference, and those that could not be removed from or added to the reference."""
    truth = injected.copy()
    for column, value in (("kind", "random"), ("usable", True)):
        if column not in truth:
            truth[column] = value
    truth["usable"] = truth["usable"].astype(bool)
    in_reference = (truth["kind"] == "removed") | ((truth["flux"] < 0) & (truth["kind"] != "vanished"))
    stays = in_reference & ~truth["id"].isin([int(number) for number in removed])
    return truth[~stays].reset_index(drop=True), truth[stays].reset_index(drop=True)


def _without(sky_truth: pd.DataFrame, removed: pd.DataFrame, seeing: float) -> pd.DataFrame:
    """The truth of a simulated image without the stars that were removed from the reference."""
    if len(removed) == 0 or len(sky_truth) == 0:
        return sky_truth
    near, _ = nearest(sky_truth["x"], sky_truth["y"], removed["x"], removed["y"], radius=0.5 * seeing)
    return sky_truth[~((near >= 0) & sky_truth["kind"].isin(["star", "galaxy", "variable"]))]


def _near_known(table: pd.DataFrame, known: pd.DataFrame | None, *, image: str, radius: float) -> np.ndarray:
    """Whether a known object lies within `radius` arcsec of each candidate."""
    if known is None or len(known) == 0 or len(table) == 0:
        return np.zeros(len(table), dtype=bool)
    from astropy import units
    from astropy.coordinates import SkyCoord

    ra, dec = table["ra"].to_numpy(float), table["dec"].to_numpy(float)
    located = np.isfinite(ra) & np.isfinite(dec)
    if not located.any() or not np.isfinite(radius):
        raise ImageError(
            image, "crossmatch.known", "the image has no WCS, which is needed to compare it with the known objects"
        )
    known_ra, known_dec = known["ra"].to_numpy(float), known["dec"].to_numpy(float)
    usable = np.isfinite(known_ra) & (np.abs(known_dec) <= 90)
    near = np.zeros(len(table), dtype=bool)
    if usable.any():
        catalogue = SkyCoord(known_ra[usable], known_dec[usable], unit="deg")
        _, distance, _ = SkyCoord(ra[located], dec[located], unit="deg").match_to_catalog_sky(catalogue)
        near[located] = distance < radius * units.arcsec
    return near
