"""Rules that set the decision threshold."""

from __future__ import annotations

import numpy as np

from otrain_core.errors import CubeError
from otrain_core.evaluation.metrics import threshold_curve

RULES = ("gmean", "f1", "f1-mcc", "platt", "even", "few-false")
FEW_FALSE = 0.03  # share of the False that the rule few-false lets pass


def best_threshold(labels: np.ndarray, scores: np.ndarray, rule: str) -> float:
    """Threshold that maximises the g-mean, F1, or F1 + MCC (Makhlouf et al. 2022, Sect. 6.2), or that of Platt.

    ``platt`` is the score to which a logistic curve fitted to all scores (Platt 1999) gives even odds. The maxima
    of the other rules hang on the few cutouts near them: where these are few, they wander from one draw of
    images to the next, within a plateau that need not be one on other images.

    ``even`` is 0.5, whatever the labels say: for a network that was fine-tuned, whose odds its own labels have set.

    ``few-false`` is the lowest threshold that at most `FEW_FALSE` of the False reach: at 1 % real candidates the false
    alarms decide what a night's list is worth.

    All thresholds between two neighbouring scores give the same counts; the middle of
    that interval is taken. Where neighbouring intervals tie, they count as one, and of
    several such plateaus the widest wins.

    Raises
    ------
    CubeError
        There is one class only, so that no rule is defined.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, not {rule!r}")
    curve = threshold_curve(labels, scores)
    if curve.n_true == 0 or curve.n_false == 0:
        raise CubeError(f"no threshold can be set from {curve.n_true} True and {curve.n_false} False")
    if rule == "even":
        return 0.5
    if rule == "platt":
        from otrain_core.evaluation.calibrate import fit_calibration  # which builds on this module

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
