"""Star catalogues and known objects: local files, the simulator, and services of the network on a loopback."""

import threading

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from otrain_core import io
from otrain_core.errors import ConfigError, ImageError
from otrain_core.plan.telescopes import Detector, SimulatedSky, Telescope
from otrain_core.sky import answers, catalogue, services, simulated_catalogue
from otrain_core.sky.fields import COLUMNS, KNOWN_COLUMNS, Field, field_of, middle_time, read_sky_table
from otrain_core.sky.simulate import simulate_pair
from scripts.sky.catalogue import main
from tests.unit.loopback import loopback, recorded


def header(*, size=100, scale=2.0, time="2024-05-02T10:11:12"):
    values = fits.Header()
    values["CTYPE1"], values["CTYPE2"] = "RA---TAN", "DEC--TAN"
    values["CRVAL1"], values["CRVAL2"] = 83.6, 22.0
    values["CRPIX1"] = values["CRPIX2"] = (size + 1) / 2
    values["CD1_1"], values["CD2_2"] = -scale / 3600, scale / 3600
    values["CD1_2"] = values["CD2_1"] = 0.0
    values["EXPTIME"] = 60.0
    if time:
        values["DATE-OBS"] = time
    return values


@pytest.fixture
def field():
    return field_of(WCS(header()), (100, 100), image="one", header=header())


@pytest.fixture
def server(monkeypatch):
    """A loopback that stands for VizieR, SkyBoT and XMatch; astroquery's own code sends and parses."""
    from astroquery.imcce import conf
    from astroquery.vizier import VizierClass
    from astroquery.xmatch import XMatchClass

    with loopback() as state:
        monkeypatch.setattr(answers, "WAIT", 0.01)
        monkeypatch.setattr(answers, "TIMEOUT", 5)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(
            VizierClass, "_server_to_url", lambda self, return_type: f"{state.url}/{self.VIZIER_SERVER}"
        )
        monkeypatch.setattr(XMatchClass, "URL", f"{state.url}/xmatch")
        monkeypatch.setattr(type(conf), "skybot_server", f"{state.url}/skybot")
        yield state


# The field


def test_a_field_holds_its_image_and_a_margin(field):
    assert field.ra == pytest.approx(83.6)
    assert field.radius == pytest.approx(np.hypot(50, 50) * 2 / 3600 * 1.1, rel=1e-3)
    assert field.time == "2024-05-02T10:11:42.000"  # half an exposure later
    corner = WCS(header()).pixel_to_world_values(-0.5, 99.5)
    assert field.holds(*(np.array([value]) for value in corner)).all()
    far = field.holds(np.array([83.6, 263.6, np.nan]), np.array([22.05, -22.0, 22.0]))
    assert not far.any()


def test_a_field_at_the_pole_and_at_ra_zero():
    field = Field("one", 0.01, 89.99, 0.1)
    assert field.holds(np.array([180.0, 359.0]), np.array([89.95, 89.99])).all()
    field = Field("one", 0.01, 0.0, 0.1)
    assert list(field.holds(np.array([359.95, 359.8]), np.array([0.0, 0.0]))) == [True, False]


@pytest.mark.parametrize(
    ("cards", "time"),
    [
        ({"DATE-OBS": "2024-05-02T10:11:12.5Z", "EXPTIME": 20}, "2024-05-02T10:11:22.500"),
        ({"DATE-OBS": "2024-05-02", "TIME-OBS": "23:59:50", "EXPTIME": 60}, "2024-05-03T00:00:20.000"),
        ({"DATE-OBS": "2024-05-02", "MJD-OBS": 60432.5, "EXPTIME": "long"}, "2024-05-02T12:00:00.000"),
        ({"DATE-OBS": "2024-05-02"}, ""),  # which hour, it does not tell
        ({"DATE-OBS": "last Tuesday"}, ""),
        ({}, ""),
    ],
)
def test_the_time_of_an_image(cards, time):
    assert middle_time(fits.Header(cards)) == time


# Local files


def write(path, text):
    path.write_text(text)
    return str(path)


