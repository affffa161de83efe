"""Evaluation of a trained network: scores, threshold, metrics with intervals, curves, and the fixed cuts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.arrays import read_stack
from otrain_core.cubes.cube_format import kept_false_share
from otrain_core.cubes.inputs import column
from otrain_core.errors import CubeError
from otrain_core.evaluation import metrics
from otrain_core.evaluation.abstain import evaluate_abstention, fit_abstention
from otrain_core.evaluation.bootstrap import FEW_IMAGES
from otrain_core.evaluation.calibrate import Calibration, choose_calibration
from otrain_core.evaluation.curves import curves
from otrain_core.evaluation.cuts import evaluate_cuts, paired_gain
from otrain_core.evaluation.groups import by_telescope, errors_by_property, errors_by_sign, image_intervals
from otrain_core.evaluation.label_trend import label_trend
from otrain_core.evaluation.reality import reality_gap
from otrain_core.evaluation.thresholds import RULES, best_threshold
from otrain_core.io import read_json, read_table, write_json, write_table
from otrain_core.plan.config import EvaluateOptions

REALITY = ("n_real", "recall_real", "recall_injected", "reality_gap", "reality_gap_low", "reality_gap_high")


def evaluate_files(
    *,
    cube: str | Path,
    cube_record: str | Path,
    real_stars: str | Path,
    split: str | Path,
    split_record: str | Path,
    model: str | Path,
    train_record: str | Path,
    scores: str | Path,
    metrics: str | Path,
    curves: str | Path,
    load_model: Callable[..., Any],
    score_cube: Callable[..., pd.DataFrame],
    score_real_stars: Callable[..., pd.DataFrame],
    options: EvaluateOptions,
    threshold_rule: str,
    protocol: str,
    seed: int,
    experiment_name: str = "",
    shipped: str | Path | None = None,
) -> None:
    """Score a cube with a trained network; write scores, metrics and curves (step `evaluate`).

    Parameters
    ----------
    cube, cube_record, real_stars, split, split_record, model, train_record : path
        ``cube.npz``, ``cube.json``, ``real_stars.npz``, the split's CSV, ``split.json``, ``model.keras``,
        ``train.json``.
    scores, metrics, curves : path
        Files to write: CSV, JSON and CSV.
    load_model, score_cube, score_real_stars : callable
        Functions of `otrain_core.networks`, which this package may not import.
    options : EvaluateOptions
    threshold_rule, protocol : str
        As in `evaluate_scores`.
    seed : int
        Seed of the bootstrap.
    experiment_name : str
        Name of the experiment, for the record.
    shipped : path, optional
        Scores of the shipped model on the cube, as from `otrain_core.classify.shipped_scores.shipped_files`.

    Raises
    ------
    CubeError
        As `evaluate_scores`, or the network cannot read the cube.
    """
    arrays, trained, network = read_stack(cube, mmap=("cube",)), read_json(train_record), load_model(model)
    table = score_cube(network, arrays, read_table(split))
    check = score_real_stars(network, read_stack(real_stars, mmap=("cube",)), table) if protocol == "by-image" else None
    result, points = evaluate_scores(
        table,
        arrays,
        rng=np.random.default_rng(seed),
        options=options,
        threshold_rule=threshold_rule,
        protocol=protocol,
        kept_false=kept_false_share(read_json(cube_record)),
        real_stars=check,
        sky_unknown=read_json(split_record).get("sky") == "unknown",
        shipped=read_table(shipped) if shipped else None,
    )
    result["headline"]["train_seconds"] = trained["train_seconds"]
    labels = read_json(cube_record).get("labels") or {}
    result["label_trend"] = label_trend(labels.get("by_snr") or [], confidence=options.confidence)
    if result["label_trend"].get("trend"):
        logging.getLogger("otrain").warning("%s", result["label_trend"]["sentence"])
    about: dict[str, Any] = {key: str(arrays[key]) for key in ("telescope", "pipeline") if key in arrays}
    write_table(scores, table)
    write_json(metrics, {**about, "experiment": experiment_name, "seed": trained["seed"], **result})
    write_table(curves, points)


def scored_false_share(table: pd.DataFrame) -> float:
    """Fraction of the False of the test images that are in the test set.

    It is below 1 if the split is by cutout, or if part of an image is unused.
    """
    false = table[(table["label"] == 0) & table["image"].isin(table.loc[table["set"] == "test", "image"])]
    return float(np.mean(false["set"] == "test")) if len(false) else 1.0


def evaluate_scores(
    table: pd.DataFrame,
    cube: dict[str, np.ndarray],
    *,
    rng: np.random.Generator,
    options: EvaluateOptions,
    threshold_rule: str = "platt",
    protocol: str = "by-image",
    kept_false: float = 1.0,
    real_stars: pd.DataFrame | None = None,
    sky_unknown: bool = False,
    shipped: pd.DataFrame | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Metrics of a table of scores.

    With the protocol ``by-image`` the threshold and the calibration come from the validation
    set and all metrics from the test set. With ``random`` both come from the test set, as in
    Makhlouf et al. 2022, so the numbers are too optimistic.

    Parameters
    ----------
    table : pandas.DataFrame
        As from `otrain_core.networks.predict.score_cube`.
    cube : dict of arrays
        mags, errmags, snr, fwhms, seeing, artefacts and reasons, as far as the cube has them.
    rng : numpy.random.Generator
        For the bootstrap over images.
    options : EvaluateOptions
    threshold_rule : str
        One of `otrain_core.evaluation.thresholds.RULES`.
    protocol : {'by-image', 'random'}
    kept_false : float
        Fraction of the False candidates that balancing kept, see `otrain_core.cubes.cube_format.kept_false_share`; false
        alarms per image are divided by it, and by `scored_false_share`.
    real_stars : pandas.DataFrame, optional
        As from `otrain_core.networks.predict.score_real_stars`, for the gap between simulation and reality.
    sky_unknown : bool
        It is not known which images show the same sky, so a star may be in both train and test.
    shipped : pandas.DataFrame, optional
        index, score and threshold of the shipped model; without rows if the model does not fit the cube.

    Returns
    -------
    record : dict
        headline (numbers, each with _low and _high), interval (images: from draws of whole images and from counts;
        counts: from counts alone, with fewer than `FEW_IMAGES` images), confusion, thresholds (every rule
        with its metrics), purity (by fraction of real candidates: value, NaN if no False was accepted, low
        and high), calibration, abstention, accuracy_gap, bins, artefacts,
        reasons, reality (see `otrain_core.evaluation.reality.reality_gap`), kinds (errors by kind of
        place of the injection), baseline, shipped (headline of the shipped model on the same cutouts, and gain: MCC
        of the network minus its MCC), data, signs (see `otrain_core.evaluation.groups.errors_by_sign`). For a cube of
        several telescopes also telescopes (see `otrain_core.evaluation.groups.by_telescope`).
    curves : pandas.DataFrame
        As from `otrain_core.evaluation.curves.curves`.

    Raises
    ------
    CubeError
        The set that gives the threshold lacks a class, the test set is empty, or `shipped` is of another cube.
    """
    validation_set = "test" if protocol == "random" else "validation"
    validation, test = _filled_set(table, validation_set), _filled_set(table, "test")
    thresholds = {rule: best_threshold(validation["label"], validation["score"], rule) for rule in RULES}
    threshold = thresholds[threshold_rule]
    labels, scores, rows = test["label"].to_numpy(), test["score"].to_numpy(float), test["index"].to_numpy()
    share = kept_false * scored_false_share(table)
    headline = _headline(test, threshold, rng, options, share)
    reality = _reality(test, cube, real_stars, threshold, rng, options)
    calibration, chosen = choose_calibration(validation["label"], validation["score"], validation["image"])
    calibrated = calibration.apply(scores)
    before_and_after = {"ece_before": headline["ece"], "ece_after": metrics.ece(labels, calibrated)}
    abstention = _abstention(validation, test, calibration, threshold, rng, options)
    baseline = evaluate_cuts(cube, table, threshold=threshold, rng=rng, options=options, kept_false=share)
    other = _shipped(test, shipped, threshold, rng, options, share)
    headline |= {"stated_recall": options.stated_recall, "sky_unknown": float(sky_unknown)}
    headline |= _headline_beside(reality, baseline, other)
    record = {
        "protocol": protocol,
        "threshold_rule": threshold_rule,
        "threshold_set": validation_set,
        "scored_set": "test",
        "confidence": options.confidence,
        "bootstrap": options.bootstrap,
        "interval": "images" if headline["n_images"] >= FEW_IMAGES else "counts",
        "headline": headline,
        "confusion": metrics.confusion(labels, scores, threshold),
        "thresholds": _by_rule(thresholds, labels, scores),
        "purity": _purity(headline),
        "calibration": calibration.to_record() | chosen | before_and_after,
        "abstention": abstention,
        "accuracy_gap": _accuracy_gap(table, threshold, validation_set),
        **errors_by_property(labels, scores, cube, rows, threshold, options.bins),
        "reality": reality,
        "baseline": baseline,
        "shipped": other,
        "data": _data(table, kept_false),
        "signs": errors_by_sign(test, threshold, rng=rng, options=options, kept_false=share),
    }
    if "telescopes" in cube:
        owners = np.asarray(cube["telescopes"])[rows].astype(str)
        record["telescopes"] = by_telescope(labels, scores, owners, threshold, rng=rng, options=options)
    return record, curves(labels, scores, calibrated, column(cube, "mags")[rows], bins=options.bins)


