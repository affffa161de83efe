"""Intervals: draws of whole images, and counts against scipy and by how often they hold the truth."""

import time

import numpy as np
import pytest

from otrain_core.evaluation import metrics
from otrain_core.evaluation.bootstrap import (
    BOOTSTRAPPED,
    FEW_IMAGES,
    _weighted_metrics,
    bootstrap_intervals,
    counts_intervals,
    draw_images,
    hull,
    percentile_interval,
    proportion_interval,
    wilson_interval,
)
from tests.unit.noisy_scores import noisy


def intervals(labels, scores, images, threshold, *, rng, draws=1000):
    return bootstrap_intervals(
        labels, scores, images, threshold, rng=rng, draws=draws, confidence=0.95, stated_recall=0.95
    )


def test_bootstrap_covers_the_point_and_widens_with_image_effects():
    labels, scores, images = noisy()
    point = metrics.headline(labels, scores, 0.5, n_images=20, stated_recall=0.95)
    found = intervals(labels, scores, images, 0.5, rng=np.random.default_rng(1))
    for name in ("accuracy", "precision", "recall", "fpr", "f1", "mcc", "auc", "fpr_at_5pct_missed"):
        low, high = found[name]
        assert low < point[name] < high, name
    # The same candidates, with all errors of an image together: the interval must widen.
    wrong = (scores >= 0.5) != (labels == 1)
    grouped = np.empty(len(labels), dtype=int)
    grouped[np.argsort(~wrong, kind="stable")] = np.arange(len(labels)) * 20 // len(labels)
    wide = intervals(labels, scores, grouped, 0.5, rng=np.random.default_rng(1))
    assert np.diff(wide["accuracy"]) > 3 * np.diff(found["accuracy"])


def test_one_bootstrap_draw_is_what_the_metrics_of_the_drawn_images_are():
    labels, scores, images = noisy(500, images=6)
    weights = np.array([[2, 0, 1, 1, 0, 2]])
    order = np.argsort(-scores, kind="stable")
    drawn = _weighted_metrics(labels[order] == 1, scores[order], images[order], weights, 0.5, 0.8)
    rows = np.concatenate([np.flatnonzero(images == k) for k in range(6) for _ in range(weights[0, k])])
    expected = metrics.headline(labels[rows], scores[rows], 0.5, n_images=6, stated_recall=0.8)
    for name in BOOTSTRAPPED[:-1]:
        assert drawn[name][0] == pytest.approx(expected[name], rel=1e-5), name


def test_bootstrap_is_seeded():
    labels, scores, images = noisy(300)
    one, two = (intervals(labels, scores, images, 0.5, rng=np.random.default_rng(3), draws=100) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("n_images", [1, FEW_IMAGES - 1])
def test_few_images_leave_the_interval_to_the_counts(n_images):
    labels, scores, _ = noisy(300)
    images = np.arange(300) % n_images
    found = intervals(labels, scores, images, 0.5, rng=np.random.default_rng(3))
    counts = metrics.confusion(labels, scores, 0.5)
    assert {name: found[name] for name in ("mcc", "recall", "f1")} == {
        name: value
        for name, value in counts_intervals(**counts, confidence=0.95).items()
        if name in ("mcc", "recall", "f1")
    }
    assert np.isnan(found["auc"]).all() and np.isnan(found["ece"]).all()
    low, high = found["false_alarms_per_image"]
    assert low < counts["fp"] / n_images < high


def test_no_false_alarm_in_many_images_is_no_certainty():
    labels = np.tile([1, 0], 60)
    found = intervals(labels, np.where(labels == 1, 0.9, 0.1), np.arange(120) % 10, 0.5, rng=np.random.default_rng(0))
    assert found["fpr"] == pytest.approx((0, 1 - 0.025 ** (1 / 60))) and found["mcc"][0] < 0.95


def test_bootstrap_of_ten_thousand_is_quick():
    labels, scores, images = noisy(10_000, images=40)
    started = time.process_time()
    intervals(labels, scores, images, 0.5, rng=np.random.default_rng(0), draws=1000)
    assert time.process_time() - started < 3


def test_draws_keep_the_number_of_images_and_few_images_are_never_drawn():
    drawn = draw_images(7, rng=np.random.default_rng(0), draws=50)
    assert drawn.shape == (50, 7) and (drawn.sum(axis=1) == 7).all()
    assert draw_images(4, rng=np.random.default_rng(0), draws=50).shape == (0, 4)


def test_percentiles_by_hand():
    assert percentile_interval(np.arange(101.0), 0.9) == pytest.approx((5, 95))
    assert percentile_interval(np.r_[np.arange(101.0), [np.nan] * 101], 0.9) == pytest.approx((5, 95))
    for sample in (np.r_[np.arange(101.0), [np.nan] * 102], np.empty(0)):
        assert np.isnan(percentile_interval(sample, 0.9)).all()


def test_the_binomial_intervals_are_those_of_scipy():
    from scipy.stats import binomtest

    for k, n in ((0, 12), (3, 12), (12, 12), (40, 729)):
        exact = binomtest(k, n).proportion_ci(0.95, method="exact")
        assert proportion_interval(k, n, 0.95) == pytest.approx((exact.low, exact.high))
        wilson = binomtest(k, n).proportion_ci(0.95, method="wilson")
        assert wilson_interval(k, n, 0.95) == pytest.approx((wilson.low, wilson.high))
    assert proportion_interval(0, 12, 0.95)[1] == pytest.approx(0.265, abs=1e-3)
    assert np.isnan([proportion_interval(0, 0, 0.95), wilson_interval(0, 0, 0.95)]).all()


def test_a_perfect_score_of_23_cutouts_is_not_certain():
    found = counts_intervals(tp=11, fp=0, fn=0, tn=12, confidence=0.95)
    assert found["mcc"][0] < 0.65 and found["mcc"][1] == 1.0
    assert found["fpr"] == pytest.approx((0.0, 0.2646), abs=1e-4)
    assert found["recall"] == pytest.approx((0.7151, 1.0), abs=1e-4)


@pytest.mark.parametrize(("n_true", "n_false", "recall", "fpr"), [(11, 12, 0.9, 0.1), (60, 40, 0.95, 0.05)])
def test_the_truth_lies_inside_as_often_as_stated(n_true, n_false, recall, fpr):
    rng = np.random.default_rng(0)
    truth = metrics.rates(recall * n_true, fpr * n_false, (1 - recall) * n_true, (1 - fpr) * n_false)
    inside = {"mcc": 0, "f1": 0}
    for _ in range(200):
        tp, fp = int(rng.binomial(n_true, recall)), int(rng.binomial(n_false, fpr))
        found = counts_intervals(tp, fp, n_true - tp, n_false - fp, 0.95)
        for name in inside:
            inside[name] += found[name][0] <= truth[name] <= found[name][1]
    assert min(inside.values()) >= 0.93 * 200


def test_one_class_leaves_open_what_needs_both():
    found = counts_intervals(tp=5, fp=0, fn=1, tn=0, confidence=0.95)
    assert np.isnan(found["mcc"]).all() and np.isnan(found["fpr"]).all() and found["recall"][0] > 0.3


def test_the_hull_holds_both_and_ignores_what_is_unknown():
    assert hull((0.2, 0.4), (0.1, 0.3)) == (0.1, 0.4)
    assert hull((np.nan, np.nan), (0.1, 0.3)) == hull((0.1, 0.3), (np.nan, np.nan)) == (0.1, 0.3)
