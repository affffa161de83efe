"""The command otrain: verbs, help, exit statuses, JSON, and the example of the README."""

import csv
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.arrays import write_arrays
from otrain_core.candidates.cutouts import make_cutouts
from otrain_core.classify.new_candidates import _as_table
from otrain_core.cli.main import build_parser, main
from otrain_core.figures.galleries import Extremes
from tests.unit.synthetic_cube import make_cube
from tests.unit.synthetic_difference import SEEING, grid_of_sources, tangential
from tests.unit.tiny_onnx import write_tiny  # noqa: E402


@pytest.fixture
def model(tmp_path):
    return str(write_tiny(tmp_path / "model.onnx", size=21, channels=("difference", "psf")))


@pytest.fixture
def cube(tmp_path):
    write_arrays(tmp_path / "cube.npz", make_cube(60))
    return str(tmp_path / "cube.npz")


def _rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "verb", ["convert", "export", "train", "classify", "diagnose", "explain", "models", "label", "check", "monitor"]
)
def test_help_of_every_verb(verb, capsys):
    with pytest.raises(SystemExit) as done:
        build_parser().parse_args([verb, "--help"])
    assert done.value.code == 0
    assert "usage: otrain" in capsys.readouterr().out


def test_wrong_usage_is_2_and_a_refusal_1(capsys, tmp_path):
    for arguments in ([], ["classify", "a.fits"], ["classify", "-m", "x", "--threshold", "2", "a"], ["nothing"]):
        with pytest.raises(SystemExit) as done:
            main(arguments)
        assert done.value.code == 2
    capsys.readouterr()
    assert main(["export", str(tmp_path / "none.npz"), "-o", str(tmp_path), "--json"]) == 1
    told = capsys.readouterr()
    assert "no such file" in json.loads(told.out)["error"] and told.err.startswith("otrain export: ")


def test_starting_imports_nothing_heavy():
    code = "import sys, otrain_core.cli.main as c; c.build_parser(); assert not {'numpy', 'keras', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_export_and_convert_are_inverse(tmp_path, cube, capsys):
    assert main(["export", cube, "-o", str(tmp_path / "folders")]) == 0
    again = tmp_path / "again.npz"
    options = ["--channels", "all", "--size", "21", "--telescope", "tiny", "--json"]
    assert main(["convert", str(tmp_path / "folders"), "-o", str(again), *options]) == 0
    record = json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert (record["n_true"], record["n_false"], record["size"]) == (30, 30, 21)
    with np.load(again) as arrays:
        assert arrays["channels"].tolist() == ["difference", "science", "reference", "mask"]
        assert str(arrays["telescope"]) == "tiny"


