"""The verbs init, example, run, and search of a project."""

import json
import os
import sys

import pytest

from otrain_core.cli import project
from otrain_core.cli.main import main
from otrain_core.errors import ConfigError
from tests.unit.project.frames import write_frame


@pytest.fixture
def made(tmp_path, monkeypatch):
    for k in range(6):
        write_frame(tmp_path / f"data/{k}.fit", seed=k, time=f"2026-01-01T20:{k:02d}:00")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "data"]) == 0
    monkeypatch.chdir(tmp_path / "data-otrain")
    return tmp_path


def test_init_writes_beside_the_folder_and_answers_in_json(made, capsys):
    assert (made / "data-otrain/config.yaml").is_file()
    capsys.readouterr()
    assert main(["init", str(made / "data"), "-o", ".", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["written"] == [] and told["science"] == 3


def test_init_of_no_folder_is_refused(tmp_path, capsys):
    assert main(["init", str(tmp_path / "none")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_run_becomes_snakemake(made, monkeypatch):
    called = []
    monkeypatch.setattr(os, "execv", lambda program, command: called.append(command))
    assert main(["run", "config.yaml", "--cores", "1", "--target", "x"]) in (0, 1)
    (command,) = called
    assert command[:3] == [sys.executable, "-m", "snakemake"] and command[-2:] == ["--", "x"]
    assert command[command.index("--configfile") + 1] == "config.yaml"


def test_run_tells_a_wrong_key_in_one_sentence(made, capsys):
    (made / "data-otrain/config.yaml").write_text("sed: 1\n")
    assert main(["run", "config.yaml"]) == 1
    assert "otrain run: config.yaml: sed: unknown key; did you mean 'seed'?" in capsys.readouterr().err


def test_a_search_takes_images_and_references_of_the_project(made, monkeypatch):
    """Each image once, with the stack of its field and the detector of its telescope."""
    calls = []

    def search(arguments):
        calls.append(arguments)
        return 0, {"images": [{"image": path} for path in arguments.science], "refused": []}, "text"

    def stacked(*, frames, reference, **_):
        assert len(frames) == 3
        reference.write_text("stack")

    monkeypatch.setattr("otrain_core.cli.search.search", search)
    monkeypatch.setattr("otrain_core.sky.reference.reference_files", stacked)
    from otrain_core.cli.parser import build_parser

    arguments = build_parser().parse_args(["search", "config.yaml", "-m", "x", "-o", "out"])
    status, record, _ = project.search_project(arguments)
    assert status == 0 and len(record["images"]) == 3 and len(calls) == 1
    assert calls[0].detector.gain == 2.0 and calls[0].output == "out"
    for path, one in calls[0].by_image.items():
        assert path in calls[0].science and one.reference == "out/references/T1-M_1.fits" and one.wcs is None


def test_images_whose_reference_cannot_be_stacked_are_named(made, monkeypatch, capsys):
    from otrain_core.errors import ImageError

    def search(arguments):
        return 0, {"images": [], "refused": []}, ""

    tries = []

    def stacked(*, field, **_):
        tries.append(field)
        raise ImageError(field, "reference", "only 1 of 3 frames could be aligned")

    monkeypatch.setattr("otrain_core.cli.search.search", search)
    monkeypatch.setattr("otrain_core.sky.reference.reference_files", stacked)
    from otrain_core.cli.parser import build_parser

    arguments = build_parser().parse_args(["search", "config.yaml", "-m", "x", "-o", "out"])
    status, record, _ = project.search_project(arguments)
    assert status == 1 and len(record["refused"]) == 3 and tries == ["M_1"]
    assert "only 1 of 3 frames could be aligned (refused)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("run: {cubes: []}\n", "mine.yaml: run.cubes: empty; name the telescopes to search"),
        ("run: {cubes: [demo/builtin]}\n", "telescope demo: source: must be images"),
    ],
)
def test_a_project_without_images_to_search_is_refused(tmp_path, monkeypatch, changes, words):
    from otrain_core.cli.parser import build_parser

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(changes)
    arguments = build_parser().parse_args(["search", "mine.yaml", "-m", "x", "-o", "out"])
    with pytest.raises(ConfigError, match=words):
        project.search_project(arguments)
