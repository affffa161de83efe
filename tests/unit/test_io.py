"""Reading and writing of tables and records."""

import errno
import json
import os
import stat
import threading

import numpy as np
import pandas as pd
import pytest

from otrain_core import io
from otrain_core.arrays import read_arrays
from otrain_core.errors import CubeError, FileError, UpstreamFailed
from otrain_core.images.frames import read_planes
from otrain_core.images.hdus import read_fits


def test_tables_keep_missing_values_and_text(tmp_path):
    table = pd.DataFrame({"candid": ["007", "008"], "mag": [18.123456789, np.nan], "reason": ["", "edge"]})
    io.write_table(tmp_path / "t.csv", table)
    back = io.read_table(tmp_path / "t.csv")
    assert list(back.candid) == ["007", "008"]
    assert list(back.reason) == ["", "edge"]
    assert np.isnan(back.mag[1])


def test_json_has_no_nan(tmp_path):
    io.write_json(tmp_path / "r.json", {"a": np.float32("nan"), "b": np.arange(2), "c": [np.inf, 1]})
    assert io.read_json(tmp_path / "r.json") == {"a": None, "b": [0, 1], "c": [None, 1]}


def test_failure_marks_are_recognised_by_every_reader(tmp_path):
    mark = {"otrain_failed": {"image": "a", "key": "data", "message": "all pixels are NaN", "step": "psf"}}
    path = tmp_path / "mark"
    io.write_json(path, mark)
    readers = [
        lambda: read_fits(path, image="a"),
        lambda: read_planes(path, image="a"),
        lambda: io.read_table(path),
        lambda: io.read_json(path),
        lambda: read_arrays(path),
    ]
    for reader in readers:
        with pytest.raises(UpstreamFailed, match="image a: data: all pixels are NaN"):
            reader()


def test_where_nothing_can_be_written_the_file_is_named(tmp_path, monkeypatch):
    def refuse(**options):
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / ".a.x7.csv"))

    monkeypatch.setattr(io.tempfile, "mkstemp", refuse)
    with pytest.raises(OSError, match="Read-only") as error, io.atomic(tmp_path / "a.csv"):
        pass
    assert error.value.filename == str(tmp_path / "a.csv") and error.value.errno == errno.EROFS


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), io.atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-a", "@x", "\tx", "\rx", "'=1", "''=1", "plain", "'quoted'", "", "a=1", "'"]
)
def test_a_cell_is_no_formula_and_comes_back(text):
    cell = io.guarded(text)
    assert cell[:1] not in ("=", "+", "-", "@", "\t", "\r")
    assert io.unguarded(cell) == text
    assert (cell == text) == (text in ("plain", "'quoted'", "", "a=1", "'"))


def test_a_name_that_was_never_guarded_stays():
    assert io.unguarded("=1+1") == "=1+1"


def test_a_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "t.json", tmp_path / "link.json"
    link.symlink_to(target)
    for value in (1, 2):  # dangling first
        io.write_json(link, {"a": value})
        assert link.is_symlink() and io.read_json(target) == {"a": value}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["elsewhere", "link.json", "t.json"]


def test_what_is_no_regular_file_is_written_into(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    got = []
    read.start()
    io.write_json(pipe, {"a": 1})
    read.join(10)
    assert json.loads(got[0]) == {"a": 1} and stat.S_ISFIFO(pipe.stat().st_mode)
    null = tmp_path / "null"
    null.symlink_to("/dev/null")
    io.write_json(null, {"a": 1})
    assert null.is_symlink() and stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(FileError, match="a folder, where a file is to be written"):
        io.write_json(tmp_path, {})


def test_a_named_pipe_is_not_read(tmp_path):
    """Reading would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    for read in (io.read_json, io.read_table, io.raise_if_failed):
        with pytest.raises(FileError, match="pipe: not a regular file"):
            read(tmp_path / "pipe")
    with pytest.raises(CubeError, match="pipe: no such file"):
        read_arrays(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "JSON that is nested too deeply"),
        (b"{broken", "not readable JSON"),
        (b"\xff\xfe\x00", "not readable JSON"),
        (b'{\n "otrain_failed": {}}', "the mark of a failed image, and damaged"),
        (b'{\n "otrain_failed"' + b"[" * 100_000, "the mark of a failed image, and damaged"),
    ],
)
def test_records_that_cannot_be_read(tmp_path, content, message):
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(FileError, match=rf"r\.json: {message}"):
        io.read_json(tmp_path / "r.json")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01,\n", b'a,b\n"1,2\n3'])
def test_tables_that_cannot_be_read(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(FileError, match=r"t\.csv: not a readable table"):
        io.read_table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FileError, match=r"t\.csv: not a readable table .*c"):
        io.read_table(tmp_path / "t.csv", columns=["c"])


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"night\xff.json")
    assert io.shown(name) == "night\\xff.json"
    io.write_json(tmp_path / name, {"path": name})
    assert io.read_json(tmp_path / name) == {"path": name}
