"""Metrics of a binary classifier.

A candidate is accepted (called True) if its score is at least the threshold.
Labels are 1 (True) and 0 (False), scores are probabilities of True in [0, 1]. An
undefined metric is NaN, never 0: precision if nothing
is accepted, recall without any True, FPR without any False, MCC and F1 with one class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.errors import CubeError

if TYPE_CHECKING:  # a classifier does not need pandas
    import pandas as pd

MISSED = (0.01, 0.05)  # fractions of True that are missed, at which the FPR is given
REAL_FRACTIONS = (0.01, 0.001)  # fractions of real candidates for which the purity is given
ECE_BINS = 15
# Possible outcomes of a decision, by class.
OUTCOMES = ("right True", "right False", "wrong True", "wrong False")


def check_scores(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool and scores as float64, checked.

    Raises
    ------
    CubeError
        The lengths differ, there are no scores, a label is not 0 or 1, or a score is
        not in [0, 1].
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=float)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise CubeError(
            f"labels and scores must be one-dimensional and of the same length, not {labels.shape} and {scores.shape}"
        )
    if labels.size == 0:
        raise CubeError("there are no scores to evaluate")
    if not np.isin(labels, (0, 1)).all():
        raise CubeError("labels must be 0 (False) or 1 (True)")
    if not ((scores >= 0) & (scores <= 1)).all():  # catches NaN too
        raise CubeError("scores must be probabilities between 0 and 1, without missing values")
    return labels.astype(bool), scores


def number_images(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted names of the images, and the index of the image of each candidate.

    Raises
    ------
    CubeError
        The number of images differs from the number of labels.
    """
    names, image = np.unique(np.asarray(images).astype(str), return_inverse=True)
    if image.shape != labels.shape:
        raise CubeError(
            f"there are {len(labels)} labels and {len(image)} image names: one image name per label is needed"
        )
    return names, image


def confusion(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, int]:
    """Counts ``tp``, ``fp``, ``fn``, ``tn`` at a threshold."""
    labels, scores = check_scores(labels, scores)
    accepted = scores >= threshold
    return {
        "tp": int(np.sum(accepted & labels)),
        "fp": int(np.sum(accepted & ~labels)),
        "fn": int(np.sum(~accepted & labels)),
        "tn": int(np.sum(~accepted & ~labels)),
    }


def counts_at(labels: np.ndarray, scores: np.ndarray, thresholds: np.ndarray) -> dict[str, np.ndarray]:
    """Counts ``tp``, ``fp``, ``fn``, ``tn`` at each of several thresholds."""
    labels, scores = check_scores(labels, scores)
    true, false = np.sort(scores[labels]), np.sort(scores[~labels])
    fn, tn = np.searchsorted(true, thresholds), np.searchsorted(false, thresholds)
    return {"tp": true.size - fn, "fp": false.size - tn, "fn": fn, "tn": tn}


def rates(tp: Any, fp: Any, fn: Any, tn: Any) -> dict[str, Any]:
    """Accuracy, precision, recall, FPR, F1, MCC, g-mean and share of FP from the four counts.

    The counts are numbers or arrays of one shape, and so are the results. MCC is from
    Matthews 1975; g-mean is sqrt(recall (1 - FPR)); ``fp_share`` is FP / all.
    """
    tp, fp, fn, tn = (np.asarray(count, dtype=float) for count in (tp, fp, fn, tn))
    n = tp + fp + fn + tn
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, fpr = tp / (tp + fn), fp / (fp + tn)
        one_class = ((tp + fn) == 0) | ((fp + tn) == 0)
        # If all or none are accepted, the denominator of the MCC is 0 and its limit is 0 (chance).
        product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        mcc = np.where(product > 0, (tp * tn - fp * fn) / np.sqrt(np.where(product > 0, product, 1)), 0.0)
        result = {
            "accuracy": (tp + tn) / n,
            "precision": tp / (tp + fp),
            "recall": recall,
            "fpr": fpr,
            "f1": np.where(one_class, np.nan, 2 * tp / (2 * tp + fp + fn)),
            "mcc": np.where(one_class, np.nan, mcc),
            "gmean": np.sqrt(recall * (1 - fpr)),
            "fp_share": fp / n,
        }
    return {name: float(value) if np.ndim(value) == 0 else value for name, value in result.items()}


