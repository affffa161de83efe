"""Tests of the descriptors of cutouts: values, and reasons why cutouts are unlike the training set."""

import numpy as np
import pytest

from otrain_core.classify.descriptors import describe, training_statistics, unlike


def _cutouts(n=200, *, size=21, sigma=1.5, noise=10.0, level=0.0, seed=1):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size // 2
    psf = np.exp(-(x**2 + y**2) / (2 * sigma**2)) * np.ones((n, 1, 1))
    difference = rng.normal(level, noise, (n, size, size))
    return np.stack([difference, psf], axis=-1).astype(np.float32)


def test_values():
    cutouts = _cutouts(level=5.0)
    cutouts[0, :7, :, 0] = np.nan
    cutouts[1, :, :, 1] = np.nan
    found = describe(cutouts, ["difference", "psf"])
    assert np.nanmedian(found["psf_width"]) == pytest.approx(2.3548 * 1.5, rel=0.01)
    assert np.isnan(found["psf_width"][1]) and np.isnan(found["seeing"]).all()
    assert np.median(found["noise"]) == pytest.approx(10, rel=0.03)
    assert np.median(found["level"]) == pytest.approx(0.5, abs=0.05)
    assert found["missing"][0] == pytest.approx(1 / 3)
    assert found["missing"][2] == 0
    assert np.isnan(found["background"]).all()


def test_a_known_seeing_wins_and_nothing_is_no_error():
    assert (describe(_cutouts(5), ["difference", "psf"], seeing=4.0)["seeing"] == 4).all()
    assert describe(_cutouts(5)[:0], ["difference", "psf"])["noise"].shape == (0,)
    empty = np.full((2, 9, 9, 1), np.nan, np.float32)
    assert (describe(empty, ["difference"])["missing"] == 1).all()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"sigma": 1.5 * 1.3}, "width of the PSF"),
        ({"noise": 40.0}, "noise"),
        ({"level": 30.0}, "level of the difference"),
        ({}, ""),
    ],
)
def test_what_is_unlike_the_training_set_says_why(change, word):
    rng = np.random.default_rng(2)
    sigmas = rng.uniform(1.4, 1.6, 20)
    train = np.concatenate([_cutouts(30, sigma=sigma, seed=k) for k, sigma in enumerate(sigmas)])
    statistics = training_statistics(describe(train, ["difference", "psf"]), np.repeat(np.arange(20), 30))
    reasons = unlike(describe(_cutouts(50, seed=99, **change), ["difference", "psf"]), statistics)
    assert len(statistics["images"]["all"]["psf_width"]) == 20
    if word:
        assert all(reason.startswith(word) and "training" in reason for reason in reasons)
    else:
        assert not any(reasons)
