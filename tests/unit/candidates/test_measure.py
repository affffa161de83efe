import numpy as np
import pytest

from otrain_core.candidates.measure import (
    BroadenedPSF,
    ConvolvedPSF,
    difference_psf,
    filtered_spread,
    gaussian_widths,
    negative_shares,
    psf_fluxes,
    window_ellipticities,
)
from otrain_core.images.kernel import KernelField
from tests.unit.synthetic_difference import NOISE, SEEING, Moffat, add, blank


def test_spread_tells_wrong_and_correlated_noise():
    from scipy.ndimage import gaussian_filter

    diff, noise, mask = blank(8, 500)
    clear = mask > 0
    assert filtered_spread(diff, noise, clear, SEEING) == pytest.approx(1, abs=0.03)
    assert filtered_spread(diff, 4 * noise, clear, SEEING) == pytest.approx(0.25, abs=0.01)
    correlated = gaussian_filter(diff, 0.7)
    correlated *= NOISE / correlated.std()
    assert filtered_spread(correlated, noise, clear, SEEING) > 1.5


def test_elongated_source_has_its_ellipticity():
    rows, columns = np.mgrid[:61, :61]
    image = 1e4 * np.exp(-0.5 * (((columns - 30) / 2.0) ** 2 + ((rows - 30) / 1.0) ** 2))
    clear = np.zeros(image.shape, bool)
    at = np.array([30.0])
    assert window_ellipticities(image, clear, at, at, seeing=3.0)[0] == pytest.approx(0.5, abs=0.06)
    round_image = 1e4 * np.exp(-0.5 * ((columns - 30) ** 2 + (rows - 30) ** 2) / 1.5**2)
    assert window_ellipticities(round_image, clear, at, at, seeing=3.0)[0] < 0.02
    width = gaussian_widths(round_image, np.ones_like(image), clear, at, at, seeing=3.0)[0]
    assert width == pytest.approx(1.5 * 2.3548, rel=0.02)


def test_psf_flux_of_noiseless_source_is_exact():
    image = np.zeros((60, 60))
    add(image, Moffat(), 30.3, 29.6, 1000.0)
    at = np.array([30.3]), np.array([29.6])
    flux, error, cover = psf_fluxes(image, np.ones_like(image), image < -1, *at, seeing=SEEING, psf=Moffat())
    assert flux[0] == pytest.approx(1000, rel=1e-6) and error[0] > 0 and cover[0] == 1


def test_a_dipole_is_half_negative_and_a_new_source_is_not():
    data = np.zeros((40, 80), dtype=np.float32)
    y, x = np.mgrid[:40, :80]
    for x0, sign in ((20.0, 1), (58.5, 1), (61.5, -1)):
        data += sign * 50 * np.exp(-0.5 * ((x - x0) ** 2 + (y - 20) ** 2) / 1.2**2)
    error, clear = np.ones_like(data), np.zeros(data.shape, dtype=bool)
    centres = np.array([20.0, 60.0, 5.0]), np.array([20.0, 20.0, 5.0])
    shares = negative_shares(data, error, clear, *centres, seeing=2.8)
    assert shares[0] == 0 and shares[1] == pytest.approx(0.5, abs=0.02) and shares[2] == 0


def kernels():
    """A kernel of sum 1 that changes along x: (3, 5, 5) terms 1, u, v."""
    rng = np.random.default_rng(1)
    planes = rng.normal(0, 0.02, (3, 5, 5))
    planes -= planes.mean(axis=(1, 2), keepdims=True)
    planes[0, 2, 2] += 1
    return planes


def test_the_convolved_psf_is_what_the_kernel_makes_of_a_star():
    image = np.zeros((101, 101), np.float32)
    add(image, Moffat(), 30.3, 61.8, 1.0)
    field = KernelField.from_kernels(kernels(), image.shape)
    assert field.order == 1
    stamp, y0, x0 = ConvolvedPSF(Moffat(), field).stamp(30.3, 61.8)
    expected = field.apply(image)[y0 : y0 + stamp.shape[0], x0 : x0 + stamp.shape[1]]
    # One uses the kernel at the star, the other that of each pixel, which changes little over a star.
    np.testing.assert_allclose(stamp, expected, atol=0.01 * stamp.max())
    assert stamp.sum() == pytest.approx(1)
    part = image[40:81, 10:51]  # centred on the star
    found = ConvolvedPSF(Moffat(), field).convolved(part, (40, 10))
    np.testing.assert_allclose(found[10:31, 10:31], field.apply(image)[50:71, 20:41], atol=0.02 * stamp.max())


@pytest.mark.parametrize(
    ("convolved", "seeing_reference", "kernel", "kind", "target"),
    [
        ("science", 4.0, True, ConvolvedPSF, 4.0),
        ("both", 4.0, True, ConvolvedPSF, SEEING),
        ("science", 4.0, False, BroadenedPSF, 4.0),
        ("reference", 2.0, False, Moffat, SEEING),
    ],
)
def test_the_psf_of_the_difference(convolved, seeing_reference, kernel, kind, target):
    planes = {"diff": np.zeros((101, 101), np.float32)} | ({"kernel": kernels()} if kernel else {})
    record = {"convolved": convolved, "seeing_reference_px": seeing_reference}
    psf, seeing = difference_psf(Moffat(), SEEING, record, planes)
    assert type(psf) is kind
    assert seeing == target
