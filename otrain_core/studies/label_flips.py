"""Labels flipped on purpose: what they cost, and how many are found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from otrain_core.evaluation import metrics
from otrain_core.evaluation.thresholds import best_threshold
from otrain_core.networks.train import train_model
from otrain_core.studies.label_noise import (
    RANKINGS,
    USED_SETS,
    find_suspects,
    label_quality,
    out_of_fold_scores,
    score_rows,
)


def flip_labels(labels: np.ndarray, rng: np.random.Generator, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Flip a share of the labels, the same share of either class.

    Parameters
    ----------
    labels : array
        (N,) 0 or 1.
    rng : numpy.random.Generator
    fraction : float
        At least 0, below 0.5.

    Returns
    -------
    labels : numpy.ndarray
        A copy, of the same dtype.
    flipped : numpy.ndarray
        bool (N,).
    """
    if not 0 <= fraction < 0.5:
        raise ValueError(f"fraction must be at least 0 and below 0.5, not {fraction}")
    labels = np.array(labels)
    flipped = np.zeros(labels.size, dtype=bool)
    for value in (0, 1):
        rows = np.flatnonzero(labels == value)
        flipped[rng.choice(rows, round(fraction * rows.size), replace=False)] = True
    labels[flipped] = 1 - labels[flipped]
    return labels, flipped


def measure_flips(flipped: np.ndarray, quality: np.ndarray, suspected: np.ndarray | None = None) -> dict[str, float]:
    """How many flipped labels a ranking finds.

    Parameters
    ----------
    flipped : array
        bool (N,), from `flip_labels`.
    quality : array
        (N,), lowest where most suspect.
    suspected : array, optional
        bool (N,) the cut that is made without knowing what was flipped.

    Returns
    -------
    dict
        n_flipped, recall_at_precision_80 (the largest share of the flips in a head of the ranking in which
        at least 80 % are flips; 0 where there is none), average_precision, and of the cut: n_suspected,
        precision, recall (NaN where undefined).
    """
    flipped, quality = np.asarray(flipped, dtype=bool), np.asarray(quality, dtype=float)
    n_flipped = int(flipped.sum())
    order = np.argsort(quality, kind="stable")
    hits = np.cumsum(flipped[order])
    last = np.append(np.diff(quality[order]) > 0, True)  # a cut cannot part equal values
    precision, recall = hits[last] / (np.flatnonzero(last) + 1), hits[last] / max(n_flipped, 1)
    enough = precision >= 0.8
    found: dict[str, float] = {
        "n_flipped": n_flipped,
        "recall_at_precision_80": float(recall[enough].max()) if enough.any() and n_flipped else 0.0,
        "average_precision": float(np.sum(precision * np.diff(recall, prepend=0))) if n_flipped else np.nan,
    }
    if suspected is not None:
        chosen = np.asarray(suspected, dtype=bool)
        both = int(np.sum(chosen & flipped))
        found["n_suspected"] = int(chosen.sum())
        found["precision"] = both / int(chosen.sum()) if chosen.any() else np.nan
        found["recall"] = both / n_flipped if n_flipped else np.nan
    return found


def flip_trial(
    cube: dict[str, np.ndarray],
    split: pd.DataFrame,
    *,
    rng: np.random.Generator,
    seed: int,
    fraction: float = 0.1,
    folds: int = 4,
    threshold_rule: str = "platt",
    **training: Any,
) -> dict[str, Any]:
    """What flipped labels of train and tune cost, and how many of them are found.

    Takes ``folds + 3`` trainings. Every model is scored on the test set with its own labels; the
    threshold comes from tune as the model knew it, flipped labels included.

    Parameters
    ----------
    cube, split, seed, folds, **training
        As `out_of_fold_scores`.
    rng : numpy.random.Generator
        Draws the flips and deals the folds.
    fraction : float
        Share of the labels of train and tune flipped.
    threshold_rule : str
        See `otrain_core.evaluation.metrics.best_threshold`.

    Returns
    -------
    dict
        fraction; mcc_clean, mcc_flipped and mcc_cleaned (suspected labels left out), mcc_loss and
        mcc_loss_cleaned (against clean); found: by ranking, the values of `measure_flips`; and the
        record of `find_suspects` as noise.
    """
    labels = np.asarray(cube["labels"])
    used = split.loc[split["set"].isin(USED_SETS), "index"].to_numpy(int)
    given, flipped = labels.copy(), np.zeros(len(labels), dtype=bool)
    given[used], flipped[used] = flip_labels(labels[used], rng, fraction)
    noisy = {**cube, "labels": given}
    scores = out_of_fold_scores(noisy, split, rng=rng, seed=seed, folds=folds, **training)
    suspects, noise = find_suspects(noisy, scores)
    where = suspects["index"].to_numpy(int)
    found = {
        ranking: measure_flips(
            flipped[where],
            label_quality(suspects["label"], suspects["score"], ranking=ranking),
            suspects["suspected"].to_numpy(),
        )
        for ranking in RANKINGS
    }
    kept = split[~split["index"].isin(suspects.loc[suspects["suspected"], "index"])]
    runs = {"clean": (cube, split), "flipped": (noisy, split), "cleaned": (noisy, kept)}
    mcc = {
        name: _test_mcc(*run, labels=labels, seed=seed, threshold_rule=threshold_rule, **training)
        for name, run in runs.items()
    }
    return {
        "fraction": fraction,
        **{f"mcc_{name}": value for name, value in mcc.items()},
        "mcc_loss": mcc["clean"] - mcc["flipped"],
        "mcc_loss_cleaned": mcc["clean"] - mcc["cleaned"],
        "found": found,
        "noise": noise,
    }


def _test_mcc(cube, split, *, labels, seed, threshold_rule, **training) -> float:
    model, _, _ = train_model(cube, split, seed=seed, **training)
    rows = {name: split.loc[split["set"] == name, "index"].to_numpy(int) for name in ("tune", "test")}
    scores = {name: score_rows(model, cube, index, training) for name, index in rows.items()}
    threshold = best_threshold(np.asarray(cube["labels"])[rows["tune"]], scores["tune"], threshold_rule)
    return metrics.rates(**metrics.confusion(labels[rows["test"]], scores["test"], threshold))["mcc"]
