"""The command otrain by hand: folders to a cube, a training, its diagnosis, its explanation, its use."""

import csv
import json

import numpy as np
import pytest

from otrain_core.cli import main
from otrain_core.io import write_arrays
from tests.unit.synthetic_cube import make_cube

pytest.importorskip("tf2onnx")


def test_from_folders_to_scores(tmp_path, capsys):
    write_arrays(tmp_path / "made.npz", make_cube(400))
    folders, cube, mine = (str(tmp_path / name) for name in ("folders", "cube.npz", "mine"))
    assert main(["export", str(tmp_path / "made.npz"), "-o", folders]) == 0
    assert main(["convert", folders, "-o", cube]) == 0
    assert main(["train", cube, "-o", mine, "--inputs", "difference", "--epochs", "4", "--threads", "1"]) == 0
    capsys.readouterr()
    assert main(["diagnose", mine, "-o", str(tmp_path / "figures"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["figures"]) == 3 and record["headline"]["mcc"] > 0.2
    assert main(["explain", mine, "--cube", cube]) == 0
    assert (tmp_path / "mine" / "gradcam.png").is_file()
    tables = {}
    for name in ("model.onnx", "model.keras"):
        assert main(["classify", cube, "-m", f"{mine}/{name}", "-o", str(tmp_path / "out.csv")]) == 0
        with open(tmp_path / "out.csv") as file:
            tables[name] = list(csv.DictReader(file))
    with open(f"{mine}/scores.csv") as file:
        scores = np.array([float(row["score"]) for row in csv.DictReader(file)])
    for table in tables.values():
        assert np.allclose([float(row["score"]) for row in table], scores, atol=1e-5)
    unlike = np.mean([row["reason"] != "" for row in tables["model.onnx"]])
    assert unlike < 0.1
