"""Files of a results folder, whole and broken."""

from pathlib import Path

import numpy as np
import pytest

from otrain_core import io
from otrain_core.results import (
    image_folder,
    job_folder,
    number,
    read_benchmark,
    read_failure,
    read_record,
    results_root,
    run_keys,
    table_if_there,
    trained_folders,
    training_folder,
)
from tests.unit.synthetic_results import BENCHMARK


@pytest.mark.parametrize("folder", ["seed1", "a/b/c/d", "a/b/c/seedx", "a/b/seed1", "a/b/c/seed1/other"])
def test_folders_that_are_no_training(folder):
    with pytest.raises(ValueError, match="not the folder of a training"):
        run_keys(folder)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2.5\t0:00:02\t210.5\t9\t9\t9\t0\t0\t80\t1.75", (1.75, 210.5)),
        ("0.4\t0:00:00\tNA\tNA\tNA\tNA\tNA\tNA\tNA\tNA", (0.4, np.nan)),
        ("0.4\t0:00:00\t-\t-\t-\t-\t-\t-\t0\t0", (0.4, np.nan)),
    ],
)
def test_benchmark_files(tmp_path, line, expected):
    (tmp_path / "a.tsv").write_text(f"{BENCHMARK}{line}\n")
    np.testing.assert_equal(read_benchmark(tmp_path / "a.tsv"), expected)


@pytest.mark.parametrize("text", ["", "s\n"])
def test_broken_benchmark_file_is_no_number(tmp_path, text):
    (tmp_path / "a.tsv").write_text(text)
    assert np.isnan(read_benchmark(tmp_path / "a.tsv")).all()
    assert np.isnan(read_benchmark(tmp_path / "b.tsv")).all()


def test_the_keys_of_a_training_come_from_its_folder():
    keys = {"telescope": "a", "pipeline": "b", "experiment": "c", "seed": 12}
    assert run_keys("results/a/b/c/seed12") == keys | {"protocol": "by-image"}


def test_what_is_missing_broken_or_marked_as_failed_reads_as_nothing(tmp_path):
    mark = {"otrain_failed": {"image": "A", "key": "WCS", "message": "no overlap", "step": "subtract"}}
    io.write_json(tmp_path / "mark.json", mark)
    (tmp_path / "half.json").write_text('{"a": ')
    (tmp_path / "list.json").write_text("[1]")
    for name in ("nothing", "mark", "half", "list"):
        assert read_record(tmp_path / f"{name}.json") == {}
    assert table_if_there(tmp_path / "mark.json") is None and table_if_there(tmp_path / "nothing.csv") is None
    assert read_failure(tmp_path / "mark.json")["key"] == "WCS"
    assert read_failure(tmp_path / "list.json") is None


def test_only_numbers_are_numbers():
    record = {"a": 3, "b": True, "c": "4", "d": None}
    assert number(record, "a") == 3.0
    assert all(np.isnan(number(record, key)) for key in "bcde")


@pytest.mark.parametrize(("protocol", "folder"), [("by-image", "a/b/c/seed12"), ("random", "a/b/c/seed12/random")])
def test_the_folder_of_a_training_and_its_keys_belong_together(tmp_path, protocol, folder):
    assert training_folder("a/b", "c", 12, protocol) == folder
    assert results_root(f"results/{folder}") == Path("results")
    keys = {"telescope": "a", "pipeline": "b", "experiment": "c", "seed": 12, "protocol": protocol}
    assert run_keys(folder) == keys
    assert trained_folders(tmp_path) == []
    io.write_json(tmp_path / folder / "train.json", {})
    assert trained_folders(tmp_path) == [tmp_path / folder]


def test_folders_of_an_image():
    assert image_folder("results/t/p", "i1") == Path("results/t/p/images/i1")
    assert job_folder("results", "failures", "t", "sky", "i1") == Path("results/failures/t/sky/i1")
