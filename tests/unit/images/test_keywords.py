import re
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.images.keywords import (
    CLOCKS,
    DAYS,
    KEYWORDS,
    LONGITUDES,
    MIDDLES,
    exposure,
    frame_type,
    longitude,
    middle_time,
    numbers,
    parse_angle,
    parse_number,
    start_time,
    text,
)

START, MIDDLE = "2024-03-01T02:03:04.500", "2024-03-01T02:03:34.500"


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1.5, 1.5),
        ("1.5", 1.5),
        (" 1,5 ", 1.5),
        ("1.5D-3", 1.5e-3),
        ("-2e3", -2000.0),
        (np.float32(2), 2.0),
        ("1.5 e-/ADU", None),
        ("1,500.0", None),
        ("10:00:00", None),
        ("high", None),
        ("", None),
        (None, None),
        (True, None),
        ("nan", None),
        (float("inf"), None),
    ],
)
def test_numbers_as_text(value, number):
    assert parse_number(value) == number


@pytest.mark.parametrize(
    ("cards", "kind"),
    [
        ({"IMAGETYP": "Dark Frame"}, "dark"),
        ({"OBSTYPE": "SKYFLAT"}, "flat"),
        ({"IMAGETYP": "zero"}, "bias"),
        ({"IMAGETYP": "LightFrame"}, "science"),
        ({"IMAGETYP": "", "FRAME": "Light"}, "science"),
        ({"OBJECT": "dark cloud"}, ""),
    ],
)
def test_the_type_of_a_frame(cards, kind):
    found, why = frame_type(cards)
    assert found == kind and bool(why) == bool(kind)


def test_a_unit_may_follow_where_it_is_allowed():
    assert parse_number("1.5 e-/ADU", unit=True) == 1.5 and parse_number("60 s", unit=True) == 60
    assert parse_number("1.5.2", unit=True) is None and parse_number("10:00", unit=True) is None


@pytest.mark.parametrize(
    ("given", "hours", "degrees"),
    [
        ("10:00:00", True, 150.0),
        ("10 00 30", True, 150.125),
        ("-00:30:00", False, -0.5),
        ("+20:15:00.0", False, 20.25),
        ("20:75:00", False, None),
        ("20", False, None),
    ],
)
def test_angles_as_text(given, hours, degrees):
    assert parse_angle(given, hours=hours) == degrees


def test_the_first_usable_keyword_counts():
    header = fits.Header(
        {"GAIN": 0, "CVF": "1,25", "GAIN1": 3.0, "EGAIN": "?", "MAGZPT": -1.5, "FILTER": " ", "FILTER1": "r"}
    )
    assert list(numbers(header, "gain")) == [("CVF", 1.25), ("GAIN1", 3.0)]
    assert next(numbers(header, "gain", first="GAIN1")) == ("GAIN1", 3.0)
    assert list(numbers(header, "zero_point")) == [("MAGZPT", -1.5)]
    assert text(header, "filter") == "r" and text(header, "time") == ""
    assert exposure(fits.Header({"EXPTIME": "60 s"})) == 60 and np.isnan(exposure(fits.Header({"EXPTIME": 0})))


@pytest.mark.parametrize(
    "cards",
    [
        {"DATE-OBS": "2024-03-01T02:03:04.5"},
        {"DATE-OBS": "2024-03-01 02:03:04.5"},
        {"DATE-OBS": "2024-03-01", "TIME-OBS": "02:03:04.5"},
        {"DATE-OBS": "2024-03-01", "UT": "02:03:04.5"},
        {"DATE-OBS": "2024-03-01", "UTC": "2:03:04.5"},
        {"DATE-OBS": "2024-03-01", "UTSTART": "02:03:04.5"},
        {"DATE-OBS": "2024-03-01T02:03:04.5Z"},
        {"DATE-OBS": "2024-03-01T03:03:04.5+01:00"},
        {"DATE-OBS": "2024-03-01T02:03:41.5", "TIMESYS": "TAI"},
        {"DATE-OBS": "2024-03-01", "MJD-OBS": 60370.08546875},
        {"MJD-OBS": 60370.08546875},
        {"JD": 2460370.58546875},
        {"DATE-BEG": "2024-03-01T02:03:04.5"},
        {"DATE-BEG": "2024-03-01T02:03:04.5", "DATE-AVG": "2024-03-01T02:03:34.5"},
        {"DATE-AVG": "2024-03-01T02:03:34.5"},
    ],
)
def test_times(cards):
    header = fits.Header(cards | {"EXPTIME": 60.0})
    assert start_time(header) == START and middle_time(header) == MIDDLE


