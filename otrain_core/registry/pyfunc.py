"""How MLflow opens a registered classifier. A copy of this file, architecture.py and psf_residual.py travels
with every model, so that it opens where O'TRAIN is not installed."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np


class Classifier:
    """A registered network; `predict` is what MLflow serves."""

    def __init__(self, network: Any):
        self.network = network

    def predict(self, cutouts: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Probabilities of False and of True, float32 (N, 2), for cutouts (N, S, S, C), NaN where missing."""
        return np.asarray(self.network.predict(np.asarray(cutouts, dtype=np.float32), verbose=0))


def _load_pyfunc(path: str) -> Classifier:
    try:
        architecture = importlib.import_module("otrain_core.networks.architecture")
    except ImportError:  # not installed: the copy beside this file
        architecture = importlib.import_module(".architecture", __name__)
    return Classifier(architecture.keras.saving.load_model(path, compile=False, safe_mode=True))
