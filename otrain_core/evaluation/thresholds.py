"""Rules that set the decision threshold."""

from __future__ import annotations

import numpy as np

from otrain_core.errors import CubeError
from otrain_core.evaluation.metrics import threshold_curve

RULES = ("gmean", "f1", "f1-mcc", "platt", "even", "few-false")
FEW_FALSE = 0.03  # largest FPR that the rule few-false allows


def best_threshold(labels: np.ndarray, scores: np.ndarray, rule: str) -> float:
    """Decision threshold by one of `RULES`.

    ``gmean``, ``f1`` and ``f1-mcc`` maximise the g-mean, F1, or F1 + MCC (Makhlouf et al. 2022, Sect. 6.2). These
    maxima depend on the few cutouts near them, so in small sets they vary from one draw of images to the next.

    ``platt`` is the score at which a logistic curve fitted to all scores (Platt 1999) gives a probability of 0.5.

    ``even`` is 0.5 for any labels. It is meant for fine-tuned networks, whose scores are calibrated by their labels.

    ``few-false`` is the lowest threshold with an FPR of at most `FEW_FALSE`: where 1 % of the candidates are real,
    false alarms decide how useful the list of a night is.

    All thresholds between two neighbouring scores give the same counts; the middle of
    that interval is taken. Neighbouring intervals with equal values count as one plateau, and the widest of
    several plateaus is taken.

    Parameters
    ----------
    labels, scores : array
        (N,) 0 or 1, and scores in [0, 1].
    rule : str
        One of `RULES`.

    Returns
    -------
    float

    Raises
    ------
    CubeError
        Only one class is present, so no rule is defined.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, not {rule!r}")
    curve = threshold_curve(labels, scores)
    if curve.n_true == 0 or curve.n_false == 0:
        raise CubeError(f"no threshold can be set from {curve.n_true} True and {curve.n_false} False")
    if rule == "even":
        return 0.5
    if rule == "platt":
        from otrain_core.evaluation.calibrate import fit_calibration

        return fit_calibration(labels, scores, method="platt").score_at(0.5)
    values = curve.rates()
    upper = np.minimum(curve.thresholds, 1.0)
    lower = np.append(curve.thresholds[1:], 0.0)
    if rule == "few-false":
        last = np.flatnonzero(values["fpr"] <= FEW_FALSE)[-1]
        return float(0.5 * (upper[last] + lower[last]))
    target = values["f1"] + values["mcc"] if rule == "f1-mcc" else values[rule]
    best = target >= np.max(target) - 1e-12
    plateaus = []
    for start in np.nonzero(best & ~np.concatenate([[False], best[:-1]]))[0]:
        stop = start
        while stop + 1 < best.size and best[stop + 1]:
            stop += 1
        middle = 0.5 * (upper[start] + lower[stop])
        plateaus.append((upper[start] - lower[stop], middle if middle > lower[stop] else upper[start]))
    return float(max(plateaus)[1])
