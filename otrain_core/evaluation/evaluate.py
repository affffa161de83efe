"""Evaluation of a trained network: scores, threshold, metrics with intervals, curves, a baseline."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.cubes.inputs import column
from otrain_core.errors import CubeError
from otrain_core.evaluation import metrics
from otrain_core.evaluation.abstain import evaluate_abstention, fit_abstention
from otrain_core.evaluation.bootstrap import bootstrap_intervals
from otrain_core.evaluation.calibrate import choose_calibration
from otrain_core.evaluation.reality import reality_gap
from otrain_core.evaluation.thresholds import RULES, best_threshold

PROPERTIES = {"magnitude": "mags", "magnitude_error": "errmags", "snr": "snr"}
CURVE_COLUMNS = ("curve", "x", "y", "threshold", "bin")
REALITY = ("n_real", "recall_real", "recall_injected", "reality_gap", "reality_gap_low", "reality_gap_high")
_GRID = np.linspace(0, 1, 201)


def scored_false_share(table: pd.DataFrame) -> float:
    """Share of the False of the test images that stands in test.

    Below 1 where the split deals single cutouts, or leaves part of an image unused.
    """
    false = table[(table["label"] == 0) & table["image"].isin(table.loc[table["set"] == "test", "image"])]
    return float(np.mean(false["set"] == "test")) if len(false) else 1.0


def evaluate_scores(
    table: pd.DataFrame,
    cube: dict[str, np.ndarray],
    *,
    rng: np.random.Generator,
    threshold_rule: str = "platt",
    protocol: str = "grouped",
    bootstrap: int = 1000,
    confidence: float = 0.95,
    stated_recall: float = 0.95,
    bins: int = 4,
    coverage: float = 0.95,
    kept_false: float = 1.0,
    real_stars: pd.DataFrame | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Metrics of a table of scores.

    Under the protocol ``grouped`` the threshold and the calibration come from the set
    tune and all metrics from test. Under ``paper`` both come from the set test, as in
    Makhlouf et al. 2022, so that its numbers flatter the model.

    Parameters
    ----------
    table : pandas.DataFrame
        As `score_cube` returns it.
    cube : dict of arrays
        mags, errmags, snr, fwhms, seeing, artefacts, reasons as far as it has them.
    rng : numpy.random.Generator
        For the bootstrap by image.
    threshold_rule : {'gmean', 'f1', 'f1-mcc', 'platt'}
    protocol : {'grouped', 'paper'}
    bootstrap, confidence, stated_recall, bins
        Draws, confidence of the intervals, recall at which an FPR is quoted, number of
        bins of magnitude, magnitude error and S/N.
    coverage : float
        Share of the candidates that the classifier decides, see `otrain_core.evaluation.abstain`.
    kept_false : float
        Share of the False candidates that balancing kept, see `kept_false_share`; false
        alarms per image are scaled up by it, and by `scored_false_share`.
    real_stars : pandas.DataFrame, optional
        As `score_real_stars` returns it, for the gap between simulation and reality.

    Returns
    -------
    record : dict
        headline (numbers, each with _low and _high), confusion, thresholds (all rules,
        with what each gives), purity, calibration, abstention, accuracy_gap, bins, artefacts,
        reasons, reality (see `otrain_core.evaluation.reality.reality_gap`), kinds (errors by kind of
        place of the injection), baseline, data.
    curves : pandas.DataFrame
        curve, x, y, threshold, bin ('' for all; else the range of magnitudes).

    Raises
    ------
    CubeError
        The set that gives the threshold lacks a class, or nothing is in test.
    """
    tune_set = "test" if protocol == "paper" else "tune"
    tune, test = table[table["set"] == tune_set], table[table["set"] == "test"]
    for name, part in ((tune_set, tune), ("test", test)):
        if part.empty:
            raise CubeError(f"the set {name} is empty: there is nothing to evaluate")
    thresholds = {rule: best_threshold(tune["label"], tune["score"], rule) for rule in RULES}
    threshold = thresholds[threshold_rule]
    labels, scores, rows = test["label"].to_numpy(), test["score"].to_numpy(float), test["index"].to_numpy()
    shared = {"stated_recall": stated_recall, "kept_false": kept_false * scored_false_share(table)}
    headline = metrics.headline(labels, scores, threshold, n_images=test["image"].nunique(), **shared)
    intervals = bootstrap_intervals(
        *(labels, scores, test["image"].to_numpy(), threshold),
        rng=rng,
        draws=bootstrap,
        confidence=confidence,
        **shared,
    )
    for name, (low, high) in intervals.items():
        headline |= {f"{name}_low": low, f"{name}_high": high}
    baseline = baseline_cut(cube, table)
    headline |= {"stated_recall": stated_recall, "baseline_mcc": baseline["mcc"]}
    reality: dict[str, Any] = {}
    if real_stars is not None:
        found = test[test["label"] == 1]
        injected = found[["image", "score"]].assign(mag=column(cube, "mags")[found["index"].to_numpy()])
        reality = reality_gap(
            injected, real_stars, threshold=threshold, rng=rng, draws=bootstrap, confidence=confidence
        )
    headline |= {key: reality.get(key, np.nan) for key in REALITY}
    calibration, losses = choose_calibration(tune["label"], tune["score"], tune["image"])
    calibrated = calibration.apply(scores)
    decisive = float(calibration.apply([threshold])[0])
    rule = fit_abstention(calibration.apply(tune["score"]), threshold=decisive, coverage=coverage)
    abstention = evaluate_abstention(
        labels, calibrated, test["image"], rule, rng=rng, draws=bootstrap, confidence=confidence
    )
    record = {
        "protocol": protocol,
        "threshold_rule": threshold_rule,
        "threshold_set": tune_set,
        "scored_set": "test",
        "confidence": confidence,
        "bootstrap": bootstrap,
        "headline": headline,
        "confusion": metrics.confusion(labels, scores, threshold),
        "thresholds": {
            rule: {"threshold": value, **metrics.rates(**metrics.confusion(labels, scores, value))}
            for rule, value in thresholds.items()
        },
        "purity": {
            f"{100 * share:g}% real": metrics.purity(headline["recall"], headline["fpr"], share)
            for share in metrics.REAL_FRACTIONS
        },
        "calibration": {
            **calibration.to_record(),
            **{"log_loss": losses, "ece_before": headline["ece"], "ece_after": metrics.ece(labels, calibrated)},
        },
        "abstention": abstention,
        "accuracy_gap": _accuracy_gap(table, threshold, tune_set),
        "bins": {
            name: metrics.binned_metrics(labels, scores, column(cube, key)[rows], threshold, bins=bins).to_dict(
                "records"
            )
            for name, key in PROPERTIES.items()
        },
        "artefacts": grouped_errors(labels, scores, column(cube, "artefacts", "")[rows], threshold, of=0),
        "reasons": grouped_errors(labels, scores, _without_numbers(column(cube, "reasons", "")[rows]), threshold),
        "kinds": grouped_errors(labels, scores, column(cube, "kinds", "")[rows], threshold, of=1),
        "reality": reality,
        "baseline": baseline,
        "data": {
            "kept_false": kept_false,
            "scored_false": scored_false_share(table),
            "images": {name: int(part["image"].nunique()) for name, part in table.groupby("set")},
            "true": {name: int(part["label"].sum()) for name, part in table.groupby("set")},
            "false": {name: int((part["label"] == 0).sum()) for name, part in table.groupby("set")},
        },
    }
    return record, curves(labels, scores, calibrated, column(cube, "mags")[rows], bins=bins)


