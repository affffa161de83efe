import numpy as np
import pytest

from otrain_core.classify.descriptors import image_noise, psf_width
from otrain_core.networks.vary import vary_inputs
from otrain_core.plan.config import Experiment, VaryInputs

CHANNELS = ["difference", "science", "reference", "mask", "psf"]


def cutouts(n=400, size=31, width=4.0):
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:size, :size] - size // 2
    psf = np.exp(-(x**2 + y**2) / (2 * (width / 2.3548) ** 2))
    stack = rng.normal(0, 3, (n, size, size, 5)).astype(np.float32)
    stack[..., :2] += 200 * psf[..., None]
    stack[..., 3], stack[..., 4] = 0, psf / psf.sum()
    return stack


def varied(stack=None, seed=1, channels=CHANNELS, **shares):
    stack = cutouts() if stack is None else stack
    return vary_inputs(stack.copy(), channels, options=VaryInputs(**shares), rng=np.random.default_rng(seed))


def lacking(plane):
    return np.isnan(plane).all(axis=(1, 2))


def test_nothing_changes_without_shares():
    assert np.array_equal(varied(), cutouts()) and not Experiment().varied


def test_inputs_are_missing_in_their_shares_and_the_difference_never():
    got = varied(no_psf=0.3, no_images=0.4, no_mask=1)
    science, reference, psf = (lacking(got[..., k]) for k in (1, 2, 4))
    assert 0.24 < psf.mean() < 0.36
    assert 0.33 < (science | reference).mean() < 0.47
    assert 0.1 < (science ^ reference).sum() / (science | reference).sum() < 0.3
    assert np.array_equal(got[..., 0], cutouts()[..., 0])
    blocked = cutouts()
    blocked[..., 3] = 4
    assert not varied(blocked, no_mask=1)[..., 3].any() and varied(blocked, no_psf=1)[..., 3].all()


def test_a_wrong_psf_has_about_the_width_and_the_place_of_the_right_one():
    got, right = varied(wrong_psf=1)[..., 4], cutouts()[..., 4]
    ratio = np.log(psf_width(got) / psf_width(right))
    assert 0.1 < ratio.std() < 0.2 and abs(ratio.mean()) < 0.05
    assert np.allclose(got.sum(axis=(1, 2)), 1, atol=1e-4)
    at = np.sum(got * np.arange(31), axis=(1, 2)) - 15
    assert got.shape == right.shape and 0.08 < at.std() < 0.25


def test_a_missing_psf_stays_missing():
    stack = cutouts(20)
    stack[..., 4] = np.nan
    assert lacking(varied(stack, wrong_psf=1)[..., 4]).all()


def test_pixels_change_but_not_the_candidate():
    before = cutouts()
    got = varied(before, pixels=0.5)
    middle = (slice(None), slice(14, 17), slice(14, 17), 0)
    assert np.isfinite(got[middle]).all()
    flux, was = got[middle].sum(axis=(1, 2)), before[middle].sum(axis=(1, 2))
    assert np.all(flux > 0.6 * was) and np.all(flux < 1.15 * was)
    missing = np.isnan(got[..., 0])
    filled = ~missing & (got[..., 3] != 0)
    assert 0.15 < missing.any(axis=(1, 2)).mean() < 0.4 and 0.1 < filled.any(axis=(1, 2)).mean() < 0.4
    assert np.array_equal(missing, np.isnan(got[..., 1])) and got[..., 3][missing].all()
    quiet = image_noise(got[..., 0]) / image_noise(before[..., 0])
    assert np.quantile(quiet, 0.03) > 0.2 and np.quantile(quiet, 0.2) < 0.8  # correlated noise is smoother
    assert np.array_equal(varied(before, pixels=0.5), got, equal_nan=True)
    assert not np.array_equal(varied(before, pixels=0.5, seed=2), got, equal_nan=True)


def test_light_of_the_reference_is_left_with_its_neighbours():
    stack = cutouts(300)
    stack[..., 0] -= 0.98 * 200 * stack[:1, ..., 4] / stack[0, 15, 15, 4]  # little is left of the star in the middle
    y, x = np.mgrid[:31, :31] - 15
    stack[:200, ..., 2] += stack[:200, ..., 1] + 300 * np.exp(-((x - 9) ** 2 + y**2) / 6)
    stack[200:, ..., 2] += stack[200:, ..., 1]  # no neighbour
    labels = (np.arange(300) % 2).astype(int)
    shares = VaryInputs(flux_scale=1)
    got = vary_inputs(stack.copy(), CHANNELS, options=shares, rng=np.random.default_rng(1), labels=labels)
    assert np.array_equal(got[..., 1:], stack[..., 1:])
    change = got[..., 0] - stack[..., 0]
    false, alone = change[:200][labels[:200] == 0], change[200:][labels[200:] == 0]
    assert not alone.any()
    left = false[:, 15, 15] / 200
    told = left > 0
    assert told.mean() > 0.5 and (left[told] < 0.75).all() and not false[~told].any()
    assert np.median(false[told, 15, 24] / false[told, 15, 15]) == pytest.approx(1.5, rel=0.1)
    true = np.abs(change[labels == 1][:, 14:17, 14:17].sum(axis=(1, 2)))
    source = np.abs(stack[labels == 1][:, 14:17, 14:17, 0].sum(axis=(1, 2)))
    assert np.all(true <= 0.2 * source * 1.001) and (true > 0).any()
    # Without labels nothing is known of what may be left.
    assert np.array_equal(varied(stack, flux_scale=1), stack)


@pytest.mark.parametrize("size", [9, 12, 32])
def test_all_sizes_and_cutouts_without_a_value_pass(size):
    stack = cutouts(50, size=size)
    stack[:5], stack[5:10, ..., 0], stack[10, ..., 4] = np.nan, 7.0, 0
    got = varied(stack, pixels=1, wrong_psf=1)
    assert got.shape == stack.shape and np.isfinite(got[15:, size // 2, size // 2, 0]).all()
    assert not np.isinf(got).any()


def test_channels_may_be_few():
    stack = cutouts(30)[..., :1]
    got = varied(stack, channels=["difference"], pixels=1, no_psf=1, no_images=1, no_mask=1)
    assert np.isfinite(got[:, 15, 15]).all()


def test_shares_of_the_psf_are_of_the_same_cutouts():
    with pytest.raises(ValueError, match="must be at most 1"):
        VaryInputs(no_psf=0.6, wrong_psf=0.6)
