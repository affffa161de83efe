import json
from pathlib import Path

import numpy as np
import pytest

from otrain_core.errors import CubeError
from otrain_core.evaluation import metrics
from tests.unit.noisy_scores import noisy

HAND = json.loads((Path(__file__).parents[2] / "golden" / "metrics_by_hand.json").read_text())
LABELS, SCORES = np.array(HAND["labels"]), np.array(HAND["scores"])


def test_numbers_worked_out_by_hand():
    counts = metrics.confusion(LABELS, SCORES, HAND["threshold"])
    assert counts == HAND["confusion"]
    assert metrics.rates(**counts) == pytest.approx(HAND["rates"], abs=1e-12)
    assert metrics.auc(LABELS, SCORES) == pytest.approx(HAND["auc"])
    for recall, value in HAND["fpr_at_recall"].items():
        assert metrics.fpr_at_recall(LABELS, SCORES, float(recall)) == pytest.approx(value), recall
    assert metrics.ece(LABELS, SCORES, bins=2) == pytest.approx(HAND["ece_2_bins"])
    assert metrics.purity(0.6, 0.2, 0.01) == pytest.approx(HAND["purity_1_percent"])
    assert metrics.false_alarms_per_image(1, 2, kept_false=0.25) == HAND["false_alarms_per_image"]


def test_agrees_with_scikit_learn():
    from sklearn import metrics as sk

    labels, scores, _ = noisy()
    accepted = scores >= 0.5
    ours = metrics.headline(labels, scores, 0.5, n_images=20, stated_recall=0.95)
    assert ours["mcc"] == pytest.approx(sk.matthews_corrcoef(labels, accepted))
    assert ours["f1"] == pytest.approx(sk.f1_score(labels, accepted))
    assert ours["precision"] == pytest.approx(sk.precision_score(labels, accepted))
    assert ours["auc"] == pytest.approx(sk.roc_auc_score(labels, scores))
    assert ours["loss"] == pytest.approx(sk.log_loss(labels, scores))
    fpr, tpr, _ = sk.roc_curve(labels, scores)
    for missed, name in ((0.01, "fpr_at_1pct_missed"), (0.05, "fpr_at_5pct_missed")):
        assert ours[name] == pytest.approx(fpr[np.argmax(tpr >= 1 - missed)])


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
        ([0, 1], [0.5], "of the same length"),
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
    values = metrics.headline([1, 1], scores, 0.5, n_images=1, stated_recall=0.95)
    assert values["recall"] == 0.5 and values["precision"] == 1.0
    for name in ("mcc", "f1", "fpr", "auc", "fpr_at_1pct_missed"):
        assert np.isnan(values[name]), name
    rates = metrics.rates(0, 0, 3, 3)
    assert np.isnan(rates["precision"]) and rates["mcc"] == 0


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
