import shutil

import numpy as np
import pytest

from otrain_core.errors import ImageError, MissingProgramError
from otrain_core.plan.pipelines import PsfOptions
from otrain_core.stars.psf import measure_psf
from otrain_core.stars.psf_model import PSFModel
from otrain_core.stars.psfex import table_of
from tests.unit.synthetic_field import field, star, width

installed = all(any(map(shutil.which, names)) for names in (("source-extractor", "sex", "sextractor"), ("psfex",)))
needs_psfex = pytest.mark.skipif(not installed, reason="needs the programs source-extractor and psfex")


def fluxes(model, fwhm, variation, shape, n=60):
    """Flux measured by a fit of the model for true stars of flux 1 at random positions."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(n):
        x, y = rng.uniform(20, shape[1] - 20), rng.uniform(20, shape[0] - 20)
        stamp, y0, x0 = model.stamp(x, y)
        truth = star(x - x0, y - y0, width(x, y, fwhm, variation, shape), stamp.shape)
        found.append((stamp * truth).sum() / (stamp**2).sum())
    return np.array(found)


@needs_psfex
@pytest.mark.parametrize(("fwhm", "variation"), [(1.5, 0.1), (2.5, 0.15)])
def test_psfex_and_the_empirical_fit_agree(fwhm, variation):
    image, *_ = field(fwhm=fwhm, variation=variation, n=170, shape=(448, 448))
    image.zero_point = 25.0
    model, record = measure_psf(image, options=PsfOptions(method="psfex"))
    _, empirical = measure_psf(image)
    assert record.keys() == empirical.keys()
    assert record["degree"] == 2
    assert record["n_stars"] > 60
    assert record["seeing_px"] == pytest.approx(empirical["seeing_px"], rel=0.03)
    assert record["seeing_max_px"] == pytest.approx(empirical["seeing_max_px"], rel=0.06)
    assert record["limit_mag"] == pytest.approx(empirical["limit_mag"], abs=0.03)
    assert record["background_rms"] == empirical["background_rms"]
    assert record["residual"] < 1.5 * empirical["residual"] + 0.01
    flux = fluxes(model, fwhm, variation, image.shape)
    assert abs(flux.mean() - 1) < 0.02
    assert flux.std() < 0.02
    stamp, *_ = model.stamp(100.3, 200.8)
    assert stamp.sum() == pytest.approx(1, abs=1e-12)


@needs_psfex
def test_hits_and_holes_do_not_enter():
    image, *_ = field(fwhm=1.8, n=170, seed=4, shape=(448, 448))
    rng = np.random.default_rng(1)
    rows, columns = rng.integers(2, 444, 400), rng.integers(2, 444, 400)
    image.data[rows, columns] += 10 ** rng.uniform(2, 4, 400)
    image.data[150:160] = np.nan
    image.data[:, :12] = np.nan
    model, record = measure_psf(image, options=PsfOptions(method="psfex"))
    assert record["n_stars"] >= 24
    assert abs(fluxes(model, 1.8, 0.0, image.shape).mean() - 1) < 0.02


@needs_psfex
def test_degree_follows_the_number_of_stars():
    image, *_ = field(fwhm=2.5, n=26, seed=9)
    assert measure_psf(image, options=PsfOptions(method="psfex", min_stars=4))[1]["degree"] < 2


def test_too_few_stars_are_refused():
    image, *_ = field(fwhm=2.5, n=26, seed=9)
    with pytest.raises(ImageError, match="image field: psf: .* usable stars"):
        measure_psf(image, options=PsfOptions(method="psfex", min_stars=40))


def test_missing_program_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    image, *_ = field(fwhm=2.5)
    with pytest.raises(MissingProgramError, match=r"the program source-extractor is not on the PATH"):
        measure_psf(image, options=PsfOptions(method="psfex"))


def test_conversion_is_exact():
    """Samples and polynomials of PSFEx's table are converted to the right places of ours."""
    rng = np.random.default_rng(5)
    offset = np.arange(-12, 13) / 2
    base = np.exp(-(offset**2 + offset[:, None] ** 2) / 3)
    planes = np.stack([base] + [0.05 * rng.normal() * base * (offset**2)[:, None] for _ in range(5)])
    psf = {"data": planes, "width": 25, "height": 25, "sampling": 0.5, "degree": 2}
    psf |= {"x0": 140.0, "sx": 280.0, "y0": 90.0, "sy": 170.0}
    shape = (200, 300)
    table, oversampling = table_of(psf, shape)
    assert oversampling == 4
    model = PSFModel(table, 2, oversampling, shape)
    for x, y in [(0.0, 0.0), (250.0, 60.0), (140.0, 199.0)]:
        u, v = (x + 1 - 140) / 280, (y + 1 - 90) / 170
        monomials = [1, u, u**2, v, u * v, v**2]  # the order of PSFEx
        expected = np.tensordot(monomials, planes, axes=1)
        inner = offset[2:-2]
        found = model.profile(x, y, inner, inner)
        np.testing.assert_allclose(found, np.maximum(expected, 0)[2:-2, 2:-2], atol=1e-9)
