"""Confident learning: how probable it is that a label is wrong, from scores of networks that never saw it."""

from __future__ import annotations

import numpy as np

from otrain_core.errors import CubeError
from otrain_core.evaluation import metrics

_MAX_NOISE = 0.45  # labels wrong more often than this say nothing


def confident_joint(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Estimated counts of given label against true label (Northcutt et al. 2021, confident learning).

    A cutout counts as of class j where its probability of j is at least the mean of that
    probability over all cutouts labelled j, the more probable class where both hold. Rows are then
    scaled to the number of cutouts with each given label.

    Parameters
    ----------
    labels, scores : array
        (N,) given labels, and probabilities of True out of fold.

    Returns
    -------
    numpy.ndarray
        float (2, 2), given label by row and true label by column.

    Raises
    ------
    CubeError
        One class only, or what `otrain_core.evaluation.metrics.check_scores` refuses.
    """
    given, scores = metrics.check_scores(labels, scores)
    if given.all() or not given.any():
        raise CubeError("suspected labels cannot be found in one class alone")
    probability = np.stack([1 - scores, scores], axis=1)
    bar = np.array([probability[~given, 0].mean(), probability[given, 1].mean()])
    sure = probability >= bar - 1e-9
    called = np.argmax(np.where(sure, probability, -1), axis=1)
    joint = np.zeros((2, 2))
    np.add.at(joint, (given[sure.any(axis=1)].astype(int), called[sure.any(axis=1)]), 1)
    joint = np.where(joint.sum(axis=1, keepdims=True) > 0, joint, np.eye(2))
    return joint * (np.bincount(given, minlength=2) / joint.sum(axis=1))[:, None]


def probability_wrong(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Probability that each label is wrong, were labels flipped at random within a class.

    With shares of wrong labels a = P(given True | False) and b = P(given False | True), the
    probability s of a given label True is q (1 - b) + (1 - q) a, where q is the probability of
    a true True (Natarajan et al. 2013). s is the out-of-fold score, calibrated to the given labels by a
    rising curve; a and b come from the confident joint. By Bayes' rule a label False is wrong with the
    probability q b / (q b + (1 - q) (1 - a)), a label True with (1 - q) a / ((1 - q) a + q (1 - b)).

    A network's own errors count as noise here: what it cannot know is suspected with the
    wrong labels, and the rates are upper limits.

    Returns
    -------
    p_wrong : numpy.ndarray
        float (N,).
    rates : dict
        false_called_true (a), true_called_false (b), n_wrong_false, n_wrong_true: estimated wrong
        labels among the given False and the given True.
    """
    from scipy.optimize import isotonic_regression

    given, scores = metrics.check_scores(labels, scores)
    joint = confident_joint(labels, scores)
    a, b = (min(float(joint[1 - k, k] / max(joint[:, k].sum(), 1e-9)), _MAX_NOISE) for k in (0, 1))
    # Targets drawn in, as for a calibration, would hide the rates where few labels are wrong.
    places, place = np.unique(scores, return_inverse=True)
    n = np.bincount(place)
    s = isotonic_regression(np.bincount(place, given) / n, weights=n).x[place]
    q = np.clip((s - a) / (1 - a - b), 0, 1)
    wrong = np.where(given, (1 - q) * a, q * b)
    right = np.where(given, q * (1 - b), (1 - q) * (1 - a))
    p_wrong = np.divide(wrong, wrong + right, out=np.zeros_like(wrong), where=wrong + right > 0)
    return p_wrong, {
        "false_called_true": a,
        "true_called_false": b,
        "n_wrong_false": float(joint[0, 1]),
        "n_wrong_true": float(joint[1, 0]),
    }


def label_quality(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """A number for every label, lowest where it is most suspect.

    The probability of the given label less its mean over the class, because a network may be less sure of
    one class: the order of the adjusted margin of Northcutt et al. 2021.

    Parameters
    ----------
    labels, scores : array
        (N,) given labels, and probabilities of True out of fold.

    Returns
    -------
    numpy.ndarray
        float (N,) in [-1, 1].

    Raises
    ------
    CubeError
        What `otrain_core.evaluation.metrics.check_scores` refuses.
    """
    given, scores = metrics.check_scores(labels, scores)
    own = np.where(given, scores, 1 - scores)
    return own - np.where(given, own[given].mean(), own[~given].mean())
