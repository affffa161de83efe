"""Errors by telescope, sign and reason."""

import numpy as np
import pytest

from otrain_core.evaluation.groups import by_telescope
from otrain_core.plan.config import EvaluateOptions
from tests.unit.evaluation.test_evaluate import data as data
from tests.unit.evaluation.test_evaluate import run


def test_reasons_that_differ_by_a_number_are_one_group(data):
    cube, table = data
    reasons = np.where(cube["labels"] == 1, [f"injection {k} at 0.{k} FWHM" for k in range(3000)], "no injection")
    record, _ = run(({**cube, "reasons": reasons}, table))
    assert {row["group"] for row in record["reasons"]} == {"injection # at # FWHM", "no injection"}


def test_recall_and_false_alarms_by_sign(data):
    cube, table = data
    sign = np.where(np.arange(len(table)) % 4 == 0, -1, 1)
    record, _ = run((cube, table.assign(sign=sign)))
    test = table.assign(sign=sign)[table["set"] == "test"]
    for row in record["signs"]:
        part = test[test["sign"] == row["sign"]]
        found = part["score"] >= record["headline"]["threshold"]
        assert row["recall"] == found[part["label"] == 1].mean() and row["fpr"] == found[part["label"] == 0].mean()
        assert row["recall_low"] < row["recall"] < row["recall_high"]
        assert row["false_alarms_per_image"] == (found & (part["label"] == 0)).sum() / test["image"].nunique()
        assert row["false_alarms_per_image_low"] <= row["false_alarms_per_image"] <= row["false_alarms_per_image_high"]
    assert [row["sign"] for row in record["signs"]] == [1, -1]
    assert sum(row["n_true"] + row["n_false"] for row in record["signs"]) == len(test)
    plain = run(data)[0]
    assert plain["signs"] == [] and plain["headline"] == record["headline"]


def test_a_sign_without_true_has_no_recall(data):
    cube, table = data
    one = table.assign(sign=np.where(table["label"] == 1, 1, -1))
    rows = {row["sign"]: row for row in run((cube, one))[0]["signs"]}
    assert np.isnan(rows[-1]["recall"]) and rows[-1]["fpr"] > 0 and np.isnan(rows[1]["fpr"])


def test_each_telescope_is_scored_at_the_common_threshold():
    labels = np.array([1, 1, 0, 0] * 2 + [1, 1])
    scores = np.array([0.9, 0.8, 0.2, 0.1, 0.9, 0.3, 0.2, 0.1, 0.9, 0.4])
    names = np.array(["a"] * 4 + ["b"] * 4 + ["c"] * 2)
    found = by_telescope(
        labels, scores, names, 0.5, rng=np.random.default_rng(1), options=EvaluateOptions(bootstrap=200)
    )
    assert found["single"]["a"] == {"n_true": 2, "n_false": 2, "auc": 1.0, "mcc": 1.0, "recall": 1.0, "fpr": 0.0}
    assert found["single"]["b"]["mcc"] == pytest.approx(0.57735, abs=1e-5) and found["single"]["b"]["auc"] == 1.0
    assert found["single"]["c"]["recall"] == 0.5 and np.isnan(found["single"]["c"]["mcc"])
    assert found["worst"] == "b" and found["mcc_mean"] == pytest.approx(0.78868, abs=1e-5)
    assert 0.577 <= found["mcc_mean_low"] < found["mcc_mean"] < found["mcc_mean_high"] <= 1
