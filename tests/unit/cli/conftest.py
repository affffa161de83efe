"""A model and a cube on disk, for the verbs."""

from __future__ import annotations

import pytest

from otrain_core.arrays import write_arrays
from tests.unit.synthetic_cube import make_cube
from tests.unit.tiny_onnx import write_tiny


@pytest.fixture
def model(tmp_path):
    return str(write_tiny(tmp_path / "model.onnx", size=21, channels=("difference", "psf")))


@pytest.fixture
def cube(tmp_path):
    write_arrays(tmp_path / "cube.npz", make_cube(60))
    return str(tmp_path / "cube.npz")
