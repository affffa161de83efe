"""Fixed cuts on what every catalogue has, S/N and FWHM: what a classifier must beat."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from otrain_core.cubes.inputs import column
from otrain_core.evaluation import metrics


def baseline_cut(cube: dict[str, np.ndarray], table: pd.DataFrame) -> dict[str, Any]:
    """What the best cut on S/N and FWHM alone reaches on the test set.

    The cut S/N >= snr_min and fwhm_low <= FWHM <= fwhm_high maximises MCC on train and
    tune, over a grid of quantiles. FWHM is in units of the seeing where the cube knows
    it, otherwise in pixels. A candidate without S/N or FWHM is refused.

    Returns
    -------
    dict
        The cut, the unit of FWHM, and the metrics of `otrain_core.evaluation.metrics.rates` on
        test; metrics are NaN where the cube has no S/N and FWHM.
    """
    snr, fwhm, seeing = (column(cube, name).astype(float) for name in ("snr", "fwhms", "seeing"))
    in_seeing = bool(np.isfinite(seeing).any())
    fwhm = fwhm / seeing if in_seeing else fwhm
    usable = np.isfinite(snr) & np.isfinite(fwhm)
    label = np.asarray(cube["labels"]) == 1
    sets = np.full(len(label), "unused", dtype=object)
    sets[table["index"].to_numpy()] = table["set"].to_numpy()
    fit, test = np.isin(sets, ("train", "tune")), sets == "test"
    cut = {"snr_min": np.nan, "fwhm_low": np.nan, "fwhm_high": np.nan}
    accepted = np.zeros(len(label), dtype=bool)
    if (fit & usable).any():
        edges_snr = np.unique(np.quantile(snr[fit & usable], np.linspace(0, 1, 61)))
        edges_fwhm = np.unique(np.quantile(fwhm[fit & usable], np.linspace(0, 1, 61)))
        grids = []
        for value in (True, False):
            chosen = fit & usable & (label == value)
            cells = np.zeros((edges_snr.size, edges_fwhm.size + 1))
            place_snr = np.searchsorted(edges_snr, snr[chosen], side="right") - 1
            place_fwhm = np.searchsorted(edges_fwhm, fwhm[chosen], side="right")
            np.add.at(cells, (place_snr, place_fwhm), 1)
            below = np.cumsum(np.cumsum(cells[::-1], axis=0)[::-1], axis=1)  # S/N >= edge, FWHM < edge
            # Accepted for each (snr_min, low, high), low <= FWHM < high; the last high is infinite.
            grids.append(below[:, None, 1:] - below[:, :-1, None])
        tp, fp = grids
        n_true, n_false = np.sum(fit & label), np.sum(fit & ~label)
        mcc = metrics.rates(tp, fp, n_true - tp, n_false - fp)["mcc"]
        best = np.unravel_index(np.nanargmax(np.where(tp + fp > 0, mcc, -2)), mcc.shape)
        high = edges_fwhm[best[2] + 1] if best[2] + 1 < edges_fwhm.size else np.inf
        cut = {"snr_min": float(edges_snr[best[0]]), "fwhm_low": float(edges_fwhm[best[1]]), "fwhm_high": float(high)}
        with np.errstate(invalid="ignore"):
            accepted = usable & (snr >= cut["snr_min"]) & (fwhm >= cut["fwhm_low"]) & (fwhm < high)
    counts = metrics.confusion(label[test], accepted[test].astype(float), 0.5) if test.any() else None
    values = metrics.rates(**counts) if counts and usable.any() else dict.fromkeys(("accuracy", "mcc"), np.nan)
    return {**cut, "fwhm_unit": "seeing" if in_seeing else "px", **values}
