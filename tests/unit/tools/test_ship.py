"""Installing a training as the shipped model."""

import json

import numpy as np
import pandas as pd
import pytest

from otrain_core.arrays import read_stack, write_arrays
from otrain_core.classify import Classifier
from otrain_core.io import read_json, write_json, write_table
from tests.unit.synthetic_cube import make_cube, make_split
from tests.unit.tiny_onnx import write_tiny
from tools import ship


@pytest.fixture
def training(tmp_path):
    """Folder of a training with a network that needs no TensorFlow."""
    cube = make_cube(200, size=21)
    cube["images"] = np.char.add(np.where(np.arange(200) % 3 == 0, "random0000:", "random0001:"), cube["images"])
    write_arrays(tmp_path / "pool/cube.npz", cube)
    write_json(tmp_path / "pool/cube.json", {"n_images_failed": 1})
    folder = tmp_path / "pool/otrain2/seed1"
    folder.mkdir(parents=True)
    write_tiny(folder / "model.onnx", size=21)
    (folder / "model.keras").write_bytes(b"weights")
    write_json(folder / "train.json", {"seed": 1, "commit": "abc", "options": {"inputs": ["difference"]}})
    write_json(folder / "metrics.json", {"headline": {"threshold": 0.6, "mcc": 0.9}, "protocol": "by-image"})
    table = make_split(cube)[["index", "image", "label", "set"]]
    write_table(folder / "scores.csv", table.assign(score=Classifier.load(folder / "model.onnx").score(cube)))
    (tmp_path / "draw.yaml").write_text("draw: {telescopes: 9, seed: 4, prior: {detector.gain: {log: [1, 2]}}}")
    return folder


def test_a_training_is_installed_and_scores_as_its_card_says(tmp_path, training, capsys):
    out = tmp_path / "models"
    ship.main([str(training), "--config", str(tmp_path / "draw.yaml"), "-o", str(out)])
    assert capsys.readouterr().out.strip() == str(out / "universal.md")
    card = read_json(out / "universal.json")
    assert card["prior"] == {"detector.gain": {"log": [1, 2]}} and card["data"]["draw"] == {"telescopes": 9, "seed": 4}
    stored = read_stack(out / card["check"]["file"])
    assert len(card["check"]["scores"]) == ship.N_CHECKED and stored["labels"].sum() == ship.N_CHECKED // 2
    assert Classifier.load(out / "universal.onnx").score(stored) == pytest.approx(card["check"]["scores"], abs=1e-5)
    assert (out / "universal.keras").read_bytes() == b"weights"
    assert "| detector.gain | log 1, 2 |" in (out / "universal.md").read_text()


def test_scores_on_real_data_are_added_later(tmp_path, training):
    out = tmp_path / "models"
    ship.main([str(training), "--config", str(tmp_path / "draw.yaml"), "-o", str(out)])
    table = pd.DataFrame({"set": ["hatp32"], "model": ["universal"], "n_images": [62], "auc": [0.97]})
    write_table(tmp_path / "real.csv", table)
    (tmp_path / "failures.txt").write_text("trailed sources\n\n")
    (tmp_path / "notes.txt").write_text("chosen of two\n")
    more = ["--real-sky", str(tmp_path / "real.csv"), "-o", str(out)]
    more += ["--failures", str(tmp_path / "failures.txt"), "--notes", str(tmp_path / "notes.txt")]
    for _ in range(2):  # once more takes the place of the first
        ship.main(more)
    card = json.loads((out / "universal.json").read_text())
    assert [row["set"] for row in card["scores"]].count("hatp32") == 1 and card["failures"] == ["trailed sources"]
    assert card["scores"][0]["set"] == "simulated telescopes, held out"
    text = (out / "universal.md").read_text()
    assert "## Known failures\n\n- trailed sources\n\n## Notes\n\n- chosen of two\n" in text


def test_what_is_not_there_or_too_large_is_refused(tmp_path, training, monkeypatch):
    monkeypatch.setattr(ship, "MOST_BYTES", 6)
    with pytest.raises(SystemExit, match="bytes, more than 6"):
        ship.main([str(training), "--config", str(tmp_path / "draw.yaml"), "-o", str(tmp_path / "models")])
    (training / "metrics.json").unlink()
    with pytest.raises(SystemExit, match="metrics.json: no such file; is the run"):
        ship.main([str(training), "-o", str(tmp_path / "models")])
    assert not (tmp_path / "models").exists()
