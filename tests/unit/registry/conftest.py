"""Fixtures for the registry: a small network, a results folder with it, and an empty store."""

import shutil
import sqlite3

import pytest

from otrain_core.registry import track
from otrain_core.registry.store import EXPERIMENT, open_store
from tests.unit.synthetic_results import write_results
from tests.unit.tiny_network import tiny_network


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    """A small, untrained network."""
    from otrain_core.networks.architecture import save_model

    path = tmp_path_factory.mktemp("model") / "model.keras"
    save_model(tiny_network("otrain2", size=17, normalise="mad-asinh"), path)
    return path


@pytest.fixture(scope="session")
def blank_store(tmp_path_factory):
    """An empty store, made once because that takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    open_store(folder / "mlflow.db", folder / "mlartifacts")
    return folder / "mlflow.db"


@pytest.fixture
def place(tmp_path, blank_store):
    """Store (a copy of the empty one) and artifacts of a test."""
    shutil.copy(blank_store, tmp_path / "mlflow.db")
    location = (tmp_path / "mlartifacts").resolve().as_uri()
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("UPDATE experiments SET artifact_location = ? WHERE name = ?", (location, EXPERIMENT))
    return {"store": tmp_path / "mlflow.db", "artifacts": tmp_path / "mlartifacts"}


@pytest.fixture
def runs(tmp_path, model_file):
    return write_results(tmp_path / "results", model=model_file, protocols=("by-image", "random"), passing=True)["runs"]


@pytest.fixture(autouse=True)
def no_drawing(request, monkeypatch):
    """Drawing takes a second per run; only tests of figures need it."""
    if "figures" not in request.node.name:
        monkeypatch.setattr(track, "draw_training", lambda folder: {})
