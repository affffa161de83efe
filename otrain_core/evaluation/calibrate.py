"""Calibration of scores: from the output of a network to the probability that a candidate is real."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from otrain_core.evaluation.metrics import check_scores, cross_entropy, ece, number_images

METHODS = ("platt", "temperature", "isotonic")
_EPSILON = 1e-7  # scores are clipped to this distance from 0 and 1, so that float32 logits are finite


@dataclass(frozen=True)
class Calibration:
    """Probability = sigmoid(slope * logit(score) + offset), or an increasing curve through knots.

    Attributes
    ----------
    slope, offset : float
        1 and 0 leave the scores unchanged; the temperature is 1 / slope. The slope
        is positive, so the order of the scores, the ROC and the metrics at a threshold
        do not change.
    method : str
        One of `METHODS`, or none.
    knots, values : tuple of float
        For ``isotonic``: logits of scores, increasing, and the probabilities there. Between
        knots the curve is linear in the logit, so scores keep their order;
        scores beyond the first or the last knot become equal. Slope and offset are not used.
    """

    slope: float = 1.0
    offset: float = 0.0
    method: str = "none"
    knots: tuple[float, ...] = ()
    values: tuple[float, ...] = ()

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, float64, of the same shape."""
        if self.knots:
            return np.interp(logit(scores), self.knots, self.values)
        if self.slope == 1.0 and self.offset == 0.0:
            return np.asarray(scores, dtype=float)
        return _sigmoid(self.slope * logit(scores) + self.offset)

    def probability(self, odds: np.ndarray) -> np.ndarray:
        """Probabilities of log odds by the logistic curve, float64."""
        return _sigmoid(self.slope * np.asarray(odds, dtype=float) + self.offset)

    def score_at(self, probability: float) -> float:
        """The score in [0, 1] at which the logistic curve has a given probability between 0 and 1."""
        odds = np.log(probability / (1 - probability))
        return float(_sigmoid(np.asarray((odds - self.offset) / self.slope)))

    def to_record(self) -> dict[str, Any]:
        """Plain values for JSON; `from_record` restores the calibration from them."""
        record = {"method": self.method, "slope": self.slope, "offset": self.offset}
        return record | ({"knots": list(self.knots), "values": list(self.values)} if self.knots else {})

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Calibration:
        """Restore a calibration from a record; other keys are ignored."""
        curve = {key: tuple(float(value) for value in record.get(key) or ()) for key in ("knots", "values")}
        return cls(float(record["slope"]), float(record["offset"]), str(record["method"]), **curve)


