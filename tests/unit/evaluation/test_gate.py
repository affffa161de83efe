"""The gate: its bounds, and the choice on validation."""

import re
import shutil

import numpy as np
import pytest

from otrain_core import io
from otrain_core.evaluation import metrics
from otrain_core.evaluation.bootstrap import bootstrap_intervals
from otrain_core.evaluation.gate import NUMBERS, refusal, validation_mcc
from otrain_core.evaluation.summary import summary_row
from otrain_core.plan.config import GateOptions
from tests.unit.synthetic_results import write_results

GATE = GateOptions(min_mcc=0.7, max_fp=0.05)
GOOD = {"mcc": 0.9, "mcc_low": 0.85, "fp_share": 0.02, "n_images": 5, "n_true": 50, "n_false": 50}
GOOD |= {"baseline_mcc": 0.8, "gain": 0.1, "gain_low": 0.05, "sky_unknown": 0.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    return root, write_results(root, protocols=("by-image", "random"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"mcc": 0.75, "mcc_low": 0.71, "fp_share": 0.05}, ""),
        ({"mcc": 0.7}, "MCC 0.700 is not above 0.7"),
        ({"mcc_low": 0.7}, "MCC 0.900 may be as low as 0.700, which is not above 0.7"),
        ({"mcc_low": None}, "MCC 0.900 may be as low as nan, which is not above 0.7"),
        ({"fp_share": 0.051}, "false positives are 0.051 of the test set, more than 0.05"),
        ({"mcc": None}, "MCC nan is not above 0.7"),
        ({"fp_share": None}, "false positives are nan of the test set, more than 0.05"),
        ({"n_images": 4}, "the test set is too small: 4 of 5 images"),
        ({"n_true": 11, "n_false": 12}, "the test set is too small: 11 of 50 True, 12 of 50 False"),
        ({"n_images": None}, "the test set is too small: nan of 5 images"),
        (
            {"sky_unknown": 1.0},
            "it is not known which images show the same sky, so a star may be in both train and test",
        ),
        ({"gain_low": 0.001}, ""),
        (
            {"gain": 0.02, "gain_low": 0.0},
            "MCC 0.900 does not beat fixed cuts on S/N, FWHM and shape (0.800) by more than chance",
        ),
        (
            {"baseline_mcc": 0.95, "gain": -0.05, "gain_low": -0.1},
            "MCC 0.900 does not beat fixed cuts on S/N, FWHM and shape (0.950)",
        ),
        ({"gain": 0.01, "gain_low": None}, ""),
        (
            {"baseline_mcc": 0.9, "gain": 0.0, "gain_low": None},
            "MCC 0.900 does not beat fixed cuts on S/N, FWHM and shape (0.900)",
        ),
        ({"baseline_mcc": None, "gain": None, "gain_low": None}, ""),
    ],
)
def test_what_a_training_must_reach(changed, words):
    """MCC must exceed its bound with its interval, false positives may reach theirs; counts and cuts come in."""
    assert refusal(GOOD | changed, GATE) == words
    assert set(changed) <= set(NUMBERS)


def test_a_wanted_gain_counts():
    assert refusal(GOOD, GateOptions(min_gain=0.04)) == ""
    assert "by more than chance" in refusal(GOOD, GateOptions(min_gain=0.06))
    assert refusal(GOOD | {"gain": -0.5, "gain_low": -0.7}, GateOptions(min_gain=-2)) == ""


def test_only_images_never_seen_count():
    assert refusal(GOOD, GATE, protocol="random") == "it was not scored on images that it never saw"


def test_the_perfect_score_of_a_tiny_test_set_makes_no_champion():
    """23 cutouts of one image: MCC 1 says little."""
    labels = np.r_[np.ones(11), np.zeros(12)]
    scores = np.where(labels == 1, 0.9, 0.1)
    headline = metrics.headline(labels, scores, 0.5, n_images=1, stated_recall=0.95)
    found = bootstrap_intervals(
        labels, scores, np.zeros(23), 0.5, rng=np.random.default_rng(0), draws=100, confidence=0.95, stated_recall=0.95
    )
    headline |= {"mcc_low": found["mcc"][0]}
    loose = GateOptions(min_images=1, min_per_class=1)
    assert headline["mcc"] == 1.0 and refusal(headline, GATE).startswith("the test set is too small: 1 of 5 images")
    assert refusal(headline, loose) == "MCC 1.000 may be as low as 0.599, which is not above 0.7"


def test_the_mcc_on_validation_is_that_of_the_models_own_threshold(run):
    for folder, row in zip(run[1]["runs"], [summary_row(folder) for folder in run[1]["runs"]], strict=True):
        assert row["mcc_validation"] == pytest.approx(validation_mcc(folder), nan_ok=True)
    folder = run[1]["runs"][0]
    scores, threshold = io.read_table(f"{folder}/scores.csv"), io.read_json(f"{folder}/metrics.json")["headline"]
    validation = scores[scores["set"] == "validation"]
    called = validation["score"] >= threshold["threshold"]
    assert validation_mcc(folder) == pytest.approx(np.corrcoef(called, validation["label"])[0, 1])


@pytest.mark.parametrize("removed", ["scores.csv", "metrics.json"])
def test_the_mcc_on_validation_is_unknown_without_scores(run, tmp_path, removed):
    shutil.copytree(run[1]["runs"][0], tmp_path / "seed1")
    (tmp_path / "seed1" / removed).unlink()
    assert np.isnan(validation_mcc(tmp_path / "seed1"))


@pytest.mark.parametrize(
    ("numbers", "by", "words"),
    [
        ({}, 0.0, ""),
        ({"shipped_mcc": 0.85, "shipped_gain": 0.05, "shipped_gain_low": 0.01}, 0.0, ""),
        ({"shipped_mcc": 0.85, "shipped_gain": 0.05, "shipped_gain_low": 0.01}, 0.02, "is not shown to be above"),
        ({"shipped_mcc": 0.85, "shipped_gain": 0.05, "shipped_gain_low": -0.01}, 0.0, r"shipped model \(0.850\)$"),
        ({"shipped_mcc": 0.85, "shipped_gain": 0.05, "shipped_gain_low": None}, 0.0, "is not shown to be above"),
        ({"shipped_mcc": 0.95, "shipped_gain": -0.05, "shipped_gain_low": -0.1}, 0.0, "use the shipped model: otrain"),
        ({"shipped_mcc": 0.95, "shipped_gain": -0.05, "shipped_gain_low": None}, -2.0, ""),
    ],
)
def test_a_training_must_be_shown_to_be_better_than_the_shipped_model(numbers, by, words):
    found = refusal(GOOD | numbers, GateOptions(min_gain_shipped=by))
    assert re.search(words, found) if words else found == ""
