"""The simulated frames of otrain example."""

import re

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.errors import ConfigError
from otrain_core.project.example import SIMULATED, write_example


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("example")
    write_example(folder, frames=1, wcs=True)
    return folder


def test_every_header_says_that_it_is_simulated(folder):
    paths = sorted(folder.rglob("*.fit"))
    assert len(paths) == 6 + 1 + 6
    for path in paths:
        assert fits.getheader(path)["ORIGIN"] == SIMULATED
    assert "no telescope took them" in (folder / "README.txt").read_text()


def test_the_transient_is_where_the_readme_says(folder):
    """Within the shift of a frame along x and y, and a pixel for its rotation, and only in the second night."""
    text = (folder / "README.txt").read_text()
    x, y, shift = (float(value) for value in re.search(r"x = (\d+),\ny = (\d+) .*up to (\d+) px", text).groups())
    reach = int(shift) + 2
    box = np.s_[int(y) - reach : int(y) + reach + 1, int(x) - reach : int(x) + reach + 1]
    first = fits.getdata(sorted(folder.glob("2026-02-11/*.fit"))[0])[box].astype(float)
    second = fits.getdata(sorted(folder.glob("2026-03-05/*.fit"))[0])[box].astype(float)
    # A star of magnitude 15 at a zero point of 24 has 4000 ADU in all, so some 400 in its peak; the noise is 24.
    assert second.max() - np.median(second) > first.max() - np.median(first) + 150


def test_headers_are_those_of_a_small_observatory(folder):
    header = fits.getheader(next(folder.rglob("*0001_R.fit")))
    assert header["BITPIX"] == 16 and header["BZERO"] == 32768
    assert {"XPIXSZ", "FOCALLEN", "EGAIN", "OBJECT", "CALSTAT", "CRVAL1"} <= set(header)


def test_stars_keep_their_place_on_the_sky(folder):
    """The brightest pixel of one night is found by the WCS in the other."""
    from astropy.wcs import WCS

    first, second = (sorted(folder.glob(f"{night}/*.fit"))[0] for night in ("2026-02-11", "2026-03-05"))
    data, other = (fits.getdata(path).astype(float) for path in (first, second))
    inner = data[100:-100, 100:-100]
    y, x = (int(k) + 100 for k in np.unravel_index(inner.argmax(), inner.shape))
    sky = WCS(fits.getheader(first)).pixel_to_world_values(x, y)
    there = WCS(fits.getheader(second)).world_to_pixel_values(*sky)
    column, row = (int(round(float(value))) for value in there)
    assert other[row - 3 : row + 4, column - 3 : column + 4].max() > 0.5 * data[y, x]


def test_a_folder_with_files_is_refused(folder):
    with pytest.raises(ConfigError, match="empty or a new folder"):
        write_example(folder)
