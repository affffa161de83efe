"""Purity of a night: the numbers behind the table; the nights themselves in the tool's own run."""

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.plan.telescopes import Telescope
from tests.unit.night.detections import detection
from tools.night_purity import purity, second_highest, simulate_night


def test_purity_at_one_percent():
    real = np.array([True] * 10 + [False] * 1000)
    score = np.concatenate([np.full(9, 0.9), [0.1], np.full(10, 0.95), np.full(990, 0.5)])
    found = purity(real, score)
    assert found["recall"] == 0.9 and found["false_positives"] == 0.01
    assert found["purity"] == pytest.approx(0.01 * 0.9 / (0.01 * 0.9 + 0.99 * 0.01))
    assert found["purity_low"] < found["purity"]
    clean = purity(real, np.where(real, 1.0, 0.0))
    assert clean["purity"] == 1.0 and 0.5 < clean["purity_low"] < 0.9  # a thousand bogus leave so much open


def test_two_of_three():
    items = [
        detection(1, "a1", object=1, probability=0.9, n_images=3),
        detection(2, "a2", object=1, probability=0.7, n_images=3),
        detection(3, "a3", object=1, probability=0.2, n_images=3),
        detection(1, "once", object=2, probability=0.99),
        detection(1, "hot1", object=3, probability=0.99, n_detector=3, n_images=2),
        detection(2, "hot2", object=3, probability=0.99, n_detector=3, n_images=2),
        detection(1, "none", object=None, probability=0.99),
    ]
    assert second_highest(items).tolist() == [0.7, 0.7, 0.7, 0.0, 0.0, 0.0, 0.0]


def test_exposures_of_one_field(tmp_path):
    """The sky moves on the detector, the hot pixels do not, and the noise is another one."""
    detector = {"pixel_scale": 1.2, "gain": 1.5, "read_noise": 8.0, "saturation": 60000.0}
    empty = dict.fromkeys(("star_density", "galaxy_density", "cosmics", "bad_columns", "trails", "ghosts"), 0)
    sky = {"width": 200, "height": 160, "seeing": 3.0, "hot_pixels": 2000} | empty
    telescope = Telescope.model_validate({"name": "t", "source": "simulated", "detector": detector, "sky": sky})
    paths, reference = simulate_night(tmp_path, 500, telescope=telescope, n=2)
    one, two = (fits.open(path)[0] for path in paths)
    assert one.data.shape == two.data.shape == (160, 200) and fits.getdata(reference).shape[0] >= 200
    assert one.header["DATE-OBS"] != two.header["DATE-OBS"] and not np.array_equal(one.data, two.data)
    assert np.hypot(*(one.header[key] - two.header[key] for key in ("CRPIX1", "CRPIX2"))) > 1
    hot = [
        data > np.median(data) + 10 * 1.4826 * np.median(np.abs(data - np.median(data)))
        for data in (one.data, two.data)
    ]
    assert hot[0].sum() > 30 and (hot[0] & hot[1]).sum() > 0.8 * hot[0].sum()