@dataclass
class ThresholdCurve:
    """Counts at every threshold at which they change, from the highest to the lowest.

    Attributes
    ----------
    thresholds : numpy.ndarray
        (K + 1,) decreasing: infinity (nothing accepted), then each distinct score.
    tp, fp : numpy.ndarray
        (K + 1,) accepted True and accepted False.
    n_true, n_false : int
    """

    thresholds: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    n_true: int
    n_false: int

    @property
    def fn(self) -> np.ndarray:
        """(K + 1,) rejected True."""
        return self.n_true - self.tp

    @property
    def tn(self) -> np.ndarray:
        """(K + 1,) rejected False."""
        return self.n_false - self.fp

    def rates(self) -> dict[str, np.ndarray]:
        """All metrics of `rates` along the curve: FPR and recall are the ROC, recall and precision the PR curve."""
        return rates(self.tp, self.fp, self.fn, self.tn)


def threshold_curve(labels: np.ndarray, scores: np.ndarray) -> ThresholdCurve:
    """Counts for the ROC, the precision-recall and the F1-MCC curves."""
    labels, scores = check_scores(labels, scores)
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(np.nonzero(np.diff(ordered))[0], ordered.size - 1)
    tp, fp = np.cumsum(labels[order]), np.cumsum(~labels[order])
    return ThresholdCurve(
        thresholds=np.concatenate([[np.inf], ordered[last]]),
        tp=np.concatenate([[0], tp[last]]),
        fp=np.concatenate([[0], fp[last]]),
        n_true=int(labels.sum()),
        n_false=int((~labels).sum()),
    )


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve; NaN with one class."""
    curve = threshold_curve(labels, scores)
    if curve.n_true == 0 or curve.n_false == 0:
        return np.nan
    return float(np.trapezoid(curve.tp / curve.n_true, curve.fp / curve.n_false))


def fpr_at_recall(labels: np.ndarray, scores: np.ndarray, recall: float) -> float:
    """Lowest FPR of the thresholds with at least this recall; NaN with one class."""
    curve = threshold_curve(labels, scores)
    if curve.n_true == 0 or curve.n_false == 0:
        return np.nan
    enough = curve.tp >= recall * curve.n_true - 1e-9
    return float(curve.fp[np.argmax(enough)] / curve.n_false)


def purity(recall: float, fpr: float, real_fraction: float) -> float:
    """Fraction of accepted candidates that are real, if the fraction `real_fraction` of all candidates is real."""
    accepted = recall * real_fraction + fpr * (1 - real_fraction)
    return float(recall * real_fraction / accepted) if accepted > 0 else np.nan


def calibration_curve(labels: np.ndarray, scores: np.ndarray, *, bins: int = ECE_BINS) -> pd.DataFrame:
    """Fraction of True against score, in bins of equal width.

    Returns
    -------
    pandas.DataFrame
        low, high, n, mean_score, true_fraction; one row for each bin that is not empty.
    """
    import pandas as pd

    labels, scores = check_scores(labels, scores)
    index = score_bin(scores, bins)
    n = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        table = pd.DataFrame(
            {
                "low": np.arange(bins) / bins,
                "high": np.arange(1, bins + 1) / bins,
                "n": n,
                "mean_score": np.bincount(index, scores, bins) / n,
                "true_fraction": np.bincount(index, labels, bins) / n,
            }
        )
    return table[table["n"] > 0].reset_index(drop=True)


def score_bin(scores: np.ndarray, bins: int) -> np.ndarray:
    """Index of the bin of each score, for `bins` bins of equal width over [0, 1]."""
    return np.minimum((scores * bins).astype(int), bins - 1)


def ece(labels: np.ndarray, scores: np.ndarray, *, bins: int = ECE_BINS) -> float:
    """Expected calibration error: mean |fraction of True - mean score| over bins of the score.

    The score is the probability of True, so this is the error of that probability, not
    of the confidence in the winning class (Guo et al. 2017 use the latter).
    """
    table = calibration_curve(labels, scores, bins=bins)
    gap = (table["true_fraction"] - table["mean_score"]).abs()
    return float((gap * table["n"]).sum() / table["n"].sum())


def false_alarms_per_image(n_false_positives: float, n_images: int, *, kept_false: float = 1.0) -> float:
    """Number of accepted False per image before balancing.

    Parameters
    ----------
    n_false_positives : float
        False positives in the evaluated part of the cube.
    n_images : int
        Number of images of that part.
    kept_false : float
        Fraction of all False candidates that the balanced cube contains. Balancing draws False
        at random, so the count in the cube is this fraction of the true one.
    """
    if n_images < 1 or not 0 < kept_false <= 1:
        return np.nan
    return float(n_false_positives / kept_false / n_images)


def cross_entropy(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Loss of each candidate, float64 (N,): minus the logarithm of the probability of its label."""
    labels, scores = np.asarray(labels), np.clip(np.asarray(scores, dtype=float), 1e-7, 1 - 1e-7)
    return -np.log(np.where(labels == 1, scores, 1 - scores))


