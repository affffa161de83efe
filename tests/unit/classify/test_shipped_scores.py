"""Tests of the scores of the shipped model on a cube."""

import numpy as np
import pytest

from otrain_core.arrays import write_arrays
from otrain_core.classify import Classifier
from otrain_core.classify.shipped import shipped_digest
from otrain_core.classify.shipped_scores import shipped_files
from otrain_core.io import digest, read_table
from tests.unit.synthetic_cube import make_cube


def test_a_cube_is_scored(tmp_path, shipped_model):
    cube = make_cube(60)
    write_arrays(tmp_path / "cube.npz", cube)
    shipped_files(cube=tmp_path / "cube.npz", scores=tmp_path / "scores.csv")
    table = read_table(tmp_path / "scores.csv")
    assert table["index"].tolist() == list(range(60)) and set(table["threshold"]) == {0.6}
    assert np.allclose(table["score"], Classifier.load(shipped_model).score(cube), atol=1e-6)
    assert shipped_digest() == digest(shipped_model)


@pytest.mark.parametrize("reason", ["no shipped model", "cutouts of 21 px are needed"])
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
