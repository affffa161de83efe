"""Labels and columns of the sets of the real sky."""

import json

import numpy as np
import pytest

from otrain_core.cubes.cube_format import read_cube
from otrain_core.errors import OtrainError
from tools import real_sets


def test_alerts_of_the_real_sky(shared_data, tmp_path):
    """Labels as the README of the data has them; what is negative is flipped, so that every candidate is bright."""
    cube = real_sets.build_set("ztf", shared_data, tmp_path)
    assert (cube["labels"] == 1).sum() == 212 and (cube["labels"] == 0).sum() == 11
    assert (cube["signs"] < 0).sum() == 75
    assert np.isnan(cube["cube"][..., 4]).all(), "no PSF is given"
    centre = cube["cube"][:, 29:34, 29:34, 0]
    bright = np.nanmax(centre, axis=(1, 2)) > -np.nanmin(centre, axis=(1, 2))
    real = cube["labels"] == 1
    assert bright[real & (cube["signs"] < 0)].mean() > 0.95 and bright[real & (cube["signs"] > 0)].mean() > 0.95
    # A negative one is brighter in what stands for the science image, as a positive one is.
    inner = np.nanmax(cube["cube"][:, 29:34, 29:34, 1:3], axis=(1, 2))
    assert ((inner[:, 0] > inner[:, 1])[real & (cube["signs"] < 0)]).mean() > 0.8
    assert len(read_cube(tmp_path / "ztf/cube.npz")["labels"]) == 223
    assert json.loads((tmp_path / "ztf/set.json").read_text())["n_left_out"] == 40


def test_one_pair_of_real_frames(shared_data, tmp_path, monkeypatch):
    """Frames go through the pipeline: real stars are True, and a failed image is named and left out."""
    rows = real_sets._rows("decam_mini", shared_data, tmp_path)
    broken = {**rows[1], "image": "broken", "path": "decam_mini/README.txt"}
    monkeypatch.setattr(real_sets, "_rows", lambda *_: [rows[0], broken])
    cube = real_sets.build_set("decam_mini", shared_data, tmp_path)
    stars = np.isin(cube["kinds"], ("removed", "transplanted"))
    assert stars.sum() >= 2 and (cube["labels"][stars] == 1).all() and (cube["labels"] == 0).sum() >= 3
    assert np.isfinite(cube["cube"][..., 4]).all() and set(cube["signs"]) <= {-1, 1}
    assert set(cube["convolved"]) <= {"science", "reference"} and len(np.unique(cube["units"])) > 1
    assert list(json.loads((tmp_path / "decam_mini/set.json").read_text())["failed"]) == ["broken"]


def test_few_images_are_drawn_in_parts():
    x, y = np.meshgrid(np.arange(9.0), np.arange(9.0))
    images = np.full(81, "one")
    units, counts = np.unique(real_sets._units(images, x.ravel(), y.ravel()), return_counts=True)
    assert len(units) == 9 and (counts == 9).all()
    many = np.arange(81).astype(str)
    assert (real_sets._units(many, x.ravel(), y.ravel()) == many).all()


@pytest.mark.parametrize("shape", [(30, 30), (31, 33), (40, 40)])
def test_the_middle_of_a_stamp_stays_the_middle(shape):
    plane = np.zeros(shape)
    plane[shape[0] // 2, shape[1] // 2] = 1
    cut = real_sets._centred(plane, 32)
    assert cut.shape == (32, 32) and cut[16, 16] == 1


def test_without_data_one_sentence(tmp_path):
    with pytest.raises(OtrainError, match="no such folder; name the folder of the real data"):
        real_sets.build_set("ztf", tmp_path / "none", tmp_path)