def headline(
    labels: np.ndarray,
    scores: np.ndarray,
    threshold: float,
    *,
    n_images: int,
    stated_recall: float,
    kept_false: float = 1.0,
) -> dict[str, float]:
    """All headline numbers of one set of scores at a fixed threshold.

    Parameters
    ----------
    labels, scores : array
        (N,)
    threshold : float
    n_images : int
        Number of images of the candidates.
    stated_recall : float
        Recall for ``fpr_at_stated_recall``.
    kept_false : float
        As in `false_alarms_per_image`.

    Returns
    -------
    dict
        n_images, n_true, n_false, threshold, the metrics of `rates` except the g-mean, auc, loss,
        fpr_at_1pct_missed, fpr_at_5pct_missed, fpr_at_stated_recall, ece, false_alarms_per_image.
    """
    counts = confusion(labels, scores, threshold)
    values = rates(**counts)
    values.pop("gmean")
    return {
        "n_images": n_images,
        "n_true": counts["tp"] + counts["fn"],
        "n_false": counts["fp"] + counts["tn"],
        "threshold": float(threshold),
        **values,
        "auc": auc(labels, scores),
        "loss": float(cross_entropy(labels, scores).mean()),
        "fpr_at_1pct_missed": fpr_at_recall(labels, scores, 1 - MISSED[0]),
        "fpr_at_5pct_missed": fpr_at_recall(labels, scores, 1 - MISSED[1]),
        "fpr_at_stated_recall": fpr_at_recall(labels, scores, stated_recall),
        "ece": ece(labels, scores),
        "false_alarms_per_image": false_alarms_per_image(counts["fp"], n_images, kept_false=kept_false),
    }


def binned_metrics(
    labels: np.ndarray, scores: np.ndarray, values: np.ndarray, threshold: float, *, bins: int
) -> pd.DataFrame:
    """Metrics in bins of a property, with equally many candidates in each bin.

    Parameters
    ----------
    labels, scores : array
        (N,) labels and scores.
    values : array
        (N,) the property, NaN where unknown (these candidates are in no bin).
    threshold : float
    bins : int
        Number of bins; fewer if many values are equal.

    Returns
    -------
    pandas.DataFrame
        bin, low, high (the last bin includes its upper edge), n_true, n_false, the
        metrics of `rates` except the g-mean, auc and loss.
    """
    import pandas as pd

    labels, scores = check_scores(labels, scores)
    edges, index = value_bins(values, bins)
    rows = []
    for number in range(len(edges) - 1):
        inside = index == number
        counts = confusion(labels[inside], scores[inside], threshold)
        row = {"bin": number, "low": edges[number], "high": edges[number + 1]}
        row |= {"n_true": counts["tp"] + counts["fn"], "n_false": counts["fp"] + counts["tn"]}
        row |= rates(**counts)
        row |= {
            "auc": auc(labels[inside], scores[inside]),
            "loss": float(cross_entropy(labels[inside], scores[inside]).mean()),
        }
        rows.append(row)
    return pd.DataFrame(rows).drop(columns="gmean", errors="ignore")


def value_bins(values: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges of quantile bins, and the bin of each value (-1 if it is not finite)."""
    values = np.asarray(values, dtype=float)
    finite = np.isfinite(values)
    if not finite.any():
        return np.empty(0), np.full(values.shape, -1)
    edges = np.unique(np.quantile(values[finite], np.linspace(0, 1, bins + 1)))
    if edges.size == 1:
        edges = np.repeat(edges, 2)
    index = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, edges.size - 2)
    return edges, np.where(finite, index, -1)
