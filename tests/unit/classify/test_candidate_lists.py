"""Tests of candidate lists written by other programs."""

import numpy as np
import pytest
from astropy.table import Table

from otrain_core.classify.candidate_lists import read_candidates
from otrain_core.errors import ConfigError
from tests.unit.synthetic_difference import tangential

LIST = "name;x;y\nnärby 01;12,5;3\nfar;7;1,25\n"


@pytest.mark.parametrize("suffix", ["csv", "ecsv", "fits", "dat"])
def test_tables_of_stdpipe_and_others(tmp_path, suffix):
    """STDPipe returns an astropy Table with x and y from 0, ra, dec and other columns."""
    path = tmp_path / f"candidates.{suffix}"
    table = Table({"x": [10.2, 20.0], "y": [5.0, 6.0], "ra": [1.0, 2.0], "dec": [3.0, 4.0], "mag_calib": [18.0, 19.0]})
    table.write(path, format={"dat": "ascii", "csv": "ascii.csv", "ecsv": "ascii.ecsv"}.get(suffix, suffix))
    for source in (path, table, table.to_pandas(), dict(table)):
        found = read_candidates(source)
        assert found["x"].tolist() == [10.2, 20.0] and found["dec"].tolist() == [3.0, 4.0]
        assert found["candid"].tolist() == ["1", "2"]


def test_positions_from_one_and_from_the_sky():
    assert read_candidates({"X_IMAGE": [1.0], "Y_IMAGE": [5.0], "NUMBER": [7]})["x"].tolist() == [0.0]
    found = read_candidates({"Xpos": [3.0], "Ypos": [5.0], "cand_ID": ["a"]})
    assert (found["x"][0], found["y"][0], found["candid"][0]) == (2.0, 4.0, "a")
    wcs = tangential()
    sky = wcs.all_pix2world([30.0], [40.0], 0)
    found = read_candidates({"ra": sky[0], "dec": sky[1]}, wcs=wcs)
    assert found["x"][0] == pytest.approx(30) and found["y"][0] == pytest.approx(40)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"ra": [1.0], "dec": [2.0]}, "need an image with a WCS"),
        ({"flux": [1.0]}, "columns x and y .* are needed; the table has flux"),
        ({"x": [1.0, np.inf], "y": [1.0, 1.0]}, "row 2: the position"),
        ({"x": ["left"], "y": [1.0]}, "column x: must contain numbers"),
        ("nowhere.csv", "no such file"),
    ],
)
def test_bad_lists_are_refused(source, message):
    with pytest.raises(ConfigError, match=message):
        read_candidates(source)


def test_unknown_formats_are_refused(tmp_path):
    path = tmp_path / "candidates.pickle"
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(ConfigError, match="must be one of .csv"):
        read_candidates(path)
    (tmp_path / "candidates.fits").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="not a readable table"):
        read_candidates(tmp_path / "candidates.fits")


def test_a_votable(tmp_path):
    Table({"x": [100.3], "y": [200.6]}).write(tmp_path / "t.vot", format="votable")
    found = read_candidates(tmp_path / "t.vot")
    assert found["x"] == pytest.approx([100.3]) and found["y"] == pytest.approx([200.6])


@pytest.mark.parametrize(
    "content",
    [
        LIST.encode("cp1252"),
        LIST.encode("utf-16"),
        LIST.replace(";", "\t").encode(),
        LIST.replace(",", ".").replace(";", ",").encode("cp1252"),
    ],
)
def test_a_list_as_spreadsheet_programs_save_it(tmp_path, content):
    (tmp_path / "list.csv").write_bytes(content)
    found = read_candidates(tmp_path / "list.csv")
    assert found["x"].tolist() == [12.5, 7.0] and found["y"].tolist() == [3.0, 1.25]
    assert found["candid"].tolist() == ["närby 01", "far"]


def test_names_that_are_numbers_keep_their_digits(tmp_path):
    (tmp_path / "list.csv").write_text("candid;x;y\n2461234567890123457;12,5;3\n0012;1;2\n")
    found = read_candidates(tmp_path / "list.csv")
    assert found["candid"].tolist() == ["2461234567890123457", "0012"] and found["x"].tolist() == [12.5, 1.0]


def test_a_list_in_a_workbook_and_an_empty_one(tmp_path):
    import openpyxl

    book = openpyxl.Workbook()
    for row in (["x", "y"], [12.5, 3]):
        book.active.append(row)
    book.save(tmp_path / "list.xlsx")
    assert read_candidates(tmp_path / "list.xlsx")["x"].tolist() == [12.5]
    (tmp_path / "none.csv").write_text("x;y\n")
    assert len(read_candidates(tmp_path / "none.csv")["x"]) == 0
    (tmp_path / "hole.csv").write_text("x;y\n1;\n")
    with pytest.raises(ConfigError, match="row 1: the position is not a finite number"):
        read_candidates(tmp_path / "hole.csv")
