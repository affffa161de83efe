"""Abstention: a classifier that leaves the least certain candidates undecided.

A candidate is called True from a probability of `high` on, False below `low`, and is left
undecided between. The interval is set on tune for a stated coverage, the share of
candidates that are decided, and is fixed when test is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from otrain_core.errors import CubeError
from otrain_core.evaluation.calibrate import logit
from otrain_core.evaluation.metrics import check_scores, rates

if TYPE_CHECKING:  # a classifier at work reads no table
    import pandas as pd

MEASURED = ("coverage", "coverage_true", "coverage_false", "accuracy", "precision", "recall", "fpr", "f1", "mcc")


@dataclass(frozen=True)
class Abstention:
    """Undecided is a probability p with low < p < high.

    Attributes
    ----------
    low, high : float
        Calibrated probabilities, threshold between them; equal where all are decided.
    threshold : float
        Decision threshold, as a calibrated probability: what is decided is decided as
        without abstention.
    coverage : float
        Share of candidates wanted decided.
    """

    low: float
    high: float
    threshold: float
    coverage: float

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """1 (True), 0 (False) or -1 (undecided), int8, for calibrated probabilities."""
        probabilities = np.asarray(probabilities, dtype=float)
        decision = (probabilities >= self.threshold).astype(np.int8)
        decision[(probabilities > self.low) & (probabilities < self.high)] = -1
        return decision


def fit_abstention(probabilities: np.ndarray, *, threshold: float, coverage: float = 0.95) -> Abstention:
    """Set the interval of abstention on tune.

    Undecided are the candidates whose log odds are nearest to those of the threshold, the
    rule of Chow 1970 for costs that set this threshold. Its half-width is the k-th smallest
    distance among n, k = floor((1 - coverage) (n + 1)): a candidate drawn like
    those of tune is then decided with a probability of at least `coverage` (the rank of
    split conformal prediction, Vovk et al. 2005). Candidates of a new image are not
    drawn quite so: the coverage reached on test is to be quoted beside the stated one.

    Parameters
    ----------
    probabilities : array
        (N,) calibrated, of the set tune.
    threshold : float
        Decision threshold, as a calibrated probability.
    coverage : float
        Above 0, at most 1.

    Returns
    -------
    Abstention

    Raises
    ------
    CubeError
        No probabilities, or one that is not in [0, 1].
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must be above 0 and at most 1, not {coverage}")
    probabilities = np.asarray(probabilities, dtype=float)
    check_scores(np.zeros(probabilities.shape), probabilities)
    centre = float(logit(threshold))
    distance = np.sort(np.abs(logit(probabilities) - centre))
    rank = min(int(np.floor((1 - coverage) * (distance.size + 1) + 1e-9)), distance.size)
    # A hair less: the candidate at this distance is decided, whichever way the sigmoid rounds.
    width = distance[rank - 1] * (1 - 1e-9) if rank else 0.0
    low, high = (float(1 / (1 + np.exp(-(centre + side * width)))) for side in (-1, 1))
    return Abstention(low, high, float(threshold), float(coverage))


