"""The shipped model: found, or missed in one sentence."""

import numpy as np
import pytest

from otrain_core.arrays import write_arrays
from otrain_core.classify import Classifier
from otrain_core.classify.shipped import shipped_card, shipped_digest, shipped_file, shipped_files
from otrain_core.errors import OtrainError
from otrain_core.io import digest, read_table
from tests.unit.shipped_model import CARD
from tests.unit.synthetic_cube import make_cube


def test_it_is_found_with_its_card(shipped_model):
    assert shipped_file() == shipped_model and shipped_card() == CARD


def test_without_one_a_sentence_says_so(shipped_folder):
    assert shipped_card() is None
    with pytest.raises(OtrainError, match="universal.onnx: this installation has no shipped model; name another"):
        shipped_file()


def test_without_a_card_nothing_is_known(shipped_model):
    shipped_model.with_suffix(".json").unlink()
    assert shipped_card() == {}


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_broken_card_is_refused(shipped_model, text):
    shipped_model.with_suffix(".json").write_text(text)
    with pytest.raises(OtrainError, match="universal.json: not a"):
        shipped_card()


def test_a_cube_is_scored(tmp_path, shipped_model):
    cube = make_cube(60)
    write_arrays(tmp_path / "cube.npz", cube)
    shipped_files(cube=tmp_path / "cube.npz", scores=tmp_path / "scores.csv")
    table = read_table(tmp_path / "scores.csv")
    assert table["index"].tolist() == list(range(60)) and set(table["threshold"]) == {0.6}
    assert np.allclose(table["score"], Classifier.load(shipped_model).score(cube), atol=1e-6)
    assert shipped_digest() == digest(shipped_model)


@pytest.mark.parametrize("reason", ["no shipped model", "cutouts of 21 px were asked for"])
def test_what_cannot_be_scored_is_an_empty_table(tmp_path, shipped_model, caplog, reason):
    cube = make_cube(20)
    if "no" in reason.split():
        shipped_model.unlink()
        assert shipped_digest() == ""
    else:
        cube["cube"] = cube["cube"][:, 8:24, 8:24]
    write_arrays(tmp_path / "cube.npz", cube)
    shipped_files(cube=tmp_path / "cube.npz", scores=tmp_path / "scores.csv")
    assert len(read_table(tmp_path / "scores.csv")) == 0 and reason in caplog.text
