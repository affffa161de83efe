import numpy as np
import pytest

from otrain_core.errors import UpstreamFailed
from otrain_core.io import write_json
from otrain_core.stars.psf import measure_psf
from otrain_core.stars.psf_model import PSFModel
from tests.unit.synthetic_field import field, star


def gaussian(*, sigma=(1.2, 1.2), slope=0.0, oversampling=4, shape=(300, 400)):
    """Model of a Gaussian PSF (along x and y) whose peak grows by `slope` from the middle to the right edge."""
    offset = np.arange(-40, 41) / oversampling
    plane = np.exp(-((offset / sigma[0]) ** 2) / 2 - ((offset[:, None] / sigma[1]) ** 2) / 2)
    table = (
        plane[None]
        if slope == 0
        else np.stack([plane, slope * plane * (offset == 0) * (offset[:, None] == 0), 0 * plane])
    )
    return PSFModel(table, 0 if slope == 0 else 1, oversampling, shape)


def test_size_and_shape_of_a_gaussian():
    model = gaussian(sigma=(1.0, 1.5))
    assert model.fwhm == pytest.approx(2.3548 * np.sqrt(1.5), rel=2e-3)
    assert model.ellipticity == pytest.approx(1 - 1 / 1.5, abs=5e-3)
    assert abs(model.angle) == pytest.approx(90, abs=0.1)  # the major axis is along y
    assert gaussian().ellipticity < 1e-6
    assert (model.radius, model.size) == (9, 19)


def test_noise_area_of_a_gaussian():
    """4 pi sigma^2 (King 1983)."""
    assert gaussian().noise_area(200, 150) == pytest.approx(4 * np.pi * 1.2**2, rel=1e-3)


def test_the_model_follows_the_position():
    model = gaussian(slope=0.2)
    left, middle, right = (model.profile(x, 150.0, np.zeros(1), np.zeros(1))[0, 0] for x in (0.0, 199.5, 399.0))
    assert (left, middle, right) == pytest.approx((0.8, 1.0, 1.2), rel=1e-6)


def test_stamps_are_normalised_and_centred():
    image, *_ = field(fwhm=1.8)
    model, _ = measure_psf(image)
    centred = model.at(100.0, 200.0)
    assert centred.shape == (model.size, model.size)
    assert centred.sum() == pytest.approx(1, abs=1e-12)
    offset = np.arange(-model.radius, model.radius + 1)
    core = np.exp(-(offset**2 + offset[:, None] ** 2) / 8) * centred
    assert abs((core * offset).sum() / core.sum()) < 0.02
    for x, y in [(100.0, 200.0), (100.49, 200.5), (-0.4, 383.4)]:
        stamp, y0, x0 = model.stamp(x, y)
        assert stamp.sum() == pytest.approx(1, abs=1e-12)
        assert (x0 + model.radius, y0 + model.radius) == (np.floor(x + 0.5), np.floor(y + 0.5))
    stamp, y0, x0 = model.stamp(100.4, 200.0)
    assert (stamp * (x0 + np.arange(model.size))).sum() == pytest.approx(100.4, abs=0.03)
    wide = star(20, 20, 1.8, (41, 41))
    inside = slice(20 - model.radius, 21 + model.radius)
    assert wide[inside, inside].sum() > 0.99


def test_saved_model_is_the_same(tmp_path):
    image, *_ = field(fwhm=2.2, n=60)
    model, _ = measure_psf(image)
    model.save(tmp_path / "psf.fits")
    again = PSFModel.load(tmp_path / "psf.fits")
    np.testing.assert_allclose(again.stamp(50.3, 60.8)[0], model.stamp(50.3, 60.8)[0], atol=1e-6)
    assert again.fwhm == pytest.approx(model.fwhm, abs=0.01)
    write_json(tmp_path / "failed.fits", {"otrain_failed": {"image": "a", "key": "psf", "message": "none"}})
    with pytest.raises(UpstreamFailed, match="image a: psf: none"):
        PSFModel.load(tmp_path / "failed.fits")
