"""Rules that set the threshold, by hand and by brute force."""

import json
from pathlib import Path

import numpy as np
import pytest

from otrain_core.errors import CubeError
from otrain_core.evaluation import metrics
from otrain_core.evaluation.calibrate import fit_calibration
from otrain_core.evaluation.thresholds import RULES, best_threshold
from tests.unit.noisy_scores import noisy

HAND = json.loads((Path(__file__).parents[2] / "golden" / "metrics_by_hand.json").read_text())
HIGHEST = [rule for rule in RULES if rule not in ("platt", "even", "few-false")]


def test_thresholds_worked_out_by_hand():
    for rule, value in HAND["thresholds"].items():
        assert best_threshold(HAND["labels"], HAND["scores"], rule) == pytest.approx(value), rule


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


def test_one_class_has_no_threshold():
    with pytest.raises(CubeError, match="2 True and 0 False"):
        best_threshold([1, 1], [0.2, 0.9], "f1")


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="rule must be one of .* not 'youden'"):
        best_threshold([0, 1], [0.2, 0.9], "youden")


def test_even_odds_are_half_whatever_the_labels_say():
    assert best_threshold(np.array([0, 1, 1]), np.array([0.1, 0.2, 0.3]), "even") == 0.5
    with pytest.raises(CubeError, match="no threshold can be set"):
        best_threshold(np.ones(3), np.array([0.1, 0.2, 0.3]), "even")


def test_few_false_lets_three_in_a_hundred_false_pass():
    rng = np.random.default_rng(4)
    labels = np.repeat([1, 0], [300, 1000])
    scores = np.concatenate([rng.beta(4, 1, 300), rng.beta(1, 4, 1000)])
    threshold = best_threshold(labels, scores, "few-false")
    assert np.sum(scores[labels == 0] >= threshold) == 30
    # The next lower score is that of a 31st False.
    assert labels[scores < threshold][np.argmax(scores[scores < threshold])] == 0
    assert best_threshold([1, 0, 0], [0.9, 0.2, 0.4], "few-false") == pytest.approx(0.65)
