"""The card of a model in words."""

from otrain_core.classify.card import card_lines
from tests.unit.shipped_model import CARD


def test_a_card_in_words():
    assert card_lines(CARD) == [
        "trained on: simulated telescopes; 3 telescopes, 9 images, 1\u202f200 True, 1\u202f100 False (seed 7, commit abc1234)",
        "protocol: telescopes that were not trained on",
        "hatp32: AUC 0.980 [0.970, 0.990], FPR 4.1 % (62 images)",
        "known failure: trailed sources",
    ]


def test_what_is_missing_was_not_measured():
    assert card_lines({}) == [
        "trained on: not measured",
        "protocol: not measured",
        "scores: not measured",
        "known failures: not measured",
    ]
