"""The curves of a training, as one table."""

import numpy as np
import pytest

from otrain_core.evaluation import metrics
from otrain_core.evaluation.curves import CURVE_COLUMNS, curves
from tests.unit.noisy_scores import noisy


def test_every_curve_is_that_of_the_scores():
    labels, scores, _ = noisy(400)
    mags = np.linspace(15, 20, 400)
    table = curves(labels, scores, scores**1.2, mags, bins=2)
    assert tuple(table.columns) == CURVE_COLUMNS
    assert set(table["curve"]) == {"roc", "pr", "f1-mcc", "f1", "mcc", "calibration", "calibration_after"}
    roc = table[(table["curve"] == "roc") & (table["bin"] == "")]
    assert np.trapezoid(roc["y"], roc["x"]) == pytest.approx(metrics.auc(labels, scores))
    bright = table[table["bin"] == "15.00 to 17.50"]
    assert np.trapezoid(bright["y"], bright["x"]) == pytest.approx(metrics.auc(labels[:200], scores[:200]))
    mcc = table[(table["curve"] == "mcc") & (table["threshold"] == 0.5)]["y"].item()
    assert mcc == pytest.approx(metrics.rates(**metrics.confusion(labels, scores, 0.5))["mcc"])
    before, after = (table[table["curve"] == name] for name in ("calibration", "calibration_after"))
    assert before["y"].tolist() == pytest.approx(metrics.calibration_curve(labels, scores)["true_fraction"].tolist())
    assert (after["x"].to_numpy()[1:-1] < 1).all() and len(after) > 3


def test_one_class_has_no_roc():
    table = curves(np.ones(5, int), np.linspace(0.1, 0.9, 5), np.linspace(0.1, 0.9, 5), np.full(5, np.nan), bins=2)
    assert "roc" not in set(table["curve"])
