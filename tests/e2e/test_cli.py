"""The command otrain without the workflow: folders to a cube, training, diagnosis, explanation, use."""

import csv
import json

import numpy as np

from otrain_core.arrays import write_arrays
from otrain_core.cli.main import main
from tests.unit.synthetic_cube import make_cube


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
        rows = list(csv.DictReader(file))
        scores = np.array([float(row["score"]) for row in rows])
    for table in tables.values():
        assert np.allclose([float(row["score"]) for row in table], scores, atol=1e-5)
    trained = [found["reason"] for found, row in zip(tables["model.onnx"], rows, strict=True) if row["set"] == "train"]
    assert len(trained) > 200 and np.mean([reason != "" for reason in trained]) < 0.02


def test_a_model_of_the_original(tmp_path, capsys):
    """An .h5 file of the original O'TRAIN has no threshold."""
    from otrain_core.networks.architecture import keras

    layers = keras.layers
    model = keras.Sequential(
        [layers.Input((32, 32, 1)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2, "softmax")]
    )
    model.save(tmp_path / "old.h5")
    cube = make_cube(40)
    write_arrays(tmp_path / "cube.npz", cube)
    assert main(["classify", str(tmp_path / "cube.npz"), "-m", str(tmp_path / "old.h5"), "--json"]) == 1
    assert "no threshold of its own" in capsys.readouterr().err
    assert main(["models", "export", str(tmp_path / "old.h5"), "--threshold", "0.53"]) == 0
    assert (
        main(
            ["classify", str(tmp_path / "cube.npz"), "-m", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "o.csv")]
        )
        == 0
    )
    with open(tmp_path / "o.csv") as file:
        found = np.array([float(row["score"] or "nan") for row in csv.DictReader(file)])
    assert np.allclose(found, model.predict(cube["cube"][..., :1], verbose=0)[:, 1], atol=1e-5, equal_nan=True)
