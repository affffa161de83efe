"""otrain search: frames in, tables, records and pictures out; bad frames do not stop the others."""

import json
import shutil

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from otrain_core.cli.main import main
from otrain_core.cli.search import image_names
from otrain_core.errors import ConfigError
from otrain_core.plan.pipelines import DetectOptions, Pipeline
from otrain_core.plan.recipe import Recipe
from otrain_core.plan.telescopes import Detector
from tests.unit.synthetic_night import NEW, nearest
from tests.unit.tiny_onnx import write_tiny, write_tiny_finder


def test_one_image_after_the_other(night_pair, tmp_path, capsys):
    science, reference, model = night_pair
    (tmp_path / "broken.fits").write_bytes(b"no FITS file")
    shutil.copy(science, tmp_path / "second.fits")
    images = [str(science), str(tmp_path / "broken.fits"), str(tmp_path / "second.fits")]
    out = tmp_path / "out"
    assert main(["search", *images, "--reference", str(reference), "-m", str(model), "-o", str(out), "--json"]) == 1
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert [item["image"] for item in record["images"]] == ["science", "second"]
    assert [item["image"] for item in record["refused"]] == ["broken"] and "broken.fits" in captured.err
    tables = [Table.read(out / f"{name}.ecsv") for name in ("science", "second")]
    assert len(tables[0]) == record["images"][0]["n"] and tables[0]["ra"].unit == "deg"
    for place in NEW:
        assert nearest(tables[0], place)[1] < 0.5
    assert (tables[0]["score"] == tables[1]["score"]).all()
    assert len(Table.read(out / "science.fits")) == len(tables[0])
    assert (out / "science.png").stat().st_size > 10_000
    assert json.loads((out / "search.json").read_text())["refused"]


def test_a_frame_without_sky_is_told_by_its_keyword(night_pair, tmp_path, capsys):
    science, reference, model = night_pair
    dark, out = tmp_path / "dark.fits", tmp_path / "out"
    fits.writeto(dark, np.full((100, 100), 300, np.int16), fits.Header({"IMAGETYP": "Dark Frame"}))
    arguments = ["--reference", str(reference), "-m", str(model), "-o", str(out), "--quiet"]
    assert main(["search", str(dark), *arguments]) == 1
    told = "is a dark frame according to its header (IMAGETYP 'Dark Frame') and cannot be searched"
    assert capsys.readouterr().err == f"otrain search: {dark}: {told}\n"
    assert not out.exists()
    assert main(["search", str(science), str(dark), *arguments]) == 1
    assert f"image dark: type: {told} (refused)" in capsys.readouterr().err
    assert {path.stem for path in out.iterdir()} == {"science", "search"}


@pytest.mark.parametrize(("key", "services"), [("known", "vsx, skybot"), ("stars", "gaia, panstarrs")])
def test_a_catalogue_that_is_not_there_is_told_before_any_work(night_pair, tmp_path, capsys, key, services):
    science, reference, model = night_pair
    arguments = [str(science), "--reference", str(reference), "-m", str(model), "-o", str(tmp_path / "out"), "--quiet"]
    assert main(["search", *arguments, f"--{key}", "lost.csv"]) == 1
    assert f"--{key}: lost.csv: no such file; give a file or one of {services}\n" in capsys.readouterr().err


