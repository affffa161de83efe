"""Curves of one training: ROC, precision-recall, F1-MCC and calibration."""

from __future__ import annotations

import numpy as np
import pandas as pd

from otrain_core.evaluation import metrics

CURVE_COLUMNS = ("curve", "x", "y", "threshold", "bin")
_GRID = np.linspace(0, 1, 201)


def curves(
    labels: np.ndarray, scores: np.ndarray, calibrated: np.ndarray, mags: np.ndarray, *, bins: int
) -> pd.DataFrame:
    """The curves of Makhlouf et al. 2022, Fig. 10, as one table.

    Parameters
    ----------
    labels, scores, calibrated : array
        (N,) labels, scores, and calibrated probabilities.
    mags : array
        (N,) magnitudes, NaN where unknown.
    bins : int
        Number of bins of magnitude.

    Returns
    -------
    pandas.DataFrame
        Columns `CURVE_COLUMNS`. curve is one of ``roc`` (x FPR, y recall; also in bins
        of magnitude), ``pr`` (recall, precision), ``f1-mcc`` (F1, MCC), ``f1`` and
        ``mcc`` (x is the threshold), ``calibration`` and ``calibration_after`` (mean
        score, fraction of True).
    """
    parts = []

    def add(curve, x, y, threshold=np.nan, bin=""):
        parts.append(pd.DataFrame({"curve": curve, "x": x, "y": y, "threshold": threshold, "bin": bin}))

    edges, index = metrics.value_bins(mags, bins)
    for number in range(-1, max(len(edges) - 1, 0)):
        inside = index == number if number >= 0 else np.ones(len(labels), dtype=bool)
        name = f"{edges[number]:.2f} to {edges[number + 1]:.2f}" if number >= 0 else ""
        corner = metrics.threshold_curve(labels[inside], scores[inside])
        if corner.n_true and corner.n_false:
            keep = _corners(corner.fp, corner.tp)
            rates = corner.rates()
            add("roc", rates["fpr"][keep], rates["recall"][keep], corner.thresholds[keep], name)
    grid = metrics.counts_at(labels, scores, _GRID)
    rates = metrics.rates(**grid)
    for curve, x, y in (
        ("pr", rates["recall"], rates["precision"]),
        ("f1-mcc", rates["f1"], rates["mcc"]),
        ("f1", _GRID, rates["f1"]),
        ("mcc", _GRID, rates["mcc"]),
    ):
        add(curve, x, y, _GRID)
    for curve, values in (("calibration", scores), ("calibration_after", calibrated)):
        table = metrics.calibration_curve(labels, values)
        add(curve, table["mean_score"], table["true_fraction"])
    return pd.concat(parts, ignore_index=True)[list(CURVE_COLUMNS)]


def _corners(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mask of the points of a step curve that are needed to draw it."""
    keep = np.ones(x.size, dtype=bool)
    keep[1:-1] = (np.diff(x, 2) != 0) | (np.diff(y, 2) != 0)
    return keep
