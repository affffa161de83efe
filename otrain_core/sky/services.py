"""Query VizieR and SkyBoT for the sources in a field, with astroquery."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core import io
from otrain_core.sky import answers
from otrain_core.sky.fields import COLUMNS, KNOWN_COLUMNS, Field, empty, read_sky_table

VIZIER = {"gaia": "I/355/gaiadr3", "panstarrs": "II/349/ps1", "vsx": "B/vsx/vsx"}
VIZIER_SERVERS = ("vizier.cds.unistra.fr", "vizier.cfa.harvard.edu")
GAIA_EPOCH = 2016.0
EARTH = "500"  # IAU code of the centre of the Earth, used where no observatory is given
# G - g and G - r as polynomials of BP - RP, accurate to 0.1 mag (Gaia DR2 documentation, Sect. 5.3.7; as in STDPipe).
GAIA_G = (-0.021349, 0.25171, 0.46245, -0.13518)
GAIA_R = (0.049465, 0.027464, -0.24662, 0.12879)
GAIA_COLORS = (0.2, 2.7)
POINT_LIKE = 0.05  # upper limit of i(PSF) - i(Kron) of stars [mag] (Pan-STARRS archive documentation)


def gaia_color(bp_rp: np.ndarray) -> np.ndarray:
    """SDSS g - r [mag] from Gaia BP - RP; NaN outside the range `GAIA_COLORS` of the relations."""
    bp_rp = np.asarray(bp_rp, float)
    color = np.polyval(GAIA_G, bp_rp) - np.polyval(GAIA_R, bp_rp)
    return np.where((bp_rp >= GAIA_COLORS[0]) & (bp_rp <= GAIA_COLORS[1]), color, np.nan)


def _asked(field: Field, **more: Any) -> dict[str, Any]:
    """Parameters of a query, rounded, with the radius rounded up, so that equal fields share a cached answer."""
    radius = float(np.ceil(field.radius * 1000 + 0.1) / 1000)
    return {"ra": round(field.ra, 5), "dec": round(field.dec, 5), "radius": radius, **more}


def _vizier(name: str, field: Field, *, columns: list[str], cache: str | Path, shape: Callable[[Any], pd.DataFrame]):
    """Rows of a VizieR catalogue in a field, converted by `shape`, which gets None where there are no rows."""
    parameters = _asked(field, catalogue=VIZIER[name], columns=columns)

    def fetch(attempt: int, path: Path) -> None:
        from astropy import units
        from astropy.coordinates import SkyCoord
        from astroquery.vizier import Vizier

        server = VIZIER_SERVERS[attempt % len(VIZIER_SERVERS)]
        vizier = Vizier(columns=columns, row_limit=-1, timeout=answers.TIMEOUT, vizier_server=server)
        response = vizier.query_region_async(
            SkyCoord(parameters["ra"], parameters["dec"], unit="deg"),
            radius=parameters["radius"] * units.deg,
            catalog=VIZIER[name],
            cache=False,
        )
        response.raise_for_status()
        _refuse_errors(response.content)
        tables = vizier._parse_result(response)  # as in query_region, which ignores the errors checked above
        if tables is None:
            raise ValueError(f"not a table: {response.text[:60]!r}")
        io.write_table(path, shape(tables[0]) if len(tables) else shape(None))

    return read_sky_table(answers.answer(fetch, service=name, parameters=parameters, cache=cache))


def _refuse_errors(content: bytes) -> None:
    """Raise for an error in a VOTable, which VizieR sends with status 200, and for a truncated answer.

    Raises
    ------
    ValueError
        The service reports an error, or the answer is incomplete.
    """
    found = re.search(
        rb"<INFO\b[^>]*(?:name=\"(?:fatal)?Errors?\"|value=\"(?:ERROR|OVERFLOW)\")[^>]*>([^<]*)", content, re.I
    )
    if found:
        raise ValueError(f"the service reports an error: {found.group(0)[:150].decode(errors='replace')!r}")
    if b"VOTABLE>" not in content[-200:]:
        raise ValueError(f"an incomplete table, which begins with {content[:40].decode(errors='replace')!r}")


def _numbers(table: Any, name: str) -> np.ndarray:
    """A column of an astropy table, float; NaN where masked."""
    return np.ma.filled(np.ma.asarray(table[name], float), np.nan)


def gaia(field: Field, *, cache: str | Path) -> pd.DataFrame:
    """Stars of Gaia DR3, with positions at the time of the image; mag is G, color is g - r from BP - RP.

    Parameters
    ----------
    field : Field
    cache : path-like
        Folder of the cached answers.

    Returns
    -------
    pandas.DataFrame
        `otrain_core.sky.fields.COLUMNS`; kind is ``star``.
    """

    def shape(table: Any) -> pd.DataFrame:
        if table is None:
            return empty([*COLUMNS, "pmra", "pmdec"])
        names = {"ra": "RA_ICRS", "dec": "DE_ICRS", "mag": "Gmag", "magerr": "e_Gmag", "pmra": "pmRA", "pmdec": "pmDE"}
        rows = pd.DataFrame({name: _numbers(table, column) for name, column in names.items()})
        return rows.assign(color=gaia_color(_numbers(table, "BP-RP")), kind="star")

    columns = ["RA_ICRS", "DE_ICRS", "Gmag", "e_Gmag", "BP-RP", "pmRA", "pmDE"]
    table = _vizier("gaia", field, columns=columns, cache=cache, shape=shape)
    if field.time:
        from astropy.time import Time

        moved = (Time(field.time).jyear - GAIA_EPOCH) / 3.6e6  # [mas/yr] to [deg]
        turned = np.cos(np.deg2rad(table.dec))
        table["ra"] = (table.ra + (moved * table.pmra / turned).fillna(0)) % 360
        table["dec"] += (moved * table.pmdec).fillna(0)
    return table[COLUMNS]


def panstarrs(field: Field, *, cache: str | Path) -> pd.DataFrame:
    """Sources of Pan-STARRS DR1; mag is r, color is g - r, kind follows from i(PSF) - i(Kron).

    Parameters
    ----------
    field : Field
    cache : path-like
        Folder of the cached answers.

    Returns
    -------
    pandas.DataFrame
        `otrain_core.sky.fields.COLUMNS`; kind is ``star``, ``galaxy`` or ''.
    """

    def shape(table: Any) -> pd.DataFrame:
        if table is None:
            return empty(COLUMNS)
        names = {"ra": "RAJ2000", "dec": "DEJ2000", "mag": "rmag", "magerr": "e_rmag"}
        rows = pd.DataFrame({name: _numbers(table, column) for name, column in names.items()})
        rows["color"] = _numbers(table, "gmag") - rows.mag
        outside = _numbers(table, "imag") - _numbers(table, "iKmag")
        rows["kind"] = np.select([outside < POINT_LIKE, outside >= POINT_LIKE], ["star", "galaxy"], "")
        return rows[COLUMNS]

    columns = ["RAJ2000", "DEJ2000", "gmag", "rmag", "e_rmag", "imag", "iKmag"]
    return _vizier("panstarrs", field, columns=columns, cache=cache, shape=shape)


STAR_SURVEYS = {"gaia": gaia, "panstarrs": panstarrs}


def variables(field: Field, *, cache: str | Path) -> pd.DataFrame:
    """Variable stars of the AAVSO International Variable Star Index (VSX).

    Parameters
    ----------
    field : Field
    cache : path-like
        Folder of the cached answers.

    Returns
    -------
    pandas.DataFrame
        `otrain_core.sky.fields.KNOWN_COLUMNS`; kind is ``variable``.
    """

    def shape(table: Any) -> pd.DataFrame:
        if table is None:
            return empty(KNOWN_COLUMNS)
        rows = pd.DataFrame({"name": [str(name) for name in table["Name"]]})
        return rows.assign(ra=_numbers(table, "RAJ2000"), dec=_numbers(table, "DEJ2000"), kind="variable")

    return _vizier("vsx", field, columns=["Name", "RAJ2000", "DEJ2000"], cache=cache, shape=shape)


def moving_objects(field: Field, *, cache: str | Path, location: str) -> pd.DataFrame:
    """Asteroids, comets and planets in a field at the time of the image, from SkyBoT.

    Parameters
    ----------
    field : Field
    cache : path-like
        Folder of the cached answers.
    location : str
        IAU code of the observatory. Positions for the centre of the Earth (`EARTH`) are wrong by up to
        8.8 arcsec divided by the distance of the object in au.

    Returns
    -------
    pandas.DataFrame
        `otrain_core.sky.fields.KNOWN_COLUMNS`; kind is ``moving``.

    Raises
    ------
    ImageError
        The image has no time.
    """
    from otrain_core.errors import ImageError

    if not field.time:
        raise ImageError(
            field.image, "DATE-OBS", "SkyBoT needs the time of the exposure, which is missing in the header"
        )
    parameters = _asked(field, time=field.time[:19], location=location)

    def fetch(attempt: int, path: Path) -> None:
        from astropy import units
        from astropy.coordinates import SkyCoord
        from astropy.time import Time
        from astroquery.imcce import Skybot, conf

        skybot = Skybot()
        with conf.set_temp("timeout", int(answers.TIMEOUT)):
            response = skybot.cone_search_async(
                SkyCoord(parameters["ra"], parameters["dec"], unit="deg"),
                parameters["radius"] * units.deg,
                Time(parameters["time"], scale="utc"),
                location=location,
                cache=False,
            )
        _refuse_errors(response.content)
        rows = empty(KNOWN_COLUMNS)
        if b"TR>" in response.content:
            table = skybot._parse_result(response)
            rows = pd.DataFrame({"name": [str(name) for name in table["Name"]]})
            rows["ra"], rows["dec"] = (np.asarray(table[name], float) for name in ("RA", "DEC"))
            rows["kind"] = "moving"
        io.write_table(path, rows)

    return read_sky_table(answers.answer(fetch, service="skybot", parameters=parameters, cache=cache))
