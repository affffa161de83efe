"""The MLflow side of the rule track: a SQLite store, and models in MLflow's format."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from otrain_core.errors import OtrainError

log = logging.getLogger("otrain")

EXPERIMENT = "otrain"
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # the page opens on training runs, not on language models
    "mlflow.note.content": "Every training of O'TRAIN. Group or filter by the tags telescope, cube, experiment, protocol;"
    " sort by mcc. Protocol grouped: scored on images the model never saw. Protocol paper: random split, scored on the"
    " set it was tuned on.",
}


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Hold the store: a second import waits for the first."""
    import fcntl

    store.parent.mkdir(parents=True, exist_ok=True)
    with open(store.with_name(f".{store.name}.lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another import is at work; waiting for it", store)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _import_mlflow() -> None:
    """Import MLflow quietly, without its telemetry."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow  # noqa: F401

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def open_store(store: str | Path, artifacts: str | Path):
    """Client of a SQLite store, which is made first if need be.

    A store that was copied from elsewhere names artifacts by the old absolute path; it is
    put aside as ``*.moved`` and a new one begins.

    Returns
    -------
    client : mlflow.MlflowClient
    experiment_id : str

    Raises
    ------
    OtrainError
        The store cannot be opened, or another MLflow version wrote it.
    """
    _import_mlflow()
    from mlflow.exceptions import MlflowException

    store, location = Path(store).resolve(), Path(artifacts).resolve().as_uri()
    try:
        if store.exists() and _artifact_location(store) not in (None, location):
            log.warning("%s was made in another folder; it is kept as %s.moved and built anew", store, store.name)
            os.replace(store, store.with_name(store.name + ".moved"))
        if not store.exists():
            # Made beside its place and moved there when whole: a crash leaves no half-made store.
            fresh = store.with_name(f".{store.name}.new")
            fresh.unlink(missing_ok=True)
            _client(fresh).create_experiment(EXPERIMENT, artifact_location=location, tags=EXPERIMENT_TAGS)
            os.replace(fresh, store)
        client = _client(store)
        experiment = client.get_experiment_by_name(EXPERIMENT)
    except (MlflowException, sqlite3.DatabaseError) as error:
        raise OtrainError(
            f"{store}: not a store that this MLflow can open ({str(error).splitlines()[0]});"
            " delete it and run the rule track again: it is rebuilt from the records"
        ) from None
    if experiment is None:
        return client, client.create_experiment(EXPERIMENT, artifact_location=location, tags=EXPERIMENT_TAGS)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return client, experiment.experiment_id


def read_store(store: str | Path):
    """Client of a store that is there, which is left as it is.

    Raises
    ------
    OtrainError
        No store, or one that another MLflow version wrote.
    """
    store = Path(store)
    if not store.is_file():
        raise OtrainError(f"{store}: no store of models there; name the folder of a run (--results) or a model file")
    _import_mlflow()
    from mlflow.exceptions import MlflowException

    try:
        client = _client(store.resolve())
        client.search_registered_models(max_results=1)
    except (MlflowException, sqlite3.DatabaseError) as error:
        raise OtrainError(f"{store}: not a store that this MLflow can open ({str(error).splitlines()[0]})") from None
    return client


def _client(store: Path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{store}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _artifact_location(store: Path) -> str | None:
    connection = sqlite3.connect(store)
    try:
        rows = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", (EXPERIMENT,)).fetchall()
    except sqlite3.OperationalError:
        return None
    finally:
        connection.close()
    return rows[0][0] if rows else None


def write_model(
    model: str | Path, target: str | Path, *, run_id: str | None = None, model_id: str | None = None
) -> None:
    """Write a ``.keras`` file as an MLflow model, without importing Keras.

    It opens with ``mlflow.pyfunc.load_model`` anywhere (the network's own layers travel
    with it) and with ``mlflow.keras.load_model`` after ``import otrain_core.networks``.
    The Python packages are named here: letting MLflow infer them costs 15 s.
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
        library = Path(__file__).parent
        shutil.copy(library / "mlflow_model.py", code / "__init__.py")
        for name in ("networks.py", "psf_residual.py"):  # all that loading a model imports
            shutil.copy(library / name, code / name)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*input example", category=UserWarning)
            mlflow.pyfunc.save_model(
                path=str(target),
                loader_module="otrain_model",
                data_path=str(data),
                code_paths=[str(code)],
                mlflow_model=description,
                pip_requirements=_requirements(),
                signature=signature,
            )
    description.add_flavor("keras", data="data", keras_version=_version("keras"), keras_backend="tensorflow")
    description.save(str(target / "MLmodel"))


def _requirements() -> list[str]:
    packages = ("keras", "tensorflow-cpu", "tensorflow", "numpy")
    return [f"{name}=={version}" for name in packages if (version := _version(name))]


def _version(package: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _input_shape(model: str | Path) -> tuple[int, ...]:
    """Shape of one input, from the description inside a ``.keras`` file.

    Raises
    ------
    OtrainError
        Not a ``.keras`` file, or a model with an input of no fixed shape.
    """
    try:
        with zipfile.ZipFile(model) as archive:
            config = json.loads(archive.read("config.json"))
        layers = config["config"]["layers"]
        shape = next(item["config"]["batch_shape"] for item in layers if item["class_name"] == "InputLayer")
        return tuple(int(length) for length in shape[1:])
    except (zipfile.BadZipFile, KeyError, StopIteration, TypeError, ValueError) as error:
        raise OtrainError(f"{model}: not a Keras model with one input of fixed shape ({error})") from None
