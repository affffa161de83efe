"""Saturation, bleeding, and the noise of sky and readout."""

import numpy as np
import pytest

from otrain_core.sky.simulate import simulate_pair
from tests.unit.sky.test_simulate import CLEAN, background_noise, telescope
from tests.unit.sky.test_simulate import pair as pair


@pytest.mark.parametrize("gain, read_noise, sky_mag", [(1.5, 8.0, 20.5), (4.0, 15.0, 18.5)])
def test_noise_is_that_of_sky_and_readout(gain, read_noise, sky_mag):
    row = telescope(
        **CLEAN, star_density=0, galaxy_density=0, gain=gain, read_noise=read_noise, sky_mag=sky_mag, width=512
    )
    pair = simulate_pair(row, index=0, seed=1)
    for data, header in ((pair.science, pair.science_header), (pair.reference, pair.reference_header)):
        sky, electrons = np.median(data), header["GAIN"]
        expected = np.sqrt(sky * electrons + header["RDNOISE"] ** 2) / electrons
        assert background_noise(data) == pytest.approx(expected, rel=0.025)
        assert sky == pytest.approx(header["SKYLEVEL"], rel=0.05)
    assert background_noise(pair.reference) < 0.7 * background_noise(pair.science)


def test_saturation_is_respected(pair):
    for data, header in ((pair.science, pair.science_header), (pair.reference, pair.reference_header)):
        assert data.max() <= header["SATURATE"]
        assert (data >= 0.98 * header["SATURATE"]).sum() > 5
    rows = pair.truth[pair.truth.kind == "saturated"]
    assert len(rows)
    for row in rows.itertuples():
        y, x = int(round(row.y)), int(round(row.x))
        assert pair.science[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].max() > 0.95 * 20000


@pytest.mark.parametrize("kind, bleeds", [("ccd", True), ("cmos", False)])
def test_cmos_detectors_do_not_bleed(kind, bleeds):
    row = telescope(type=kind, saturation=8000.0, star_density=3000)
    kinds = set(simulate_pair(row, index=2, seed=5).truth.kind)
    assert "saturated" in kinds
    assert ("bleed" in kinds) == bleeds