def test_classify_a_cube_and_a_folder(tmp_path, cube, model, capsys):
    assert main(["classify", cube, "-m", model, "-o", str(tmp_path / "a.csv"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    rows = _rows(tmp_path / "a.csv")
    assert record["n"] == len(rows) == 60 and record["unlike_training"] == 60  # no PSF in this cube
    assert rows[0]["reason"].startswith("no PSF given")
    with np.load(cube) as arrays:
        centre = np.nan_to_num(arrays["cube"][:, 16, 16, 0])
    assert np.allclose([float(row["score"]) for row in rows], 1 / (1 + np.exp(-centre.astype(float))), atol=1e-6)
    main(["export", cube, "-o", str(tmp_path / "folders"), "--quiet"])
    capsys.readouterr()
    folders = [str(tmp_path / "folders" / name) for name in ("True", "False")]
    assert main(["classify", *folders, "-m", model, "--quiet"]) == 0
    found = {row["candid"]: row["score"] for row in csv.DictReader(capsys.readouterr().out.splitlines())}
    assert found == {row["candid"]: row["score"] for row in rows}


def test_classify_a_difference_image(tmp_path, model, capsys):
    (diff, _, _), _, sources = grid_of_sources(30)
    image = tmp_path / "diff.fits"
    fits.PrimaryHDU(diff, tangential().to_header()).writeto(image)
    sources[["x", "y"]].to_csv(tmp_path / "list.csv", index=False)
    arguments = ["classify", str(image), "-m", model, "--psf", str(SEEING), "-o", str(tmp_path / "out.csv")]
    assert main([*arguments, "--candidates", str(tmp_path / "list.csv")]) == 0
    rows = _rows(tmp_path / "out.csv")
    assert len(rows) == len(sources) and rows[0]["image"] == "diff.fits"
    assert float(rows[0]["ra"]) == pytest.approx(30, abs=0.1)
    assert main([*arguments, "--detect"]) == 0
    assert 0.85 * len(sources) <= len(_rows(tmp_path / "out.csv")) <= 1.1 * len(sources)
    capsys.readouterr()
    assert main(arguments) == 1
    assert "is this a difference image?" in capsys.readouterr().err


def test_the_lowest_and_the_highest_of_many_blocks(tmp_path, cube, model):
    rng = np.random.default_rng(1)
    probability, extremes = rng.random(500), Extremes(4)
    planes = np.arange(500, dtype=np.float32)[:, None, None] * np.ones((1, 3, 3), np.float32)
    for start in range(0, 500, 90):
        rows = slice(start, start + 90)
        extremes.add({"difference": planes[rows]}, probability[rows], np.arange(500)[rows].astype(str))
    panels, order = extremes.gallery().panels, np.argsort(probability)
    assert [int(plane[0, 0]) for plane in panels["Lowest"]] == order[:4].tolist()
    assert [int(plane[0, 0]) for plane in panels["Highest"]] == order[:-5:-1].tolist()
    few = Extremes(4)
    few.add({"difference": planes[:3]}, probability[:3], ["a", "b", "c"])
    assert [len(panel) for panel in few.gallery().panels.values()] == [1, 2]
    gallery = tmp_path / "gallery.png"
    assert main(["classify", cube, "-m", model, "-o", str(tmp_path / "a.csv"), "--gallery", str(gallery)]) == 0
    assert gallery.stat().st_size > 10_000


def test_another_threshold(cube, model, capsys):
    assert main(["classify", cube, "-m", model, "--threshold", "0", "--json", "--quiet"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["real"] == 60 and record["model"]["threshold"] == 0


def test_cells_are_no_formulas():
    from otrain_core.cli.classify import _csv

    text = _csv(
        [{"candid": "=cmd()", "x": np.nan, "real": np.True_, "p": np.float32(-0.5), "label": np.int64(-1)}],
        ["candid", "x", "real", "p", "label"],
    )
    assert text == "'=cmd(),,1,-0.5,-1\n"


def test_classify_the_cutouts_of_an_image_of_the_workflow(tmp_path, model):
    """cutouts.npz, which has candidates that no cube takes up."""
    (diff, _, _), psf, sources = grid_of_sources(30)
    planes = {"diff": diff, "science": diff + 3, "reference": diff * 0, "mask": np.zeros(diff.shape, np.uint8)}
    table = _as_table(
        {key: sources[key] for key in "xy"} | {"candid": sources.index.astype(str), "ra": 1.0, "dec": 2.0}, 2.5
    )
    table["label"], table["image"] = -1, "im7"
    arrays = make_cutouts(table, planes, image="im7", psf=psf, size=32, pixel_scale=1.0)
    write_arrays(tmp_path / "cutouts.npz", arrays)
    assert main(["classify", str(tmp_path / "cutouts.npz"), "-m", model, "-o", str(tmp_path / "out.csv")]) == 0
    rows = _rows(tmp_path / "out.csv")
    assert len(rows) == len(sources) and {row["image"] for row in rows} == {"im7"}
    assert {row["label"] for row in rows} == {"-1"} and rows[0]["seeing"] == "2.5"
    assert float(rows[0]["x"]) == pytest.approx(sources.x[0]) and float(rows[0]["background"]) == pytest.approx(
        3, abs=1
    )


def test_a_cube_of_the_original(tmp_path, cube, model, capsys):
    """Keys of Table 1 only, one-hot labels, no channel axis, sentinels."""
    new = make_cube(60)
    old = {key: new[key] for key in ("mags", "errmags", "filters", "fwhms", "candids")}
    old |= {"cube": np.nan_to_num(new["cube"][..., 0]), "labels": np.eye(2)[new["labels"]]}
    old["mags"][:3] = -99.0, 99.0, 0.0
    np.savez(tmp_path / "old.npz", **old)
    assert main(["classify", str(tmp_path / "old.npz"), "-m", model, "-o", str(tmp_path / "out.csv")]) == 0
    assert [int(row["label"]) for row in _rows(tmp_path / "out.csv")] == new["labels"].tolist()
    assert main(["export", str(tmp_path / "old.npz"), "-o", str(tmp_path / "folders")]) == 0
    headers = [fits.getheader(path) for path in (tmp_path / "folders").rglob("*.fits")]
    assert len(headers) == 60 and sum("MAG" not in header for header in headers) == 3


def test_label_sheet(tmp_path, capsys):
    from otrain_core.labelling.store import LabelStore

    database = str(tmp_path / "labels.sqlite")
    assert main(["label", "sheet", "--database", database]) == 1
    assert "otrain label serve" in capsys.readouterr().err
    one = {
        "id": "c",
        "telescope": "T",
        "pipeline": "p",
        "image": "a",
        "candid": "c",
        "x": 1.0,
        "y": 2.0,
        "before": "True",
    }
    LabelStore(database).add(one, label="False", who="anna", key="key-00001")
    assert main(["label", "sheet", "--database", database, "-o", str(tmp_path / "labels.csv")]) == 0
    assert "1 answers of 1 people about 1 candidates" in capsys.readouterr().out
    (row,) = _rows(tmp_path / "labels.csv")
    assert (row["candid"], row["label"], row["who"]) == ("c", "False", "anna")
    assert main(["label", "sheet", "--database", database, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["label"] == "False"
    assert main(["label", "sheet", "--database", database]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("telescope,pipeline,image,candid,x,y,label")


def test_label_serve_refuses(tmp_path, capsys):
    assert main(["label", "serve", "--results", str(tmp_path)]) == 1
    assert "no cube" in capsys.readouterr().err
    assert main(["label", "serve", "--most", "0"]) == 1


def test_check(tmp_path, cube, capsys):
    assert main(["check", cube]) == 0
    assert "fit for use" in capsys.readouterr().out
    bad = make_cube(60)
    bad["labels"][:] = 1
    bad["images"][:] = "one"
    write_arrays(tmp_path / "bad.npz", bad)
    fits.PrimaryHDU(np.full((50, 50), np.nan, np.float32)).writeto(tmp_path / "nan.fits")
    paths = [str(tmp_path / name) for name in ("bad.npz", "nan.fits", "nowhere.fits")]
    assert main(["check", *paths, "--gain", "1", "--pixel-scale", "1", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [item["fit"] for item in found] == [False] * 3
    assert "no False cutouts" in found[0]["problems"][0] and "1 images" in found[0]["problems"][1]
    assert "all pixels are NaN" in found[1]["problems"][0] and "no such file" in found[2]["problems"][0]


def test_check_an_image(tmp_path, capsys):
    (diff, _, _), _, _ = grid_of_sources(200)
    fits.PrimaryHDU(diff + 100, tangential().to_header()).writeto(tmp_path / "image.fits")
    assert main(["check", str(tmp_path / "image.fits"), "--gain", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[0]
    assert found["seeing_px"] == pytest.approx(SEEING, rel=0.05) and found["n_stars"] > 20


def test_the_example_of_the_readme(root, tmp_path):
    """The ten lines run as they stand, beside a model and two arrays."""
    section = (root / "README.md").read_text().split("## Use it in your pipeline")[1].split("\n## ")[0]
    example = re.search(r"```python\n(.*?)```", section, flags=re.S).group(1)
    assert len(example.strip().splitlines()) <= 10
    write_tiny(tmp_path / "model.onnx", size=32, channels=("difference", "psf"))
    rng = np.random.default_rng(1)
    cutouts = rng.normal(0, 1, (20, 32, 32)).astype(np.float32)
    cutouts[:5, 16, 16] = 9
    np.save(tmp_path / "differences.npy", cutouts)
    np.save(tmp_path / "psfs.npy", np.ones_like(cutouts))
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) >= 5
