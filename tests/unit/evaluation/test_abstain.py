import json

import numpy as np
import pytest

from otrain_core.errors import CubeError
from otrain_core.evaluation import abstain, calibrate, metrics


def draw(n, seed, *, n_images=40, strength=4.0):
    """Probabilities that are calibrated by construction, labels drawn from them, images."""
    rng = np.random.default_rng(seed)
    probability = 1 / (1 + np.exp(-rng.normal(0, strength, n)))
    return (rng.random(n) < probability).astype(int), probability, rng.integers(0, n_images, n).astype(str)


def log_loss(labels, p):
    return -np.mean(np.where(labels == 1, np.log(p), np.log1p(-p)))


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.95, 0.99])
def test_the_stated_coverage_holds_on_tune_and_on_new_candidates(coverage):
    reached = []
    for seed in range(40):
        _, tune, _ = draw(200, seed)
        _, test, _ = draw(4000, 1000 + seed)
        rule = abstain.fit_abstention(tune, threshold=0.4, coverage=coverage)
        assert rule.low <= 0.4 <= rule.high
        assert np.mean(rule.decide(tune) >= 0) >= coverage
        reached.append(np.mean(rule.decide(test) >= 0))
    # The mean over tune sets is guaranteed, to within 2 / (n + 1).
    assert coverage - 0.005 < np.mean(reached) < coverage + 0.025


def test_full_coverage_and_what_is_decided():
    _, tune, _ = draw(500, 0)
    whole = abstain.fit_abstention(tune, threshold=0.3, coverage=1)
    assert np.array_equal(whole.decide(tune), tune >= 0.3)
    part = abstain.fit_abstention(tune, threshold=0.3, coverage=0.8)
    decision = part.decide(tune)
    decided = decision >= 0
    assert np.array_equal(decision[decided], (tune >= 0.3)[decided]), "abstention changed a decision"
    odds = np.abs(np.log(tune / (1 - tune)) - np.log(0.3 / 0.7))
    assert odds[decided].min() >= odds[~decided].max()


def test_abstention_spares_the_errors_it_should():
    labels, p, images = draw(6000, 1)
    rule = abstain.fit_abstention(draw(3000, 2)[1], threshold=0.5, coverage=0.9)
    found = abstain.evaluate_abstention(labels, p, images, rule, rng=np.random.default_rng(0), draws=300)
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
    one = abstain.evaluate_abstention(labels, p, np.full(6000, "a"), rule, rng=np.random.default_rng(0))
    assert np.isnan(one["mcc_low"]) and one["mcc"] == found["mcc"]


def test_intervals_are_wider_where_images_differ():
    labels, p, _ = draw(2000, 3)
    rule = abstain.fit_abstention(p, threshold=0.5, coverage=0.9)
    order = np.argsort(rule.decide(p) >= 0, kind="stable")
    clumped = np.empty(2000, dtype=int)
    clumped[order] = np.arange(2000) // 50  # undecided candidates all in a few images
    width = {}
    for name, images in (("clumped", clumped), ("mixed", np.arange(2000) % 40)):
        found = abstain.evaluate_abstention(labels, p, images, rule, rng=np.random.default_rng(0), draws=300)
        width[name] = found["coverage_high"] - found["coverage_low"]
    assert width["clumped"] > 3 * width["mixed"]


def test_risk_falls_with_coverage():
    labels, p, _ = draw(8000, 4)
    curve = abstain.coverage_curve(draw(3000, 5)[1], labels, p, threshold=0.5)
    assert curve["coverage"].is_monotonic_increasing and curve["stated_coverage"].iloc[-1] == 1
    assert curve["coverage"].iloc[-1] == 1
    assert curve["accuracy"].iloc[0] > curve["accuracy"].iloc[-1] + 0.05


def test_wrong_arguments():
    with pytest.raises(ValueError, match="coverage must be above 0"):
        abstain.fit_abstention([0.1, 0.9], threshold=0.5, coverage=0)
    with pytest.raises(CubeError, match="no scores"):
        abstain.fit_abstention([], threshold=0.5)
    with pytest.raises(CubeError, match="3 labels and 2 images"):
        rule = abstain.Abstention(0.4, 0.6, 0.5, 0.9)
        abstain.evaluate_abstention([0, 1, 1], [0.2, 0.5, 0.8], ["a", "b"], rule, rng=np.random.default_rng(0))


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
    chosen, losses = calibrate.choose_calibration(labels, bent, images)
    assert chosen.method == "isotonic" and losses["isotonic"] < losses["platt"] < losses["none"]
    sharp, losses = calibrate.choose_calibration(labels, 1 / (1 + np.exp(-2 * z)), images)
    assert sharp.method == "platt", "what is more flexible must earn it"
    assert sharp.slope == pytest.approx(0.5, rel=0.1)
    assert losses["platt"] == pytest.approx(log_loss(labels, p), rel=0.02)
    alone, losses = calibrate.choose_calibration(labels, bent, np.full(3000, "a"))
    assert alone.method == "platt" and all(np.isnan(loss) for loss in losses.values())
    with pytest.raises(CubeError, match="3000 labels and 2 images"):
        calibrate.choose_calibration(labels, bent, ["a", "b"])
