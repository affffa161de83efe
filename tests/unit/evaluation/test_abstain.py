"""Abstention: coverage on new candidates, and what it spares."""

import numpy as np
import pytest

from otrain_core.errors import CubeError
from otrain_core.evaluation import abstain, metrics
from tests.unit.noisy_scores import calibrated as draw


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.95, 0.99])
def test_the_stated_coverage_holds_on_validation_and_on_new_candidates(coverage):
    reached = []
    for seed in range(40):
        _, validation, _ = draw(200, seed)
        _, test, _ = draw(4000, 1000 + seed)
        rule = abstain.fit_abstention(validation, threshold=0.4, coverage=coverage)
        assert rule.low <= 0.4 <= rule.high
        assert np.mean(rule.decide(validation) >= 0) >= coverage
        reached.append(np.mean(rule.decide(test) >= 0))
    # The mean over validation sets is guaranteed, to within 2 / (n + 1).
    assert coverage - 0.005 < np.mean(reached) < coverage + 0.025


def test_full_coverage_and_what_is_decided():
    _, validation, _ = draw(500, 0)
    whole = abstain.fit_abstention(validation, threshold=0.3, coverage=1)
    assert np.array_equal(whole.decide(validation), validation >= 0.3)
    part = abstain.fit_abstention(validation, threshold=0.3, coverage=0.8)
    decision = part.decide(validation)
    decided = decision >= 0
    assert np.array_equal(decision[decided], (validation >= 0.3)[decided]), "abstention changed a decision"
    odds = np.abs(np.log(validation / (1 - validation)) - np.log(0.3 / 0.7))
    assert odds[decided].min() >= odds[~decided].max()


def test_abstention_spares_the_errors_it_should():
    labels, p, images = draw(6000, 1)
    rule = abstain.fit_abstention(draw(3000, 2)[1], threshold=0.5, coverage=0.9)
    found = abstain.evaluate_abstention(
        labels, p, images, rule, rng=np.random.default_rng(0), draws=300, confidence=0.95
    )
    assert found["coverage_low"] < found["coverage"] < found["coverage_high"]
    assert found["coverage"] == pytest.approx(0.9, abs=0.02)
    assert found["mcc_all"] < found["mcc"] and found["fpr"] < found["fpr_all"]
    # By hand, on what is decided.
    decision = rule.decide(p)
    decided = decision >= 0
    counts = metrics.confusion(labels[decided], decision[decided].astype(float), 0.5)
    for name, value in metrics.rates(**counts).items():
        if name in abstain.MEASURED:
            assert found[name] == pytest.approx(value)
    assert found["coverage_true"] == pytest.approx(decided[labels == 1].mean())
    wrong = (p >= 0.5) != labels
    assert found["errors_undecided"] == pytest.approx(1 - decided[wrong].mean())
    assert found["errors_undecided"] > 0.2, "a tenth of the candidates holds far more of the errors"
    # A sample of one image says nothing about the spread between images.
    one = abstain.evaluate_abstention(
        labels, p, np.full(6000, "a"), rule, rng=np.random.default_rng(0), draws=300, confidence=0.95
    )
    assert np.isnan(one["mcc_low"]) and one["mcc"] == found["mcc"]


def test_intervals_are_wider_where_images_differ():
    labels, p, _ = draw(2000, 3)
    rule = abstain.fit_abstention(p, threshold=0.5, coverage=0.9)
    order = np.argsort(rule.decide(p) >= 0, kind="stable")
    clumped = np.empty(2000, dtype=int)
    clumped[order] = np.arange(2000) // 50  # undecided candidates all in a few images
    width = {}
    for name, images in (("clumped", clumped), ("mixed", np.arange(2000) % 40)):
        found = abstain.evaluate_abstention(
            labels, p, images, rule, rng=np.random.default_rng(0), draws=300, confidence=0.95
        )
        width[name] = found["coverage_high"] - found["coverage_low"]
    assert width["clumped"] > 3 * width["mixed"]


def test_wrong_arguments():
    with pytest.raises(ValueError, match="coverage must be above 0"):
        abstain.fit_abstention([0.1, 0.9], threshold=0.5, coverage=0)
    with pytest.raises(CubeError, match="no scores"):
        abstain.fit_abstention([], threshold=0.5, coverage=0.9)
    with pytest.raises(CubeError, match="3 labels and 2 image names"):
        rule = abstain.Abstention(0.4, 0.6, 0.5, 0.9)
        abstain.evaluate_abstention(
            [0, 1, 1], [0.2, 0.5, 0.8], ["a", "b"], rule, rng=np.random.default_rng(0), draws=9, confidence=0.95
        )
