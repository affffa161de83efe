"""Reading of candidate lists written by other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.errors import ConfigError, ImageError, first_line
from otrain_core.io import truncation_told

# Columns with a position, in order of preference, and the number of the first pixel: Source Extractor and gmadet count from 1.
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
        File (CSV, ECSV, text, FITS, VOTable or XLSX) or table in memory (astropy Table as returned by STDPipe, pandas
        DataFrame, dict of arrays). The position is read from ``x`` and ``y`` [px, from 0], from ``XWIN_IMAGE`` or
        ``X_IMAGE`` of Source Extractor or ``Xpos`` of gmadet [px, from 1], or from ``ra`` and ``dec`` [deg].
    wcs : astropy.wcs.WCS, optional
        WCS of the image; needed for lists that have only ra and dec.
    shape : (height, width), optional
        Shape of the image [px].

    Returns
    -------
    dict
        Arrays (N,): ``x``, ``y`` [px, from 0; NaN if a sky position cannot be projected onto the image], ``ra``, ``dec``
        [deg, NaN if unknown] and ``candid`` (the name as text; the row number if there is no column of names).

    Raises
    ------
    ConfigError
        The file does not exist or its format is not known, there are no columns with positions, or a position is not
        a finite number.
    """
    from otrain_core.images.wcs import pixel_to_sky, sky_to_pixel

    where = f"{source}: " if isinstance(source, str | Path) else "candidates: "
    table = _read_table(Path(source)) if isinstance(source, str | Path) else source
    columns = list(getattr(table, "colnames", None) or table.keys())
    n = len(table[columns[0]]) if columns else 0
    if n > MAX_CANDIDATES:
        raise ConfigError(f"{where}{n} candidates are too many; at most {MAX_CANDIDATES} can be read")
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
        raise ConfigError(f"{where}columns ra and dec need an image with a WCS, but the image has none")
    else:
        raise ConfigError(
            f"{where}columns x and y [px, from 0] or ra and dec [deg] are needed; the table has {', '.join(columns) or 'none'}"
        )
    given = ("x", "y") if pixels else ("ra", "dec")
    bad = ~(np.isfinite(found[given[0]]) & np.isfinite(found[given[1]]))
    if bad.any():
        raise ConfigError(f"{where}row {int(bad.argmax()) + 1}: the position is not a finite number")
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
        raise ConfigError(f"{path}: a candidate list must be one of {', '.join(FORMATS)}")
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
    except Exception:  # the reader below raises a clearer error
        pass
    try:
        with truncation_told():
            table = Table.read(path, format=form)
    except Exception as error:  # astropy's readers raise many types
        if form == "ascii.csv":
            return _spreadsheet(path)
        raise ConfigError(f"{path}: not a readable table ({first_line(error)[:200]})") from None
    if form == "ascii.csv" and len(table.colnames) == 1:  # the separator is not a comma
        return _spreadsheet(path)
    return table


def _spreadsheet(path: Path) -> dict[str, np.ndarray]:
    """Read a list saved by a spreadsheet program, with decimal points or commas; empty cells become NaN."""
    from otrain_core.plan.spreadsheets import read_sheet

    names, rows = read_sheet(path)
    table = {}
    for name in names:
        cells = [row.get(name, "") for _, row in rows]
        if name in NAMES:  # a name may have more digits than a float holds
            table[name] = np.array(cells)
            continue
        try:
            table[name] = np.array([float(cell.replace(",", ".") or "nan") for cell in cells])
        except ValueError:
            table[name] = np.array(cells)
    return table


def _numbers(table: Any, name: str, where: str) -> np.ndarray:
    try:
        return np.ma.filled(np.ma.asarray(table[name]).astype(float), np.nan)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}column {name}: must contain numbers") from None
