import numpy as np
import pytest

from otrain_core.networks import architecture
from otrain_core.networks.psf_residual import MODEL_ERROR, matched_filter, psf_residual
from tests.unit.tiny_network import tiny_network

SIDE = 21


def star(dx=0.0, dy=0.0, fwhm=3.0):
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    return np.exp(-4 * np.log(2) * ((x - dx) ** 2 + (y - dy) ** 2) / fwhm**2).astype(np.float32)


def residual(difference, psf=None, valid=None):
    valid = np.ones_like(difference, bool) if valid is None else valid
    psf = star() if psf is None else psf
    return np.asarray(psf_residual(*(plane[None].astype(plane.dtype) for plane in (difference, valid, psf))))[0]


@pytest.mark.parametrize("flux", [-30.0, 10.0, 200.0])
def test_nothing_is_left_of_a_point_source(flux):
    noise = np.random.default_rng(1).normal(size=(SIDE, SIDE)).astype(np.float32)
    left = residual(flux * star() + noise)
    assert left.std() == pytest.approx(1, abs=0.15)  # less under a bright source: the model error
    assert np.abs(left - noise)[noise.shape[0] // 2].max() < 3
    assert np.abs(residual(flux * star(), star() * 1e-4)).max() < 1e-4  # the flux of the PSF does not matter


def test_a_small_shift_is_fitted_and_a_large_one_is_not():
    assert np.abs(residual(50 * star(0.2, -0.15))).max() < 2
    assert np.abs(residual(50 * star(2.0, 0.0))).max() > 10


@pytest.mark.parametrize("other", ["sharper", "wider", "dipole"])
def test_what_is_no_point_source_stays(other):
    seen = {"sharper": star(fwhm=1.2), "wider": star(fwhm=6.0), "dipole": star(1, 0) - star(-1, 0)}[other]
    assert np.abs(residual(30 * seen)).max() > 5 * np.abs(residual(30 * star(0.1, 0.1))).max()


def test_the_model_is_not_trusted_beyond_its_error():
    bright, wrong = 1e4 * star(fwhm=3.1), star(fwhm=3.0)
    assert np.abs(residual(bright, wrong)).max() < 0.5 / MODEL_ERROR
    assert np.abs(bright - 1e4 * wrong).max() > 100


def test_missing_pixels_and_an_unknown_psf():
    valid = np.ones((SIDE, SIDE), bool)
    valid[8:11, 9:12] = False
    hole = np.where(valid, 40 * star(), 0.0).astype(np.float32)
    left = residual(hole, valid=valid)
    assert np.abs(left).max() < 1e-3 and (left[~valid] == 0).all()
    noise = np.random.default_rng(2).normal(size=(SIDE, SIDE)).astype(np.float32)
    np.testing.assert_allclose(residual(noise, np.zeros_like(noise)), noise, rtol=1e-6)
    nothing = residual(np.zeros((SIDE, SIDE), np.float32), valid=np.zeros((SIDE, SIDE), bool))
    assert (nothing == 0).all()


def significance(difference, psf, valid=None):
    valid = np.ones(difference.shape, bool) if valid is None else valid
    return np.asarray(matched_filter(*(array.astype(array.dtype) for array in (difference, valid, psf))))


def test_the_matched_filter_has_the_significance_of_the_noise_it_finds():
    """A star is less significant in correlated noise; for noise alone the filter has a scatter of 1 in both cases."""
    from scipy.ndimage import gaussian_filter

    white = np.random.default_rng(4).normal(size=(400, SIDE, SIDE)).astype(np.float32)
    psf = np.repeat(star(fwhm=4.0)[None], 400, axis=0)
    middle = SIDE // 2
    found = {}
    for width in (0.0, 1.2):
        noise = gaussian_filter(white, (0, width, width)) if width else white
        noise = (noise / noise.std()).astype(np.float32)
        assert significance(noise, psf).std() == pytest.approx(1, abs=0.05)
        found[width] = np.median(significance(noise + 3 * psf, psf)[:, middle, middle])
    # 3 sqrt(sum PSF^2) for white noise.
    assert found[0.0] == pytest.approx(3 * np.sqrt(np.sum(star(fwhm=4.0) ** 2)), rel=0.08)
    assert found[1.2] < 0.5 * found[0.0]


def test_the_matched_filter_without_a_psf_and_without_pixels():
    noise = np.random.default_rng(5).normal(size=(50, SIDE, SIDE)).astype(np.float32)
    psf = np.zeros_like(noise)
    assert significance(noise, psf).std() == pytest.approx(1, abs=0.1)
    valid = np.ones(noise.shape, bool)
    valid[:, :4], valid[0] = False, False
    got = significance(noise * valid, psf, valid)
    assert not got[~valid].any() and np.isfinite(got).all()
    huge = np.where(noise > 0, 1e30, -1e30).astype(np.float32)
    assert np.isfinite(significance(huge, huge)).all()


def stage(size=20, channels=("difference", "psf")):
    model = tiny_network("otrain2", size=size, channels=channels, normalise="mad-asinh")
    return architecture.keras.Model(model.input, architecture.input_stage(model).output)


def test_the_input_stage_gives_the_residual_in_place_of_the_psf():
    rng = np.random.default_rng(3)
    cutouts = np.stack([rng.normal(100, 7, (SIDE, SIDE)) + 500 * star(), star()], axis=-1)[None].astype(np.float32)
    seen = np.asarray(stage(SIDE)(cutouts))[0]
    assert seen[SIDE // 2, SIDE // 2, 0] > 4 and np.abs(np.sinh(seen[..., 1])).max() < 5
    turned = np.asarray(stage(SIDE)(np.rot90(cutouts, axes=(1, 2)).copy()))[0]
    np.testing.assert_allclose(turned, np.rot90(seen), atol=1e-4)  # so that flips may come after the stage


def test_the_input_stage_bears_anything():
    rng = np.random.default_rng(4)
    cutouts = rng.normal(size=(5, 20, 20, 2)).astype(np.float32)
    cutouts[0], cutouts[1, ..., 1], cutouts[2, ..., 0] = np.nan, np.nan, cutouts[2, ..., 0] * 1e35
    cutouts[3, 5:15, 5:15, 0], cutouts[4, ..., 1] = np.nan, np.inf
    assert np.isfinite(np.asarray(stage()(cutouts))).all()


def test_the_psf_needs_the_difference():
    for channels, normalise in ((("psf",), "mad-asinh"), (("difference", "psf"), "none")):
        with pytest.raises(ValueError, match="the channel psf needs"):
            architecture.InputStage(channels=channels, normalise=normalise)
