"""The gate: its bounds, and the choice on tune."""

import shutil

import numpy as np
import pytest

from otrain_core import io
from otrain_core.evaluation.gate import NUMBERS, refusal, tune_mcc
from otrain_core.evaluation.summary import summary_row
from otrain_core.plan.config import GateOptions
from tests.unit.synthetic_results import write_results

GATE = GateOptions(min_mcc=0.7, max_fp=0.05)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    return root, write_results(root, protocols=("grouped", "paper"))


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"mcc": 0.71, "fp_share": 0.05}, ""),
        ({"mcc": 0.7, "fp_share": 0.01}, "MCC 0.700 is not above 0.7"),
        ({"mcc": 0.9, "fp_share": 0.051}, "false positives 0.051 of the test set, more than 0.05"),
        ({"mcc": None, "fp_share": 0.01}, "MCC nan is not above 0.7"),
        ({"mcc": 0.9}, "false positives nan of the test set, more than 0.05"),
    ],
)
def test_bounds_are_as_in_the_paper(numbers, words):
    """MCC must exceed its bound, false positives may reach theirs."""
    assert refusal(numbers, GATE) == words
    assert set(numbers) <= set(NUMBERS)


def test_only_images_never_seen_count():
    assert refusal({"mcc": 0.99, "fp_share": 0.0}, GATE, protocol="paper") == "not scored on images it never saw"


def test_the_mcc_on_tune_is_that_of_the_models_own_threshold(run):
    for folder, row in zip(run[1]["runs"], [summary_row(folder) for folder in run[1]["runs"]], strict=True):
        assert row["mcc_tune"] == pytest.approx(tune_mcc(folder), nan_ok=True)
    folder = run[1]["runs"][0]
    scores, threshold = io.read_table(f"{folder}/scores.csv"), io.read_json(f"{folder}/metrics.json")["headline"]
    tune = scores[scores["set"] == "tune"]
    called = tune["score"] >= threshold["threshold"]
    assert tune_mcc(folder) == pytest.approx(np.corrcoef(called, tune["label"])[0, 1])


@pytest.mark.parametrize("removed", ["scores.csv", "metrics.json"])
def test_the_mcc_on_tune_is_unknown_without_scores(run, tmp_path, removed):
    shutil.copytree(run[1]["runs"][0], tmp_path / "seed1")
    (tmp_path / "seed1" / removed).unlink()
    assert np.isnan(tune_mcc(tmp_path / "seed1"))
