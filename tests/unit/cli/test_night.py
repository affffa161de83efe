"""otrain night: arguments, exit status and what it tells."""

import json

import pytest

from otrain_core.cli.main import main


@pytest.fixture
def folder(night_pair, tmp_path):
    """A folder with one good image."""
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming/a.fits").write_bytes(night_pair[0].read_bytes())
    return tmp_path / "incoming"


def arguments(folder, night_pair, *more):
    _, reference, model = night_pair
    nights = str(folder.parent / "nights")
    return ["night", str(folder), "--references", str(reference), "-m", str(model), "-o", nights, "--once", *more]


def test_status_and_record(folder, night_pair, capsys):
    assert main(arguments(folder, night_pair, "--json")) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert (record["done"], record["refused"]) == (1, 0) and "candidates" in captured.err
    (folder / "broken.fits").write_bytes(b"no FITS file")
    assert main(arguments(folder, night_pair, "--quiet")) == 1
    captured = capsys.readouterr()
    assert "0 images done, 1 refused" in captured.out and "broken.fits" not in captured.err


def test_a_folder_that_is_not_there(folder, night_pair, capsys):
    assert main(arguments(folder.parent / "none", night_pair)) == 1
    assert "none: no such folder" in capsys.readouterr().err
