"""The field of an image, and tables of sky positions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.io import fits

from otrain_core.errors import ConfigError, ImageError
from otrain_core.images.keywords import middle_time
from otrain_core.plan.spreadsheets import read_rows

COLUMNS = ["ra", "dec", "mag", "magerr", "color", "kind"]  # of a star catalogue
KNOWN_COLUMNS = ["name", "ra", "dec", "kind"]  # of a list of known objects
TEXT = ("name", "kind")  # columns with text; all others have numbers
LIMITS = {"ra": (-180.0, 360.0), "dec": (-90.0, 90.0)}  # [deg]
MISSING = ("", "nan", "na", "n/a", "null", "none", "-", "--")  # cells that mean a missing number
MARGIN = 0.1  # margin of the field beyond the image [fraction of its radius], as the WCS may be inaccurate


@dataclass(frozen=True)
class Field:
    """A circle on the sky that contains an image, and the time of the exposure.

    Attributes
    ----------
    image : str
        Name of the image, for errors.
    ra, dec, radius : float
        [deg], ICRS.
    time : str
        ISO time (UTC) of the middle of the exposure; '' where unknown.
    """

    image: str
    ra: float
    dec: float
    radius: float
    time: str = ""

    def holds(self, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
        """Which positions [deg] lie in the circle, bool (n,); False for positions that are not finite."""
        a, d, a0, d0 = (np.deg2rad(value) for value in (ra, dec, self.ra, self.dec))
        half = np.sin((d - d0) / 2) ** 2 + np.cos(d) * np.cos(d0) * np.sin((a - a0) / 2) ** 2
        return 2 * np.rad2deg(np.arcsin(np.sqrt(np.clip(half, 0, 1)))) <= self.radius

    def __str__(self) -> str:
        return f"field of {2 * self.radius:.3g} deg about ra {self.ra:.4f}, dec {self.dec:.4f}"


def field_of(
    wcs: Any,
    shape: tuple[int, int],
    *,
    image: str,
    header: fits.Header | None = None,
    time_key: str | None = None,
) -> Field:
    """The field of an image: a circle slightly larger than the image.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
    shape : tuple of int
        (height, width).
    image : str
        Name of the image, for errors.
    header : astropy.io.fits.Header, optional
        Header with the time of the exposure.
    time_key : str, optional
        Keyword of the time, if it is not one of the usual keywords.

    Returns
    -------
    Field

    Raises
    ------
    ImageError
        The corners of the image have no position on the sky.
    """
    from astropy.coordinates import SkyCoord

    height, width = shape
    x = np.array([(width - 1) / 2, -0.5, width - 0.5, -0.5, width - 0.5])
    y = np.array([(height - 1) / 2, -0.5, -0.5, height - 0.5, height - 0.5])
    sky = wcs.pixel_to_world(x, y)
    if not isinstance(sky, SkyCoord) or not np.isfinite(sky.data.lon.deg + sky.data.lat.deg).all():
        raise ImageError(image, "WCS", "the corners of the image have no position on the sky")
    sky = sky.icrs
    radius = float(sky[0].separation(sky[1:]).deg.max()) * (1 + MARGIN)
    centre = float(sky[0].ra.deg), float(sky[0].dec.deg)
    return Field(image, *centre, radius, middle_time(header, first=time_key) if header is not None else "")


def empty(columns: list[str]) -> pd.DataFrame:
    """A table without rows, with the right types of columns."""
    return pd.DataFrame({name: pd.Series(dtype=str if name in TEXT else float) for name in columns})


def read_sky_table(path: str | Path) -> pd.DataFrame:
    """Read ``catalogue.csv`` or ``known.csv``; the types of the columns are right even without rows.

    Raises
    ------
    UpstreamFailed
        The file marks the failure of an earlier step of its image.
    """
    from otrain_core.io import read_table

    table = read_table(path)
    return table.astype({name: str if name in TEXT else float for name in table.columns})


def read_local(path: str | Path, *, key: str, columns: list[str]) -> pd.DataFrame:
    """Read a catalogue of the user: a table with the columns ra and dec [deg]; other columns are optional.

    Parameters
    ----------
    path : path-like
        CSV file or workbook, see `otrain_core.plan.spreadsheets.read_rows`. Names of columns may have capitals.
    key : str
        Key of the telescope that names the file, for errors.
    columns : list of str
        Columns of the result; columns that the file does not have are NaN or ''.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    ConfigError
        The file does not exist, has no column ra or dec, or has a value that is not a number in its range.
    """
    try:
        rows = [(line, {name.lower(): cell for name, cell in cells.items()}) for line, cells in read_rows(path)]
    except ConfigError as error:
        raise ConfigError(f"{key}: {str(error).removeprefix('sheet ')}") from None
    given = {name for _, cells in rows for name in cells}
    table = empty(columns).reindex(range(len(rows)))
    for name in columns:
        if name in ("ra", "dec") and rows and name not in given:
            raise ConfigError(
                f"{key}: {path}: a column {name!r} with values in degrees is needed; the file has {', '.join(sorted(given))}"
            )
        if name in TEXT:
            table[name] = [cells.get(name, "") for _, cells in rows]
        else:
            table[name] = [
                _number(cells.get(name, ""), name, f"{key}: {path}: {name}: line {line}") for line, cells in rows
            ]
    return table


def _number(text: str, name: str, where: str) -> float:
    """The number in a cell, with a decimal point or comma; NaN for an empty cell where `LIMITS` allows it.

    Raises
    ------
    ConfigError
        The cell at `where` is not a number, or is outside `LIMITS`.
    """
    low, high = LIMITS.get(name, (-np.inf, np.inf))
    try:
        value = np.nan if text.lower() in MISSING else float(text if "." in text else text.replace(",", "."))
    except ValueError:
        value = None
    if value is None or np.isinf(value) or not (low <= value <= high or (np.isnan(value) and name not in LIMITS)):
        wanted = f"a number from {low:g} to {high:g} [deg]" if name in LIMITS else "a number"
        raise ConfigError(f"{where}: {wanted} is needed, found {text!r}")
    return value % 360 if name == "ra" else value
