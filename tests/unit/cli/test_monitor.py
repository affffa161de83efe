"""otrain monitor: exit status, tables that it reads."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from otrain_core.arrays import write_arrays
from otrain_core.classify.descriptors import describe, training_statistics
from otrain_core.cli.main import main
from tests.unit.synthetic_cube import make_cube
from tests.unit.tiny_onnx import write_tiny


@pytest.fixture
def night(tmp_path):
    """A model with the statistics of one cube, and another cube with the same images."""
    train = make_cube(400, seed=1)
    described = describe(train["cube"], list(train["channels"]), seeing=train["seeing"])
    statistics = training_statistics(described, train["images"], train["labels"])
    about = {"telescope": "tiny", "training": statistics}
    model = write_tiny(tmp_path / "model.onnx", size=21, about=about)
    return str(model), make_cube(200, seed=1), tmp_path


def test_the_verb(night, capsys):
    model, cube, folder = night
    write_arrays(folder / "cube.npz", cube)
    arguments = ["-m", model, "--json", "--quiet"]
    assert main(["monitor", str(folder / "cube.npz"), *arguments, "-o", str(folder / "night.png")]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["n"] == 200 and record["n_images"] == 20 and not record["alarm"]
    assert (folder / "night.png").stat().st_size > 10_000
    assert main(["classify", str(folder / "cube.npz"), "-m", model, "-o", str(folder / "a.csv"), "--quiet"]) == 0
    capsys.readouterr()
    assert main(["monitor", str(folder / "a.csv"), *arguments]) == 0
    again = json.loads(capsys.readouterr().out)
    for one, other in zip(record["quantities"], again["quantities"], strict=True):
        assert one["quantity"] == other["quantity"] and one["note"] == other["note"]
        assert one["p"] == other["p"] or one["p"] == pytest.approx(other["p"], rel=1e-3)
    write_arrays(folder / "wide.npz", cube | {"seeing": 1.5 * cube["seeing"]})
    assert main(["monitor", str(folder / "wide.npz"), "-m", model]) == 3
    told = capsys.readouterr().out
    assert "seeing" in told and "ALARM" in told and "Retrain the model" in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("score,probability\n0.1,0.1\n", "no column seeing"),
        ("score,probability,seeing,psf_width,noise,background,level,missing\nhigh,1,1,1,1,1,1,1\n", "column score"),
    ],
)
def test_other_tables_are_refused(night, text, message, capsys):
    model, _, folder = night
    (folder / "a.csv").write_text(text)
    assert main(["monitor", str(folder / "a.csv"), "-m", model]) == 1
    assert message in capsys.readouterr().err


def test_candidates_at_an_edge_are_left_out(night, capsys):
    """Training sets hold none, so their missing pixels are no change of the night."""
    model, cube, folder = night
    write_arrays(folder / "cube.npz", cube)
    assert main(["classify", str(folder / "cube.npz"), "-m", model, "-o", str(folder / "a.csv"), "--quiet"]) == 0
    capsys.readouterr()
    table = pd.read_csv(folder / "a.csv")
    edge = np.arange(len(table)) % 3 > 0
    table["missing"] = np.where(edge, 0.9, table["missing"])
    for names, status, n in ((0, 3, 200), (edge, 0, 67)):
        table.assign(edge=names).to_csv(folder / "b.csv", index=False)
        assert main(["monitor", str(folder / "b.csv"), "-m", model, "--json"]) == status
        assert json.loads(capsys.readouterr().out)["n"] == n
    table.assign(edge=1).to_csv(folder / "b.csv", index=False)
    assert main(["monitor", str(folder / "b.csv"), "-m", model]) == 4
    assert "no candidates" in capsys.readouterr().out
    lines = (folder / "a.csv").read_text().splitlines()
    lines[6] = lines[6].rsplit(",", 1)[0] + ",none"
    (folder / "b.csv").write_text("\n".join(lines))
    assert main(["monitor", str(folder / "b.csv"), "-m", model]) == 1
    assert "b.csv, line 7: column missing must be a number" in capsys.readouterr().err


def test_a_quiet_night_cannot_be_told(night, capsys):
    model, _, folder = night
    (folder / "a.csv").write_text("score,probability,seeing,psf_width,noise,background,level,missing\n")
    assert main(["monitor", str(folder / "a.csv"), "-m", model]) == 4
    assert "no candidates" in capsys.readouterr().out


def test_few_training_images_and_a_night_beyond_them_is_an_alarm(night, capsys):
    """Nothing can be tested with three images in the training set, but candidates far outside it are seen."""
    _, cube, folder = night
    three = make_cube(60, seed=1)
    three["images"] = np.array([f"im{k % 3}" for k in range(60)])
    described = describe(three["cube"], list(three["channels"]), seeing=three["seeing"])
    statistics = training_statistics(described, three["images"], three["labels"])
    model = str(write_tiny(folder / "few.onnx", size=21, about={"training": statistics}))
    write_arrays(folder / "same.npz", three)
    assert main(["monitor", str(folder / "same.npz"), "-m", model]) == 4
    assert "It is not known" in capsys.readouterr().out
    write_arrays(folder / "wide.npz", three | {"seeing": 3 * three["seeing"]})
    assert main(["monitor", str(folder / "wide.npz"), "-m", model, "--json"]) == 3
    record = json.loads(capsys.readouterr().out)
    assert record["alarm"] and "outside the range of the training set" in record["advice"]
