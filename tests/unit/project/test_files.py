"""Files of a project: written once, extended, never overwritten."""

import errno
from types import SimpleNamespace

import pytest

from otrain_core.errors import ConfigError
from otrain_core.plan.sheets import read_images
from otrain_core.plan.telescopes import read_telescopes
from otrain_core.project import files
from otrain_core.project.files import alone, read_sheet_rows, write_config, write_sheet, write_telescope
from otrain_core.project.settle import Camera, Value

ROW = {"telescope": "T1", "image": "a", "path": "a.fit", "role": "science", "reference": "r.fit"}
NEW = ROW | {"image": "b", "path": "b.fit", "wcs": "b.wcs"}


def test_rows_are_added_at_the_end(tmp_path):
    write_sheet(tmp_path, [], [ROW])
    first = (tmp_path / "images.csv").read_text()
    write_sheet(tmp_path, read_sheet_rows(tmp_path), [NEW])
    assert (tmp_path / "images.csv").read_text().startswith(first)
    assert list(read_images(tmp_path / "images.csv")["T1"]) == ["a", "b"]


def test_comments_and_separators_of_the_user_stay(tmp_path):
    (tmp_path / "images.csv").write_text("# mine\ntelescope;image;path;reference;wcs\nT1;a;a.fit;r.fit;\n\n# more\n")
    old = read_sheet_rows(tmp_path)
    old[0]["wcs"] = "a.wcs"
    write_sheet(tmp_path, old, [{key: value for key, value in NEW.items() if key != "role"}])
    assert (tmp_path / "images.csv").read_text() == (
        "# mine\ntelescope;image;path;reference;wcs\nT1;a;a.fit;r.fit;a.wcs\n\n# more\nT1;b;b.fit;r.fit;b.wcs\n"
    )


def test_a_sheet_without_rows_keeps_its_comments_and_columns(tmp_path):
    (tmp_path / "images.csv").write_text("# mine\ntelescope;image;path;role;reference;wcs\n")
    write_sheet(tmp_path, read_sheet_rows(tmp_path), [NEW])
    assert (tmp_path / "images.csv").read_text() == (
        "# mine\ntelescope;image;path;role;reference;wcs\nT1;b;b.fit;science;r.fit;b.wcs\n"
    )


def test_a_sheet_without_a_needed_column_is_refused(tmp_path):
    (tmp_path / "images.csv").write_text("telescope,image,path,reference\nT1,a,a.fit,r.fit\n")
    with pytest.raises(ConfigError, match="no column role, wcs"):
        write_sheet(tmp_path, read_sheet_rows(tmp_path), [NEW])


def test_a_telescope_file_gives_reasons_and_is_written_once(tmp_path):
    values = [
        Value("gain", 1.5, "assumed", 'a "guess": it is'),
        Value("saturation", 65535.0, "found", "SATURATE"),
        Value("filter", "R", "found", "the headers"),
        Value("WCS", None, "missing", "none"),
    ]
    camera = Camera("T1", values=values)
    path = write_telescope(tmp_path, camera)
    telescope = read_telescopes(tmp_path / "telescopes")["T1"]
    assert telescope.detector.gain == 1.5 and telescope.assumptions == {"detector.gain": 'a "guess": it is'}
    assert telescope.detector.saturation == 65535 and telescope.detector.filter == "R"
    path.write_text("detector: {gain: 3}\n")
    assert write_telescope(tmp_path, camera) is None and path.read_text() == "detector: {gain: 3}\n"


def test_a_configuration_is_written_once(tmp_path):
    (tmp_path / "p").mkdir()
    path = write_config(tmp_path / "p", tmp_path / "data", ["T1", "T2"])
    assert 'data_root: "../data"' in path.read_text() and '["T1/builtin", "T2/builtin"]' in path.read_text()
    path.write_text("seed: 2\n")
    assert write_config(tmp_path / "p", tmp_path / "data", ["T1"]) is None and path.read_text() == "seed: 2\n"


def test_two_runs_at_once_are_refused(tmp_path):
    with alone(tmp_path / "p"), pytest.raises(ConfigError, match="another otrain init"), alone(tmp_path / "p"):
        pass


def test_a_file_system_without_locks_is_accepted(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files, "fcntl", SimpleNamespace(flock=no_locks, LOCK_EX=2, LOCK_NB=4))
    with alone(tmp_path / "p"):
        assert (tmp_path / "p").is_dir()
