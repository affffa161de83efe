import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from otrain_core import io
from otrain_core.plan.telescopes import Detector, SimulatedSky, Telescope
from otrain_core.sky import simulated_catalogue
from otrain_core.sky.fields import KNOWN_COLUMNS, read_sky_table
from otrain_core.sky.simulate import simulate_pair


@pytest.fixture(scope="module")
def simulated():
    detector = Detector(pixel_scale=1.2, gain=1.5, read_noise=8, saturation=60000)
    sky = SimulatedSky(width=300, height=300, star_density=3000, galaxy_density=1000, variables=12, asteroids=12)
    row = Telescope(name="t", source="simulated", detector=detector, sky=sky)
    return row, simulate_pair(row, index=0, seed=3)


def test_a_simulated_survey_is_complete_and_a_little_off(simulated):
    row, pair = simulated
    limit = simulated_catalogue.simulated_limit(pair.science_header, beta=row.sky.psf_beta)
    stars = pair.truth[pair.truth.kind == "star"]
    assert stars.mag.max() == pytest.approx(limit + 2, abs=0.1)  # as the simulator draws them
    table = simulated_catalogue.survey_of(pair.truth, limit=limit, rng=np.random.default_rng(1))
    listed = pair.truth.kind.isin(["star", "variable", "galaxy"])  # an asteroid is gone before a survey lists it
    truth = pair.truth[listed & (pair.truth.mag <= limit + 1)]
    assert len(table) == len(truth) > 200
    assert len(table) < (pair.truth.mag > 0).sum()
    assert (table.kind == "galaxy").sum() == (truth.kind == "galaxy").sum() > 20
    for off in (
        (table.dec.to_numpy() - truth.dec.to_numpy()) * 3600,
        (table.ra.to_numpy() - truth.ra.to_numpy()) * 3600 * np.cos(np.deg2rad(truth.dec.to_numpy())),
    ):
        assert np.std(off) == pytest.approx(0.05, rel=0.2)
    assert np.std(table.mag.to_numpy() - truth.mag.to_numpy()) == pytest.approx(0.02, rel=0.2)
    again = simulated_catalogue.survey_of(pair.truth, limit=limit, rng=np.random.default_rng(1))
    pd.testing.assert_frame_equal(table, again)


def test_truth_with_colours_variables_and_asteroids():
    truth = pd.DataFrame(
        {
            "kind": ["star", "variable", "variable", "asteroid", "asteroid", "cosmic"],
            "ra": [1.0, 2, 3, 4, 5, 6],
            "dec": 0.0,
            "mag": [15.0, 16, 17, 18, 19, np.nan],
            "color": [0.5, 1.0, 0.7, np.nan, np.nan, np.nan],
            "known": [np.nan, 1, 0, 1, 0, np.nan],
        }
    )
    table = simulated_catalogue.survey_of(truth, limit=20, rng=np.random.default_rng(1))
    assert list(table.kind) == ["star"] * 3
    np.testing.assert_allclose(table.color, [0.5, 1.0, 0.7], atol=0.15)
    assert not np.array_equal(table.color, [0.5, 1.0, 0.7])
    known = simulated_catalogue.known_of(truth)
    assert list(known.columns) == KNOWN_COLUMNS
    assert list(zip(known.ra, known.kind, strict=True)) == [(2.0, "variable"), (4.0, "moving")]


def run(tmp_path):
    names = {"catalogue": tmp_path / "out.csv", "known": tmp_path / "known_out.csv"}
    simulated_catalogue.simulated_catalogue_files(
        science=tmp_path / "science.fits",
        truth=tmp_path / "truth.csv",
        **names,
        telescope="t",
        image="one",
        beta=3.0,
        seed=1,
    )
    return [read_sky_table(path) for path in names.values()]


def test_files_hold_what_an_observer_of_the_simulated_sky_knows(tmp_path, simulated):
    _, pair = simulated
    fits.PrimaryHDU(pair.science, header=pair.science_header).writeto(tmp_path / "science.fits")
    io.write_table(tmp_path / "truth.csv", pair.truth)
    stars, known = run(tmp_path)
    assert len(stars) > 200 and set(stars.kind) == {"star", "galaxy"}
    listed = pair.truth[pair.truth.known == 1]
    assert list(known.columns) == KNOWN_COLUMNS
    assert len(known) == len(listed) < (pair.truth.kind.isin(["variable", "asteroid"])).sum()
    assert (known.kind == "variable").sum() == (listed.kind == "variable").sum() > 0
    assert (known.kind == "moving").sum() == (listed.kind == "asteroid").sum() > 0
    np.testing.assert_allclose(known.ra, listed.ra, atol=1e-6)
    assert stars.color.notna().sum() == (stars.kind == "star").sum()
    first = (tmp_path / "out.csv").read_bytes()
    run(tmp_path)
    assert (tmp_path / "out.csv").read_bytes() == first
