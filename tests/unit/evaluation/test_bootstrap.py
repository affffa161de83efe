"""Intervals by image."""

import time

import numpy as np
import pytest

from otrain_core.evaluation import metrics
from otrain_core.evaluation.bootstrap import (
    BOOTSTRAPPED,
    _weighted_metrics,
    bootstrap_intervals,
    draw_images,
    percentile_interval,
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


def test_bootstrap_is_seeded_and_undefined_for_one_image():
    labels, scores, images = noisy(300)
    one, two = (intervals(labels, scores, images, 0.5, rng=np.random.default_rng(3), draws=100) for _ in range(2))
    assert one == two
    alone = intervals(labels, scores, np.zeros(300), 0.5, rng=np.random.default_rng(3))
    assert all(np.isnan(value).all() for value in alone.values())


def test_bootstrap_of_ten_thousand_is_quick():
    labels, scores, images = noisy(10_000, images=40)
    started = time.process_time()
    intervals(labels, scores, images, 0.5, rng=np.random.default_rng(0), draws=1000)
    assert time.process_time() - started < 3


def test_draws_keep_the_number_of_images_and_one_image_is_never_drawn():
    drawn = draw_images(7, rng=np.random.default_rng(0), draws=50)
    assert drawn.shape == (50, 7) and (drawn.sum(axis=1) == 7).all()
    assert draw_images(1, rng=np.random.default_rng(0), draws=50).shape == (0, 1)


def test_percentiles_by_hand():
    assert percentile_interval(np.arange(101.0), 0.9) == pytest.approx((5, 95))
    assert percentile_interval(np.r_[np.arange(101.0), [np.nan] * 101], 0.9) == pytest.approx((5, 95))
    for sample in (np.r_[np.arange(101.0), [np.nan] * 102], np.empty(0)):
        assert np.isnan(percentile_interval(sample, 0.9)).all()
