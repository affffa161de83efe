"""Writing of trained networks in the model format of MLflow."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.errors import OtrainError


def write_model(
    model: str | Path,
    target: str | Path,
    *,
    run_id: str | None = None,
    model_id: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write a ``.keras`` file as an MLflow model, without importing Keras.

    The model can be opened with ``mlflow.pyfunc.load_model`` on any machine, because the code of its layers is stored
    with it, and with ``mlflow.keras.load_model`` after ``import otrain_core.networks.architecture``.

    Parameters
    ----------
    model : path-like
        ``.keras`` file.
    target : path-like
        Folder to write.
    run_id, model_id : str, optional
        Identifiers of the run and of the logged model in MLflow.
    metadata : dict, optional
        Stored in the file MLmodel, for example threshold and calibration.

    Raises
    ------
    OtrainError
        The file is not a Keras model with one input of fixed shape.
    """
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    target = Path(target)
    shape = _input_shape(model)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *shape))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 2))]),
    )
    description = Model(run_id=run_id, model_id=model_id, model_uuid=model_id)
    with tempfile.TemporaryDirectory() as folder:
        data, code = Path(folder, "model.keras"), Path(folder, "otrain_model")
        shutil.copy(model, data)
        code.mkdir()
        shutil.copy(Path(__file__).with_name("pyfunc.py"), code / "__init__.py")
        networks = Path(__file__).parents[1] / "networks"
        for name in ("architecture.py", "psf_residual.py"):  # all modules of ours that loading a model imports
            shutil.copy(networks / name, code / name)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*input example", category=UserWarning)
            mlflow.pyfunc.save_model(
                path=str(target),
                loader_module="otrain_model",
                data_path=str(data),
                code_paths=[str(code)],
                mlflow_model=description,
                pip_requirements=_requirements(),  # MLflow would need 15 s to find them
                signature=signature,
                metadata=metadata,
            )
    description.add_flavor("keras", data="data", keras_version=_installed_version("keras"), keras_backend="tensorflow")
    description.save(str(target / "MLmodel"))


def _requirements() -> list[str]:
    packages = ("keras", "tensorflow-cpu", "tensorflow", "numpy")
    return [f"{name}=={version}" for name in packages if (version := _installed_version(name))]


def _installed_version(package: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _input_shape(model: str | Path) -> tuple[int, ...]:
    """Shape of one input (height, width, channels), from the configuration inside a ``.keras`` file.

    Raises
    ------
    OtrainError
        Not a ``.keras`` file, or the input of the model has no fixed shape.
    """
    try:
        with zipfile.ZipFile(model) as archive:
            config = json.loads(archive.read("config.json"))
        layers = config["config"]["layers"]
        shape = next(item["config"]["batch_shape"] for item in layers if item["class_name"] == "InputLayer")
        return tuple(int(length) for length in shape[1:])
    except (zipfile.BadZipFile, KeyError, StopIteration, TypeError, ValueError) as error:
        raise OtrainError(f"{model}: not a Keras model with one input of fixed shape ({error})") from None
