"""Simulate a small set of FITS files like those of a small observatory; every header says that it is simulated."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits
from astropy.wcs import WCS

from otrain_core.errors import ConfigError
from otrain_core.io import atomic, shown
from otrain_core.sky.optics import Exposure, FieldPSF

SHAPE = (800, 1000)  # height, width [px]
PIXEL, FOCAL = 9.0, 1500.0  # size of a pixel [um], focal length [mm]
SCALE = 206.26480625 * PIXEL / FOCAL  # [arcsec/px]
GAIN, READ_NOISE, FULL = 1.6, 9.0, 65535
CENTRE = 150.1, 22.3  # [deg]
ZERO_POINT, SKY = 24.0, 900.0  # magnitude of 1 ADU, sky [ADU]
SEEING = 3.4  # median FWHM [arcsec]
N_STARS, N_GALAXIES = 900, 60
BRIGHTEST, FAINTEST = 9.5, 20.0  # magnitudes of the stars
STAR_SLOPE = 0.22  # d log10(N) / d mag
FIRST, SECOND = "2026-02-11", "2026-03-05"  # nights; the frames of the first night can be the reference
N_FIRST = 6  # frames of the first night
MAX_SHIFT = 12.0  # largest shift of a frame along either axis [px]
SIMULATED = "simulated by otrain example: no telescope took this"
README = """These frames are simulated (otrain example): no telescope took them.

They are like the data of a small observatory: {n} calibrated frames of one field, taken in two nights, with
darks and flats. Only the frames of the second night show a transient of magnitude 15. It is near x = {x:.0f},
y = {y:.0f} [px, from 0]; every frame is shifted by up to {shift:.0f} px along x and y and slightly rotated.

Try:  otrain init {folder}
"""


def write_example(folder: str | Path, *, frames: int = 10, wcs: bool = False, seed: int = 1) -> list[Path]:
    """Write the frames, three darks, three flats and a README.

    Parameters
    ----------
    folder : path-like
        New or empty folder.
    frames : int
        Number of frames of the second night; the first night has six.
    wcs : bool
        Whether the headers have a WCS. All of them have the pixel size and the focal length.
    seed : int
        The same seed gives identical files.

    Returns
    -------
    list of pathlib.Path
        Files that were written.

    Raises
    ------
    ConfigError
        The folder is not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{shown(folder)}: must be an empty or a new folder")
    rng = np.random.default_rng(seed)
    sources = _field(rng)
    places = rng.uniform(0.3, 0.7, 2) * SHAPE[::-1]
    paths = []
    for night, n in ((FIRST, N_FIRST), (SECOND, frames)):
        for number in range(1, n + 1):
            path = folder / night / f"ngc9000-{number:04d}_R.fit"
            new = sources if night == FIRST else _with_transient(sources, places, rng)
            data, header = _expose(new, night, number, rng)
            paths.append(_write(path, data, _solved(header, wcs)))
    paths += _calibration(folder, rng)
    readme = folder / "README.txt"
    text = README.format(n=N_FIRST + frames, x=places[0], y=places[1], shift=MAX_SHIFT, folder=shlex.quote(str(folder)))
    readme.write_text(text, encoding="utf-8")
    return [*paths, readme]


def _field(rng: np.random.Generator) -> pd.DataFrame:
    """Stars and galaxies on the grid of a frame without shift and rotation, brightest first."""
    height, width = SHAPE
    tables = []
    for kind, n in (("star", N_STARS), ("galaxy", N_GALAXIES)):
        low, high = 10 ** (STAR_SLOPE * BRIGHTEST), 10 ** (STAR_SLOPE * FAINTEST)
        table = pd.DataFrame({"kind": kind, "x": rng.uniform(-60, width + 60, n)})
        table["y"] = rng.uniform(-60, height + 60, n)
        table["mag"] = np.log10(rng.uniform(low, high, n)) / STAR_SLOPE
        table["radius"], table["bulge"] = rng.uniform(1.5, 5.0, n), rng.uniform(0, 0.8, n)
        table["axis_ratio"], table["angle"] = rng.uniform(0.3, 1.0, n), rng.uniform(0, 180, n)
        tables.append(table)
    field = pd.concat(tables, ignore_index=True)
    return field[(field.kind == "star") | (field.mag > 14)].sort_values("mag", ignore_index=True)