def evaluate_abstention(
    labels: np.ndarray,
    probabilities: np.ndarray,
    images: np.ndarray,
    rule: Abstention,
    *,
    rng: np.random.Generator,
    draws: int = 1000,
    confidence: float = 0.95,
) -> dict[str, float]:
    """Coverage reached, and the metrics of what was decided, with intervals by image.

    Parameters
    ----------
    labels, probabilities, images : array
        (N,) labels, calibrated probabilities and names of the images, of the set test.
    rule : Abstention
        From `fit_abstention` on tune.
    rng : numpy.random.Generator
    draws, confidence : int, float
        Bootstrap draws of whole images, and confidence of the percentile intervals.

    Returns
    -------
    dict
        stated_coverage, low, high, threshold, n, n_undecided, each of `MEASURED` with
        _low and _high (coverage_true and coverage_false are those of a class, the rest
        but coverage counts decided candidates only; NaN where undefined), mcc_all,
        recall_all and fpr_all with everything decided, and errors_undecided, the share of the
        errors so made that abstention spares (NaN without errors).

    Raises
    ------
    CubeError
        As `otrain_core.evaluation.metrics.check_scores`, or columns of different lengths.
    """
    labels, probabilities = check_scores(labels, probabilities)
    names, image = np.unique(np.asarray(images).astype(str), return_inverse=True)
    if image.shape != labels.shape:
        raise CubeError(f"{len(labels)} labels and {len(image)} images do not fit together")
    decision = rule.decide(probabilities)
    # Of each image: tp, fp, fn, tn, undecided True, undecided False.
    outcome = np.where(decision < 0, 5 - labels, np.where(decision == 1, 1 - labels, 3 - labels))
    counts = np.zeros((len(names), 6))
    np.add.at(counts, (image, outcome), 1)
    values = _measure(counts.sum(axis=0))
    every = (probabilities >= rule.threshold).astype(int)
    all_decided = rates(
        **{
            name: np.sum((every == called) & (labels == true))
            for name, called, true in (("tp", 1, 1), ("fp", 1, 0), ("fn", 0, 1), ("tn", 0, 0))
        }
    )
    wrong = every != labels
    record = {
        **{"stated_coverage": rule.coverage, "low": rule.low, "high": rule.high, "threshold": rule.threshold},
        **{"n": int(labels.size), "n_undecided": int(np.sum(decision < 0))},
        **{name: float(values[name]) for name in MEASURED},
        **{f"{name}_all": all_decided[name] for name in ("mcc", "recall", "fpr")},
        "errors_undecided": float(np.mean(decision[wrong] < 0)) if wrong.any() else np.nan,
    }
    drawn = np.full((len(MEASURED), 1), np.nan)
    if len(names) > 1:
        weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
        sampled = _measure((weights @ counts).T)
        drawn = np.stack([sampled[name] for name in MEASURED])
    for name, sample in zip(MEASURED, drawn, strict=True):
        finite = sample[np.isfinite(sample)]
        usable = 2 * finite.size >= sample.size and finite.size
        tails = np.percentile(finite, [50 * (1 - confidence), 50 * (1 + confidence)]) if usable else (np.nan, np.nan)
        record |= {f"{name}_low": float(tails[0]), f"{name}_high": float(tails[1])}
    return record


def _measure(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of `MEASURED` from tp, fp, fn, tn, undecided True and False along the first axis."""
    tp, fp, fn, tn, left_true, left_false = counts
    true, false = tp + fn, fp + tn
    with np.errstate(invalid="ignore", divide="ignore"):
        return rates(tp, fp, fn, tn) | {
            "coverage": (true + false) / (true + false + left_true + left_false),
            "coverage_true": true / (true + left_true),
            "coverage_false": false / (false + left_false),
        }


def coverage_curve(
    tune: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    *,
    threshold: float,
    coverages: Sequence[float] = tuple(np.round(np.arange(0.5, 1.0001, 0.025), 3)),
) -> pd.DataFrame:
    """What other coverages would give: risk against coverage (El-Yaniv & Wiener 2010).

    Parameters
    ----------
    tune : array
        (M,) calibrated probabilities of tune, on which every interval is set.
    labels, probabilities : array
        (N,) of test.
    threshold : float
    coverages : sequence of float

    Returns
    -------
    pandas.DataFrame
        stated_coverage, low, high, coverage, accuracy, recall, fpr, mcc.
    """
    import pandas as pd

    labels, probabilities = check_scores(labels, probabilities)
    rows = []
    for stated in coverages:
        rule = fit_abstention(tune, threshold=threshold, coverage=float(stated))
        decision = rule.decide(probabilities)
        outcome = np.where(decision < 0, 5 - labels, np.where(decision == 1, 1 - labels, 3 - labels))
        found = _measure(np.bincount(outcome, minlength=6).astype(float))
        row = {"stated_coverage": float(stated), "low": rule.low, "high": rule.high}
        rows.append(row | {name: float(found[name]) for name in ("coverage", "accuracy", "recall", "fpr", "mcc")})
    return pd.DataFrame(rows)
