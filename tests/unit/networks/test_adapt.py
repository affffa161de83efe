"""Tests of fine-tuning: the weights change only as far as the labels show a gain."""

import shutil

import numpy as np
import pytest

from otrain_core.errors import CubeError, OtrainError
from otrain_core.evaluation.calibrate import Calibration, logit
from otrain_core.evaluation.metrics import cross_entropy
from otrain_core.networks import adapt, architecture
from otrain_core.networks.predict import model_inputs, score_rows
from otrain_core.plan.config import Experiment, FinetuneOptions
from tests.unit.synthetic_cube import make_cube
from tests.unit.tiny_onnx import write_tiny
from tests.unit.tuned_model import EXPERIMENT, write_shipped

pytestmark = pytest.mark.xdist_group("tensorflow")

SHORT = FinetuneOptions(epochs=4, learning_rate=2e-3, folds=2, steps=[0.5, 1.0])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return write_shipped(tmp_path_factory.mktemp("shipped"))


def run(saved, cube, rows, *, start=None, seed=1):
    """Adapt a model to rows of a cube: the adapted model, the record, and the original model."""
    model, before = (architecture.load_model(saved.with_suffix(".keras")) for _ in range(2))
    _, record = adapt.adapt(
        model,
        model_inputs(model, cube, rows),
        cube["labels"][rows],
        cube["images"][rows],
        start=start or Calibration(),
        seed=seed,
        options=SHORT,
        experiment=EXPERIMENT,
    )
    return model, record, before


def test_without_labels_only_the_threshold_is_brought_to_even_odds(saved):
    cube = make_cube(60, size=13, seed=3)
    threshold = 0.3
    start = adapt.even_odds(threshold)
    model, record, before = run(saved, cube, np.empty(0, int), start=start)
    assert (record["step"], record["n_labels"], record["slope"]) == (0, 0, 1)
    ours, theirs = score_rows(model, cube), score_rows(before, cube)
    assert ((ours >= 0.5) == (theirs >= threshold)).all() and 0 < np.mean(ours >= 0.5) < 1
    assert np.allclose(logit(ours), logit(theirs) + start.offset, atol=1e-3)


def test_labels_that_contradict_the_model_move_it(saved):
    """Another telescope, where True candidates look like False ones of the first."""
    cube = make_cube(300, size=13, seed=2)
    cube["labels"] = 1 - cube["labels"]
    rows, others = np.arange(200), np.arange(200, 300)
    model, record, before = run(saved, cube, rows)
    assert record["step"] > 0 and record["n_labels"] == 200 and set(record["log_loss"]) == {"0", "0.5", "1"}
    losses = [float(cross_entropy(cube["labels"][others], score_rows(m, cube, others)).mean()) for m in (model, before)]
    assert losses[0] < losses[1]
    for layer, old in zip(model.layers, before.layers, strict=True):
        if layer.name.startswith("norm"):  # frozen
            assert all(map(np.array_equal, layer.get_weights(), old.get_weights()))


@pytest.mark.parametrize("rows", [[0], [0, 2, 4], list(range(6))])
def test_too_few_labels_train_nothing(saved, rows):
    cube = make_cube(60, size=13, seed=5)
    cube["images"][:] = "one"
    model, record, before = run(saved, cube, np.array(rows))
    assert record["step"] == 0 and record["log_loss"] == {} and record["n_labels"] == len(rows)
    assert np.isfinite(score_rows(model, cube)).all()
    assert np.array_equal(model.get_layer("conv1").get_weights()[0], before.get_layer("conv1").get_weights()[0])


def test_a_step_must_show_its_gain():
    """Log odds of two steps on 20 images: one hardly better than the old weights, and one clearly better."""
    rng = np.random.default_rng(1)
    labels, images = np.arange(200) % 2, np.repeat(np.arange(20), 10)
    old = rng.normal(2.0 * labels - 1, 1.0)
    start, noise = Calibration(), rng.normal(0, 0.3, 200)
    step, losses = adapt._choose_step({0.0: old, 0.5: old + noise}, labels, images, start=start, pull=0.5)
    assert step == 0 and set(losses) == {"0", "0.5"}
    better = old + 2.0 * labels - 1
    assert adapt._choose_step({0.0: old, 0.5: old + noise, 1.0: better}, labels, images, start=start, pull=0.5)[0] == 1


def test_the_shipped_model_is_loaded_for_tuning(saved, shipped_folder):
    for path in (saved, saved.with_suffix(".keras")):
        shutil.copy(path, shipped_folder)
    model, classifier, options = adapt.load_shipped()
    assert options["inputs"] == classifier.channels == ["difference"] and options["size"] == model.input_shape[1] == 13
    assert adapt.even_odds(classifier.threshold).score_at(0.5) == pytest.approx(0.6)
    assert adapt.even_odds(np.nan).offset == 0
    other = architecture.build_network(Experiment(inputs=["science"]), size=13)
    architecture.save_model(other, shipped_folder / "universal.keras")
    with pytest.raises(OtrainError, match="universal.keras: this is not the network of universal.onnx"):
        adapt.load_shipped()


def test_the_history_of_a_network_that_was_not_trained(saved):
    cube = make_cube(40, size=13, seed=6)
    model = architecture.load_model(saved.with_suffix(".keras"))
    inputs = model_inputs(model, cube, np.arange(40))
    table = adapt.standing(model, (inputs, cube["labels"]), (inputs[:20], cube["labels"][:20]))
    expected = cross_entropy(cube["labels"], score_rows(model, cube)).mean()
    assert len(table) == 1 and table["loss"].item() == pytest.approx(expected, rel=1e-4)
    assert table["learning_rate"].item() == 0 and table["validation_loss"].item() != table["loss"].item()


def test_a_cube_gets_what_the_shipped_model_reads(shipped_folder):
    about = {"optional": ["science"], "least_size": 17}
    channels = ("difference", "psf", "science", "seeing")
    write_tiny(shipped_folder / "universal.onnx", size=21, channels=channels, about=about)
    cube = make_cube(20, size=19)
    cube["cube"], cube["channels"] = cube["cube"][..., [3, 0]], np.array(["mask", "difference"])
    del cube["seeing"]
    whole = adapt.completed(cube)
    assert whole["channels"].tolist() == ["difference", "psf", "science", "mask"]
    assert whole["cube"].shape == (20, 21, 21, 4) and np.isnan(whole["seeing"]).all()
    assert np.array_equal(whole["cube"][:, 1:20, 1:20, 0], cube["cube"][..., 1], equal_nan=True)
    assert np.isnan(whole["cube"][..., 1:3]).all() and np.isnan(whole["cube"][:, 0]).all()
    with pytest.raises(CubeError, match="channel 'difference' is not in the cube"):
        adapt.completed(cube | {"channels": np.array(["mask", "reference"])})
