"""Tests of networks in the model format of MLflow."""

import json
import zipfile

import pytest
import yaml

from otrain_core.errors import OtrainError
from otrain_core.registry.format import write_model


def test_the_folder_has_all_that_opening_the_model_needs(tmp_path, model_file):
    write_model(model_file, tmp_path / "model", run_id="r", model_id="m", metadata={"threshold": "0.5"})
    described = yaml.safe_load((tmp_path / "model/MLmodel").read_text())
    assert described["run_id"] == "r" and described["model_id"] == "m"
    assert described["metadata"]["threshold"] == "0.5"
    flavors = described["flavors"]
    assert flavors["python_function"]["loader_module"] == "otrain_model"
    assert flavors["keras"]["keras_backend"] == "tensorflow"
    (tensor,) = json.loads(described["signature"]["inputs"])
    assert tensor["tensor-spec"] == {"dtype": "float32", "shape": [-1, 17, 17, 1]}
    (tensor,) = json.loads(described["signature"]["outputs"])
    assert tensor["tensor-spec"]["shape"] == [-1, 2]
    code = tmp_path / "model" / flavors["python_function"]["code"] / "otrain_model"
    assert {path.name for path in code.glob("*.py")} == {"__init__.py", "architecture.py", "psf_residual.py"}
    assert (tmp_path / "model" / flavors["python_function"]["data"]).read_bytes() == model_file.read_bytes()
    requirements = (tmp_path / "model/requirements.txt").read_text()
    assert "keras==" in requirements and "numpy==" in requirements


@pytest.mark.parametrize("config", [None, "{", "{}", '{"config": {"layers": []}}'])
def test_what_is_no_network_of_one_input_is_refused(tmp_path, config):
    path = tmp_path / "model.keras"
    path.write_bytes(b"PK not really")
    if config is not None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", config)
    with pytest.raises(OtrainError, match="model.keras: not a Keras model with one input of fixed shape"):
        write_model(path, tmp_path / "model")
    assert not (tmp_path / "model").exists()
