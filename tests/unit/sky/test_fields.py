import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from otrain_core import io
from otrain_core.errors import ConfigError, ImageError
from otrain_core.images.keywords import middle_time
from otrain_core.sky.fields import (
    COLUMNS,
    KNOWN_COLUMNS,
    Field,
    empty,
    field_of,
    read_local,
    read_sky_table,
)


def test_a_field_holds_its_image_and_a_margin(field, header):
    assert field.ra == pytest.approx(83.6)
    assert field.radius == pytest.approx(np.hypot(50, 50) * 2 / 3600 * 1.1, rel=1e-3)
    assert field.time == "2024-05-02T10:11:42.000"  # half an exposure later
    corner = WCS(header()).pixel_to_world_values(-0.5, 99.5)
    assert field.holds(*(np.array([value]) for value in corner)).all()
    far = field.holds(np.array([83.6, 263.6, np.nan]), np.array([22.05, -22.0, 22.0]))
    assert not far.any()


def test_a_field_at_the_pole_and_at_ra_zero():
    field = Field("one", 0.01, 89.99, 0.1)
    assert field.holds(np.array([180.0, 359.0]), np.array([89.95, 89.99])).all()
    field = Field("one", 0.01, 0.0, 0.1)
    assert list(field.holds(np.array([359.95, 359.8]), np.array([0.0, 0.0]))) == [True, False]


@pytest.mark.parametrize(
    ("cards", "time"),
    [
        ({"DATE-OBS": "2024-05-02T10:11:12.5Z", "EXPTIME": 20}, "2024-05-02T10:11:22.500"),
        ({"DATE-OBS": "2024-05-02", "TIME-OBS": "23:59:50", "EXPTIME": 60}, "2024-05-03T00:00:20.000"),
        ({"DATE-OBS": "2024-05-02", "MJD-OBS": 60432.5, "EXPTIME": "long"}, "2024-05-02T12:00:00.000"),
        ({"DATE-OBS": "2024-05-02"}, ""),  # which hour, it does not tell
        ({"DATE-OBS": "last Tuesday"}, ""),
        ({}, ""),
    ],
)
def test_the_time_of_an_image(cards, time):
    assert middle_time(fits.Header(cards)) == time


def write(path, text):
    path.write_text(text)
    return str(path)


def test_a_local_list_gets_the_requested_columns(tmp_path):
    path = write(tmp_path / "stars.csv", "# made by hand\nra, dec, mag, note\n-10,22.0,15.5,a\n")
    table = read_local(path, key="catalogue", columns=COLUMNS)
    assert list(table.columns) == COLUMNS
    assert (table.ra[0], table.dec[0], table.mag[0]) == (350.0, 22.0, 15.5)
    assert np.isnan(table.color[0]) and table.kind[0] == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ra,mag\n1,2\n", "a column 'dec' with values in degrees is needed; the file has mag, ra$"),
        (
            "ra,dec\n83.6,22\n05:34:24,22\n",
            r"ra: line 3: a number from -180 to 360 \[deg\] is needed, found '05:34:24'",
        ),
        ("ra,dec\n83.6,220\n", "dec: line 2"),
        ("ra,dec\n83.6,\n", "a column 'dec' with values in degrees is needed"),
        ("ra,dec\n83.6,22\n83.6,\n", "dec: line 3"),
        ("ra,dec,mag\n83.6,22,bright\n", "mag: line 2: a number is needed, found 'bright'"),
        ("ra,dec,mag\n83.6,22,-inf\n", "mag: line 2: a number is needed, found '-inf'"),
        ("", "empty; the first line must have the names of the columns"),
        ("ra,dec,ra\n83.6,22,83.7\n", "ra: this column appears twice"),
        ("ra,dec\n83.6,nan\n", "dec: line 2: a number from -90 to 90"),
        ("ra,dec\n83.6,inf\n", "dec: line 2: a number from -90 to 90"),
    ],
)
def test_a_wrong_local_catalogue_gives_one_sentence(tmp_path, text, message):
    path = write(tmp_path / "stars.csv", text)
    with pytest.raises(ConfigError, match=f"catalogue: {path}: .*{message}|catalogue: {path}: {message}"):
        read_local(path, key="catalogue", columns=COLUMNS)


@pytest.mark.parametrize(
    "content",
    [
        "RA;Dec;mag;name\r\n83,61;22,5;15,25;\xe9toile\r\n".encode("cp1252"),
        "ra\tdec\tmag\tname\n83.61\t22.5\t15.25\t\xe9toile\n".encode("utf-16"),
        "ra,dec,mag,name,,\n83.61,22.5,15.25,\xe9toile,,\n".encode(),
    ],
    ids=["semicolons and decimal commas", "utf-16", "trailing commas"],
)
def test_lists_of_spreadsheet_programs_are_read(tmp_path, content):
    (tmp_path / "stars.csv").write_bytes(content)
    table = read_local(tmp_path / "stars.csv", key="catalogue", columns=["name", "ra", "dec", "mag"])
    assert table.to_dict("records") == [{"name": "\xe9toile", "ra": 83.61, "dec": 22.5, "mag": 15.25}]


@pytest.mark.parametrize("kind", ["directory", "binary"])
def test_a_file_that_is_not_a_table_is_refused(tmp_path, kind):
    path = tmp_path / "stars.csv"
    path.mkdir() if kind == "directory" else path.write_bytes(bytes(range(256)))
    with pytest.raises(ConfigError, match="^catalogue: .*stars.csv: not a"):
        read_local(path, key="catalogue", columns=COLUMNS)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="known: .*none.csv: no such file"):
        read_local(tmp_path / "none.csv", key="known", columns=KNOWN_COLUMNS)


def test_a_table_without_rows_keeps_its_types(tmp_path):
    io.write_table(tmp_path / "known.csv", empty(KNOWN_COLUMNS))
    table = read_sky_table(tmp_path / "known.csv")
    assert len(table) == 0 and table.ra.dtype == float
    pd.testing.assert_frame_equal(table, empty(KNOWN_COLUMNS), check_dtype=False)


def test_a_wcs_without_sky_positions_is_refused():
    wcs = WCS(fits.Header({"CTYPE1": "FREQ", "CTYPE2": "STOKES"}))
    with pytest.raises(ImageError, match="image one: WCS: the corners of the image have no position"):
        field_of(wcs, (100, 100), image="one")
