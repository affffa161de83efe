"""Star catalogue and known objects of a simulated image."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
from astropy.io import fits

from otrain_core.images.hdus import read_fits
from otrain_core.images.wcs import celestial_wcs, wcs_scale
from otrain_core.io import read_table, write_table
from otrain_core.sky.fields import COLUMNS, KNOWN_COLUMNS, empty
from otrain_core.sky.optics import limiting_magnitude

SURVEY_BELOW_LIMIT = 1.0  # depth of the survey beyond the 5-sigma limit of the image [mag]
SURVEY_POSITION_ERROR = 0.05  # along ra and along dec [arcsec]
SURVEY_MAG_ERROR = 0.02  # [mag]
SURVEY_COLOR_ERROR = 0.03  # [mag]


def simulated_catalogue_files(
    *,
    science: str | Path,
    truth: str | Path,
    catalogue: str | Path,
    known: str | Path,
    telescope: str,
    image: str,
    beta: float,
    seed: int,
) -> None:
    """Write the star catalogue and the known objects of a simulated image.

    Parameters
    ----------
    science, truth : path-like
        Image and truth, as `otrain_core.sky.simulate.simulate_files` writes them.
    catalogue, known : path-like
        Files to write (CSV).
    telescope, image : str
        Names, which select the random stream together with the seed.
    beta : float
        Moffat exponent of the PSF.
    seed : int
        Seed of the run.
    """
    _, header = read_fits(science, image=image)
    table = read_table(truth)
    rng = np.random.default_rng([seed, crc32(f"catalogue/{telescope}/{image}".encode())])
    write_table(catalogue, survey_of(table, limit=simulated_limit(header, beta=beta), rng=rng))
    write_table(known, known_of(table))


def survey_of(truth: pd.DataFrame, *, limit: float, rng: np.random.Generator) -> pd.DataFrame:
    """Catalogue of the stars and galaxies of a simulated field, with the errors of a survey.

    Parameters
    ----------
    truth : pandas.DataFrame
        Truth of a simulated image: kind, ra, dec [deg], mag; optionally color [mag]. Variable
        stars are listed as stars, even if their variability is known.
    limit : float
        5-sigma limit of the image [mag]; the catalogue is complete to `SURVEY_BELOW_LIMIT` beyond it.
    rng : numpy.random.Generator
        Draws the errors of the survey.

    Returns
    -------
    pandas.DataFrame
        `COLUMNS`.
    """
    listed = truth.kind.isin(["star", "galaxy", "variable"]) & (truth.mag <= limit + SURVEY_BELOW_LIMIT)
    source = truth[listed]
    n = len(source)
    cos_dec = np.cos(np.deg2rad(source.dec.to_numpy(float)))
    error = SURVEY_POSITION_ERROR / 3600
    color = source.color.to_numpy(float) if "color" in source else np.full(n, np.nan)
    return pd.DataFrame(
        {
            "ra": (source.ra.to_numpy(float) + error * rng.normal(size=n) / cos_dec) % 360,
            "dec": source.dec.to_numpy(float) + error * rng.normal(size=n),
            "mag": source.mag.to_numpy(float) + SURVEY_MAG_ERROR * rng.normal(size=n),
            "magerr": np.full(n, SURVEY_MAG_ERROR),
            "color": color + SURVEY_COLOR_ERROR * rng.normal(size=n),
            "kind": np.where(source.kind == "galaxy", "galaxy", "star").astype(str),
        },
        columns=COLUMNS,
    )


def known_of(truth: pd.DataFrame) -> pd.DataFrame:
    """Known variables and moving objects of a simulated field.

    Parameters
    ----------
    truth : pandas.DataFrame
        Truth of a simulated image; `known` is 1 for known objects.

    Returns
    -------
    pandas.DataFrame
        `KNOWN_COLUMNS`.
    """
    if "known" not in truth:
        return empty(KNOWN_COLUMNS)
    kinds = {"variable": "variable", "asteroid": "moving"}
    source = truth[truth.kind.isin(list(kinds)) & (pd.to_numeric(truth.known, errors="coerce") == 1)]
    table = pd.DataFrame({"ra": source.ra.to_numpy(float), "dec": source.dec.to_numpy(float)})
    table["kind"] = source.kind.map(kinds).to_numpy(str)
    table["name"] = [f"{kind} {number}" for number, kind in enumerate(table.kind, start=1)]
    return table[KNOWN_COLUMNS]


def simulated_limit(header: fits.Header, *, beta: float) -> float:
    """5-sigma limit [mag] of a simulated image, from the true values in its header."""
    scale = wcs_scale(celestial_wcs(header, image="science"))
    noise = np.sqrt(header["SKYLEVEL"] * header["GAIN"] + header["RDNOISE"] ** 2) / header["GAIN"]
    return limiting_magnitude(fwhm=header["SEEING"] / scale, beta=beta, noise=noise, zero_point=header["MAGZP"])
