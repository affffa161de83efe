"""Network services, replaced by a local server; astroquery itself sends the queries and parses the answers."""

import numpy as np
import pandas as pd
import pytest
from astropy.wcs import WCS

from otrain_core.errors import ConfigError, ImageError
from otrain_core.sky import answers, catalogue, services
from otrain_core.sky.fields import KNOWN_COLUMNS, Field, field_of
from tests.unit.loopback import recorded

GARBAGE = b"<html><body>Please come back later</body></html>"


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


def test_pan_starrs_separates_stars_from_galaxies(server, tmp_path, field):
    server.answers = [recorded("vizier_panstarrs.vot")]
    table = catalogue.star_catalogue("panstarrs", field, cache=tmp_path)
    assert len(table) == 9
    assert table.mag[0] == pytest.approx(12.122) and table.color[0] == pytest.approx(0.489, abs=1e-3)
    assert table.kind.value_counts().to_dict() == {"star": 5, "galaxy": 3, "": 1}
    assert np.isnan(table.mag.iloc[-1])  # a source without magnitude is last


@pytest.mark.parametrize(("source", "name"), [("vsx", "vizier_empty.vot"), ("skybot", "skybot_empty.vot")])
def test_a_field_without_known_objects_gives_a_table_without_rows(server, tmp_path, field, source, name):
    server.answers = [recorded(name)]
    for _ in range(2):  # from the service, then from the cache
        table = catalogue.known_objects(source, field, cache=tmp_path)
        assert len(table) == 0 and list(table.columns) == KNOWN_COLUMNS
        assert table.ra.dtype == float
    assert len(server.requests) == 1


def test_skybot_needs_a_time(tmp_path, header):
    field = field_of(WCS(header()), (100, 100), image="one", header=header(time=None))
    with pytest.raises(ImageError, match="image one: DATE-OBS"):
        catalogue.known_objects("skybot", field, cache=tmp_path)


def test_a_cached_answer_is_not_requested_again(server, tmp_path, field):
    server.answers = [recorded("vizier_gaia.vot")]
    first = catalogue.star_catalogue("gaia", field, cache=tmp_path / "cache")
    server.answers = [500]
    pd.testing.assert_frame_equal(first, catalogue.star_catalogue("gaia", field, cache=tmp_path / "cache"))
    assert len(server.requests) == 1
    assert [path.name[:5] for path in (tmp_path / "cache").iterdir()] == ["gaia-"]
    other = Field("two", 84.0, 22.0, 0.1)
    with pytest.raises(ConfigError):
        catalogue.star_catalogue("gaia", other, cache=tmp_path / "cache")


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
def test_after_a_failure_the_mirror_is_queried(server, tmp_path, field, failures, monkeypatch):
    monkeypatch.setattr(answers, "TIMEOUT", 0.2)
    server.answers = [*failures, recorded("vizier_gaia.vot")]
    assert len(catalogue.star_catalogue("gaia", field, cache=tmp_path)) == 9
    mirrors = [path for path, _ in server.requests]
    assert mirrors == ["/vizier.cds.unistra.fr", "/vizier.cfa.harvard.edu", "/vizier.cds.unistra.fr"]


@pytest.mark.parametrize("answer", [500, GARBAGE, b"", recorded("vizier_error.vot"), recorded("skybot.vot")[:4000]])
@pytest.mark.parametrize("source", ["gaia", "skybot"])
def test_a_failed_query_gives_one_sentence_and_leaves_no_file(server, tmp_path, field, answer, source):
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