def test_a_local_catalogue_is_cropped_to_the_field(tmp_path, field):
    path = write(
        tmp_path / "stars.csv", "# made by hand\nra, dec, mag, note\n83.6,22.0,15.5,a\n83.61,22.01,12.5,b\n90,22,11,c\n"
    )
    table = catalogue.star_catalogue(path, field, cache=tmp_path)
    assert list(table.columns) == COLUMNS
    assert list(table.mag) == [12.5, 15.5]
    assert table.color.isna().all() and (table.kind == "").all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ra,mag\n1,2\n", "a column 'dec' .* is needed"),
        ("ra,dec\n83.6,22\n05:34:24,22\n", "ra: row 2: a number of degrees is needed, found '05:34:24'"),
        ("ra,dec\n83.6,220\n", "dec: row 1"),
        ("ra,dec\n83.6,\n", "dec: row 1"),
        ("ra,dec,mag\n83.6,22,bright\n", "mag: row 1: a number is needed, found 'bright'"),
        ("", "not a CSV table"),
    ],
)
def test_a_wrong_local_catalogue_is_told_in_one_sentence(tmp_path, field, text, message):
    path = write(tmp_path / "stars.csv", text)
    with pytest.raises(ConfigError, match=f"catalogue: {path}: .*{message}|catalogue: {path}: {message}"):
        catalogue.star_catalogue(path, field, cache=tmp_path)


def test_a_catalogue_of_another_field_is_refused_and_a_missing_file_is_named(tmp_path, field):
    path = write(tmp_path / "stars.csv", "ra,dec\n10,10\n")
    with pytest.raises(ImageError, match="lists nothing in the field of .* 83.6000"):
        catalogue.star_catalogue(path, field, cache=tmp_path)
    with pytest.raises(ConfigError, match="catalogue: .*none.csv: no such file"):
        catalogue.star_catalogue(str(tmp_path / "none.csv"), field, cache=tmp_path)


def test_known_objects_of_files(tmp_path, field):
    path = write(tmp_path / "known.csv", "name,ra,dec,kind\nA,83.6,22.0,\n7,83.61,22.0,moving\nfar,90,22,\n")
    table = catalogue.known_objects(f"{path}+{path}", field, cache=tmp_path)
    assert list(table.columns) == KNOWN_COLUMNS
    assert list(table.name) == ["A", "7", "A", "7"]
    assert list(table.kind) == ["variable", "moving"] * 2


# The simulator


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


# Services of the network


def test_gaia_comes_through_astroquery(server, tmp_path, field):
    server.answers = [recorded("vizier_gaia.vot")]
    table = catalogue.star_catalogue("gaia", field, cache=tmp_path)
    path, body = server.requests[0]
    assert path == "/vizier.cds.unistra.fr"
    assert "-source=I/355/gaiadr3" in body and "-c=83.6" in body and "-out.max=unlimited" in body
    assert len(table) == 9  # the tenth is outside
    assert list(table.mag[:2]) == pytest.approx([12.0, 14.123401], abs=1e-5)
    assert (table.kind == "star").all()
    # 8.33 years of 3.6 and -1.8 arcsec a year
    years = 2024.3347 - 2016
    assert (table.dec[0] - 22.0) * 3600 == pytest.approx(-1.8 * years, abs=0.01)
    assert (table.ra[0] - 83.6) * 3600 * np.cos(np.deg2rad(22)) == pytest.approx(3.6 * years, abs=0.01)
    assert table.color[0] == pytest.approx(0.41, abs=0.05)  # of a star like the Sun
    assert table.color.isna().sum() == 2  # one has none, one is redder than the relation holds
    assert table.ra.notna().all()


def test_the_colour_relation_is_that_of_stdpipe():
    """Values of `stdpipe.catalogs` (g_SDSS - r_SDSS from BP - RP)."""
    np.testing.assert_allclose(services.gaia_color([0.8, 2.0]), [0.4105, 1.4847], atol=2e-3)
    assert np.isnan(services.gaia_color([np.nan, 0.0, 3.0])).all()


def test_pan_starrs_tells_stars_from_galaxies(server, tmp_path, field):
    server.answers = [recorded("vizier_panstarrs.vot")]
    table = catalogue.star_catalogue("panstarrs", field, cache=tmp_path)
    assert len(table) == 9
    assert table.mag[0] == pytest.approx(12.122) and table.color[0] == pytest.approx(0.489, abs=1e-3)
    assert table.kind.value_counts().to_dict() == {"star": 5, "galaxy": 3, "": 1}
    assert np.isnan(table.mag.iloc[-1])  # listed all the same, last


def test_known_objects_come_from_both_services_and_a_file(server, tmp_path, field):
    server.answers = [recorded("vizier_vsx.vot"), recorded("skybot.vot")]
    path = write(tmp_path / "mine.csv", "ra,dec\n83.6,22.0\n")
    table = catalogue.known_objects(f"vsx+skybot:I33+{path}", field, cache=tmp_path)
    assert list(table.kind) == ["variable", "variable", "moving", "moving", "variable"]
    assert list(table.name[:3]) == ["V0725 Tau", "Gaia DR3 3403818172572314624", "Elyna"]
    assert table.ra[2] == pytest.approx(83.606, abs=1e-5) and table.dec[2] == pytest.approx(22.003, abs=1e-5)
    assert "-loc=I33" in server.requests[1][1] and "-ep=2460432.9247" in server.requests[1][1]