def _with_transient(sources: pd.DataFrame, place: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """The sources with the transient at a place (x, y) [px]."""
    new = sources.iloc[[-1]].assign(kind="star", x=place[0], y=place[1], mag=rng.uniform(14.5, 15.0))
    return pd.concat([sources, new], ignore_index=True)


def _expose(sources: pd.DataFrame, night: str, number: int, rng: np.random.Generator) -> tuple[np.ndarray, fits.Header]:
    """One frame [ADU, uint16] and its header."""
    from otrain_core.sky.artefacts import add_cosmics, add_hot_pixels

    seeing = SEEING * np.exp(0.1 * np.clip(rng.normal(), -2, 2))
    shift, turn = rng.uniform(-MAX_SHIFT, MAX_SHIFT, 2), np.deg2rad(rng.normal(0, 0.1))
    height, width = SHAPE
    psf = FieldPSF(
        SHAPE, fwhm=seeing / SCALE, beta=3.2, ellipticity=0.06, variation=0.08, trail=abs(rng.normal(0, 0.4)), rng=rng
    )
    exposure = Exposure(
        SHAPE, _wcs(shift, turn), psf, ZERO_POINT - rng.exponential(0.05), SKY, GAIN, READ_NOISE, FULL, 0.0, False
    )
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    dx, dy = sources.x - centre[0], sources.y - centre[1]
    table = sources.assign(
        x_frame=dx * np.cos(turn) - dy * np.sin(turn) + centre[0] + shift[0],
        y_frame=dx * np.sin(turn) + dy * np.cos(turn) + centre[1] + shift[1],
        flux_frame=10 ** (0.4 * (exposure.zero_point - sources.mag)),
    )
    signal = exposure.expected(table, "_frame") + SKY * rng.uniform(0.9, 1.2)
    data = (rng.poisson(np.maximum(signal, 0) * GAIN) + rng.normal(0, READ_NOISE, SHAPE)) / GAIN
    add_hot_pixels(data, rng, n=int(rng.poisson(25)), noise=exposure.noise)
    add_cosmics(data, rng, n=int(rng.poisson(12)), gain=GAIN)
    header = exposure.wcs.to_header()
    header["DATE-OBS"] = str(np.datetime64(f"{night}T21:10:00") + np.timedelta64(150 * number, "s"))
    return np.clip(np.rint(data), 0, FULL).astype(np.uint16), header


def _wcs(shift: np.ndarray, turn: float) -> WCS:
    """WCS of a frame with a shift (x, y) [px] and a rotation [rad]."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], CENTRE
    wcs.wcs.crpix = np.array([(SHAPE[1] + 1) / 2, (SHAPE[0] + 1) / 2]) + shift
    cos, sin = np.cos(turn), np.sin(turn)
    wcs.wcs.cd = SCALE / 3600 * np.array([[-1.0, 0.0], [0.0, 1.0]]) @ np.array([[cos, sin], [-sin, cos]])
    wcs.wcs.set()
    return wcs


def _solved(header: fits.Header, wcs: bool) -> fits.Header:
    """The header of a frame of the sky, with or without its WCS."""
    plain = header if wcs else fits.Header([header.cards["DATE-OBS"]])
    plain["OBJECT"], plain["FILTER"], plain["EXPTIME"] = "NGC 9000", "R", (120.0, "[s]")
    plain["IMAGETYP"], plain["CALSTAT"] = "Light Frame", ("BDF", "bias, dark and flat are applied")
    plain["OBJCTRA"], plain["OBJCTDEC"] = "10 00 24", "+22 18 00"
    return plain


def _calibration(folder: Path, rng: np.random.Generator) -> list[Path]:
    """Write three darks and three flats."""
    paths = []
    for number in range(1, 4):
        for kind, level, seconds in (("Dark", 300.0, 120.0), ("Flat", 28_000.0, 2.0)):
            electrons = rng.poisson(level * GAIN * (kind == "Flat"), SHAPE) + rng.normal(0, READ_NOISE, SHAPE)
            header = fits.Header([("IMAGETYP", f"{kind} Frame"), ("EXPTIME", seconds)])
            header["DATE-OBS"] = f"{FIRST}T18:{number:02d}:{int(seconds) % 60:02d}"
            data = np.clip(np.rint(electrons / GAIN + (300.0 if kind == "Dark" else 0)), 0, FULL).astype(np.uint16)
            paths.append(_write(folder / "calibration" / f"{kind.lower()}-{number:04d}.fit", data, header))
    return paths


def _write(path: Path, data: np.ndarray, header: fits.Header) -> Path:
    """Write a frame with the cards of the telescope and the camera."""
    header["TELESCOP"], header["INSTRUME"] = "Example25", "SimCam 9000"
    header["XPIXSZ"], header["YPIXSZ"], header["FOCALLEN"] = (PIXEL, "[um]"), (PIXEL, "[um]"), (FOCAL, "[mm]")
    header["EGAIN"], header["XBINNING"], header["YBINNING"] = (GAIN, "[electron/ADU]"), 1, 1
    header["CCD-TEMP"], header["ORIGIN"] = -15.0, (SIMULATED[:60], "")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        fits.PrimaryHDU(data, header).writeto(temporary, overwrite=True)
    return path
