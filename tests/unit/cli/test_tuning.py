"""Trainings on labels, from the shipped model; also on too few for a test set."""

from __future__ import annotations

import json

import pytest

from otrain_core.arrays import write_arrays
from otrain_core.classify import Classifier
from otrain_core.cli.main import main
from otrain_core.cli.tuning import in_words
from otrain_core.io import read_json, read_table
from otrain_core.plan.config import Experiment
from tests.unit.synthetic_cube import make_cube
from tests.unit.tiny_onnx import write_tiny


@pytest.fixture
def two_images(tmp_path):
    """Path of a cube of one night of two images."""
    write_arrays(tmp_path / "cube.npz", make_cube(40, size=13, n_images=2))
    return tmp_path / "cube.npz"


def test_too_few_images_for_a_test_set(two_images, tmp_path, shipped_folder, capsys):
    from otrain_core.networks import architecture

    write_tiny(shipped_folder / "universal.onnx", size=13)
    network = architecture.build_network(Experiment(inputs=["difference"]), size=13)
    architecture.save_model(network, shipped_folder / "universal.keras")
    arguments = ["train", str(two_images), "-o", str(tmp_path / "mine"), "--epochs", "2", "--json"]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "need at least three; give --from universal to fine-tune on all labels" in error
    assert main([*arguments, "--from", "universal"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["test_set"] is None and answer["adapted"]["n_labels"] == 40
    made = {path.name for path in (tmp_path / "mine").iterdir()}
    assert {"model.onnx", "model.keras", "train.json", "history.csv"} <= made and "metrics.json" not in made
    assert set(read_table(tmp_path / "mine/split.csv")["set"]) == {"train"}
    record, classifier = read_json(tmp_path / "mine/train.json"), Classifier.load(tmp_path / "mine/model.onnx")
    assert record["n_train"] == 40 and record["n_validation"] == 0 and record["test_set"] is None
    assert classifier.threshold == 0.5 and classifier.about["experiment"] == "fine-tuned"
    assert classifier.about["training"]["n"] == 40


@pytest.mark.parametrize(
    ("step", "losses", "said"),
    [
        (0.5, {"0": 0.4, "0.5": 0.3}, "log loss in cross-validation: 0.300; with the shipped weights: 0.400"),
        (0.0, {"0": 0.4, "0.5": 0.5}, "no gain in cross-validation: the weights were kept"),
        (0.0, {}, "too few labels to change the weights"),
    ],
)
def test_it_says_what_is_not_known(step, losses, said):
    adapted = {"step": step, "log_loss": losses, "n_labels": 20, "n_labelled_images": 1}
    text = in_words({"adapted": adapted}, "two images")
    assert "no test set: two images" in text and "cannot become champion" in text and said in text
