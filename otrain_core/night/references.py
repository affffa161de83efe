"""Which reference belongs to an image: one for all, those of a folder by the sky they show, or a list of patterns."""

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
    """References by image.

    Parameters
    ----------
    source : path-like
        A FITS file (for all images), a folder of FITS files (by their WCS), or a CSV file with the columns ``pattern``
        (of file names, as ``*M31*``) and ``reference`` (path, relative to the list).

    Raises
    ------
    ConfigError
        No such file, a file that is no whole FITS image, also one of the list, an empty folder, or a list without
        these columns.
    """

    def __init__(self, source: str | Path):
        self.source = Path(source)
        self._patterns: list[tuple[str, Path]] = []
        self._skies: dict[Path, tuple] = {}
        if self.source.is_dir():
            files = sorted(path for path in self.source.iterdir() if is_fits(path))
            if not files:
                raise ConfigError(f"--references: {self.source}: no FITS file in this folder")
            self._skies = {path: _sky(path) for path in files}
        elif not self.source.is_file():
            raise ConfigError(f"--references: {self.source}: no such file or folder")
        elif self.source.suffix.lower() == ".csv":
            self._patterns = self._read_list()
        else:
            self._patterns = [("*", self.source)]
        for path in {path for _, path in self._patterns}:  # here, and not for each image
            check_reference(path, option="--references")

    def _read_list(self) -> list[tuple[str, Path]]:
        rows = [cells for _, cells in read_rows(self.source)]
        if not all({"pattern", "reference"} <= set(cells) for cells in rows):
            raise ConfigError(
                f"--references: {self.source}: columns pattern and reference are needed, both in each row"
            )
        return [(cells["pattern"], self.source.parent / cells["reference"]) for cells in rows]

    def of(self, science: str | Path, *, image: str) -> Path:
        """The reference of a science image.

        Raises
        ------
        ImageError
            None fits: no pattern matches, no reference shows the centre of the image, or it has no WCS.
        """
        for pattern, reference in self._patterns:
            if fnmatch.fnmatch(Path(science).name, pattern):
                return reference
        if not self._skies:
            raise ImageError(image, "reference", f"{science}: no pattern of {self.source} matches its name")
        data, header = read_fits(science, image=image)
        wcs = celestial_wcs(header, image=image)
        if wcs is None:
            raise ImageError(image, "WCS", f"{science}: no WCS to find its reference in {self.source} by")
        height, width = data.shape
        ra, dec = pixel_to_sky(wcs, (width - 1) / 2, (height - 1) / 2)
        places = {path: _place(sky, float(ra), float(dec)) for path, sky in self._skies.items()}
        path = min(places, key=lambda path: places[path])
        if not places[path] <= 0.5:
            raise ImageError(image, "reference", f"{science}: no reference of {self.source} shows its centre")
        return path


def is_fits(path: Path) -> bool:
    """Whether a file is a FITS file by its name."""
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.startswith(".")


def check_reference(path: str | Path, *, option: str) -> None:
    """Read the reference that an option names.

    Raises
    ------
    ConfigError
        It is no whole FITS image.
    """
    try:
        read_fits(path, image=Path(path).name)
    except ImageError as error:
        if error.key != "extension":  # which the detector may name
            raise ConfigError(f"{option}: {error.message}") from None


def _sky(path: Path) -> tuple:
    data, header = read_fits(path, image=path.name)
    return celestial_wcs(header, image=path.name), data.shape


def _place(sky: tuple, ra: float, dec: float) -> float:
    """Distance of a position from the centre of a reference, in units of its side; infinite outside its projection."""
    wcs, (height, width) = sky
    if wcs is None:
        return np.inf
    x, y = sky_to_pixel(wcs, ra, dec, shape=(height, width))
    place = max(abs(float(x) - (width - 1) / 2) / width, abs(float(y) - (height - 1) / 2) / height)
    return place if np.isfinite(place) else np.inf
