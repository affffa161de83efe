"""Fixtures of several wings."""

import pytest

from otrain_core.classify import shipped
from otrain_core.io import write_json
from tests.unit.shipped_model import CARD
from tests.unit.synthetic_night import write_pair
from tests.unit.tiny_onnx import write_tiny


@pytest.fixture(scope="session")
def night_pair(tmp_path_factory):
    """Paths of a science image, its reference and a model."""
    return write_pair(tmp_path_factory.mktemp("night"))


@pytest.fixture
def shipped_folder(tmp_path, monkeypatch):
    """Folder of the shipped model, which is empty at first."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(shipped, "FOLDER", folder)
    return folder


@pytest.fixture
def shipped_model(shipped_folder):
    """The tiny network of `tests.unit.tiny_onnx` in the place of the shipped one, with a card."""
    write_json(shipped_folder / "universal.json", CARD)
    return write_tiny(shipped_folder / "universal.onnx", size=21, channels=("difference", "psf"))
