"""Errors by telescope, sign, magnitude, artefact, reason and kind of place."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.cubes.inputs import column
from otrain_core.evaluation import metrics
from otrain_core.evaluation.bootstrap import bootstrap_intervals, percentile_interval
from otrain_core.plan.config import EvaluateOptions

PROPERTIES = {"magnitude": "mags", "magnitude_error": "errmags", "snr": "snr"}


def by_telescope(
    labels: np.ndarray,
    scores: np.ndarray,
    telescopes: np.ndarray,
    threshold: float,
    *,
    rng: np.random.Generator,
    options: EvaluateOptions,
) -> dict[str, Any]:
    """Metrics of each telescope at one threshold.

    Parameters
    ----------
    labels, scores, telescopes : numpy.ndarray
        (N,) of the scored set.
    threshold : float
    rng : numpy.random.Generator
        For the interval of the mean, from bootstrap draws of whole telescopes.
    options : EvaluateOptions

    Returns
    -------
    dict
        mcc_mean, mcc_mean_low, mcc_mean_high, mcc_worst and worst (its name) over the telescopes that have both
        classes, and single: n_true, n_false, mcc, auc, recall, fpr by name, NaN if a class is missing.
    """
    single: dict[str, dict[str, float]] = {}
    for name in np.unique(telescopes):
        mine = telescopes == name
        given = labels[mine]
        rates = metrics.rates(**metrics.confusion(given, scores[mine], threshold))
        counts = {"n_true": int(given.sum()), "n_false": int((given == 0).sum())}
        both = min(counts.values()) > 0
        area = metrics.auc(given, scores[mine]) if both else np.nan
        single[str(name)] = counts | {
            "auc": area,
            "mcc": float(rates["mcc"]),
            "recall": float(rates["recall"]),
            "fpr": float(rates["fpr"]),
        }
    values = {name: row["mcc"] for name, row in single.items() if np.isfinite(row["mcc"])}
    if not values:
        return {"single": single}
    mcc = np.array(list(values.values()))
    draws = mcc[rng.integers(len(mcc), size=(options.bootstrap, len(mcc)))].mean(axis=1)
    low, high = percentile_interval(draws, options.confidence)
    worst = min(values, key=lambda name: values[name])
    about = {"mcc_mean": float(mcc.mean()), "mcc_mean_low": low, "mcc_mean_high": high}
    return about | {"mcc_worst": values[worst], "worst": worst, "single": single}


def image_intervals(
    part: pd.DataFrame, threshold: float, rng: np.random.Generator, options: EvaluateOptions, kept_false: float
) -> dict[str, tuple[float, float]]:
    """Intervals over images of the metrics of a table of candidates (label, score, image)."""
    return bootstrap_intervals(
        part["label"].to_numpy(),
        part["score"].to_numpy(float),
        part["image"].to_numpy(),
        threshold,
        rng=rng,
        draws=options.bootstrap,
        confidence=options.confidence,
        stated_recall=options.stated_recall,
        kept_false=kept_false,
    )


def errors_by_property(
    labels: np.ndarray,
    scores: np.ndarray,
    cube: dict[str, np.ndarray],
    rows: np.ndarray,
    threshold: float,
    bins: int,
) -> dict[str, Any]:
    """Metrics in bins of magnitude, its error and S/N, and errors by artefact, reason and kind of place."""
    binned = {
        name: metrics.binned_metrics(labels, scores, column(cube, key)[rows], threshold, bins=bins).to_dict("records")
        for name, key in PROPERTIES.items()
    }
    reasons = _without_numbers(column(cube, "reasons", "")[rows])
    return {
        "bins": binned,
        "artefacts": grouped_errors(labels, scores, column(cube, "artefacts", "")[rows], threshold, of=0),
        "reasons": grouped_errors(labels, scores, reasons, threshold),
        "kinds": grouped_errors(labels, scores, column(cube, "kinds", "")[rows], threshold, of=1),
    }


def errors_by_sign(
    test: pd.DataFrame, threshold: float, *, rng: np.random.Generator, options: EvaluateOptions, kept_false: float = 1.0
) -> list[dict[str, Any]]:
    """Recall and false alarms of candidates that are brighter and of those that are fainter than in the reference.

    Parameters
    ----------
    test : pandas.DataFrame
        label, score, image and sign (1, -1).
    threshold : float
    rng : numpy.random.Generator
        For the bootstrap by image.
    options : EvaluateOptions
    kept_false : float
        Fraction of all False that `test` contains.

    Returns
    -------
    list of dict
        One for each sign: sign, n_true, n_false, fn, fp; recall, fpr and false_alarms_per_image with _low and _high
        (NaN if the sign lacks the class). Empty if all candidates have the same sign.
    """
    if "sign" not in test or test["sign"].nunique() < 2:
        return []
    rows = []
    for sign in (1, -1):
        part = test[test["sign"] == sign]
        counts = metrics.confusion(part["label"].to_numpy(), part["score"].to_numpy(float), threshold)
        kept = kept_false * test["image"].nunique() / part["image"].nunique()  # an image may have none of this sign
        intervals = image_intervals(part, threshold, rng, options, kept)
        row: dict[str, Any] = {"sign": sign, "n_true": counts["tp"] + counts["fn"]}
        row |= {"n_false": counts["fp"] + counts["tn"], "fn": counts["fn"], "fp": counts["fp"]}
        row["recall"] = counts["tp"] / row["n_true"] if row["n_true"] else np.nan
        row["fpr"] = counts["fp"] / row["n_false"] if row["n_false"] else np.nan
        row["false_alarms_per_image"] = counts["fp"] / kept_false / test["image"].nunique()
        for name in ("recall", "fpr", "false_alarms_per_image"):
            row[f"{name}_low"], row[f"{name}_high"] = intervals[name]
        rows.append(row)
    return rows


def _without_numbers(texts: np.ndarray) -> np.ndarray:
    """Replace numbers in the reasons, so that reasons that differ only by a number become equal."""
    return np.array([re.sub(r"\d+(\.\d+)?", "#", str(text)) for text in texts])


def grouped_errors(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, threshold: float, *, of: int | None = None
) -> list[dict[str, Any]]:
    """Errors by the values of a text column (empty text: unknown), largest group first.

    Parameters
    ----------
    labels, scores, groups : numpy.ndarray
        (N,)
    threshold : float
    of : {None, 0, 1}
        Count only False cutouts (0), only True ones (1), or all (None).

    Returns
    -------
    list of dict
        group, n_true, n_false, fn, fp, error_rate.
    """
    table = pd.DataFrame({"group": np.asarray(groups).astype(str), "label": labels, "accepted": scores >= threshold})
    if of is not None:
        table = table[table["label"] == of]
    rows = []
    for name, part in table.groupby("group"):
        false, true = part[part["label"] == 0], part[part["label"] == 1]
        rows.append(
            {
                "group": name or "unknown",
                "n_true": len(true),
                "n_false": len(false),
                "fn": int((~true["accepted"]).sum()),
                "fp": int(false["accepted"].sum()),
                "error_rate": float(np.mean(part["accepted"] != (part["label"] == 1))),
            }
        )
    return sorted(rows, key=lambda row: (-row["n_true"] - row["n_false"], row["group"]))
