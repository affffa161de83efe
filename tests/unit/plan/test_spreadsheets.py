"""Sheets of any usual coding, separator and program give the same rows; what is no sheet gets one sentence."""

import os

import openpyxl
import pytest

from otrain_core.errors import ConfigError
from otrain_core.plan.spreadsheets import read_rows

COLUMNS = ("telescope", "image", "path", "field")
PLAIN = "telescope,image,path,field\nt,n1,nächte 1/a.fits,\nt,n2,nächte 2/a.fits,north\n"
ROWS = [
    (2, {"telescope": "t", "image": "n1", "path": "nächte 1/a.fits"}),
    (3, {"telescope": "t", "image": "n2", "path": "nächte 2/a.fits", "field": "north"}),
]


def write(tmp_path, content, name="sheet.csv"):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("cp1252"),
        PLAIN.encode("utf-16"),
        b"\xfe\xff" + PLAIN.encode("utf-16-be"),
        PLAIN.replace(",", "\t").encode("utf-16"),
        PLAIN.replace(",", ";").encode("cp1252"),
        PLAIN.replace(",", "|").encode(),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        (PLAIN + ",,,\n,,,,,,\n").encode(),
        PLAIN.replace("\n", ",,\n").encode(),
        PLAIN.replace("telescope,image", ' telescope ," image "').encode(),
        (PLAIN + "# t,n3,c.fits,\n").encode(),
    ],
)
def test_one_sheet_saved_in_many_ways(tmp_path, content):
    assert read_rows(write(tmp_path, content), COLUMNS) == ROWS


def test_the_separator_that_excel_names(tmp_path):
    found = read_rows(write(tmp_path, ("sep=;\n" + PLAIN.replace(",", ";")).encode()), COLUMNS)
    assert found == [(line + 1, cells) for line, cells in ROWS]


def test_a_workbook(tmp_path):
    book = openpyxl.Workbook()
    for line in PLAIN.splitlines():
        book.active.append(line.split(","))
    book.active.append([None, None])
    book.active.append(["t", 7, "b.fits", None])
    book.create_sheet("other").append(["nothing of this is read"])
    book.save(tmp_path / "sheet.xlsx")
    assert read_rows(tmp_path / "sheet.xlsx", COLUMNS) == [
        *ROWS,
        (5, {"telescope": "t", "image": "7", "path": "b.fits"}),
    ]


def test_commas_in_quoted_cells_and_lines_are_counted(tmp_path):
    text = 'telescope,path\n\n"t","a, b.fits"\nt,"two\nlines"\n# note\nt,c\n'
    found = read_rows(write(tmp_path, text.encode()), COLUMNS)
    assert [cells["path"] for _, cells in found] == ["a, b.fits", "two\nlines", "c"]
    assert [line for line, _ in found] == [3, 5, 7]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; the first line must have the names of the columns"),
        (b"# only a note\n,,,\n", "empty"),
        (b"telescope,image,telescope\nt,a,u\n", "telescope: this column appears twice"),
        (b"telescope, telescope\nt,a\n", "telescope: this column appears twice"),
        (b"telescope,,image\nt,a,b\n", r"\(no name\): unknown column"),
        (b"telescope,imag\nt,a\n", "imag: unknown column; did you mean 'image'"),
        (b"telescope,image\nt\n", "row 2: must have as many cells"),
        (b"telescope,image\nt,a,b\n", "row 2: must have as many cells"),
        (b"PK\x03\x04\x14\x00\x00\x08" + bytes(range(256)) * 3, r"not a readable workbook \(.xlsx\)"),
        (b"\xd0\xcf\x11\xe0" + bytes(200), r"old format \(.xls\); save it as .xlsx or as CSV"),
        (b"telescope,image\nt,\x00\x00\n", "not a text file, but a binary one"),
        (bytes(range(1, 256)) * 9, "not a text file"),
        (b"\xff\xfet", "not a text file"),
        (b"telescope,image\nt," + b"x" * 200_000 + b"\n", "not a sheet of cells"),
    ],
)
def test_what_is_no_sheet_is_told(tmp_path, content, message):
    with pytest.raises(ConfigError, match=f"sheet .*sheet.csv.*{message}"):
        read_rows(write(tmp_path, content), COLUMNS)


def test_a_folder_a_pipe_and_nothing(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("", "not a file"), ("pipe", "not a file"), ("none.csv", "no such file")):
        with pytest.raises(ConfigError, match=message):
            read_rows(tmp_path / name, COLUMNS)


def test_a_workbook_that_unpacks_to_much_is_refused(tmp_path, monkeypatch):
    book = openpyxl.Workbook()
    for _ in range(500):
        book.active.append(["t" * 100] * 4)
    book.save(tmp_path / "sheet.xlsx")
    size = (tmp_path / "sheet.xlsx").stat().st_size
    monkeypatch.setattr("otrain_core.plan.spreadsheets.MAX_BYTES", size + 1000)
    with pytest.raises(ConfigError, match="its content is larger than"):
        read_rows(tmp_path / "sheet.xlsx", COLUMNS)
