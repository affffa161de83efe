"""Tests of fine-tuning on all labels, without a test set."""

import numpy as np
import pytest

from otrain_core.arrays import write_arrays
from otrain_core.classify import Classifier
from otrain_core.io import read_json, read_table
from otrain_core.networks import architecture
from otrain_core.networks.finetune import finetune_files, split_of_all
from otrain_core.plan.config import FinetuneOptions
from tests.unit.synthetic_cube import make_cube
from tests.unit.tiny_onnx import write_tiny
from tests.unit.tuned_model import EXPERIMENT

pytestmark = pytest.mark.xdist_group("tensorflow")


def test_files_of_a_training_on_all(tmp_path, shipped_folder):
    write_tiny(shipped_folder / "universal.onnx", size=13)
    architecture.save_model(architecture.build_network(EXPERIMENT, size=13), shipped_folder / "universal.keras")
    write_arrays(tmp_path / "cube.npz", make_cube(40, size=13, n_images=2))
    kinds = {"split": "csv", "model": "keras", "history": "csv", "record": "json", "onnx": "onnx"}
    paths = {name: tmp_path / f"{name}.{kind}" for name, kind in kinds.items()}
    options = FinetuneOptions(epochs=2, folds=2, steps=[1.0])
    told = finetune_files(cube=tmp_path / "cube.npz", **paths, experiment=EXPERIMENT, seed=1, finetune=options)
    assert told == read_json(paths["record"]) and told["test_set"] is None
    assert (told["n_train"], told["n_validation"], told["adapted"]["n_labels"]) == (40, 0, 40)
    assert set(read_table(paths["split"])["set"]) == {"train"} and len(read_table(paths["history"]))
    classifier = Classifier.load(paths["onnx"])
    assert classifier.threshold == 0.5 and classifier.about["training"]["n"] == 40
    assert {path.stem for path in tmp_path.iterdir()} == {*paths, "cube", "shipped"}


def test_all_of_it_trains():
    table = split_of_all({"labels": np.array([1, 0, 1]), "candids": np.array(["a", "b", "c"])})
    assert table["set"].tolist() == ["train"] * 3 and table["image"].tolist() == [""] * 3