def _filled_set(table: pd.DataFrame, name: str) -> pd.DataFrame:
    part = table[table["set"] == name]
    if part.empty:
        raise CubeError(f"the {name} set is empty: there is nothing to evaluate")
    return part


def _headline_beside(reality: dict[str, Any], baseline: dict[str, Any], shipped: dict[str, float]) -> dict[str, float]:
    """Headline numbers of real stars, of the fixed cuts and of the shipped model; NaN if not known."""
    rivals = {"baseline_mcc": baseline["mcc"]} | {key: baseline[key] for key in ("gain", "gain_low", "gain_high")}
    rivals |= {f"shipped_{key}": shipped.get(key, np.nan) for key in ("mcc", "gain", "gain_low", "gain_high")}
    return {key: reality.get(key, np.nan) for key in REALITY} | rivals


def _by_rule(thresholds: dict[str, float], labels: np.ndarray, scores: np.ndarray) -> dict[str, dict[str, float]]:
    """The threshold of each rule and its metrics."""
    return {
        rule: {"threshold": value, **metrics.rates(**metrics.confusion(labels, scores, value))}
        for rule, value in thresholds.items()
    }


def _headline(
    test: pd.DataFrame, threshold: float, rng: np.random.Generator, options: EvaluateOptions, kept_false: float
) -> dict[str, float]:
    """Headline numbers of the test set with intervals; `kept_false` is the fraction of all False that it contains."""
    labels, scores = test["label"].to_numpy(), test["score"].to_numpy(float)
    values = metrics.headline(
        labels,
        scores,
        threshold,
        n_images=test["image"].nunique(),
        stated_recall=options.stated_recall,
        kept_false=kept_false,
    )
    for name, (low, high) in image_intervals(test, threshold, rng, options, kept_false).items():
        values |= {f"{name}_low": low, f"{name}_high": high}
    return values


