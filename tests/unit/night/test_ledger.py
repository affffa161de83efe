"""Ledger: each image once by content, complete transactions, objects by sky position."""

import errno
import re
import sqlite3

import numpy as np
import pytest

from otrain_core.errors import OtrainError
from otrain_core.night.ledger import COLUMNS, Ledger, alone


def rows(ra, dec):
    n = len(ra)
    values = {name: np.zeros(n) for name in COLUMNS}
    values |= {"candid": np.array([f"c{k}" for k in range(n)]), "ra": np.array(ra), "dec": np.array(dec)}
    values |= {"reason": np.full(n, ""), "time": np.full(n, "2024-03-01T02:00:00"), "mag": np.full(n, np.nan)}
    return values


def done(ledger, digest, ra, dec, *, night="2024-02-29", radius=2.0):
    number, name = ledger.begin(digest, path=f"/data/{digest}.fits", name="science")
    with ledger.finish(number, night=night, record={"n": len(ra)}, table=rows(ra, dec), radius=radius):
        pass
    return name


def test_an_image_counts_once_by_content(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    assert done(ledger, "a", [10.0], [20.0]) == "science"
    assert ledger.begin("a", path="/elsewhere/copy.fits", name="copy") is None
    assert done(ledger, "b", [], []) == "science_2"
    number, _ = ledger.begin("c", path="x", name="broken")
    ledger.refuse(number, "no stars")
    assert ledger.status("c") == "refused" and ledger.begin("c", path="x", name="broken") is None
    assert [image["status"] for image in ledger.images()] == ["done", "done", "refused"]
    assert ledger.nights() == [{"night": "2024-02-29", "images": 2, "candidates": 1, "real": 0}]


def test_a_candidate_without_a_number_does_not_lose_its_image(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    number, _ = ledger.begin("a", path="x", name="science")
    table = rows([10.0, 10.1], [20.0, 20.0]) | {"snr": np.array([np.nan, 7.0]), "probability": np.array([np.nan, 0.9])}
    with ledger.finish(number, night="n", record={}, table=table, radius=1.0):
        pass
    for plain in (False, True):
        found = {item["candid"]: item for item in ledger.detections("n", plain=plain)}
        assert np.isnan([found["c0"]["snr"], found["c0"]["probability"]]).all()
        assert (found["c1"]["snr"], found["c1"]["probability"], found["c1"]["mag"]) == (7.0, 0.9, None)
    ledger.close()
    base = sqlite3.connect(tmp_path / "ledger.sqlite")
    unknown = base.execute("SELECT candid FROM detections WHERE snr IS NULL AND probability IS NULL").fetchall()
    base.close()
    assert unknown == [("c0",)]


def test_a_ledger_of_another_version_is_refused(tmp_path):
    Ledger(tmp_path / "ledger.sqlite").close()
    base = sqlite3.connect(tmp_path / "ledger.sqlite")
    base.execute("PRAGMA user_version = 2")
    base.close()
    with pytest.raises(
        OtrainError, match="a ledger of version 2, but this O'TRAIN reads version 3; choose a new output"
    ):
        Ledger(tmp_path / "ledger.sqlite")


def test_a_night_is_open_until_it_is_ended(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for digest, night in (("a", "n1"), ("b", "n2")):
        done(ledger, digest, [10.0], [20.0], night=night)
    assert ledger.open_nights() == ["n1", "n2"]
    ledger.end("n1")
    assert ledger.open_nights() == ["n2"]
    done(ledger, "c", [], [], night="n1")
    assert Ledger(tmp_path / "ledger.sqlite").open_nights() == ["n1", "n2"]
    ledger.refuse(ledger.begin("d", path="x", name="dark")[0], "IMAGETYP 'Dark'", kind="dark")
    assert [ledger.count(night) for night in ("n1", "n2", "")] == [2, 1, 1]
    assert ledger.images()[-1]["record"] == {"kind": "dark"}


def test_what_was_begun_and_never_finished_is_begun_again(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    number, _ = ledger.begin("a", path="x", name="science")
    ledger.close()
    again = Ledger(tmp_path / "ledger.sqlite")
    assert again.begin("a", path="x", name="science") == (number, "science") and again.tries(number) == 2


def test_a_finish_that_fails_leaves_nothing(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    number, _ = ledger.begin("a", path="x", name="science")
    table = rows([10.0, 11.0], [20.0, 20.0])
    table["candid"] = np.array(["same", "same"])
    finish = ledger.finish(number, night="2024-02-29", record={}, table=table, radius=1.0)
    with pytest.raises(OtrainError, match="cannot be written"), finish:
        pass
    finish = ledger.finish(number, night="2024-02-29", record={}, table=rows([10.0], [20.0]), radius=1.0)
    with pytest.raises(OSError), finish:  # while the files of the image are written
        raise OSError("no space left")
    assert ledger.status("a") == "working" and ledger.detections("2024-02-29") == []


@pytest.mark.parametrize(("ra", "dec"), [(150.0, 20.0), (0.0, 5.0), (40.0, 89.9)])
def test_detections_of_one_place_are_one_object(tmp_path, ra, dec):
    ledger, step = Ledger(tmp_path / "ledger.sqlite"), 1 / 3600 / np.cos(np.radians(dec))
    done(ledger, "a", [ra % 360, (ra + 10 * step) % 360], [dec, dec])
    done(ledger, "b", [(ra - step) % 360, (ra + 30 * step) % 360], [dec, dec])
    done(ledger, "c", [ra % 360, np.nan], [dec, np.nan], night="2024-03-01")
    numbers = [item["object"] for item in ledger.detections("2024-02-29")]
    assert sorted(numbers) == [1, 1, 2, 3]
    other = [item["object"] for item in ledger.detections("2024-03-01")]
    assert (
        None in other and len(other) == 2 and 1 not in other
    )  # one without a sky position, the other of another night


def test_other_columns_are_kept_and_objects_know_their_first_place(tmp_path):
    ledger, table = Ledger(tmp_path / "ledger.sqlite"), rows([10.0], [20.0]) | {"fwhm": np.array([2.5])}
    number, _ = ledger.begin("a", path="x", name="science")
    with ledger.finish(number, night="2024-02-29", record={}, table=table, radius=np.nan):
        pass
    (item,) = ledger.detections("2024-02-29")
    assert item["fwhm"] == 2.5 and item["mag"] is None and item["object"] is None and item["object_ra"] is None
    done(ledger, "b", [10.0], [20.0])
    assert ledger.detections("2024-02-29")[-1]["object_ra"] == 10.0


def test_other_files_are_refused(tmp_path):
    base = sqlite3.connect(tmp_path / "other.sqlite")
    base.execute("CREATE TABLE t (x)")
    base.commit()
    with pytest.raises(OtrainError, match="not a ledger of nights"):
        Ledger(tmp_path / "other.sqlite")
    (tmp_path / "text.sqlite").write_text("no database " * 200)
    with pytest.raises(OtrainError, match="text.sqlite: not a ledger"):
        Ledger(tmp_path / "text.sqlite")


def test_one_process_at_a_time(tmp_path):
    with alone(tmp_path), pytest.raises(OtrainError, match="another otrain night"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    message = re.escape(f"{tmp_path}: cannot be locked (No locks available); choose an output folder (-o) on")
    with pytest.raises(OtrainError, match=message), alone(tmp_path):
        pass
