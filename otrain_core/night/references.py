"""Find the reference of an image: one file for all, a folder searched by the WCS, or a list of file name patterns."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import numpy as np

from otrain_core.errors import ConfigError, ImageError
from otrain_core.images.hdus import read_fits
from otrain_core.images.wcs import celestial_wcs, pixel_to_sky, sky_to_pixel
from otrain_core.plan.spreadsheets import read_rows

SUFFIXES = (".fits", ".fit", ".fts", ".fits.fz", ".fits.gz")


class References:
    """The references of the images of a night or an archive.

    Parameters
    ----------
    source : path-like
        A FITS file (for all images), a folder of FITS files (chosen by their WCS), or a CSV file with the columns
        ``pattern`` (of file names, such as ``*M31*``) and ``reference`` (path, relative to the CSV file).
    option : str
        Option or key that names the source, for error messages.

    Raises
    ------
    ConfigError
        There is no such file, a reference is not a complete FITS image, the folder has no FITS file, or the CSV file
        lacks a column or has no rows.
    """

    def __init__(self, source: str | Path, *, option: str = "--references"):
        self.source = Path(source)
        self._option = option
        self._patterns: list[tuple[str, Path]] = []
        self._skies: dict[Path, tuple] = {}
        if self.source.is_dir():
            files = sorted(path for path in self.source.iterdir() if is_fits(path))
            if not files:
                raise ConfigError(f"{option}: {self.source}: no FITS file in this folder")
            self._skies = {path: _sky(path, option=option) for path in files}
        elif not self.source.is_file():
            raise ConfigError(f"{option}: {self.source}: no such file or folder")
        elif self.source.suffix.lower() == ".csv":
            self._patterns = self._read_list()
        else:
            self._patterns = [("*", self.source)]
        for path in {path for _, path in self._patterns}:  # before the search, not for each image
            check_reference(path, option=option)

    def _read_list(self) -> list[tuple[str, Path]]:
        rows = read_rows(self.source)
        if not rows:
            raise ConfigError(f"{self._option}: {self.source}: has no rows; give the columns pattern and reference")
        for line, cells in rows:
            if not {"pattern", "reference"} <= set(cells):
                raise ConfigError(
                    f"{self._option}: {self.source}: line {line}: the columns pattern and reference are both needed"
                )
        return [(cells["pattern"], self.source.parent / cells["reference"]) for _, cells in rows]

    def of(self, science: str | Path, *, image: str) -> Path:
        """The reference of a science image.

        Raises
        ------
        ImageError
            No pattern matches, no reference shows the centre of the image, or the image has no WCS.
        """
        for pattern, reference in self._patterns:
            if fnmatch.fnmatch(Path(science).name, pattern):
                return reference
        if not self._skies:
            raise ImageError(image, "reference", f"{science}: no pattern of {self.source} matches the file name")
        data, header = read_fits(science, image=image)
        wcs = celestial_wcs(header, image=image)
        if wcs is None:
            raise ImageError(image, "WCS", f"{science}: no WCS, which is needed to find its reference in {self.source}")
        height, width = data.shape
        ra, dec = pixel_to_sky(wcs, (width - 1) / 2, (height - 1) / 2)
        places = {path: _place(sky, float(ra), float(dec)) for path, sky in self._skies.items()}
        path = min(places, key=lambda path: places[path])
        if not places[path] <= 0.5:
            raise ImageError(image, "reference", f"{science}: no reference in {self.source} shows its centre")
        return path


def is_fits(path: Path) -> bool:
    """Whether a file has the name of a FITS file and is not hidden."""
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.startswith(".")


def check_reference(path: str | Path, *, option: str) -> None:
    """Check that the reference named by an option can be read.

    Raises
    ------
    ConfigError
        The file is not a complete FITS image.
    """
    try:
        read_fits(path, image=Path(path).name)
    except ImageError as error:
        if error.key != "extension":  # the configuration of the detector may name it
            raise ConfigError(f"{option}: {error.message}") from None


def _sky(path: Path, *, option: str) -> tuple:
    try:
        data, header = read_fits(path, image=path.name)
        return celestial_wcs(header, image=path.name), data.shape
    except ImageError as error:
        raise ConfigError(f"{option}: {error.message}") from None


def _place(sky: tuple, ra: float, dec: float) -> float:
    """Distance of a position from the centre of a reference, in units of its sides; infinite outside its projection."""
    wcs, (height, width) = sky
    if wcs is None:
        return np.inf
    x, y = sky_to_pixel(wcs, ra, dec, shape=(height, width))
    place = max(abs(float(x) - (width - 1) / 2) / width, abs(float(y) - (height - 1) / 2) / height)
    return place if np.isfinite(place) else np.inf
