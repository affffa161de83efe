"""Tests that a registered model can be opened with MLflow alone."""

import subprocess
import sys

import numpy as np

from otrain_core.plan.config import GateOptions
from otrain_core.registry.pyfunc import Classifier
from otrain_core.registry.track import import_runs

LOAD = """
import sys, numpy as np, mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/otrain-tiny@champion")
cutouts = np.load(sys.argv[2])
np.save(sys.argv[3], model.predict(cutouts))
"""


def test_the_champion_opens_where_otrain_is_not_installed(place, runs, tmp_path, model_file):
    from otrain_core.networks.architecture import load_model

    import_runs(runs, **place, gate=GateOptions())
    cutouts = np.random.default_rng(1).normal(0, 5, (4, 17, 17, 1)).astype(np.float32)
    cutouts[0, :3] = np.nan
    np.save(tmp_path / "cutouts.npy", cutouts)
    # An import hook stands for a machine without the library, also where it is installed.
    block = "import sys; sys.modules['otrain_core'] = None; "
    arguments = [f"sqlite:///{place['store']}", str(tmp_path / "cutouts.npy"), str(tmp_path / "scores.npy")]
    done = subprocess.run(
        [sys.executable, "-c", block + LOAD, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    scores = np.load(tmp_path / "scores.npy")
    np.testing.assert_allclose(scores, load_model(model_file).predict(cutouts, verbose=0), atol=1e-6)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


class Network:
    """Replaces a Keras network, and stores its input."""

    def predict(self, cutouts, verbose):
        assert verbose == 0
        self.given = cutouts
        return [[0.25, 0.75]] * len(cutouts)


def test_predictions_are_probabilities_of_both_classes():
    network = Network()
    found = Classifier(network).predict([[[[1.0]]], [[[np.nan]]]], params={"any": 1})
    np.testing.assert_array_equal(found, [[0.25, 0.75]] * 2)
    assert network.given.dtype == np.float32 and network.given.shape == (2, 1, 1, 1)