def test_the_recipe_travels_in_the_model(night_pair, tmp_path, capsys):
    science, reference, _ = night_pair
    recipe = Recipe(Pipeline(detect=DetectOptions(threshold=500.0)), Detector(), telescope="T", name="mine")
    model = write_tiny(tmp_path / "model.onnx", size=21, channels=("difference",), about={"recipe": recipe.record()})
    arguments = ["search", str(science), "--reference", str(reference), "-m", str(model), "--json", "--quiet"]
    assert main([*arguments, "-o", str(tmp_path / "none")]) == 0
    assert json.loads(capsys.readouterr().out)["images"][0]["n"] == 0
    assert len(Table.read(tmp_path / "none" / "science.ecsv")) == 0
    assert main([*arguments, "-o", str(tmp_path / "some"), "--pipeline", "builtin"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["images"][0]["n"] >= len(NEW)


def test_candidates_of_a_detector_network(night_pair, tmp_path, capsys):
    science, reference, model = night_pair
    arguments = ["search", str(science), "--reference", str(reference), "-m", str(model), "--quiet", "--json"]
    finder = write_tiny_finder(tmp_path / "finder.onnx")
    assert main([*arguments, "--finder", str(finder), "-o", str(tmp_path / "out")]) == 0
    table = Table.read(tmp_path / "out/science.ecsv")
    for place in NEW:
        assert nearest(table, place)[1] <= 0.75  # this network gives whole pixels
    assert (np.asarray(table["x"]) % 1 == 0).all() and len(table) >= len(NEW)
    assert json.loads(capsys.readouterr().out)["recipe"]["steps"]["detect"]["method"] == "finder"
    assert main([*arguments, "--finder", str(tmp_path / "none.onnx"), "-o", str(tmp_path / "none")]) == 1
    assert "none.onnx: no such file" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_the_shipped_model_has_no_recipe_of_a_telescope(night_pair, tmp_path, shipped_model, capsys):
    science, reference, _ = night_pair
    arguments = ["search", str(science), "--reference", str(reference), "-o", str(tmp_path / "out"), "--json"]
    assert main([*arguments, "--gain", "2.5"]) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert record["recipe"]["pipeline"] == "builtin" and record["recipe"]["detector"]["gain"] == 2.5
    assert record["images"][0]["n"] >= len(NEW) and "does not say" not in captured.err


def test_alerts_report_and_known_objects(night_pair, tmp_path, capsys):
    import fastavro

    science, reference, model = night_pair
    (tmp_path / "about.yaml").write_text(
        "reporting_group_id: 1\ndiscovery_data_source_id: 1\nreporter: A. Person\ninstrument: 5\n"
    )
    (tmp_path / "known.csv").write_text("name,ra,dec,kind\nV1,0,0,variable\n")
    shutil.copy(science, tmp_path / "again.fits")
    arguments = ["search", str(science), str(tmp_path / "again.fits"), "--reference", str(reference), "-m", str(model)]
    arguments += ["-o", str(tmp_path / "out"), "--alerts", str(tmp_path / "alerts"), "--threshold", "0", "--quiet"]
    arguments += ["--known", str(tmp_path / "known.csv"), "--report", "tns"]
    assert main(arguments) == 1 and "--report-about" in capsys.readouterr().err
    assert not (tmp_path / "out" / "science.ecsv").exists()  # refused before any work
    assert main([*arguments, "--report-about", str(tmp_path / "about.yaml")]) == 0
    table = Table.read(tmp_path / "out" / "science.ecsv")
    assert (table["n_images"] == 2).all() and (table["n_covered"] == 2).all() and set(table["known"].filled("")) == {""}
    assert len(set(table["object_name"])) == len(table) and (table["edge_distance"] > 0).all()
    packets = sorted((tmp_path / "alerts").glob("*.avro"))
    assert len(packets) == 2 * len(table)
    with open(tmp_path / "alerts" / f"{table['candid'][0]}.avro", "rb") as file:
        (packet,) = fastavro.reader(file)
    assert packet["candidate"]["ra"] == table["ra"][0] and packet["objectId"] == table["object_name"][0]
    assert json.loads((tmp_path / "out" / "tns.json").read_text()) == {"at_report": {}}  # magnitudes are instrumental


def test_names_of_images():
    assert image_names(["a/x.fits", "b/y.fits.fz", "z.FIT"]) == ["x", "y", "z"]
    assert image_names(["n1/science.fits", "n2/science.fits"]) == ["n1-science", "n2-science"]
    assert image_names(["-rf.fits", ".hidden.fits"]) == ["rf", "hidden"]
    with pytest.raises(ConfigError, match="two images would be named"):
        image_names(["n1/science.fits", "n1/science.fits"])


@pytest.mark.parametrize(
    ("size", "reason"), [(None, "no such file"), (40_000, "not a readable FITS image, or truncated")]
)
def test_a_reference_that_is_none_ends_the_search_before_it_begins(night_pair, tmp_path, size, reason, capsys):
    science, reference, model = night_pair
    if size:
        (tmp_path / "bad.fits").write_bytes(reference.read_bytes()[:size])
    out = tmp_path / "out"
    bad = ["--reference", str(tmp_path / "bad.fits"), "-m", str(model), "-o", str(out), "--quiet"]
    assert main(["search", str(science), *bad]) == 1
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("otrain search: ")]
    assert told.startswith(f"otrain search: --reference: {tmp_path / 'bad.fits'}: {reason}")
    assert not out.exists()


@pytest.mark.parametrize("arguments", [["--pipeline", "mine"], ["--reference", "none.fits"]])
def test_refusals(night_pair, tmp_path, arguments, capsys):
    science, reference, model = night_pair
    if "--reference" not in arguments:
        arguments = [*arguments, "--reference", str(reference)]
    assert main(["search", str(science), "-m", str(model), "-o", str(tmp_path / "out"), *arguments]) == 1
    assert arguments[1] in capsys.readouterr().err
