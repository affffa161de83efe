import numpy as np
import pytest

from otrain_core.errors import CubeError
from otrain_core.studies import confident
from otrain_core.studies.label_flips import measure_flips
from tests.unit.studies.noisy_scores import noisy_scores


def test_the_confident_joint_is_that_of_confident_learning():
    """Counted by hand: bars are the class means 0.7 (False) and 0.6 (True)."""
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    scores = np.array([0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.5, 0.1])
    # Given False: three sure False, one sure True. Given True: two sure True, one sure of nothing, one sure False.
    expected = np.array([[3.0, 1.0], [4 / 3, 8 / 3]])
    assert confident.confident_joint(labels, scores) == pytest.approx(expected)
    with pytest.raises(CubeError, match="one class alone"):
        confident.confident_joint([1, 1], [0.2, 0.9])


def test_the_probability_of_a_wrong_label_can_be_taken_at_its_word():
    labels, given, flipped, score = noisy_scores()
    p_wrong, noise = confident.probability_wrong(given, score)
    assert ((p_wrong >= 0) & (p_wrong <= 1)).all()
    for low, high in ((0, 0.1), (0.1, 0.6), (0.6, 1.01)):
        inside = (p_wrong >= low) & (p_wrong < high)
        assert flipped[inside].mean() == pytest.approx(p_wrong[inside].mean(), abs=0.15)
    # The network's own errors count as noise: upper limits, not far off.
    assert 0.09 < noise["false_called_true"] < 0.15 and 0.09 < noise["true_called_false"] < 0.15
    assert flipped[p_wrong > 0.5].mean() > 0.85


def test_the_order_finds_flips():
    _, given, flipped, score = noisy_scores()
    found = measure_flips(flipped, confident.label_quality(given, score))
    assert found["recall_at_precision_80"] > 0.85 and found["average_precision"] > 0.9


def test_the_order_allows_for_a_network_that_prefers_a_class():
    _, given, flipped, score = noisy_scores(strength=2.5, shift=1.5)
    margin = measure_flips(flipped, confident.label_quality(given, score))["recall_at_precision_80"]
    own = measure_flips(flipped, np.where(given == 1, score, 1 - score))["recall_at_precision_80"]
    assert margin > own + 0.1
