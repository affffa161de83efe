import json
import time
from pathlib import Path

import numpy as np
import pytest

from otrain_core.errors import CubeError
from otrain_core.evaluation import bootstrap, metrics
from otrain_core.evaluation.calibrate import Calibration, fit_calibration
from otrain_core.evaluation.thresholds import RULES, best_threshold

HAND = json.loads((Path(__file__).parents[2] / "golden" / "metrics_by_hand.json").read_text())
LABELS, SCORES = np.array(HAND["labels"]), np.array(HAND["scores"])


def noisy(n=2000, images=20, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    scores = np.round(np.clip(rng.normal(0.3 + 0.4 * labels, 0.2), 0, 1), 2)  # with ties
    return labels, scores, rng.integers(0, images, n)


def test_numbers_worked_out_by_hand():
    counts = metrics.confusion(LABELS, SCORES, HAND["threshold"])
    assert counts == HAND["confusion"]
    assert metrics.rates(**counts) == pytest.approx(HAND["rates"], abs=1e-12)
    assert metrics.auc(LABELS, SCORES) == pytest.approx(HAND["auc"])
    for rule, value in HAND["thresholds"].items():
        assert best_threshold(LABELS, SCORES, rule) == pytest.approx(value), rule
    for recall, value in HAND["fpr_at_recall"].items():
        assert metrics.fpr_at_recall(LABELS, SCORES, float(recall)) == pytest.approx(value), recall
    assert metrics.ece(LABELS, SCORES, bins=2) == pytest.approx(HAND["ece_2_bins"])
    assert metrics.purity(0.6, 0.2, 0.01) == pytest.approx(HAND["purity_1_percent"])
    assert metrics.false_alarms_per_image(1, 2, kept_false=0.25) == HAND["false_alarms_per_image"]


def test_agrees_with_scikit_learn():
    from sklearn import metrics as sk

    labels, scores, _ = noisy()
    accepted = scores >= 0.5
    ours = metrics.headline(labels, scores, 0.5, n_images=20)
    assert ours["mcc"] == pytest.approx(sk.matthews_corrcoef(labels, accepted))
    assert ours["f1"] == pytest.approx(sk.f1_score(labels, accepted))
    assert ours["precision"] == pytest.approx(sk.precision_score(labels, accepted))
    assert ours["auc"] == pytest.approx(sk.roc_auc_score(labels, scores))
    assert ours["loss"] == pytest.approx(sk.log_loss(labels, scores))
    fpr, tpr, _ = sk.roc_curve(labels, scores)
    for missed, name in ((0.01, "fpr_at_1pct_missed"), (0.05, "fpr_at_5pct_missed")):
        assert ours[name] == pytest.approx(fpr[np.argmax(tpr >= 1 - missed)])


HIGHEST = [rule for rule in RULES if rule != "platt"]


@pytest.mark.parametrize("rule", HIGHEST)
def test_no_other_threshold_is_better(rule):
    labels, scores, _ = noisy()

    def value(threshold):
        rates = metrics.rates(**metrics.confusion(labels, scores, threshold))
        return rates["f1"] + rates["mcc"] if rule == "f1-mcc" else rates[rule]

    best = value(best_threshold(labels, scores, rule))
    assert all(value(threshold) <= best + 1e-12 for threshold in np.linspace(0, 1, 301))


@pytest.mark.parametrize("rule", HIGHEST)
def test_a_separated_set_gets_the_middle_of_the_gap(rule):
    assert best_threshold([0, 0, 1, 1], [0.1, 0.2, 0.9, 1.0], rule) == pytest.approx(0.55)


def test_platt_s_threshold_wanders_less_from_draw_to_draw():
    labels, scores, _ = noisy()
    rng = np.random.default_rng(3)
    draws = [rng.choice(labels.size, labels.size // 4) for _ in range(40)]
    found = {rule: [best_threshold(labels[rows], scores[rows], rule) for rows in draws] for rule in ("platt", "f1-mcc")}
    assert np.std(found["platt"]) < 0.7 * np.std(found["f1-mcc"])
    best = best_threshold(labels, scores, "platt")
    assert fit_calibration(labels, scores).apply(np.array([best])) == pytest.approx(0.5)
    assert abs(np.mean(found["platt"]) - best) < 0.03


def test_neighbouring_floats_keep_the_best_counts():
    low = np.float32(0.5)
    high = np.nextafter(low, np.float32(1))
    threshold = best_threshold([0, 1], [float(low), float(high)], "gmean")
    assert metrics.confusion([0, 1], [low, high], threshold) == {"tp": 1, "fp": 0, "fn": 0, "tn": 1}


def test_curve_counts_match_the_confusion_at_each_threshold():
    labels, scores, _ = noisy(300)
    curve = metrics.threshold_curve(labels, scores)
    assert (curve.tp[0], curve.fp[0]) == (0, 0)
    assert (curve.tp[-1], curve.fp[-1]) == (labels.sum(), (labels == 0).sum())
    at = metrics.counts_at(labels, scores, curve.thresholds)
    for k in range(0, len(curve.thresholds), 7):
        counts = metrics.confusion(labels, scores, curve.thresholds[k])
        assert counts == {name: int(getattr(curve, name)[k]) for name in counts}
        assert counts == {name: int(at[name][k]) for name in counts}


@pytest.mark.parametrize(
    ("labels", "scores", "match"),
    [
        ([], [], "no scores"),
        ([0, 1], [0.5], "one length"),
        ([0, 2], [0.5, 0.5], "labels must be 0"),
        ([0, 1], [0.5, np.nan], "probabilities between 0 and 1"),
        ([0, 1], [0.5, 1.5], "probabilities between 0 and 1"),
    ],
)
def test_bad_scores_are_refused(labels, scores, match):
    with pytest.raises(CubeError, match=match):
        metrics.confusion(labels, scores, 0.5)


def test_one_class_leaves_undefined_what_is_undefined():
    scores = np.array([0.2, 0.9])
    values = metrics.headline([1, 1], scores, 0.5, n_images=1)
    assert values["recall"] == 0.5 and values["precision"] == 1.0
    for name in ("mcc", "f1", "fpr", "auc", "fpr_at_1pct_missed"):
        assert np.isnan(values[name]), name
    with pytest.raises(CubeError, match="2 True and 0 False"):
        best_threshold([1, 1], scores, "f1")
    rates = metrics.rates(0, 0, 3, 3)
    assert np.isnan(rates["precision"]) and rates["mcc"] == 0


def test_bootstrap_covers_the_point_and_widens_with_image_effects():
    labels, scores, images = noisy()
    point = metrics.headline(labels, scores, 0.5, n_images=20)
    found = bootstrap.bootstrap_intervals(labels, scores, images, 0.5, rng=np.random.default_rng(1))
    for name in ("accuracy", "precision", "recall", "fpr", "f1", "mcc", "auc", "fpr_at_5pct_missed"):
        low, high = found[name]
        assert low < point[name] < high, name
    # The same candidates, with all errors of an image together: the interval must widen.
    wrong = (scores >= 0.5) != (labels == 1)
    grouped = np.empty(len(labels), dtype=int)
    grouped[np.argsort(~wrong, kind="stable")] = np.arange(len(labels)) * 20 // len(labels)
    wide = bootstrap.bootstrap_intervals(labels, scores, grouped, 0.5, rng=np.random.default_rng(1))
    assert np.diff(wide["accuracy"]) > 3 * np.diff(found["accuracy"])


def test_one_bootstrap_draw_is_what_the_metrics_of_the_drawn_images_are():
    labels, scores, images = noisy(500, images=6)
    weights = np.array([[2, 0, 1, 1, 0, 2]])
    order = np.argsort(-scores, kind="stable")
    drawn = bootstrap._weighted_metrics(labels[order] == 1, scores[order], images[order], weights, 0.5, 0.8)
    rows = np.concatenate([np.flatnonzero(images == k) for k in range(6) for _ in range(weights[0, k])])
    expected = metrics.headline(labels[rows], scores[rows], 0.5, n_images=6, stated_recall=0.8)
    for name in bootstrap.BOOTSTRAPPED[:-1]:
        assert drawn[name][0] == pytest.approx(expected[name], rel=1e-5), name


def test_bootstrap_is_seeded_and_undefined_for_one_image():
    labels, scores, images = noisy(300)
    one, two = (
        bootstrap.bootstrap_intervals(labels, scores, images, 0.5, rng=np.random.default_rng(3), draws=100)
        for _ in range(2)
    )
    assert one == two
    alone = bootstrap.bootstrap_intervals(labels, scores, np.zeros(300), 0.5, rng=np.random.default_rng(3))
    assert all(np.isnan(value).all() for value in alone.values())


def test_bootstrap_of_ten_thousand_is_quick():
    labels, scores, images = noisy(10_000, images=40)
    started = time.process_time()
    bootstrap.bootstrap_intervals(labels, scores, images, 0.5, rng=np.random.default_rng(0), draws=1000)
    assert time.process_time() - started < 3


def test_bins_hold_every_known_value_once():
    labels, scores, _ = noisy()
    mags = np.random.default_rng(5).uniform(15, 20, len(labels))
    mags[:50] = np.nan
    table = metrics.binned_metrics(labels, scores, mags, 0.5, bins=4)
    assert len(table) == 4
    assert (table["n_true"] + table["n_false"]).sum() == len(labels) - 50
    assert np.all(table["low"].iloc[1:].to_numpy() == table["high"].iloc[:-1].to_numpy())
    assert metrics.binned_metrics(labels, scores, np.full(len(labels), np.nan), 0.5, bins=4).empty
    assert len(metrics.binned_metrics(labels, scores, np.full(len(labels), 3.0), 0.5, bins=4)) == 1


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