@pytest.mark.parametrize(("source", "name"), [("vsx", "vizier_empty.vot"), ("skybot", "skybot_empty.vot")])
def test_a_field_without_known_objects_gives_a_table_without_rows(server, tmp_path, field, source, name):
    server.answers = [recorded(name)]
    for _ in range(2):  # from the service, then from the cache
        table = catalogue.known_objects(source, field, cache=tmp_path)
        assert len(table) == 0 and list(table.columns) == KNOWN_COLUMNS
        assert table.ra.dtype == float
    assert len(server.requests) == 1


def test_a_survey_that_is_blind_there_is_told(server, tmp_path, field):
    server.answers = [recorded("vizier_empty.vot")]
    with pytest.raises(ImageError, match="image one: catalogue: panstarrs lists nothing in the field"):
        catalogue.star_catalogue("panstarrs", field, cache=tmp_path)


def test_skybot_needs_a_time(tmp_path):
    field = field_of(WCS(header()), (100, 100), image="one", header=header(time=None))
    with pytest.raises(ImageError, match="image one: DATE-OBS"):
        catalogue.known_objects("skybot", field, cache=tmp_path)


def test_an_answer_is_asked_for_once(server, tmp_path, field):
    server.answers = [recorded("vizier_gaia.vot")]
    first = catalogue.star_catalogue("gaia", field, cache=tmp_path / "cache")
    server.answers = [500]
    pd.testing.assert_frame_equal(first, catalogue.star_catalogue("gaia", field, cache=tmp_path / "cache"))
    assert len(server.requests) == 1
    assert [path.name[:5] for path in (tmp_path / "cache").iterdir()] == ["gaia-"]
    other = Field("two", 84.0, 22.0, 0.1)
    with pytest.raises(ConfigError):
        catalogue.star_catalogue("gaia", other, cache=tmp_path / "cache")


def test_two_jobs_at_once_share_the_cache(server, tmp_path, field):
    server.answers = [(0.1, recorded("vizier_gaia.vot"))]
    results, errors = [], []

    def job():
        try:
            results.append(catalogue.star_catalogue("gaia", field, cache=tmp_path))
        except Exception as error:
            errors.append(error)

    jobs = [threading.Thread(target=job) for _ in range(4)]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join()
    assert not errors and len(results) == 4
    assert all(result.equals(results[0]) for result in results)
    assert len(list(tmp_path.iterdir())) == 1


GARBAGE = b"<html><body>Please come back later</body></html>"


@pytest.mark.parametrize(
    "failures",
    [
        pytest.param([500, 503], id="errors of the server"),
        pytest.param([GARBAGE, b""], id="garbage"),
        pytest.param([recorded("vizier_gaia.vot")[:2500], GARBAGE], id="cut short"),
        pytest.param([recorded("vizier_error.vot"), 500], id="an error that looks like an empty table"),
        pytest.param([(0.6, recorded("vizier_gaia.vot")), (0.6, b"")], id="too slow"),
    ],
)
def test_failures_are_tried_again_elsewhere(server, tmp_path, field, failures, monkeypatch):
    monkeypatch.setattr(answers, "TIMEOUT", 0.2)
    server.answers = [*failures, recorded("vizier_gaia.vot")]
    assert len(catalogue.star_catalogue("gaia", field, cache=tmp_path)) == 9
    mirrors = [path for path, _ in server.requests]
    assert mirrors == ["/vizier.cds.unistra.fr", "/vizier.cfa.harvard.edu", "/vizier.cds.unistra.fr"]


@pytest.mark.parametrize("answer", [500, GARBAGE, b"", recorded("vizier_error.vot"), recorded("skybot.vot")[:4000]])
@pytest.mark.parametrize("source", ["gaia", "skybot"])
def test_no_answer_is_told_in_one_sentence_and_nothing_is_kept(server, tmp_path, field, answer, source):
    server.answers = [answer]
    ask = catalogue.star_catalogue if source == "gaia" else catalogue.known_objects
    with pytest.raises(ConfigError) as caught:
        ask(source, field, cache=tmp_path)
    text = str(caught.value)
    assert text.startswith(f"{source} (ra 83.6, dec 22.0, radius 0.044")
    assert str(tmp_path) in text and "compute nodes often have no network" in text
    assert "\n" not in text and len(server.requests) == answers.ATTEMPTS
    assert list(tmp_path.iterdir()) == []


