"""Inputs of a run: paths of images, references and catalogues."""

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
    assert inputs.wcs("t1", "b") == f"{tmp_path}/b.wcs" and inputs.wcs("t1", "a") is None
    assert inputs.reference_frames("t1", "north") == [f"{tmp_path}/r1.fits", f"{tmp_path}/r2.fits"]
    assert inputs.reference_wcs("t1", "north") == [None, f"{tmp_path}/r2.wcs"]
    assert inputs.folder("t1") is None


def test_simulated_images(run):
    inputs = run.inputs
    assert inputs.images("demo") == [f"sim{number:04d}" for number in range(1, 31)]
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
