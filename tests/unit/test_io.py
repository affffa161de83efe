"""Reading and writing of tables and records."""

import numpy as np
import pandas as pd
import pytest

from otrain_core import io
from otrain_core.arrays import read_arrays
from otrain_core.errors import UpstreamFailed
from otrain_core.images.frames import read_fits, read_planes


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
