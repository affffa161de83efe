"""Loader that MLflow uses to open a registered classifier.

Copies of this file, architecture.py and psf_residual.py are stored with every model, so that the model can be opened where
O'TRAIN is not installed.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np


class Classifier:
    """A registered network; MLflow calls its method `predict`."""

    def __init__(self, network: Any):
        self.network = network

    def predict(self, cutouts: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Probabilities of False and True, float32 (N, 2), for cutouts (N, S, S, C); missing pixels are NaN."""
        return np.asarray(self.network.predict(np.asarray(cutouts, dtype=np.float32), verbose=0))


def _load_pyfunc(path: str) -> Classifier:
    try:
        architecture = importlib.import_module("otrain_core.networks.architecture")
    except ImportError:  # O'TRAIN is not installed: use the copy beside this file
        architecture = importlib.import_module(".architecture", __name__)
    return Classifier(architecture.keras.saving.load_model(path, compile=False, safe_mode=True))