def _shipped(
    test: pd.DataFrame,
    shipped: pd.DataFrame | None,
    threshold: float,
    rng: np.random.Generator,
    options: EvaluateOptions,
    kept_false: float,
) -> dict[str, float]:
    """Headline numbers of the shipped model on the test set, and the gain of the network over it; {} if not scored."""
    if shipped is None or shipped.empty:
        return {}
    scores = shipped.set_index("index")["score"].reindex(test["index"]).to_numpy(float)
    if not np.isfinite(scores).all():
        raise CubeError("the scores of the shipped model belong to another cube: run the step `shipped` again")
    own = float(shipped["threshold"].iloc[0])
    row = _headline(test.assign(score=scores), own, rng, options, kept_false)
    called, true = test["score"].to_numpy(float) >= threshold, test["label"].to_numpy() == 1
    return row | paired_gain(true, called, scores >= own, test["image"].to_numpy(), rng=rng, options=options)


def _purity(headline: dict[str, float]) -> dict[str, dict[str, float]]:
    """Fraction of accepted candidates that are real, for given fractions among all candidates.

    Without an accepted False it would be 1 for any size of the test set, so the value is NaN and only the lower end
    of its interval is informative.
    """
    found = {}
    for share in metrics.REAL_FRACTIONS:
        known = headline["fpr"] > 0
        found[f"{100 * share:g} % real"] = {
            "value": metrics.purity(headline["recall"], headline["fpr"], share) if known else np.nan,
            "low": metrics.purity(headline["recall_low"], headline["fpr_high"], share),
            "high": metrics.purity(headline["recall_high"], headline["fpr_low"], share),
        }
    return found


