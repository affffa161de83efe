import numpy as np
import pytest
from astropy.io import fits
from scipy import ndimage

from otrain_core.errors import ImageError, UpstreamFailed
from otrain_core.images.polynomials import polynomial
from otrain_core.io import write_json
from otrain_core.stars.psf import measure_psf
from otrain_core.stars.psf_model import PSFModel
from tests.unit.synthetic_field import field, star


def gaussian(*, sigma=(1.2, 1.2), slope=0.0, oversampling=4, shape=(300, 400)):
    """Model of a Gaussian PSF with these widths along x and y, whose peak grows by `slope` from the centre to the right edge."""
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda hdu: hdu.header.update(DEGREE=40), "DEGREE must be 0 to 8"),
        (lambda hdu: hdu.header.update(OVERSAMP=0), "OVERSAMP 1 to 20, not"),
        (lambda hdu: hdu.header.update(OVERSAMP=10**9), "OVERSAMP 1 to 20, not"),
        (lambda hdu: hdu.header.update(DEGREE="two"), "must be whole numbers"),
        (lambda hdu: hdu.header.update(DEGREE=1), "3 square planes"),
        (lambda hdu: hdu.header.remove("OVERSAMP"), "not a readable PSF model .*OVERSAMP"),
        (lambda hdu: hdu.data.__setitem__((0, 3, 3), np.nan), "missing values or no flux"),
        (lambda hdu: hdu.data.__imul__(0), "missing values or no flux"),
        (lambda hdu: hdu.header.update(IMWIDTH=0), "IMHEIGHT and IMWIDTH must be positive, not \\d+ and 0"),
        (
            lambda hdu: setattr(hdu, "data", np.zeros((1, 5001, 5001), np.uint8)),
            "square planes with sides of 17 to 1609 samples",
        ),
    ],
)
def test_a_file_that_holds_no_model_is_refused(tmp_path, change, message):
    gaussian().save(tmp_path / "psf.fits")
    with fits.open(tmp_path / "psf.fits", memmap=False) as hdus:
        hdu = fits.PrimaryHDU(hdus[0].data, hdus[0].header)
    change(hdu)
    hdu.writeto(tmp_path / "psf.fits", overwrite=True)
    with pytest.raises(ImageError, match=f"image psf.fits: psf: .*{message}"):
        PSFModel.load(tmp_path / "psf.fits")


@pytest.mark.parametrize("content", [None, b"", b"no FITS file at all"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "psf.fits").write_bytes(content)
    with pytest.raises(ImageError, match="psf.fits: (no such file|not a readable PSF model)"):
        PSFModel.load(tmp_path / "psf.fits")


def test_the_profile_is_the_cubic_spline_of_scipy_and_many_stamps_are_those_of_each_star():
    nodes = np.arange(-20, 21)
    core = np.exp(-(nodes**2 + nodes[:, None] ** 2) / (2 * 3.0**2))
    model = PSFModel(np.stack([core, 0.1 * core * nodes, 0.05 * core]), 1, 2, (300, 400))
    x, y, offset = 310.3, 20.7, np.arange(-model.radius, model.radius + 1) + 0.37
    spline = np.tensordot(polynomial(x, y, model.shape, 1), model._splines, axes=1)
    places = np.meshgrid(20 + 2 * offset, 20 - 2 * offset, indexing="ij")
    expected = np.maximum(ndimage.map_coordinates(spline, places, order=3, mode="mirror", prefilter=False), 0)
    np.testing.assert_allclose(model.profile(x, y, -offset, offset), expected, atol=1e-14)
    many = np.linspace(5, 290, 40), np.linspace(7.5, 280, 40)
    stamps, y0, x0 = model.stamps(*many)
    for k in (0, 17, 39):
        stamp, top, left = model.stamp(many[0][k], many[1][k])
        np.testing.assert_allclose(stamps[k], stamp, atol=1e-15)
        assert (y0[k], x0[k]) == (top, left)
