"""Fixtures for the tests of catalogues and services."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from otrain_core.sky import answers
from otrain_core.sky.fields import field_of
from tests.unit.loopback import loopback


def make_header(*, size=100, scale=2.0, time="2024-05-02T10:11:12"):
    """Header of an image of `size` px in the field of the recorded answers."""
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
def header():
    return make_header


@pytest.fixture
def field():
    return field_of(WCS(make_header()), (100, 100), image="one", header=make_header())


@pytest.fixture
def image(tmp_path):
    """FITS file of an image of the field."""
    path = tmp_path / "one.fits"
    fits.PrimaryHDU(np.ones((100, 100), np.float32), header=make_header()).writeto(path)
    return path


@pytest.fixture
def server(monkeypatch):
    """A local server in place of VizieR and SkyBoT; astroquery sends the queries and parses the answers."""
    from astroquery.imcce import conf
    from astroquery.vizier import VizierClass

    with loopback() as state:
        monkeypatch.setattr(answers, "WAIT", 0.01)
        monkeypatch.setattr(answers, "TIMEOUT", 5)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(
            VizierClass, "_server_to_url", lambda self, return_type: f"{state.url}/{self.VIZIER_SERVER}"
        )
        monkeypatch.setattr(type(conf), "skybot_server", f"{state.url}/skybot")
        yield state
