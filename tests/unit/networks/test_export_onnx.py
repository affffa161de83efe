"""Tests of the ONNX export: probabilities as in Keras, and metadata for classification."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from otrain_core.arrays import write_arrays
from otrain_core.errors import ConfigError, CubeError, OtrainError
from otrain_core.io import write_json, write_table
from tests.unit.synthetic_cube import make_cube, make_split
from tests.unit.tiny_network import tiny_network


@pytest.fixture(scope="module")
def networks():
    from otrain_core.networks import architecture as networks

    return networks


def _metadata(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return json.loads(session.get_modelmeta().custom_metadata_map["otrain"])


@pytest.mark.parametrize(
    ("network", "channels", "normalise", "size"),
    [
        ("otrain2", ["difference", "psf"], "mad-asinh", 32),
        ("otrain2", ["difference", "science", "mask", "pixel_scale", "psf"], "mad-asinh", 21),
        ("otrain3", ["difference", "psf", "science", "reference"], "mad-asinh", 32),
        ("paper", ["difference"], "none", 32),
    ],
)
def test_same_as_keras(tmp_path, networks, network, channels, normalise, size):
    """The cutouts of the check in `export_model` contain NaN, infinite, constant and huge pixels."""
    networks.keras.utils.set_random_seed(1)
    model = tiny_network(network, size=size, channels=channels, normalise=normalise)
    path = tmp_path / "model.onnx"
    record = export_model(model, path, about={"threshold": 0.4, "odd": np.nan})
    assert record["checked"]["max_difference"] <= 1e-5
    written = _metadata(path)
    assert written["channels"] == channels and written["size"] == size and written["threshold"] == 0.4
    assert written["odd"] is None
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def export_model(*arguments, **options):
    from otrain_core.networks.export_onnx import export_model

    return export_model(*arguments, **options)


def test_a_file_that_differs_is_not_written(tmp_path, networks, monkeypatch):
    from otrain_core.networks import export_onnx

    monkeypatch.setattr(export_onnx, "_run", lambda path, cutouts: np.full((len(cutouts), 2), 0.5))
    model = tiny_network("otrain2", size=16, normalise="mad-asinh")
    with pytest.raises(OtrainError, match="differ from those of Keras by"):
        export_onnx.export_model(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_half_precision_is_written_in_single(tmp_path, networks):
    model = tiny_network("otrain2", size=16, normalise="mad-asinh", precision="mixed_bfloat16")
    assert export_model(model, tmp_path / "model.onnx")["checked"]["max_difference"] <= 1e-5


def test_a_plain_sequential_model(tmp_path, networks):
    """Flatten is exported as a node that has the same constant as input twice."""
    layers = networks.keras.layers
    model = networks.keras.Sequential(
        [layers.Input((32, 32, 1)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2, "softmax")]
    )
    path = tmp_path / "model.onnx"
    assert export_model(model, path)["checked"]["max_difference"] <= 1e-5
    assert _metadata(path)["channels"] == ["difference"]


def test_other_models_are_refused(tmp_path, networks):
    layers = networks.keras.layers
    model = networks.keras.Sequential([layers.Input((16, 16, 1)), layers.Flatten(), layers.Dense(3)])
    with pytest.raises(CubeError, match="one or two probabilities"):
        export_model(model, tmp_path / "model.onnx")


def test_record_of_a_training():
    from otrain_core.networks.export_onnx import model_record

    cube = make_cube(200)
    scores = make_split(cube).assign(score=0.5)
    metrics = {
        "telescope": "tiny",
        "experiment": "otrain2",
        "headline": {"threshold": 0.6, "mcc": 0.9},
        "calibration": {"method": "platt", "slope": 2.0, "offset": 0.1, "log_loss": {}},
        "abstention": {"low": 0.3, "high": 0.7, "threshold": 0.5, "stated_coverage": 0.95},
    }
    train = {"seed": 3, "commit": "abc", "options": {"inputs": ["difference"], "size": 16}}
    record = model_record(metrics, train, cube, scores)
    assert (record["threshold"], record["seed"], record["telescope"]) == (0.6, 3, "tiny")
    assert record["calibration"] == {"method": "platt", "slope": 2.0, "offset": 0.1}
    assert record["abstention"]["coverage"] == 0.95
    statistics = record["training"]
    assert statistics["n"] == int((scores["set"] == "train").sum())
    middle = statistics["probabilities"].index(0.5)
    assert statistics["quantiles"]["seeing"][middle] == pytest.approx(
        np.median(cube["seeing"][scores["set"] == "train"])
    )
    assert statistics["quantiles"]["background"][middle] == pytest.approx(200, abs=30)
    assert statistics["scores"]["true"][middle] == 0.5


def test_files_of_an_export(tmp_path, networks):
    """The file gives the scores of the network and contains the threshold of the training."""
    from otrain_core.classify.classifier import Classifier
    from otrain_core.networks.export_onnx import export_onnx_files
    from otrain_core.networks.predict import score_rows

    cube = make_cube(60, size=16)
    networks.keras.utils.set_random_seed(5)
    model = tiny_network(size=16, normalise="mad-asinh")
    networks.save_model(model, tmp_path / "model.keras")
    write_arrays(tmp_path / "cube.npz", cube)
    write_table(tmp_path / "scores.csv", make_split(cube).assign(score=score_rows(model, cube)))
    write_json(tmp_path / "metrics.json", {"telescope": "tiny", "headline": {"threshold": 0.45}})
    write_json(tmp_path / "train.json", {"seed": 5, "options": {"inputs": ["difference"], "size": 16}})
    export_onnx_files(
        cube=tmp_path / "cube.npz",
        model=tmp_path / "model.keras",
        train_record=tmp_path / "train.json",
        scores=tmp_path / "scores.csv",
        metrics=tmp_path / "metrics.json",
        onnx=tmp_path / "model.onnx",
        seed=1,
    )
    classifier = Classifier.load(tmp_path / "model.onnx")
    assert classifier.threshold == 0.45 and classifier.channels == ["difference"] and classifier.size == 16
    assert classifier.about["seed"] == 5 and classifier.about["training"]["n_true"] > 0
    assert classifier.score(cube) == pytest.approx(score_rows(model, cube), abs=1e-5)


def test_export_with_another_threshold(tmp_path, networks):
    from otrain_core.classify.classifier import Classifier
    from otrain_core.networks.export_onnx import export_file

    networks.save_model(tiny_network(size=16), tmp_path / "model.keras")
    with pytest.raises(ConfigError, match="threshold: must be a number from 0 to 1, not nan"):
        export_file(tmp_path / "model.keras", tmp_path / "model.onnx", threshold=float("nan"))
    assert not (tmp_path / "model.onnx").exists()
    export_file(tmp_path / "model.keras", tmp_path / "model.onnx", threshold=0.25)
    assert Classifier.load(tmp_path / "model.onnx").threshold == 0.25


def test_a_varied_training_tells_what_may_be_missing():
    from otrain_core.networks.export_onnx import model_record

    options = {"inputs": ["difference", "psf", "reference"], "size": 32}
    assert not {"optional", "least_size"} & model_record({}, {"options": options}).keys()
    options["vary_inputs"] = {"no_psf": 0.3, "no_images": 0.2, "no_mask": 0.1, "pixels": 0.1}
    record = model_record({}, {"options": options})
    assert record["optional"] == ["psf", "reference"] and record["least_size"] == 28


EXPORTS = """
import sys
from otrain_core.networks import architecture
from otrain_core.networks.export_onnx import export_model
from tests.unit.tiny_network import tiny_network

for number in range(2):
    architecture.keras.utils.set_random_seed(1)
    model = tiny_network(size=12, channels=["difference", "seeing", "psf"], normalise="mad-asinh")
    export_model(model, f"{sys.argv[1]}/{sys.argv[2]}{number}.onnx", about={"threshold": 0.5})
"""


def test_equal_networks_give_equal_files(tmp_path, root):
    """Within a process, where counters continue, and between processes with different string hashes."""
    for name, hashes in (("a", "1"), ("b", "2")):
        environment = os.environ | {"PYTHONHASHSEED": hashes}
        run = [sys.executable, "-c", EXPORTS, str(tmp_path), name]
        subprocess.run(run, cwd=root, env=environment, check=True, capture_output=True)
    contents = {path.read_bytes() for path in tmp_path.glob("*.onnx")}
    assert len(list(tmp_path.glob("*.onnx"))) == 4 and len(contents) == 1