def test_no_network_at_all(server, tmp_path, field, monkeypatch):
    from astroquery.vizier import VizierClass

    monkeypatch.setattr(VizierClass, "_server_to_url", lambda self, return_type: "http://127.0.0.1:9/votable")
    with pytest.raises(ConfigError, match="gaia .*no answer after 4 attempts .*ConnectionError"):
        catalogue.star_catalogue("gaia", field, cache=tmp_path)


def test_pauses_between_attempts_double(tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(answers.time, "sleep", pauses.append)

    def fetch(attempt, path):
        raise OSError("no route to host")

    with pytest.raises(ConfigError, match="OSError: no route to host"):
        answers.answer(fetch, service="gaia", parameters={"ra": 1}, cache=tmp_path)
    assert pauses == [answers.WAIT, 2 * answers.WAIT, 4 * answers.WAIT]


def test_remote_cross_match(server, tmp_path):
    server.answers = [recorded("xmatch.vot")]
    ra, dec = np.array([83.6, 83.61, 83.62]), np.array([22.0, 22.01, 22.02])
    for _ in range(2):
        distance = services.crossmatch_remote(ra, dec, "gaia", radius=3.0, cache=tmp_path)
        np.testing.assert_allclose(distance, [0.412, np.nan, 0.775], atol=1e-3)
    sent = [body for path, body in server.requests if path == "/xmatch"]
    assert len(sent) == 1 and "vizier:I/355/gaiadr3" in sent[0] and "83.61" in sent[0]
    assert len(services.crossmatch_remote(ra[:0], dec[:0], "gaia", radius=3.0, cache=tmp_path)) == 0


# The script


def run(tmp_path, science, *, truth=None, source=None, known_source=None):
    names = {"catalogue": tmp_path / "out.csv", "known": tmp_path / "known_out.csv"}
    main(
        science=science, truth=truth, **names, image="one", telescope="t", psf_beta=3.0, wcs=None, source=source,
        known_source=known_source, cache=tmp_path / "cache", seed=1,
    )  # fmt: skip
    return [read_sky_table(path) for path in names.values()]


def test_the_script_writes_what_a_simulated_telescope_knows(tmp_path, simulated):
    _, pair = simulated
    fits.PrimaryHDU(pair.science, header=pair.science_header).writeto(tmp_path / "science.fits")
    io.write_table(tmp_path / "truth.csv", pair.truth)
    stars, known = run(tmp_path, tmp_path / "science.fits", truth=tmp_path / "truth.csv")
    assert len(stars) > 200 and set(stars.kind) == {"star", "galaxy"}
    listed = pair.truth[pair.truth.known == 1]
    assert list(known.columns) == KNOWN_COLUMNS
    assert len(known) == len(listed) < (pair.truth.kind.isin(["variable", "asteroid"])).sum()
    assert (known.kind == "variable").sum() == (listed.kind == "variable").sum() > 0
    assert (known.kind == "moving").sum() == (listed.kind == "asteroid").sum() > 0
    np.testing.assert_allclose(known.ra, listed.ra, atol=1e-6)
    assert stars.color.notna().sum() == (stars.kind == "star").sum()
    first = (tmp_path / "out.csv").read_bytes()
    run(tmp_path, tmp_path / "science.fits", truth=tmp_path / "truth.csv")
    assert (tmp_path / "out.csv").read_bytes() == first


def test_the_script_for_a_real_telescope(server, tmp_path):
    fits.PrimaryHDU(np.ones((100, 100), np.float32), header=header()).writeto(tmp_path / "one.fits")
    server.answers = [recorded("vizier_gaia.vot"), recorded("vizier_vsx.vot")]
    stars, known = run(tmp_path, tmp_path / "one.fits", source="gaia", known_source="vsx")
    assert len(stars) == 9 and len(known) == 2
    stars, known = run(tmp_path, tmp_path / "one.fits")
    assert len(stars) == len(known) == 0
    assert stars.ra.dtype == known.ra.dtype == float
    assert len(server.requests) == 2


def test_the_script_needs_a_wcs_only_where_it_looks_something_up(tmp_path):
    fits.PrimaryHDU(np.ones((100, 100), np.float32)).writeto(tmp_path / "one.fits")
    stars, _ = run(tmp_path, tmp_path / "one.fits")
    assert len(stars) == 0
    with pytest.raises(ImageError, match="image one: WCS"):
        run(tmp_path, tmp_path / "one.fits", source="gaia")
