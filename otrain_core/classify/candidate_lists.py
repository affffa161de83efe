"""Lists of candidates that other programs wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.errors import ConfigError, ImageError, first_line
from otrain_core.io import truncation_told

# Columns that name a position, in order of preference. Those of Source Extractor and gmadet count from 1.
PIXELS = ((("x", "y"), 0), (("XWIN_IMAGE", "YWIN_IMAGE"), 1), (("X_IMAGE", "Y_IMAGE"), 1), (("Xpos", "Ypos"), 1))
SKY = (("ra", "dec"), ("ALPHA_J2000", "DELTA_J2000"), ("_RAJ2000", "_DEJ2000"))
NAMES = ("candid", "id", "name", "cand_ID", "NUMBER")
FORMATS = {
    ".csv": "ascii.csv",
    ".xlsx": "workbook",
    ".ecsv": "ascii.ecsv",
    ".dat": "ascii",
    ".txt": "ascii",
} | dict.fromkeys((".fits", ".fit", ".cat", ".ldac"), "fits")
FORMATS |= dict.fromkeys((".vot", ".votable"), "votable")
MAX_CANDIDATES = 10**7


def read_candidates(source: Any, *, wcs: Any = None, shape: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
    """Positions of candidates, from a file or a table.

    Parameters
    ----------
    source : path-like or table
        CSV, ECSV, text or FITS table, or anything with columns: an astropy Table as STDPipe makes it, a pandas
        DataFrame, a dict of arrays. Read are ``x`` and ``y`` [px, from 0]; or Source Extractor's
        ``X_IMAGE`` and ``XWIN_IMAGE`` and gmadet's ``Xpos`` [px, from 1]; or ``ra`` and ``dec`` [deg].
    wcs : astropy.wcs.WCS, optional
        Of the image, for lists of ra and dec.
    shape : (height, width), optional
        Of the image.

    Returns
    -------
    dict
        ``x``, ``y`` [px, from 0; NaN where a sky position has no place on the plane of the image], ``ra``, ``dec``
        [deg, NaN where unknown] and ``candid``, all (N,).

    Raises
    ------
    ConfigError
        No such file, an unknown format, no columns with positions, or positions that are no finite numbers.
    """
    from otrain_core.images.wcs import pixel_to_sky, sky_to_pixel

    where = f"{source}: " if isinstance(source, str | Path) else "candidates: "
    table = _read_table(Path(source)) if isinstance(source, str | Path) else source
    columns = list(getattr(table, "colnames", None) or table.keys())
    n = len(table[columns[0]]) if columns else 0
    if n > MAX_CANDIDATES:
        raise ConfigError(f"{where}{n} candidates are more than {MAX_CANDIDATES}")
    found = {name: np.full(n, np.nan) for name in ("x", "y", "ra", "dec")}
    pixels = next((pair for pair in PIXELS if set(pair[0]) <= set(columns)), None)
    sky = next((pair for pair in SKY if set(pair) <= set(columns)), None)
    if sky:
        found["ra"], found["dec"] = (_numbers(table, name, where) for name in sky)
    if pixels:
        names, first = pixels
        found["x"], found["y"] = (_numbers(table, name, where) - first for name in names)
        if wcs is not None and not sky and n:
            found["ra"], found["dec"] = pixel_to_sky(wcs, found["x"], found["y"])
    elif sky and wcs is not None:
        found["x"], found["y"] = sky_to_pixel(wcs, found["ra"], found["dec"], shape=shape)
    elif sky:
        raise ConfigError(f"{where}columns ra and dec need an image with a WCS, and this one has none")
    else:
        raise ConfigError(
            f"{where}columns x and y [px, from 0] or ra and dec [deg] are needed, found {', '.join(columns)}"
        )
    given = ("x", "y") if pixels else ("ra", "dec")
    bad = ~(np.isfinite(found[given[0]]) & np.isfinite(found[given[1]]))
    if bad.any():
        raise ConfigError(f"{where}row {int(bad.argmax()) + 1}: its position is not a finite number")
    name = next((name for name in NAMES if name in columns), None)
    found["candid"] = np.asarray(table[name]).astype(str) if name else np.arange(1, n + 1).astype(str)
    return found


def _read_table(path: Path) -> Any:
    from astropy.io import fits
    from astropy.table import Table

    from otrain_core.safe import check_compressed, check_header

    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise ConfigError(f"{path}: a table of candidates is one of {', '.join(FORMATS)}, not {path.suffix or 'this'}")
    if form == "workbook":
        return _spreadsheet(path)
    try:
        check_compressed(path, image=path.stem)
        if form == "fits":
            with truncation_told(), fits.open(path, memmap=False) as hdus:
                for hdu in hdus:
                    check_header(hdu.header, path, image=path.stem)
    except ImageError as error:
        raise ConfigError(error.message) from None
    except Exception:  # the reader below tells it better
        pass
    try:
        with truncation_told():
            table = Table.read(path, format=form)
    except Exception as error:  # astropy's readers raise many kinds
        if form == "ascii.csv":
            return _spreadsheet(path)
        raise ConfigError(f"{path}: not a readable table ({first_line(error)[:200]})") from None
    if form == "ascii.csv" and len(table.colnames) == 1:  # other signs than commas separate the cells
        return _spreadsheet(path)
    return table


def _spreadsheet(path: Path) -> dict[str, np.ndarray]:
    """A list that a spreadsheet program has saved, with decimal points or commas; empty cells are missing."""
    from otrain_core.plan.spreadsheets import read_sheet

    names, rows = read_sheet(path)
    table = {}
    for name in names:
        cells = [row.get(name, "") for _, row in rows]
        try:
            table[name] = np.array([float(cell.replace(",", ".") or "nan") for cell in cells])
        except ValueError:
            table[name] = np.array(cells)
    return table


def _numbers(table: Any, name: str, where: str) -> np.ndarray:
    try:
        return np.ma.filled(np.ma.asarray(table[name]).astype(float), np.nan)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}column {name}: numbers are needed") from None
