"""Calibration of scores: from a network's output to a probability that can be taken at its word."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otrain_core.metrics import check_scores

METHODS = ("platt", "temperature")
_EPSILON = 1e-7  # scores nearer to 0 and 1 have no finite float32 logit


@dataclass(frozen=True)
class Calibration:
    """Probability = sigmoid(slope * logit(score) + offset); temperature scaling is 1 / slope.

    Attributes
    ----------
    slope, offset : float
        1 and 0 leave the scores as they are. The slope is positive, so that no order of
        two scores changes, and with it neither the ROC nor any metric at a threshold.
    method : str
    """

    slope: float = 1.0
    offset: float = 0.0
    method: str = "none"

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, float64, of the same shape."""
        if self.slope == 1.0 and self.offset == 0.0:
            return np.asarray(scores, dtype=float)
        return _sigmoid(self.slope * _logit(scores) + self.offset)


def fit_calibration(labels: np.ndarray, scores: np.ndarray, *, method: str = "platt") -> Calibration:
    """Fit a calibration by maximum likelihood, on cutouts that the network was not trained on.

    Platt 1999 fits slope and offset, with targets drawn in to (n+ + 1) / (n+ + 2) and
    1 / (n- + 2), so that separated classes leave the solution finite. Temperature
    scaling (Guo et al. 2017) fits the slope alone, with the same targets.

    Returns
    -------
    Calibration
        The identity where there is one class only.

    Raises
    ------
    CubeError
        Labels or scores that `otrain_core.metrics.check_scores` refuses.
    """
    from scipy.optimize import minimize

    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    labels, scores = check_scores(labels, scores)
    n_true, n_false = int(labels.sum()), int((~labels).sum())
    if n_true == 0 or n_false == 0:
        return Calibration(method=method)
    target = np.where(labels, (n_true + 1) / (n_true + 2), 1 / (n_false + 2))
    logit = _logit(scores)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope = np.exp(parameters[0])
        z = slope * logit + (parameters[1] if method == "platt" else 0.0)
        error = _sigmoid(z) - target
        value = np.mean(np.logaddexp(0, z) - target * z)
        return value, np.array([np.mean(error * logit) * slope, np.mean(error)])[: len(parameters)]

    start = np.zeros(2 if method == "platt" else 1)
    bounds = [(-7.0, 7.0), (-20.0, 20.0)][: len(start)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return Calibration(float(np.exp(found[0])), float(found[1]) if method == "platt" else 0.0, method)


def _logit(scores: np.ndarray) -> np.ndarray:
    clipped = np.clip(np.asarray(scores, dtype=float), _EPSILON, 1 - _EPSILON)
    return np.log(clipped) - np.log1p(-clipped)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * z))
