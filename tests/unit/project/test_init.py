"""From a folder of frames to a project that the workflow can run."""

import shutil

import pytest
from astropy.io import fits

from otrain_core.plan.run import Run
from otrain_core.project.init import _free_name, init_project, init_record, init_text
from otrain_core.project.look import Frame
from tests.unit.project.frames import sky_cards, write_frame


def night(folder, n=6, *, day=1, **cards):
    return [
        write_frame(folder / f"{day}-{k}.fit", seed=10 * day + k, time=f"2026-01-{day:02d}T20:{k:02d}:00", **cards)
        for k in range(n)
    ]


def checked(project, monkeypatch):
    monkeypatch.chdir(project)
    return Run.from_files([project / "config.yaml"])


def test_a_folder_becomes_a_project(tmp_path, monkeypatch):
    night(tmp_path / "data")
    write_frame(tmp_path / "data/dark.fit", IMAGETYP="Dark")
    found = init_project(tmp_path / "data", tmp_path / "p")
    run = checked(tmp_path / "p", monkeypatch)
    images = run.inputs.images("T1")
    assert len(images) == 3 and len(run.inputs.reference_frames("T1", "M_1")) == 3
    run.inputs.check_files()
    text = init_text(found)
    for line in ("found    gain", "assumed  read_noise", "1 dark", "otrain solve", "otrain search config.yaml"):
        assert line in text, line
    assert "otrain run config.yaml" in text and init_record(found)["added"] == 6


def test_frames_of_a_colour_camera_give_a_warning(tmp_path):
    night(tmp_path / "data", BAYERPAT="RGGB")
    night(tmp_path / "grey", BAYERPAT="MONO")
    text = init_text(init_project(tmp_path / "data", tmp_path / "p"))
    assert "T1: frames of a colour camera (BAYERPAT RGGB)" in text and "seqextract_Green" in text
    assert "colour camera" not in init_text(init_project(tmp_path / "grey", tmp_path / "q"))


def test_commands_of_the_report_quote_paths_with_spaces(tmp_path):
    night(tmp_path / "my data")
    text = init_text(init_project(tmp_path / "my data", tmp_path / "my project"))
    assert (
        f"otrain solve '{tmp_path}/my data' -o '{tmp_path}/my project/wcs' && otrain init '{tmp_path}/my data'" in text
    )
    assert f"cd '{tmp_path}/my project' && otrain search" in text


@pytest.mark.parametrize(
    "path, name", [("a.fit", "a"), ("a.FTS.gz", "a"), ("a.fitted.fits", "a.fitted"), ("night/m.fits[*]", "m")]
)
def test_an_image_is_named_after_its_file(path, name):
    assert _free_name(Frame(path, "science"), "T1", set()) == name


def test_a_name_that_is_taken_gets_the_folder_and_a_number():
    names = {("T1", "a")}
    assert _free_name(Frame("night/a.fit", "science"), "T1", names) == "night-a"
    assert _free_name(Frame("night/a.fits", "science"), "T1", names) == "night-a-2"


def test_a_second_run_adds_only_rows(tmp_path, monkeypatch):
    data, project = tmp_path / "data", tmp_path / "p"
    night(data)
    init_project(data, project)
    for name in ("config.yaml", "telescopes/T1.yaml"):
        (project / name).write_text((project / name).read_text() + "# mine\n")
    before = {path: path.read_text() for path in project.rglob("*.*")}
    assert init_project(data, project).written == []
    assert before == {path: path.read_text() for path in project.rglob("*.*")}
    night(data, 2, day=2)
    found = init_project(data, project)
    assert found.added == 2 and found.written == ["images.csv"]
    assert before[project / "config.yaml"] == (project / "config.yaml").read_text()
    assert (project / "images.csv").read_text().startswith(before[project / "images.csv"])
    run = checked(project, monkeypatch)
    assert len(run.inputs.images("T1")) == 5 and len(run.inputs.reference_frames("T1", "M_1")) == 3


def test_later_wcs_files_fill_empty_cells(tmp_path, monkeypatch):
    data, project = tmp_path / "data", tmp_path / "p"
    night(data)
    init_project(data, project)
    fits.Header(sky_cards(10.0, 20.0).items()).tofile(data / "1-0.wcs", endcard=True, padding=False)
    found = init_project(data, project)
    assert found.added == 0 and found.written == ["images.csv"]
    rows = [line for line in (project / "images.csv").read_text().splitlines() if "1-0.wcs" in line]
    assert len(rows) == 1 and rows[0].endswith(",1-0.wcs")


def test_another_folder_joins_the_project(tmp_path, monkeypatch):
    night(tmp_path / "first")
    init_project(tmp_path / "first", tmp_path / "p")
    night(tmp_path / "second", day=3, TELESCOP="T2")
    found = init_project(tmp_path / "second", tmp_path / "p")
    assert [what for what, _ in found.missing if "run.cubes" in what] == ["T2 is not in run.cubes"]
    run = checked(tmp_path / "p", monkeypatch)
    assert set(run.inputs.sheet) == {"T1", "T2"}
    assert "../second/3-0.fit" in (tmp_path / "p/images.csv").read_text()


def test_files_of_the_same_name_get_different_image_names(tmp_path, monkeypatch):
    night(tmp_path / "data/a")
    shutil.copytree(tmp_path / "data/a", tmp_path / "data/b")
    for path in (tmp_path / "data/b").iterdir():
        path.unlink()
    for k in range(6):
        write_frame(tmp_path / f"data/b/1-{k}.fit", seed=40 + k, time=f"2026-01-08T20:{k:02d}:00")
    init_project(tmp_path / "data", tmp_path / "p")
    run = checked(tmp_path / "p", monkeypatch)
    assert len(set(run.inputs.sheet["T1"])) == 12


def test_a_folder_without_usable_frames_is_reported(tmp_path):
    write_frame(tmp_path / "data/a.fit")
    found = init_project(tmp_path / "data", tmp_path / "p")
    assert found.science == 0 and found.written == []
    assert "only one frame" in init_text(found) and "no image can be searched" in init_text(found)
    assert "written: nothing\n" in init_text(found) and not (tmp_path / "p").exists()