def fit_calibration(labels: np.ndarray, scores: np.ndarray, *, method: str = "platt") -> Calibration:
    """Fit a calibration by maximum likelihood, on cutouts that the network was not trained on.

    ``platt`` (Platt 1999) fits slope and offset, with the targets (n+ + 1) / (n+ + 2) and
    1 / (n- + 2) instead of 1 and 0, so that the solution is finite for separated classes. ``temperature``
    (Guo et al. 2017) fits the slope alone, with the same targets. ``isotonic``
    (Zadrozny & Elkan 2002) fits any increasing curve to them; each flat step becomes one knot
    in its middle (Oron & Flournoy 2017), because a flat step would make unequal
    scores equal. It is the most flexible, and needs some hundred cutouts of each class.

    Parameters
    ----------
    labels, scores : array
        (N,) 0 or 1, and scores in [0, 1].
    method : {'platt', 'temperature', 'isotonic'}

    Returns
    -------
    Calibration
        The identity if only one class is present.

    Raises
    ------
    CubeError
        Labels or scores that `otrain_core.evaluation.metrics.check_scores` refuses.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    labels, scores = check_scores(labels, scores)
    n_true, n_false = int(labels.sum()), int((~labels).sum())
    if n_true == 0 or n_false == 0:
        return Calibration(method=method)
    target = np.where(labels, (n_true + 1) / (n_true + 2), 1 / (n_false + 2))
    if method == "isotonic":
        return _fit_isotonic(logit(scores), target)
    return _fit_logistic(logit(scores), target, method)


def _fit_logistic(z: np.ndarray, target: np.ndarray, method: str) -> Calibration:
    from scipy.optimize import minimize

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope = np.exp(parameters[0])
        moved = slope * z + (parameters[1] if method == "platt" else 0.0)
        error = _sigmoid(moved) - target
        value = np.mean(np.logaddexp(0, moved) - target * moved)
        return value, np.array([np.mean(error * z) * slope, np.mean(error)])[: len(parameters)]

    start = np.zeros(2 if method == "platt" else 1)
    bounds = [(-7.0, 7.0), (-20.0, 20.0)][: len(start)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return Calibration(float(np.exp(found[0])), float(found[1]) if method == "platt" else 0.0, method)


def pull_calibration(labels: np.ndarray, odds: np.ndarray, *, start: Calibration, pull: float) -> Calibration:
    """Fit a logistic curve to few labels, with a known curve as prior (maximum a posteriori).

    The logarithm of the slope and the offset have Gaussian priors centred on those of `start`. The more labels there
    are, the less the priors count.

    Parameters
    ----------
    labels, odds : numpy.ndarray
        (N,) 0 or 1, and log odds; N may be 0.
    start : Calibration
        The known logistic curve.
    pull : float
        Standard deviation of the prior of the offset [nat]; that of the logarithm of the slope is half as large.
    """
    from scipy.optimize import minimize

    target, odds = np.asarray(labels, dtype=float), np.asarray(odds, dtype=float)
    middle, width = np.array([np.log(start.slope), start.offset]), np.array([pull / 2, pull])

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = np.exp(parameters[0]) * odds
        moved, away = scaled + parameters[1], (parameters - middle) / width
        error = _sigmoid(moved) - target
        value = np.sum(np.logaddexp(0, moved) - target * moved) + np.sum(away**2) / 2
        return value, np.array([np.sum(error * scaled), np.sum(error)]) + away / width

    found = minimize(loss, middle, jac=True, method="L-BFGS-B").x
    return Calibration(float(np.exp(found[0])), float(found[1]), "platt")


def deal_folds(images: np.ndarray, folds: int) -> np.ndarray:
    """Fold of each cutout, int (N,): whole images, dealt in the order of their size; fewer folds with fewer images."""
    names, image = np.unique(np.asarray(images).astype(str), return_inverse=True)
    fold = np.empty(len(names), dtype=int)
    fold[np.argsort(-np.bincount(image), kind="stable")] = np.arange(len(names)) % min(folds, len(names))
    return fold[image]


def _fit_isotonic(z: np.ndarray, target: np.ndarray) -> Calibration:
    from scipy.optimize import isotonic_regression

    # Equal scores are one point; otherwise the result would depend on their order in the table.
    places, point = np.unique(z, return_inverse=True)
    weight = np.bincount(point).astype(float)
    fitted = isotonic_regression(np.bincount(point, target) / weight, weights=weight)
    # Steps that differ only by rounding are one step.
    steps = np.concatenate([[0], np.cumsum(np.diff(fitted.x) > 1e-9)])
    n = np.bincount(steps, weight)
    knots, values = np.bincount(steps, weight * places) / n, np.bincount(steps, weight * fitted.x) / n
    return Calibration(method="isotonic", knots=tuple(knots.tolist()), values=tuple(values.tolist()))


def choose_calibration(
    labels: np.ndarray,
    scores: np.ndarray,
    images: np.ndarray,
    *,
    folds: int = 5,
    methods: tuple[str, ...] = METHODS,
) -> tuple[Calibration, dict[str, Any]]:
    """Choose the calibration with the lowest log loss in cross-validation over images, or none if that is better.

    Images are dealt to folds in the order of their number of candidates; every method is
    fitted to all folds but one and scored on that one. The best method is then fitted to all images.
    A method must be better than an earlier one of `methods` by at least one standard error of
    the difference over images, so the less flexible methods are preferred. If the best method makes the expected
    calibration error larger than that of the raw scores, on these same images, the scores are left unchanged.

    Parameters
    ----------
    labels, scores, images : array
        (N,) of the validation set.
    folds : int
        Number of folds; fewer with fewer images.
    methods : tuple of str
        In the order of preference.

    Returns
    -------
    calibration : Calibration
    record : dict
        log_loss: mean log loss [nat] of each method and of ``none`` on the left-out folds; ece_validation: expected
        calibration error of ``none`` and of the best method on them; refused: the best method if it makes this error
        larger, else ''. With one image the first method is taken, log_loss is NaN, and the error is that of the fit.

    Raises
    ------
    CubeError
        As `fit_calibration`, or columns of different lengths.
    """
    checked, values = check_scores(labels, scores)
    names, image = number_images(images, checked)
    folds = min(folds, len(names))
    if folds < 2:
        fitted = fit_calibration(labels, scores, method=methods[0])
        unknown = dict.fromkeys(("none", *methods), np.nan)
        return _unless_worse(fitted, checked, values, fitted.apply(values), unknown)
    fold = deal_folds(images, folds)
    moved = {method: np.empty(len(checked)) for method in methods}
    for number in range(folds):
        out = fold == number
        for method in methods:
            moved[method][out] = fit_calibration(checked[~out], values[~out], method=method).apply(values[out])
    losses = {name: cross_entropy(checked, given) for name, given in ({"none": values} | moved).items()}
    best = methods[0]
    for method in methods[1:]:
        gain = np.bincount(image, losses[best] - losses[method])
        if gain.sum() > np.sqrt(len(names)) * gain.std(ddof=1):
            best = method
    means = {name: float(loss.mean()) for name, loss in losses.items()}
    return _unless_worse(fit_calibration(labels, scores, method=best), checked, values, moved[best], means)


def _unless_worse(
    fitted: Calibration, labels: np.ndarray, scores: np.ndarray, moved: np.ndarray, losses: dict[str, float]
) -> tuple[Calibration, dict[str, Any]]:
    """The calibration, or none if the probabilities `moved` are worse calibrated than the scores; and the record."""
    errors = {"none": ece(labels, scores), fitted.method: ece(labels, moved)}
    worse = errors[fitted.method] > errors["none"]
    record = {"log_loss": losses, "ece_validation": errors, "refused": fitted.method if worse else ""}
    return (Calibration() if worse else fitted), record


def logit(scores: np.ndarray) -> np.ndarray:
    """Log odds of scores, which are clipped to [1e-7, 1 - 1e-7] so that the odds are finite."""
    clipped = np.clip(np.asarray(scores, dtype=float), _EPSILON, 1 - _EPSILON)
    return np.log(clipped) - np.log1p(-clipped)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * z))
