"""Recovery of the injected sources: completeness and flux scale, which also show a failed subtraction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.candidates.matches import Matches
from otrain_core.errors import ImageError
from otrain_core.positions import nearest
from otrain_core.stars.kinds import REAL_KINDS

if TYPE_CHECKING:
    from otrain_core.plan.pipelines import CrossmatchOptions

FLUX_SNR = 20.0  # the flux scale is measured from matches above this S/N
MAG_BIN = 0.5  # [mag]
BRIGHT_SNR = 10.0  # injected sources above this S/N must be recovered
MIN_BRIGHT = 10  # an image with fewer such sources is not judged
MAX_WITHOUT_FLUX = 0.1  # an image is refused if a larger share of the matches has no flux


def check_subtraction(image: str, record: dict[str, Any], options: CrossmatchOptions) -> None:
    """Refuse an image if its injected sources show that the subtraction failed.

    Parameters
    ----------
    image : str
        Name, for the error.
    record : dict
        As returned by `recovery_record`.
    options : CrossmatchOptions

    Raises
    ------
    ImageError
        The fluxes are biased, scattered or missing, or too few bright sources are recovered.
    """

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


def completeness_bins(mag: np.ndarray, recovered: np.ndarray) -> dict[str, Any]:
    """Recovered share in bins of half a magnitude, and the magnitude at which it is 50 %.

    Parameters
    ----------
    mag : numpy.ndarray
        (N,); sources with a missing magnitude are ignored.
    recovered : numpy.ndarray
        bool, (N,)

    Returns
    -------
    dict
        completeness (list of bins) and completeness_50_mag, see `completeness_limit`.
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

    It is where the curve ``top / (1 + exp((mag - m50) / width))``, fitted to the single sources by maximum likelihood,
    crosses the share. `top` allows for bright sources that are lost on masked pixels.

    Parameters
    ----------
    mag : numpy.ndarray
        (N,), finite.
    recovered : numpy.ndarray
        bool, (N,)
    share : float

    Returns
    -------
    float
        NaN with fewer than 10 sources, if all or none are recovered, or if the crossing is outside the range of the sources.
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


def flux_scale(flux: np.ndarray, fluxerr: np.ndarray, ratio: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """Bias and scatter of the measured fluxes relative to the injected ones, above S/N 20.

    Parameters
    ----------
    flux, fluxerr, ratio : numpy.ndarray
        (N,), of the candidates; `ratio` is measured divided by true flux.
    true : numpy.ndarray
        (N,) bool, candidates to use.

    Returns
    -------
    dict
        flux_bias (median of `ratio`, minus 1), flux_scatter (half of the interval from the 16th to the 84th percentile) and
        n_flux; the first two are NaN if there is no such candidate.
    """
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


NEAR_FALSE = 1.0  # distance within which no False may lie from a true source [seeing]


def recovery_record(
    table: pd.DataFrame, truth: pd.DataFrame, matches: Matches, *, image: str, seeing: float, limit_mag: float
) -> dict[str, Any]:
    """Counts, completeness and flux scale of one image, see `otrain_core.candidates.crossmatch.crossmatch_candidates`."""
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
    record |= completeness_bins(truth["mag"].to_numpy(float)[~real], recovered[~real])
    flux, fluxerr = table["flux"].to_numpy(float), table["fluxerr"].to_numpy(float)
    # Includes matches with too much flux: they show when the subtraction changes the scale of all fluxes.
    injected = matches.matched & inside & ~real_candidate
    record |= flux_scale(flux, fluxerr, matches.ratio, injected)
    record["n_matched"] = int(injected.sum())
    record["n_without_flux"] = int((injected & ~np.isfinite(matches.ratio)).sum())
    record["kinds"] = {}
    for kind in sorted(set(kinds.tolist())):
        mine = matches.matched & inside & (table["kind"].to_numpy(str) == kind)
        record["kinds"][kind] = {
            "n": int((kinds == kind).sum()),
            "recovered": int((recovered & (kinds == kind)).sum()),
            "flux_bias": flux_scale(flux, fluxerr, matches.ratio, mine)["flux_bias"],
        }
    return record
