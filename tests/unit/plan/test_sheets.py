"""Sheets of images and of labels."""

import pytest

from otrain_core.errors import ConfigError
from otrain_core.plan.sheets import read_images, read_labels


def test_missing_sheet():
    with pytest.raises(ConfigError, match="no such file"):
        read_images("nowhere.csv")


def write(tmp_path, text):
    path = tmp_path / "sheet.csv"
    path.write_text(text)
    return path


def test_images_by_telescope_sorted_with_comments_and_empty_cells(tmp_path):
    text = "telescope,image,path,role,field,reference\n# a note\nb,i2,2.fits,,north,\nb,i1,1.fits,,,r.fits\na,i3,3.fits,reference,f,\n"
    sheet = read_images(write(tmp_path, text))
    assert [(name, list(images)) for name, images in sheet.items()] == [("a", ["i3"]), ("b", ["i1", "i2"])]
    assert sheet["b"]["i2"].role == "science" and sheet["b"]["i2"].field == "north"
    assert sheet["b"]["i1"].reference == "r.fits" and sheet["b"]["i1"].field is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("telescope,image,path\nt,n1 001,b\n", "row 2: image: must be a name of letters, digits.*'n1 001'"),
        ("telescope,image,pth\nt,a,b\n", "pth: unknown column; did you mean 'path'"),
        ("telescope,image,path,role\nt,a,b,flat\n", "row 2: role: .*'science' or 'reference'.*'flat'"),
        ("telescope,image,path,role\nt,a,b,reference\n", "row 2: .*field: needed for a row with role reference"),
    ],
)
def test_bad_images(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_images(write(tmp_path, text))


def test_labels_as_a_spreadsheet_writes_them(tmp_path):
    rows = read_labels(write(tmp_path, "telescope,candid,label,x,y,image\nt,c1,TRUE,,,\nt,,false,3.5,4,i\n"))
    assert [(row["candid"], row["label"], row["x"], row["y"]) for row in rows] == [
        ("c1", "True", None, None),
        (None, "False", 3.5, 4.0),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("telescope,candid,label\nt,c1,maybe\n", "row 2: label: .*'maybe'"),
        ("telescope,image,label\nt,i,True\n", "give candid, or image, x and y"),
        ("telescope,candid,x,label\nt,c,3,True\n", "x, y: give both or neither"),
        ("telescope,candid,x,y,label\nt,c,nan,3,True\n", "row 2: x: .*finite"),
    ],
)
def test_bad_labels(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_labels(write(tmp_path, text))
