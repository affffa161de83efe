"""The command otrain: exit statuses, JSON, unexpected errors, and the extras."""

import json
import os
import re
import subprocess
import sys

import pytest

from otrain_core.cli.main import main
from tests.unit.synthetic_night import write_pair


def test_wrong_usage_is_2_and_a_refusal_1(capsys, tmp_path):
    for arguments in ([], ["classify"], ["classify", "-m", "x", "--threshold", "2", "a"], ["nothing"]):
        with pytest.raises(SystemExit) as done:
            main(arguments)
        assert done.value.code == 2
    capsys.readouterr()
    assert main(["export", str(tmp_path / "none.npz"), "-o", str(tmp_path), "--json"]) == 1
    told = capsys.readouterr()
    assert "no such file" in json.loads(told.out)["error"] and told.err.startswith("otrain export: ")


def test_a_file_in_the_place_of_a_folder_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.fits").write_text("no image")
    (tmp_path / "out").write_text("a file")
    assert main(["init", "data", "-o", "out", "--quiet"]) == 1
    assert capsys.readouterr().err == "otrain init: out: is a file, not a folder\n"


def test_starting_imports_nothing_heavy():
    code = "import sys, otrain_core.cli.main as c; c.build_parser(); assert not {'numpy', 'keras', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unexpected_error_is_told_in_a_sentence(monkeypatch, capsys):
    def broken(arguments):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("otrain_core.cli.verbs.diagnose", broken)
    assert main(["diagnose", "here"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "unexpected ZeroDivisionError (by zero)" in told
    log = re.search(r"(\S+error\.log)", told)[1]
    with open(log) as file:
        assert "Traceback" in file.read()


def test_names_that_are_not_utf8_are_printed(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.npz"
    run = subprocess.run([sys.executable, "-m", "otrain_core.cli.main", "check", path], capture_output=True)
    assert run.returncode == 1 and b"caf\\udce9.npz" in run.stdout and b"Traceback" not in run.stderr


BASE_ONLY = """
import sys
from importlib.machinery import PathFinder
from otrain_core.cli.main import EXTRAS, main
class BaseOnly:
    def find_spec(name, path=None, target=None):
        missing = name.split(".")[0] in {package for packages in EXTRAS.values() for package in packages} | {"h5py"}
        return None if missing else PathFinder.find_spec(name, path, target)
sys.meta_path = [BaseOnly if finder is PathFinder else finder for finder in sys.meta_path]
sys.exit(main(sys.argv[1:]))
"""


def base_only(folder, *arguments):
    """`otrain` where no extra is installed."""
    command = [sys.executable, "-c", BASE_ONLY, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


def test_search_needs_no_extra(tmp_path):
    write_pair(tmp_path)
    done = base_only(
        tmp_path, "search", "science.fits", "--reference", "reference.fits", "-m", "model.onnx", "-o", "out"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/science.ecsv").is_file() and (tmp_path / "out/science.png").is_file()


def test_the_extra_of_a_missing_package_is_named(tmp_path):
    done = base_only(tmp_path, "example", "frames")
    assert done.returncode == 1
    assert done.stderr == (
        "otrain example: the package galsim is needed, but not installed; install it with: pip install 'otrain[workflow]'\n"
    )
