"""Tests of model cards."""

import numpy as np
import pandas as pd
import pytest

from otrain_core.classify.card import card_lines, card_markdown, table_scores, training_card
from otrain_core.errors import OtrainError
from tests.unit.shipped_model import CARD


def test_a_card_in_words():
    assert card_lines(CARD) == [
        "trained on: simulated telescopes; 3 telescopes, 9 images, 1\u202f200 True, 1\u202f100 False",
        "protocol: telescopes that were not trained on",
        "hatp32: AUC 0.980 [0.970, 0.990], FPR 4.1 %",
        "known failures: 1; `otrain models list --json` shows them and all scores",
    ]


def test_what_is_missing_was_not_measured():
    assert card_lines({}) == [
        "trained on: not measured",
        "protocol: not measured",
        "scores: not measured",
        "known failures: not measured; `otrain models list --json` shows them and all scores",
    ]


def test_a_card_as_a_page():
    page = card_markdown(CARD | {"model": "universal", "threshold": 0.5, "prior": {"sky.fwhm": {"log": [1.2, 8.0]}}})
    assert "| hatp32 | 62 | – / – | 0.980 [0.970, 0.990] | 4.1 % |" in page
    assert "| sky.fwhm | log 1.2, 8 |" in page and "- trailed sources" in page and "| threshold | 0.5 |" in page
    assert "Not measured." in card_markdown({})


def test_what_a_training_says():
    rows = [("train", f"random0009:s{k}", k % 2, 0.5) for k in range(10)] + [("test", "random0000:s1", 1, 0.9)]
    scores = pd.DataFrame(rows, columns=["set", "image", "label", "score"])
    telescopes = {"mcc_mean": 0.8, "mcc_mean_low": 0.7, "mcc_mean_high": 0.9, "mcc_worst": 0.577, "worst": "random0001"}
    telescopes["single"] = {"random0000": {}, "random0001": {}}
    headline = {"threshold": 0.5, "mcc": 0.9, "mcc_low": 0.8, "mcc_high": 1.0, "n_images": 3, "n_true": 7, "n_false": 6}
    train = {"seed": 3, "commit": "abc", "options": {"network": "otrain2"}, "n_parameters": 12}
    card = training_card(
        train, {"headline": headline, "protocol": "by-image", "telescopes": telescopes}, scores, {"n_images_failed": 2}
    )
    assert card["data"] == {
        "text": "simulated telescopes drawn at random",
        **{"n_telescopes": 1, "n_images": 10, "n_true": 5, "n_false": 5},
    }
    together, each = card["scores"]
    assert (together["mcc"], together["mcc_low"], together["n_true"]) == (0.9, 0.8, 7)
    assert (each["mcc"], each["mcc_low"], each["mcc_high"]) == (0.8, 0.7, 0.9)
    assert each["set"] == "the same, mean of 2 telescopes (lowest: random0001, 0.577)"
    assert card["options"] == {"network": "otrain2"} and card["training"]["images_failed"] == 2


def test_scores_on_real_data_come_from_a_table():
    table = pd.DataFrame(
        {
            "set": ["hatp32", "ztf", "ztf"],
            "inputs": ["all", "difference", "all"],
            "model": ["universal", "universal", "demo"],
            "n_real": [900, 505, 505],
            "auc": [0.98, 0.97, 0.8],
            "auc_low": [0.97, np.nan, 0.7],
            "purity_1pct": [0.2, 0.2, 0.2],
        }
    )
    rows = table_scores(table, model="universal")
    assert rows[0] == {"set": "hatp32", "n_true": 900, "auc": 0.98, "auc_low": 0.97}
    assert rows[1] == {"set": "ztf, inputs: difference", "n_true": 505, "auc": 0.97}
    with pytest.raises(OtrainError, match="no row for the model 'other'; it has demo, universal"):
        table_scores(table, model="other")


def test_the_short_card_fits_a_screen():
    scores = [
        {"set": f"{name}, inputs: {inputs}", "auc": 0.9, "auc_low": 0.8, "auc_high": 0.95, "recall": 0.9, "n_images": 3}
        for name in ("one", "two")
        for inputs in ("difference psf", "difference")
    ]
    lines = card_lines({"data": {"text": "drawn " * 25}, "scores": scores, "failures": ["this", "that"]})
    assert lines[-3:] == [
        "one: AUC 0.900 [0.800, 0.950], recall 90.0 %",
        "two: AUC 0.900 [0.800, 0.950], recall 90.0 %",
        "known failures: 2; `otrain models list --json` shows them and all scores",
    ]
    assert max(map(len, lines)) <= 98 and len(lines) == 3 + 3
