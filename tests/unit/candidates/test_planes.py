import numpy as np
import pandas as pd
import pytest

from otrain_core.candidates.measure import SIGMA
from otrain_core.candidates.planes import PLANES, Planes, add_limits, read_field
from otrain_core.errors import ImageError

SEEING, NOISE = 4.0, 3.0


class Gaussian:
    """A PSF that is a Gaussian of the seeing."""

    def stamp(self, x, y):
        half = 12
        x0, y0 = int(np.floor(x + 0.5)) - half, int(np.floor(y + 0.5)) - half
        place = np.arange(2 * half + 1)
        square = (y0 + place - y)[:, None] ** 2 + (x0 + place - x) ** 2
        stamp = np.exp(-square / (2 * (SIGMA * SEEING) ** 2))
        return stamp / stamp.sum(), y0, x0


@pytest.fixture
def raw():
    rng = np.random.default_rng(2)
    difference = rng.normal(0, NOISE, (80, 90)).astype("f4")
    return {
        "science": difference + 7,
        "reference": np.full((80, 90), 7, "f4"),
        "difference": difference,
        "noise": np.full((80, 90), NOISE, "f4"),
        "mask": np.zeros((80, 90), np.uint8),
    }


def planes(raw, **changed):
    return Planes.of(**raw | changed, seeing=SEEING, image="i")


def test_inputs_are_in_units_of_the_noise(raw):
    seen = dict(zip(PLANES, np.moveaxis(planes(raw).inputs(1.0), -1, 0), strict=True))
    np.testing.assert_allclose(seen["science"], np.arcsinh(raw["science"] / NOISE), rtol=1e-5)
    np.testing.assert_allclose(seen["difference"], np.arcsinh(raw["difference"] / NOISE), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.sinh(seen["filtered"]).std(), 1, atol=0.15)
    np.testing.assert_allclose(seen["filtered"], seen["filtered_raw"], atol=1e-3)
    assert np.all(seen["has_difference"] == 1)


def test_without_a_difference_its_planes_are_empty(raw):
    seen = dict(zip(PLANES, np.moveaxis(planes(raw, difference=None).inputs(1.0), -1, 0), strict=True))
    assert not seen["difference"].any() and not seen["filtered"].any() and not seen["has_difference"].any()
    assert seen["filtered_raw"].any()


def test_bad_pixels_are_told_and_leave_nothing_behind(raw):
    raw["science"][10, 20], raw["mask"][5, 5], raw["noise"][7, 7] = np.nan, 4, 0
    found = planes(raw)
    assert found.bad.sum() == 3 and found.bad[10, 20] and found.bad[5, 5] and found.bad[7, 7]
    seen = found.inputs(1.0)
    assert np.isfinite(seen).all()
    assert seen[10, 20, PLANES.index("mask")] == 1 and seen[10, 20, 0] == 0


def test_swapped_planes_show_what_fades(raw):
    found = planes(raw).swapped()
    np.testing.assert_array_equal(found.difference, -raw["difference"])
    np.testing.assert_array_equal(found.science, raw["reference"])


def test_planes_that_cannot_be_used_are_refused(raw):
    with pytest.raises(ImageError, match="differ in shape"):
        planes(raw, reference=np.zeros((3, 3), "f4"))
    with pytest.raises(ImageError, match="no usable pixel"):
        planes(raw, mask=np.ones((80, 90), np.uint8))
    with pytest.raises(ImageError, match="positive seeing"):
        Planes.of(**raw, seeing=float("nan"))


def test_limit_of_a_gaussian_is_that_of_the_formula(raw):
    found = planes(raw)
    sources = pd.DataFrame({"x": [40.3], "y": [41.8], "flux": [500.0]})
    row = add_limits(sources, found, Gaussian()).iloc[0]
    sigma, noise = SIGMA * SEEING, NOISE * found.spread()
    snr = 500 / (noise * np.sqrt(4 * np.pi) * sigma)
    assert row["snr"] == pytest.approx(snr, rel=0.02)
    assert row["limit"] == pytest.approx(np.sqrt(2) * sigma / snr, rel=0.03)  # Lindegren 1978; King 1983


def test_a_source_on_bad_pixels_has_no_limit(raw):
    raw["mask"][30:60, 30:60] = 1
    row = add_limits(pd.DataFrame({"x": [45.0], "y": [45.0], "flux": [500.0]}), planes(raw), Gaussian()).iloc[0]
    assert row["snr"] < 0.2 * 500 / NOISE and np.isnan(row["limit"]) == (row["snr"] == 0)


def test_a_difference_that_was_not_kept_is_named(tmp_path):
    with pytest.raises(ImageError, match="it is kept only if finder.train is set"):
        read_field(tmp_path, image="i")
