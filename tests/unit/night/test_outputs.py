"""Files of a search: tables with units, scores for the monitor, stamps."""

import csv

import numpy as np
import pytest
from astropy.table import Table
from PIL import Image

from otrain_core.classify.descriptors import DESCRIPTORS
from otrain_core.cubes.cube_format import read_cube
from otrain_core.night.outputs import as_table, write_cutouts, write_scores, write_search, write_stamps
from otrain_core.night.search import COLUMNS, Search


@pytest.fixture
def found():
    table = {name: np.array([1.5, np.nan]) for name in COLUMNS}
    table |= {name: np.array(["a", "b"]) for name in ("candid", "image", "reason", "time", "filter")}
    table |= {name: np.array([True, False]) for name in ("real", "undecided", "edge")}
    stamps = np.zeros((2, 9, 9, 5), np.float32)
    stamps[:, 0, 0, 1] = 100.0  # first pixel of the science plane
    stamps[1, ..., 2] = np.nan
    described = {name: np.array([0.1, np.nan]) for name in DESCRIPTORS}
    return Search(table, stamps, described, {"image": "a", "science": "a.fits", "n": 2, "real": 1, "undecided": 0})


def test_tables(found, tmp_path):
    write_search(tmp_path, "a", found, gallery=1)
    for name in ("a.ecsv", "a.fits"):
        table = Table.read(tmp_path / name)
        assert table.colnames == list(COLUMNS) and str(table["ra"].unit) == "deg" and len(table) == 2
    assert as_table(found)["probability"].description == "calibrated probability of a real source"
    assert (tmp_path / "a.png").is_file() and (tmp_path / "a.json").is_file()


@pytest.mark.filterwarnings("error")
def test_a_path_that_is_not_ascii(found, tmp_path, caplog):
    found.record["science"] = "Größe/Säule.fits"
    write_search(tmp_path, "a", found, gallery=0)
    assert Table.read(tmp_path / "a.ecsv").meta["science"] == "Größe/Säule.fits"
    assert Table.read(tmp_path / "a.fits").meta["SCIENCE"] == r"Gr\xf6\xdfe/S\xe4ule.fits"


def test_scores_are_a_table_of_classify(found, tmp_path):
    write_scores(tmp_path / "a.csv", found)
    with open(tmp_path / "a.csv") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["probability"] == "1.5" and rows[1]["probability"] == "" and set(DESCRIPTORS) <= set(rows[0])
    assert [row["edge"] for row in rows] == ["True", "False"]


def test_stamps_are_science_reference_and_difference(found, tmp_path):
    write_stamps(tmp_path, found, n=2)
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    times = picture.shape[0] // 9
    assert times > 1 and picture.shape == (9 * times, (3 * 9 + 2) * times)
    assert picture[-1, 0] == 255 and picture[0, 0] == 0
    missing = np.asarray(Image.open(tmp_path / "b.png"))
    assert (missing[:, 10 * times : 19 * times] == 128).all()


def test_cutouts_are_a_cube_for_the_labelling_page(found, tmp_path):
    found.record |= {"telescope": "T", "pipeline": "builtin", "seeing_px": 2.5, "pixel_scale": None}
    write_cutouts(tmp_path / "a.npz", found, n=1)
    cube = read_cube(tmp_path / "a.npz", both_classes=False)
    assert cube["candids"].tolist() == ["a"] and cube["cube"].shape == (1, 9, 9, 5) and cube["labels"].tolist() == [0]
    assert str(cube["telescope"]) == "T" and cube["seeing"].tolist() == [2.5] and np.isnan(cube["pixel_scale"]).all()
    none = Search({}, found.stamps[:0], {}, found.record)
    write_cutouts(tmp_path / "none.npz", none, n=1)
    assert not (tmp_path / "none.npz").exists()