def _reality(
    test: pd.DataFrame,
    cube: dict[str, np.ndarray],
    real_stars: pd.DataFrame | None,
    threshold: float,
    rng: np.random.Generator,
    options: EvaluateOptions,
) -> dict[str, Any]:
    """Gap between the recall on injected sources and on real stars; {} without real stars."""
    if real_stars is None:
        return {}
    found = test[test["label"] == 1]
    injected = found[["image", "score"]].assign(mag=column(cube, "mags")[found["index"].to_numpy()])
    return reality_gap(
        injected, real_stars, threshold=threshold, rng=rng, draws=options.bootstrap, confidence=options.confidence
    )


def _abstention(
    validation: pd.DataFrame,
    test: pd.DataFrame,
    calibration: Calibration,
    threshold: float,
    rng: np.random.Generator,
    options: EvaluateOptions,
) -> dict[str, float]:
    """Metrics with abstention, when only the fraction `coverage` of the candidates is decided."""
    decisive = float(calibration.apply(np.array([threshold]))[0])
    rule = fit_abstention(
        calibration.apply(validation["score"].to_numpy()), threshold=decisive, coverage=options.coverage
    )
    return evaluate_abstention(
        test["label"].to_numpy(),
        calibration.apply(test["score"].to_numpy(float)),
        test["image"].to_numpy(),
        rule,
        rng=rng,
        draws=options.bootstrap,
        confidence=options.confidence,
    )


def _data(table: pd.DataFrame, kept_false: float) -> dict[str, Any]:
    """Numbers of images, True and False of every set, and the fraction of all False that were kept."""
    sets = table.groupby("set")
    return {
        "kept_false": kept_false,
        "scored_false": scored_false_share(table),
        "images": {name: int(part["image"].nunique()) for name, part in sets},
        "true": {name: int(part["label"].sum()) for name, part in sets},
        "false": {name: int((part["label"] == 0).sum()) for name, part in sets},
    }


def _accuracy_gap(table: pd.DataFrame, threshold: float, validation_set: str) -> dict[str, float]:
    """Accuracy of each set at the threshold, without dropout, and its difference between train and validation."""
    accuracy = {
        name: float(np.mean((part["score"] >= threshold) == (part["label"] == 1)))
        for name, part in table.groupby("set")
        if name != "unused"
    }
    return {**accuracy, "train_minus_validation": accuracy.get("train", np.nan) - accuracy[validation_set]}
