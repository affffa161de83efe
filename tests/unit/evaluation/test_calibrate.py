"""Calibration: what it mends, what it keeps, how it is chosen."""

import json

import numpy as np
import pytest

from otrain_core.errors import CubeError
from otrain_core.evaluation import calibrate, metrics
from otrain_core.evaluation.calibrate import Calibration, deal_folds, fit_calibration, pull_calibration
from tests.unit.noisy_scores import calibrated as draw


def log_loss(labels, p):
    return -np.mean(np.where(labels == 1, np.log(p), np.log1p(-p)))


def test_calibration_mends_overconfidence_and_keeps_the_order():
    rng = np.random.default_rng(2)
    logit = rng.normal(0, 2, 4000)
    labels = (rng.random(4000) < 1 / (1 + np.exp(-logit))).astype(int)
    overconfident = 1 / (1 + np.exp(-3 * logit - 0.5))
    for method in ("platt", "temperature"):
        found = fit_calibration(labels[:2000], overconfident[:2000], method=method)
        after = found.apply(overconfident[2000:])
        before = metrics.ece(labels[2000:], overconfident[2000:])
        assert metrics.ece(labels[2000:], after) < 0.4 * before
        assert np.all(np.diff(after[np.argsort(overconfident[2000:])]) >= 0)
    assert fit_calibration(labels, overconfident).slope == pytest.approx(1 / 3, rel=0.1)
    assert fit_calibration(labels, overconfident).offset == pytest.approx(-0.5 / 3, abs=0.08)


def test_calibration_of_separated_or_single_classes_stays_finite():
    found = fit_calibration([0, 0, 1, 1], [0.0, 0.1, 0.9, 1.0])
    assert np.isfinite([found.slope, found.offset]).all()
    assert fit_calibration([1, 1], [0.3, 0.9]) == Calibration(method="platt")
    assert Calibration().apply([0.0, 0.25, 1.0]).tolist() == [0.0, 0.25, 1.0]


def test_isotonic_repairs_what_platt_cannot():
    """Scores squeezed at both ends by unequal amounts: no sigmoid of the logit fits."""
    labels, p, _ = draw(8000, 6)
    z = calibrate.logit(p)
    bent = 1 / (1 + np.exp(-np.where(z > 0, 0.15 * z, 3 * z)))
    fit, new = slice(0, 4000), slice(4000, None)
    found = {name: calibrate.fit_calibration(labels[fit], bent[fit], method=name) for name in calibrate.METHODS}
    error = {name: np.mean(np.abs(fitted.apply(bent[new]) - p[new])) for name, fitted in found.items()}
    assert error["isotonic"] < 0.5 * error["platt"] and error["isotonic"] < 0.02
    before, after = (metrics.ece(labels[new], scores) for scores in (bent[new], found["isotonic"].apply(bent[new])))
    assert after < 0.4 * before
    one = found["isotonic"]
    order = np.argsort(bent[new])
    assert np.all(np.diff(one.apply(bent[new])[order]) >= 0)
    assert 0 < one.values[0] < one.values[-1] < 1, "a probability of 0 or 1 makes the log loss infinite"
    inside = (calibrate.logit(bent[new]) > one.knots[0]) & (calibrate.logit(bent[new]) < one.knots[-1])
    assert len(np.unique(one.apply(bent[new][inside]))) > 0.98 * inside.sum(), "flat steps would make ties"
    again = calibrate.Calibration.from_record(json.loads(json.dumps(one.to_record() | {"ece_after": 0.1})))
    assert again == one


