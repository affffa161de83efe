"""Abstention: the classifier leaves the least certain candidates undecided.

A candidate is called True at a probability of at least `high`, False at no more than `low`, and is left
undecided in between. The interval is set on the validation set for a stated coverage, the fraction of
candidates that are decided, and is kept when the test set is scored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otrain_core.evaluation.bootstrap import draw_images, percentile_interval
from otrain_core.evaluation.calibrate import logit
from otrain_core.evaluation.metrics import check_scores, number_images, rates

MEASURED = ("coverage", "coverage_true", "coverage_false", "accuracy", "precision", "recall", "fpr", "f1", "mcc")


@dataclass(frozen=True)
class Abstention:
    """A rule that leaves candidates with a probability p undecided if low < p < high.

    Attributes
    ----------
    low, high : float
        Calibrated probabilities, with the threshold between them; equal if all candidates are decided.
    threshold : float
        Decision threshold, as a calibrated probability: it decides the other candidates,
        as without abstention.
    coverage : float
        Stated fraction of candidates that are decided.
    """

    low: float
    high: float
    threshold: float
    coverage: float

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Decisions from calibrated probabilities: int8, 1 (True), 0 (False) or -1 (undecided)."""
        probabilities = np.asarray(probabilities, dtype=float)
        decision = (probabilities >= self.threshold).astype(np.int8)
        decision[(probabilities > self.low) & (probabilities < self.high)] = -1
        return decision


def fit_abstention(probabilities: np.ndarray, *, threshold: float, coverage: float) -> Abstention:
    """Set the interval of abstention on the validation set.

    The candidates whose log odds are nearest to those of the threshold are undecided, which is the
    rule of Chow 1970 for the costs that imply this threshold. The half-width of the interval is the k-th smallest
    of the n distances, with k = floor((1 - coverage) (n + 1)): a candidate from the distribution of
    the validation set is then decided with a probability of at least `coverage` (the rank of
    split conformal prediction, Vovk et al. 2005). Candidates of a new image do not follow this distribution
    exactly, so quote the coverage reached on the test set together with the stated one.

    Parameters
    ----------
    probabilities : array
        (N,) calibrated probabilities of the validation set.
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
        There are no probabilities, or one is not in [0, 1].
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must be above 0 and at most 1, not {coverage}")
    probabilities = np.asarray(probabilities, dtype=float)
    check_scores(np.zeros(probabilities.shape), probabilities)
    centre = float(logit(np.asarray(threshold)))
    distance = np.sort(np.abs(logit(probabilities) - centre))
    rank = min(int(np.floor((1 - coverage) * (distance.size + 1) + 1e-9)), distance.size)
    # Slightly less, so that the candidate at this distance is decided whichever way the sigmoid rounds.
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
    draws: int,
    confidence: float,
) -> dict[str, float]:
    """Coverage reached, and the metrics of the decided candidates, with intervals over images.

    Parameters
    ----------
    labels, probabilities, images : array
        (N,) labels, calibrated probabilities and image names of the test set.
    rule : Abstention
        From `fit_abstention` on the validation set.
    rng : numpy.random.Generator
    draws, confidence : int, float
        Number of bootstrap draws of whole images, and confidence of the percentile intervals.

    Returns
    -------
    dict
        stated_coverage, low, high, threshold, n, n_undecided, each of `MEASURED` with
        _low and _high (coverage_true and coverage_false are those of a class; all but the
        coverages count decided candidates only; NaN where undefined), mcc_all,
        recall_all and fpr_all with all candidates decided, and errors_undecided, the fraction of
        the errors made in that case that abstention avoids (NaN without errors).

    Raises
    ------
    CubeError
        As `otrain_core.evaluation.metrics.check_scores`, or columns of different lengths.
    """
    labels, probabilities = check_scores(labels, probabilities)
    names, image = number_images(images, labels)
    decision = rule.decide(probabilities)
    # Counts of each image: tp, fp, fn, tn, undecided True, undecided False.
    outcome = np.where(decision < 0, 5 - labels, np.where(decision == 1, 1 - labels, 3 - labels))
    counts = np.zeros((len(names), 6))
    np.add.at(counts, (image, outcome), 1)
    values = _measure(counts.sum(axis=0))
    every = (probabilities >= rule.threshold).astype(int)
    all_decided = rates(
        tp=np.sum((every == 1) & labels),
        fp=np.sum((every == 1) & ~labels),
        fn=np.sum((every == 0) & labels),
        tn=np.sum((every == 0) & ~labels),
    )
    wrong = every != labels
    measured = {name: float(values[name]) for name in MEASURED}
    measured |= {f"{name}_all": all_decided[name] for name in ("mcc", "recall", "fpr")}
    record = {
        "stated_coverage": rule.coverage,
        "low": rule.low,
        "high": rule.high,
        "threshold": rule.threshold,
        "n": int(labels.size),
        "n_undecided": int(np.sum(decision < 0)),
        **measured,
        "errors_undecided": float(np.mean(decision[wrong] < 0)) if wrong.any() else np.nan,
    }
    drawn = _measure((draw_images(len(names), rng=rng, draws=draws) @ counts).T)
    for name in MEASURED:
        record[f"{name}_low"], record[f"{name}_high"] = percentile_interval(drawn[name], confidence)
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
