"""Tests of the files of the shipped model."""

import pytest

from otrain_core.classify.shipped import shipped_card, shipped_file
from otrain_core.errors import OtrainError
from tests.unit.shipped_model import CARD


def test_it_is_found_with_its_card(shipped_model):
    assert shipped_file() == shipped_model and shipped_card() == CARD


def test_without_one_a_sentence_says_so(shipped_folder):
    assert shipped_card() is None
    with pytest.raises(OtrainError, match="universal.onnx: this installation has no shipped model; give another"):
        shipped_file()


def test_without_a_card_nothing_is_known(shipped_model):
    shipped_model.with_suffix(".json").unlink()
    assert shipped_card() == {}


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_broken_card_is_refused(shipped_model, text):
    shipped_model.with_suffix(".json").write_text(text)
    with pytest.raises(OtrainError, match="universal.json: not a"):
        shipped_card()