@pytest.mark.parametrize(
    ("cards", "start", "middle"),
    [
        ({"DATE-OBS": "01/03/99", "UT": "02:03:04.5"}, "1999-03-01T02:03:04.500", "1999-03-01T02:03:34.500"),
        ({"DATE-OBS": "2024-03-01"}, "2024-03-01", ""),  # no time of day
        ({"DATE-OBS": "2024-03-01", "TIME-OBS": "23:59:50"}, "2024-03-01T23:59:50.000", "2024-03-02T00:00:20.000"),
        ({"DATE-OBS": "0000-00-00"}, "", ""),
        ({"DATE-OBS": "31/02/99", "UT": "01:02:03"}, "", ""),  # no such day
        ({"DATE": "2025-01-01T00:00:00"}, "", ""),  # creation date of the file
        ({"DATE-OBS": "last Tuesday"}, "", ""),
        ({"DATE-OBS": "2024-13-41T02:03:04"}, "", ""),
        ({"JD": 60370.085}, "", ""),  # a modified date under the wrong name
        ({}, "", ""),
    ],
)
def test_times_that_are_odd_or_not_known(cards, start, middle):
    header = fits.Header(cards | {"EXPTIME": 60.0})
    assert (start_time(header), middle_time(header)) == (start, middle)


def test_the_middle_without_an_exposure_is_the_start():
    assert middle_time(fits.Header({"DATE-OBS": "2024-03-01T02:03:04.5", "EXPTIME": "long"})) == START


def test_a_keyword_of_the_configuration_comes_first():
    header = fits.Header({"DATE-OBS": "2024-03-02T00:00:00", "OBSTIME": "2024-03-01T02:03:04.5"})
    assert start_time(header, first="OBSTIME") == START


def test_the_keywords_are_documented():
    """In the table of config/README.md, in their order."""
    text = (Path(__file__).parents[3] / "config/README.md").read_text()
    rows = dict(re.findall(r"^\| ([a-z ]+?)(?: \[.*\])? \| ([A-Z][A-Z0-9_, -]+.*) \|$", text, re.M))
    roles = {"read_noise": "read noise", "zero_point": "zero point", "time": "beginning"}
    for role, keys in KEYWORDS.items():
        assert ", ".join(keys) in rows[roles.get(role, role)], role
    assert ", ".join(CLOCKS) in rows["beginning"] and ", ".join(DAYS) in rows["beginning"]
    assert ", ".join(MIDDLES) == rows["middle"]
    assert ", ".join(LONGITUDES) in rows["longitude"]


@pytest.mark.parametrize(
    ("cards", "east"),
    [
        ({"SITELONG": "-155 28 30"}, -155.475),
        ({"SITELONG": "149:03:42", "OBSGEO-L": 10.0}, 10.0),
        ({"LONG-OBS": 204.5}, 204.5),
        ({"SITELONG": "unknown", "HIERARCH ESO TEL GEOLON": -70.4042}, -70.4042),
        ({"OBSGEO-X": -5464000.0, "OBSGEO-Y": -2493000.0}, -155.475),
        ({"SITELONG": 1e9}, np.nan),
        ({"OBSGEO-X": 0.0, "OBSGEO-Y": 0.0}, np.nan),
        ({}, np.nan),
    ],
)
def test_longitude(cards, east):
    assert longitude(fits.Header(cards)) == pytest.approx(east, abs=0.01, nan_ok=True)
