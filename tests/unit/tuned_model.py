"""A small trained network in the place of the shipped model, for fine-tuning; the ONNX file beside it is another network."""

from __future__ import annotations

from pathlib import Path

from otrain_core.plan.config import Experiment
from tests.unit.synthetic_cube import make_cube, make_split
from tests.unit.tiny_onnx import write_tiny

EXPERIMENT = Experiment(inputs=["difference"], epochs=4, batch_size=16, min_batches=1)


def write_shipped(folder: Path) -> Path:
    """Write ``universal.onnx`` (threshold 0.6) and ``universal.keras``; the path of the former."""
    from otrain_core.networks.architecture import save_model
    from otrain_core.networks.train import train_model

    cube = make_cube(240, size=13, seed=1)
    save_model(train_model(cube, make_split(cube), experiment=EXPERIMENT, seed=1)[0], folder / "universal.keras")
    return write_tiny(folder / "universal.onnx", size=13)