def _accuracy_gap(table: pd.DataFrame, threshold: float, tune_set: str) -> dict[str, float]:
    """Accuracy of each set at the threshold, dropout off, and what train is ahead of tune."""
    accuracy = {
        name: float(np.mean((part["score"] >= threshold) == (part["label"] == 1)))
        for name, part in table.groupby("set")
        if name != "unused"
    }
    return {**accuracy, "train_minus_tune": accuracy.get("train", np.nan) - accuracy[tune_set]}


def _without_numbers(texts: np.ndarray) -> np.ndarray:
    """Reasons that differ by a number only (of the injection, its distance) become one."""
    return np.array([re.sub(r"\d+(\.\d+)?", "#", str(text)) for text in texts])


def grouped_errors(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, threshold: float, *, of: int | None = None
) -> list[dict[str, Any]]:
    """Errors by a text column (empty text: unknown), commonest group first.

    With ``of=0`` only False cutouts count, with ``of=1`` only True ones.
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
                **{"n_true": len(true), "n_false": len(false)},
                **{"fn": int((~true["accepted"]).sum()), "fp": int(false["accepted"].sum())},
                "error_rate": float(np.mean(part["accepted"] != (part["label"] == 1))),
            }
        )
    return sorted(rows, key=lambda row: (-row["n_true"] - row["n_false"], row["group"]))


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


def curves(
    labels: np.ndarray, scores: np.ndarray, calibrated: np.ndarray, mags: np.ndarray, *, bins: int = 4
) -> pd.DataFrame:
    """The curves of Makhlouf et al. 2022, Fig. 10, as one table.

    Returns
    -------
    pandas.DataFrame
        Columns `CURVE_COLUMNS`. curve is one of ``roc`` (x FPR, y recall; also in bins
        of magnitude), ``pr`` (recall, precision), ``f1-mcc`` (F1, MCC), ``f1`` and
        ``mcc`` (x is the threshold), ``calibration`` and ``calibration_after`` (mean
        score, share of True).
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
    """Which points of a staircase are needed to draw it."""
    keep = np.ones(x.size, dtype=bool)
    keep[1:-1] = (np.diff(x, 2) != 0) | (np.diff(y, 2) != 0)
    return keep
