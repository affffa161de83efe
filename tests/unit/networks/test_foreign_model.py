"""Tests of models from other sources: .h5 files of the original network are read, models with code are refused."""

import json
import zipfile

import numpy as np
import pytest

from otrain_core import safe
from otrain_core.errors import CubeError
from otrain_core.networks.foreign_model import check_layers, load_any_model
from tests.unit.tiny_network import tiny_network


@pytest.fixture(scope="module")
def keras():
    from otrain_core.networks.architecture import keras

    return keras


def test_h5_of_the_original_network(tmp_path, keras):
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((32, 32, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(2, activation="softmax"),
        ]
    )
    cutouts = np.random.default_rng(1).normal(size=(5, 32, 32, 1)).astype(np.float32)
    for name in ("model.h5", "model.keras"):
        model.save(tmp_path / name)
        again = load_any_model(tmp_path / name)
        assert np.allclose(again.predict(cutouts, verbose=0), model.predict(cutouts, verbose=0), atol=1e-6)


def test_our_own(tmp_path):
    from otrain_core.networks.architecture import save_model

    save_model(
        tiny_network("otrain2", size=16, channels=["difference", "psf"], normalise="mad-asinh"), tmp_path / "m.keras"
    )
    assert load_any_model(tmp_path / "m.keras").input_shape == (None, 16, 16, 2)


@pytest.mark.parametrize("name", ["model.h5", "model.keras"])
def test_code_in_a_model_is_refused(tmp_path, keras, name):
    layers = keras.layers
    model = keras.Sequential([layers.Input((8, 8, 1)), layers.Lambda(lambda x: x), layers.Flatten(), layers.Dense(2)])
    model.save(tmp_path / name)
    with pytest.raises(CubeError, match="layer Lambda is refused"):
        load_any_model(tmp_path / name)


@pytest.mark.parametrize(
    "entry",
    [
        {"class_name": "TFSMLayer", "config": {"name": "x", "filepath": "/tmp/x"}},
        {"class_name": "TFSMLayer", "config": {"filepath": "/tmp/x"}},
        {"class_name": "Lambda", "config": {}},
        {"class_name": "Lambda"},
        {"class_name": "Lambda", "config": "text"},
        {"class_name": "Dense", "config": {"units": 2, "activation": {"class_name": "__lambda__", "config": {}}}},
        {"class_name": "Dense", "config": {"activation": {"class_name": "function", "config": "system"}}},
        {"class_name": "Dense", "module": "os", "registered_name": None, "config": {"name": "system"}},
        {"class_name": "Dense", "module": "os", "config": {}},
        {"class_name": "Dense", "module": "keras.layers", "registered_name": "mine>Dense", "config": {}},
        {"class_name": "InputStage", "module": "os", "registered_name": "otrain>system", "config": {}},
        {"class_name": "Sequential", "config": {"layers": [{"class_name": "Lambda", "config": {"name": "l"}}]}},
        {"class_name": "Sequential", "config": {"layers": [{"class_name": "Lambda", "config": {}}]}},
        {"class_name": "Sequential", "config": {"layers": ["Lambda"]}},
        {"class_name": "Sequential", "config": {"layers": [{"config": {"function": "x"}}]}},
        {"class_name": "Sequential", "config": {"layers": [{"class_name": "Zeros", "config": {}}]}},
        {"class_name": ["Lambda"], "config": {}},
    ],
    ids=lambda entry: str(entry)[:60],
)
def test_layers_that_do_more_than_compute(entry):
    for config in (
        {"class_name": "Functional", "config": {"name": "m", "layers": [entry]}},
        {"class_name": "Functional", "config": {"layers": [], "extra": {"deep": [entry]}}},
        entry,
    ):
        with pytest.raises(CubeError, match="refused"):
            check_layers(config, "m.keras")


def test_a_description_that_is_nested_without_end(tmp_path):
    deep = "[" * 100_000 + "]" * 100_000
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", deep)
    with pytest.raises(CubeError, match="not a readable Keras model|nested too deeply"):
        load_any_model(tmp_path / "m.keras")
    config: dict = {}
    for _ in range(100):
        config = {"config": config}
    with pytest.raises(CubeError, match="nested too deeply"):
        check_layers(config, "m.keras")


def test_lengths_that_are_small_alone_and_large_together(tmp_path, keras, monkeypatch):
    """Two dense layers of 16,000 units need 1 GB of weights, but the file has only a few kilobytes."""
    layers = keras.layers
    small = keras.Sequential([layers.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3), layers.Dense(2)])
    small.save(tmp_path / "small.keras")
    with zipfile.ZipFile(tmp_path / "small.keras") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(files["config.json"])
    for entry in config["config"]["layers"]:
        if entry["class_name"] == "Dense":
            entry["config"]["units"] = 16_000
            entry.pop("build_config", None)
    files["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    monkeypatch.setattr(safe, "SMALL", 2**22)
    before = keras.layers.Layer.add_weight
    with pytest.raises(CubeError, match="more weights than the file can contain"):
        load_any_model(tmp_path / "m.keras")
    assert keras.layers.Layer.add_weight is before
    large = keras.Sequential(
        [layers.Input((64, 64, 1)), layers.UpSampling2D((128, 128)), layers.GlobalAveragePooling2D(), layers.Dense(2)]
    )
    large.save(tmp_path / "large.keras")
    with pytest.raises(CubeError, match="the output of layer .* is too large"):
        load_any_model(tmp_path / "large.keras")


def test_models_that_take_all_memory(tmp_path, monkeypatch):
    with pytest.raises(CubeError, match="units: must be at most 16384, not 1000000000"):
        check_layers({"class_name": "Sequential", "config": {"layers": [{"config": {"units": 10**9}}]}}, "m.keras")
    with pytest.raises(CubeError, match="batch_shape: must be at most 16384, not 100000"):
        check_layers({"config": {"batch_shape": [None, 32, 100_000, 1]}}, "m.keras")
    monkeypatch.setattr(safe, "SMALL", 2**20)
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(2**22))
    with pytest.raises(CubeError, match="decompression bomb"):
        load_any_model(tmp_path / "m.keras")


def test_weights_outside_the_file_are_refused(tmp_path, keras):
    """They could be any file on the machine of the user."""
    import h5py

    layers = keras.layers
    keras.Sequential([layers.Input((4, 4, 1)), layers.Flatten(), layers.Dense(2)]).save(tmp_path / "model.h5")
    (tmp_path / "secret").write_bytes(bytes(1000))
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        shape, kind = file[names[0]].shape, file[names[0]].dtype
        del file[names[0]]
        file.create_dataset(names[0], shape, kind, external=[(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(CubeError, match="refused|not a readable"):
        load_any_model(tmp_path / "model.h5")


def test_unreadable_models(tmp_path):
    import h5py

    with pytest.raises(CubeError, match="no such file"):
        load_any_model(tmp_path / "nowhere.h5")
    for name, message in (
        ("a.h5", "not a readable HDF5"),
        ("a.keras", "not a readable Keras"),
        ("a.pkl", "must be a .onnx, .keras or .h5 file"),
    ):
        (tmp_path / name).write_bytes(b"\x80\x04.")
        with pytest.raises(CubeError, match=message):
            load_any_model(tmp_path / name)
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["w"] = [1.0]
    with pytest.raises(CubeError, match="weights without their network"):
        load_any_model(tmp_path / "weights.h5")
    with zipfile.ZipFile(tmp_path / "b.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Nothing", "config": {"name": "x"}}))
    with pytest.raises(CubeError, match="layer Nothing is refused"):
        load_any_model(tmp_path / "b.keras")
