"""Inputs of a run: paths of images, references and catalogues."""

import os

import pytest

from otrain_core.errors import ConfigError, ImageError
from otrain_core.plan.run import Run

HEAD = "telescope,image,path,role,field,reference,wcs\n"
ROWS = HEAD + (
    "t1,b,b.fits,science,north,,b.wcs\n"
    "t1,a,a.fits,science,,ref.fits,\n"
    "t1,c,c.fits,science,,hips:CDS/P/X,\n"
    "t1,r1,r1.fits,reference,north,,\n"
    "t1,r2,r2.fits,reference,north,,r2.wcs\n"
)


@pytest.fixture
def run(root, tmp_path):
    (tmp_path / "images.csv").write_text(ROWS)
    values = {
        "telescopes": {"t1": {"catalogue": "stars.csv", "known": "vsx + mine.csv"}},
        "images": str(tmp_path / "images.csv"),
        "data_root": str(tmp_path),
        "run": {"cubes": ["t1/builtin", "demo/builtin"]},
    }
    return Run.from_config(values, root=root)


def test_real_images(run, tmp_path):
    inputs = run.inputs
    assert inputs.images("t1") == ["a", "b", "c"]
    assert [inputs.number("t1", name) for name in "abc"] == [0, 1, 2]
    assert inputs.science("t1", "a") == f"{tmp_path}/a.fits"
    assert inputs.reference("t1", "a") == f"{tmp_path}/ref.fits"
    assert inputs.reference("t1", "b") == "results/t1/sky/north.reference.fits"
    assert inputs.reference("t1", "c") == "results/t1/sky/c.survey.fits"
    assert inputs.hips("t1", "c") == "CDS/P/X"
    assert [inputs.field("t1", name) for name in "abc"] == ["reference ref.fits", "field north", ""]
    assert inputs.wcs("t1", "b") == f"{tmp_path}/b.wcs" and inputs.wcs("t1", "a") is None
    assert inputs.reference_frames("t1", "north") == [f"{tmp_path}/r1.fits", f"{tmp_path}/r2.fits"]
    assert inputs.reference_wcs("t1", "north") == [None, f"{tmp_path}/r2.wcs"]
    assert inputs.folder("t1") is None


def test_simulated_images(run):
    inputs = run.inputs
    assert inputs.images("demo") == [f"sim{number:04d}" for number in range(1, 31)]
    assert inputs.field("demo", "sim0002") == ""
    assert inputs.science("demo", "sim0002") == "results/demo/sky/sim0002/science.fits"
    assert inputs.reference("demo", "sim0002") == "results/demo/sky/sim0002/reference.fits"
    assert inputs.wcs("demo", "sim0002") is None
    entry = inputs.simulated("demo")  # what changes no pixel must not make them anew
    assert "assumptions" not in entry and "n_images" not in entry["sky"] and entry["sky"]["seeing"] == 2.8


def test_sources_of_catalogues(run, tmp_path):
    inputs = run.inputs
    assert inputs.catalogue_file("t1", "catalogue") == f"{tmp_path}/stars.csv"
    assert inputs.catalogue_file("t1", "known") == f"vsx+{tmp_path}/mine.csv"
    assert inputs.asks_network("t1") and inputs.knows_objects("t1")
    assert inputs.catalogue_file("demo", "known") is None
    assert not inputs.asks_network("demo") and not inputs.knows_objects("demo")


def test_missing_files_are_told_before_any_work(run, tmp_path):
    with pytest.raises(ConfigError, match=r"telescope t1: catalogue: .*stars\.csv: no such file"):
        run.inputs.check_files()
    for name in ("stars.csv", "mine.csv", "a.fits", "b.fits", "c.fits", "r1.fits", "r2.fits", "b.wcs", "r2.wcs"):
        (tmp_path / name).touch()
    with pytest.raises(ImageError, match=r"image a: reference: .*ref\.fits: no such file"):
        run.inputs.check_files()
    (tmp_path / "ref.fits").touch()
    run.inputs.check_files()


def test_a_frame_of_the_user_replaced_by_an_older_one_is_a_change(run, tmp_path):
    frame = tmp_path / "a.fits"
    frame.write_bytes(b"first")
    before = run.inputs.stamps([str(frame), None, "results/t1/sky/a/science.fits", str(tmp_path / "none.fits")])
    assert before[1:] == [None, None, None]
    frame.write_bytes(b"other")
    os.utime(frame, ns=(0, before[0][1] - 10**9))
    assert run.inputs.stamps([str(frame)]) == [[5, before[0][1] - 10**9]]
    assert run.inputs.stamps([f"{frame}[SCI]"]) == run.inputs.stamps([str(frame)])


def test_a_folder_of_cutouts_changes_with_its_files(run, tmp_path):
    folder = tmp_path / "boxes"
    (folder / "True").mkdir(parents=True)
    (folder / "True/one.fits").write_bytes(b"1")
    first = run.inputs.stamps([str(folder)])
    (folder / "True/two.fits").write_bytes(b"2")
    assert run.inputs.stamps([str(folder)]) != first


def from_rows(root, tmp_path, rows, links=()):
    (tmp_path / "images.csv").write_text(HEAD + rows)
    for name, target in links:
        (tmp_path / name).symlink_to(tmp_path / target)
    values = {"telescopes": {"t1": {}}, "images": str(tmp_path / "images.csv"), "data_root": str(tmp_path)}
    return Run.from_config(values | {"run": {"cubes": ["t1/builtin"]}}, root=root)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("t1,a,a.fits,,,r.fits,\nt1,b,./a.fits,,,r.fits,\n", "image b: path: ./a.fits is also the file of image a"),
        ("t1,a,a.fits,,,r.fits,\nt1,b,link.fits,,,r.fits,\n", "image b: path: link.fits is also the file of image a"),
        ("t1,a,a.fits[1],,,r.fits,\nt1,b,a.fits[1],,,r.fits,\n", "image b: path: .* is also the file of image a"),
        ("t1,a,a.fits,,,link.fits,\n", "image a: reference: link.fits is the science image itself"),
    ],
)
def test_one_frame_cannot_be_two_images_nor_its_own_reference(root, tmp_path, rows, message):
    with pytest.raises(ConfigError, match=message):
        from_rows(root, tmp_path, rows, links=[("link.fits", "a.fits")])


def test_extensions_of_one_file_are_images_of_their_own(root, tmp_path):
    run = from_rows(root, tmp_path, "t1,a,m.fits[1],,,r.fits,\nt1,b,m.fits[2],,,r.fits,\n")
    assert run.inputs.images("t1") == ["a", "b"]
    (tmp_path / "m.fits").touch()
    (tmp_path / "r.fits").touch()
    run.inputs.check_files()


def test_science_frames_in_the_stack_of_their_reference_are_told(root, tmp_path):
    rows = "t1,a,a.fits,,f,,\nt1,b,b.fits,,f,,\nt1,c,c.fits,,g,,\n"
    stack = "t1,ra,a.fits,reference,f,,\nt1,rc,c.fits,reference,f,,\nt1,rg,g.fits,reference,g,,\n"
    (told,) = from_rows(root, tmp_path, rows + stack).inputs.warnings("t1")
    assert told.startswith("Telescope t1: 1 of 3 science images are also stacked into their own reference (a), so")
    assert from_rows(root, tmp_path, rows + stack.replace("a.fits", "d.fits")).inputs.warnings("t1") == []
