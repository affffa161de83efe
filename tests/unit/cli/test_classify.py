"""otrain classify: candidates in, a table of scores out."""

from __future__ import annotations

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
from otrain_core.cli.main import main
from otrain_core.io import write_json
from otrain_core.plan.pipelines import CutoutsOptions
from tests.unit.synthetic_cube import make_cube
from tests.unit.synthetic_difference import SEEING, grid_of_sources, tangential
from tests.unit.tiny_onnx import write_tiny


def _rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


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


def test_without_m_the_shipped_model_is_taken(tmp_path, cube, shipped_model, capsys):
    for number, options in enumerate(([], ["-m", "universal"], ["-m", str(shipped_model)])):
        assert main(["classify", cube, *options, "-o", str(tmp_path / f"{number}.csv"), "--quiet"]) == 0
    tables = [(tmp_path / f"{number}.csv").read_text() for number in range(3)]
    assert tables[0] == tables[1] == tables[2] and len(tables[0].splitlines()) == 61
    shipped_model.unlink()
    assert main(["classify", cube]) == 1
    assert "this installation has no shipped model" in capsys.readouterr().err


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
    assert "if it is a difference image, give --candidates" in capsys.readouterr().err


def test_files_of_one_name_in_two_folders_are_two_images(tmp_path, model):
    (diff, _, _), _, sources = grid_of_sources(9)
    for folder in "ab":
        (tmp_path / folder).mkdir()
        fits.PrimaryHDU(diff, tangential().to_header()).writeto(tmp_path / folder / "diff.fits")
    sources[["x", "y"]].to_csv(tmp_path / "list.csv", index=False)
    paths = [str(tmp_path / folder / "diff.fits") for folder in "ab"]
    options = ["--candidates", str(tmp_path / "list.csv"), "-m", model, "-o", str(tmp_path / "out.csv"), "--quiet"]
    assert main(["classify", *paths, *options]) == 0
    rows = _rows(tmp_path / "out.csv")
    assert {row["image"] for row in rows} == set(paths)
    assert main(["classify", paths[0], *options]) == 0
    assert {row["image"] for row in _rows(tmp_path / "out.csv")} == {"diff.fits"}


def test_a_gallery_is_written(tmp_path, cube, model):
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
    arrays = make_cutouts(table, planes, image="im7", psf=psf, options=CutoutsOptions(), pixel_scale=1.0)
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


def test_the_example_of_the_documentation(root, tmp_path):
    """The ten lines run as they stand, beside a model and two arrays."""
    section = (root / "docs/how-to/use-in-a-pipeline.md").read_text()
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


def test_an_image_that_a_run_left_out_does_not_stop_the_others(tmp_path, cube, model, capsys):
    """The failure mark of an image stands where its cutouts would."""
    mark = {"otrain_failed": {"image": "sim0002", "key": "seeing", "message": "too few stars", "step": "psf"}}
    write_json(tmp_path / "left_out.npz", mark)
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    out = tmp_path / "out.csv"
    inputs = [str(tmp_path / "left_out.npz"), cube]
    assert main(["classify", *inputs, "-m", model, "-o", str(out)]) == 0
    assert len(_rows(out)) == 60
    assert "sim0002" in capsys.readouterr().err
    assert main(["classify", *inputs, str(tmp_path / "broken.npz"), "-m", model, "-o", str(out), "--json"]) == 1
    assert len(_rows(out)) == 60
    record = json.loads(capsys.readouterr().out)
    assert len(record["left_out"]) == 1 and len(record["refused"]) == 1 and "broken.npz" in record["refused"][0]
    assert main(["classify", inputs[0], "-m", model, "-o", str(tmp_path / "none.csv")]) == 1
    assert not (tmp_path / "none.csv").exists()


def test_a_table_without_candidates_has_its_header(tmp_path, model):
    data, wcs = np.random.default_rng(1).normal(0, 5, (120, 130)).astype(np.float32), tangential(2.0)
    fits.PrimaryHDU(data, wcs.to_header()).writeto(tmp_path / "quiet.fits")
    (tmp_path / "none.csv").write_text("x,y\n")
    for number, how in enumerate((["--detect", "--sigma", "9"], ["--candidates", str(tmp_path / "none.csv")])):
        out = tmp_path / f"{number}.csv"
        arguments = [str(tmp_path / "quiet.fits"), *how, "--psf", "3", "-m", model, "-o", str(out)]
        assert main(["classify", *arguments]) == 0
        assert out.read_text().splitlines()[0].startswith("image,candid,x,y,ra,dec,edge,score,probability")
        assert _rows(out) == []
        assert main(["monitor", str(out), "-m", model, "--quiet"]) == 4


def test_many_candidates_are_scored_block_by_block(tmp_path, model, monkeypatch):
    from otrain_core.classify import new_candidates

    monkeypatch.setattr(
        new_candidates.cut_blocks, "__kwdefaults__", new_candidates.cut_blocks.__kwdefaults__ | {"block": 7}
    )
    data = np.random.default_rng(1).normal(0, 5, (120, 130)).astype(np.float32)
    fits.PrimaryHDU(data).writeto(tmp_path / "diff.fits")
    lines = [f"{20 + 4 * k},{30 + 3 * k}" for k in range(20)]
    (tmp_path / "list.csv").write_text("\n".join(["x,y", *lines]))
    arguments = [str(tmp_path / "diff.fits"), "--candidates", str(tmp_path / "list.csv"), "--psf", "3", "-m", model]
    assert main(["classify", *arguments, "-o", str(tmp_path / "out.csv")]) == 0
    rows = _rows(tmp_path / "out.csv")
    assert [float(row["x"]) for row in rows] == [20 + 4 * k for k in range(20)]
    assert [row["candid"] for row in rows] == [str(k) for k in range(1, 21)]