def test_equal_scores_are_one_point():
    scores = np.repeat([0.2, 0.7], [30, 10])
    labels = np.r_[np.zeros(24), np.ones(6), np.zeros(1), np.ones(9)]
    fitted = calibrate.fit_calibration(labels, scores, method="isotonic")
    backwards = calibrate.fit_calibration(labels[::-1], scores[::-1], method="isotonic")
    high, low = 16 / 17, 1 / 27  # Platt's targets for 15 True and 25 False
    expected = [0.2 * high + 0.8 * low, 0.9 * high + 0.1 * low]
    assert fitted.apply([0.2, 0.7]) == pytest.approx(expected)
    assert backwards.values == pytest.approx(fitted.values)


def test_the_choice_is_made_out_of_fold_and_by_image():
    labels, p, images = draw(3000, 7)
    z = calibrate.logit(p)
    bent = 1 / (1 + np.exp(-np.where(z > 0, 0.15 * z, 3 * z)))
    chosen, record = calibrate.choose_calibration(labels, bent, images)
    losses = record["log_loss"]
    assert record["refused"] == "" and record["ece_validation"]["isotonic"] < record["ece_validation"]["none"]
    assert chosen.method == "isotonic" and losses["isotonic"] < losses["platt"] < losses["none"]
    sharp, record = calibrate.choose_calibration(labels, 1 / (1 + np.exp(-2 * z)), images)
    assert sharp.method == "platt", "what is more flexible must earn it"
    assert sharp.slope == pytest.approx(0.5, rel=0.1)
    assert record["log_loss"]["platt"] == pytest.approx(log_loss(labels, p), rel=0.02)
    alone, record = calibrate.choose_calibration(labels, bent, np.full(3000, "a"))
    assert alone.method == "platt" and all(np.isnan(loss) for loss in record["log_loss"].values())
    with pytest.raises(CubeError, match="3000 labels and 2 image names"):
        calibrate.choose_calibration(labels, bent, ["a", "b"])


def test_a_calibration_that_makes_the_error_larger_is_not_used():
    """Scores that are probabilities, of a few images: what is fitted to some is worse on the others."""
    refused = 0
    for seed in range(20):
        labels, p, images = draw(60, seed, n_images=6)
        found, record = calibrate.choose_calibration(labels, p, images)
        errors = record["ece_validation"]
        if record["refused"]:
            refused += 1
            assert errors[record["refused"]] > errors["none"] == pytest.approx(metrics.ece(labels, p))
            assert found == Calibration() and np.array_equal(found.apply(p), p)
        else:
            assert found.method != "none" and errors[found.method] <= errors["none"]
    assert 3 < refused < 20


def test_a_pulled_curve_stays_without_labels_and_follows_many():
    rng = np.random.default_rng(3)
    start = Calibration(1.3, -0.4, "platt")
    none = pull_calibration(np.empty(0), np.empty(0), start=start, pull=0.5)
    assert (none.slope, none.offset) == pytest.approx((1.3, -0.4))
    odds = rng.normal(0, 3, 20_000)
    labels = rng.random(20_000) < 1 / (1 + np.exp(-(0.7 * odds + 1.0)))
    many, few = (pull_calibration(labels[:n], odds[:n], start=start, pull=0.5) for n in (20_000, 10))
    assert (many.slope, many.offset) == pytest.approx((0.7, 1.0), abs=0.06)
    assert abs(few.offset + 0.4) < 1.0 and abs(np.log(few.slope / 1.3)) < 0.6
    wide = pull_calibration(labels[:10], odds[:10], start=start, pull=10.0)
    assert abs(wide.offset + 0.4) > abs(few.offset + 0.4)
    one = pull_calibration(np.ones(5), np.zeros(5), start=Calibration(), pull=0.5)  # one class moves it, and not far
    assert 0 < one.offset < 1


def test_whole_images_are_dealt_to_folds():
    images = np.repeat(["a", "b", "c", "d", "e"], [9, 1, 5, 5, 4])
    fold = deal_folds(images, 2)
    assert all(len(set(fold[images == name])) == 1 for name in "abcde")
    assert sorted(np.bincount(fold)) == [9, 15] and deal_folds(images[:9], 4).tolist() == [0] * 9
