import shutil

import numpy as np
import pytest

from otrain_core.arrays import write_arrays
from otrain_core.errors import CubeError
from otrain_core.io import read_table, write_table
from otrain_core.networks import architecture
from otrain_core.networks.train import train_model
from otrain_core.plan.config import EvaluateOptions, Experiment, FinetuneOptions
from otrain_core.studies import finetune
from tests.unit.synthetic_cube import make_cube, make_split
from tests.unit.tiny_onnx import write_tiny

pytestmark = pytest.mark.xdist_group("tensorflow")

SHORT = FinetuneOptions(epochs=6, learning_rate=2e-3, folds=2, steps=[1.0])
EXPERIMENT = Experiment(inputs=["difference"], epochs=4, batch_size=16)


@pytest.fixture(scope="module")
def source():
    cube = make_cube(240, size=13, seed=1)
    return "A/p", cube, make_split(cube)


@pytest.fixture(scope="module")
def target():
    """Another telescope, at which a True is what is a False at the first: only its labels can tell."""
    cube = make_cube(320, size=13, seed=2)
    cube["labels"] = 1 - cube["labels"]
    return "B/p", cube, make_split(cube)


@pytest.fixture(scope="module")
def saved(source, tmp_path_factory):
    model = train_model(*source[1:], experiment=EXPERIMENT, seed=1)[0]
    path = tmp_path_factory.mktemp("model") / "model.keras"
    architecture.save_model(model, path)
    return path


@pytest.fixture(scope="module")
def tuned(saved, source, target):
    """The curve, and the model as its last row left it."""
    model = architecture.load_model(saved)
    return run(model, source, target, sizes=[120, 40, 100000]), model


def run(model, source, target, **options):
    return finetune.finetune_curve(
        model,
        source,
        target,
        rng=np.random.default_rng(0),
        seed=1,
        options=SHORT,
        experiment=EXPERIMENT,
        evaluate=EvaluateOptions(bootstrap=100),
        guard=4.0,
        **options,
    )


def test_draws_come_from_train_only_and_are_nested(target):
    split = target[2]
    sets = split.set_index("index")["set"]
    small, large = (finetune.draw_labels(split, n, seed=5) for n in (20, 100))
    assert set(sets.loc[large]) == {"train"} and len(set(large)) == 100
    assert small.tolist() == large[:20].tolist()
    assert set(small) != set(finetune.draw_labels(split, 20, seed=6))
    every = finetune.draw_labels(split, int((sets == "train").sum()), seed=5)
    assert not set(split.loc[split["image"].isin(split["image"].iloc[every]), "set"]) - {"train"}
    with pytest.raises(CubeError, match="1000 labels were asked for, the set train has"):
        finetune.draw_labels(split, 1000, seed=5)
    with pytest.raises(CubeError, match="of one class only"):
        finetune.draw_labels(split.assign(label=1), 20, seed=5)


def test_batch_normalisation_is_frozen_and_all_else_trained(tuned, saved):
    before = architecture.load_model(saved)
    for layer, old in zip(tuned[1].layers, before.layers, strict=True):
        same = all(map(np.array_equal, layer.get_weights(), old.get_weights()))
        assert same == (layer.name.startswith("norm") or not layer.get_weights()), layer.name


def test_the_curve(tuned, target):
    curve = tuned[0]
    assert list(curve.columns) == list(finetune.FINETUNE_COLUMNS)
    assert curve["n_labels"].tolist() == [0, 40, 120]  # more than there are: left out
    assert curve["threshold_from"].tolist() == ["source", "labels", "labels"]
    assert curve["threshold"].tolist()[1:] == [0.5, 0.5] and curve["step"].iloc[0] == 0 < curve["step"].iloc[2]
    assert curve["auc"].iloc[0] < 0.5 < curve["auc"].iloc[2]  # labels turned it round
    split = target[2]
    drawn = finetune.draw_labels(split, 120, seed=1)
    assert curve["n_labelled_true"].iloc[2] == target[1]["labels"][drawn].sum()
    assert (curve["n_true"] + curve["n_false"] == (split["set"] == "test").sum()).all()
    assert (curve["mcc_low"] <= curve["mcc"]).all() and (curve["mcc"] <= curve["mcc_high"]).all()


def test_test_and_undrawn_labels_do_not_touch_the_model(tuned, saved, source, target):
    """Whatever stands in the test set or is not drawn: the same thresholds. So a curve repeats itself, too."""
    name, cube, split = target
    drawn = finetune.draw_labels(split, 120, seed=1)
    validation = split.loc[split["set"] == "validation", "index"]
    others = np.setdiff1d(split["index"], np.concatenate([drawn, validation]))
    assert (split["set"].iloc[others] == "test").sum() == (split["set"] == "test").sum()
    changed = {**cube, "cube": cube["cube"].copy(), "labels": cube["labels"].copy()}
    changed["cube"][others] *= -1
    changed["labels"][others] = 1 - changed["labels"][others]
    changed_target = (name, changed, split.assign(label=changed["labels"]))
    one, other = tuned[0].iloc[2], run(architecture.load_model(saved), source, changed_target, sizes=[120]).iloc[1]
    for key in ("threshold", "threshold_validation", "n_labels", "n_labelled_true"):
        assert one[key] == other[key], key
    assert one["auc"] != other["auc"]


def test_a_model_that_has_seen_the_test_images_is_refused(source):
    dealt = source[2].assign(set=source[2]["set"].replace({"train": "test", "test": "train"}))
    with pytest.raises(CubeError, match="model of A/p was trained on what the test set of A/q shows"):
        run(None, source, ("A/q", source[1], dealt), sizes=[50])


def test_the_curve_of_the_shipped_model(saved, target, tmp_path, shipped_folder):
    write_tiny(shipped_folder / "universal.onnx", size=13)
    shutil.copy(saved, shipped_folder / "universal.keras")
    write_arrays(tmp_path / "B.npz", target[1])
    write_table(tmp_path / "B.csv", target[2])
    finetune.finetune_files(
        model=None,
        source_cube=None,
        source_split=None,
        cube=tmp_path / "B.npz",
        split=tmp_path / "B.csv",
        table=tmp_path / "finetune.csv",
        source="universal",
        target="B/p",
        experiment_name="otrain2",
        experiment=EXPERIMENT,
        seed=1,
        sizes=[100000],
        options=SHORT,
        evaluate=EvaluateOptions(bootstrap=100),
        guard=4.0,
    )
    table = read_table(tmp_path / "finetune.csv")
    assert table["source"].tolist() == ["universal"] and table["threshold"].tolist() == [0.6]


def test_files_of_the_curve(saved, source, target, tmp_path):
    for name, cube, split in (source, target):
        write_arrays(tmp_path / f"{name[0]}.npz", cube)
        write_table(tmp_path / f"{name[0]}.csv", split)
    finetune.finetune_files(
        model=saved,
        source_cube=tmp_path / "A.npz",
        source_split=tmp_path / "A.csv",
        cube=tmp_path / "B.npz",
        split=tmp_path / "B.csv",
        table=tmp_path / "finetune.csv",
        source="A/p",
        target="B/p",
        experiment_name="otrain2",
        experiment=EXPERIMENT,
        seed=1,
        sizes=[100000],
        options=SHORT,
        evaluate=EvaluateOptions(bootstrap=100, confidence=0.9),
        guard=4.0,
    )
    table = read_table(tmp_path / "finetune.csv")
    assert table["n_labels"].tolist() == [0] and table["seed"].eq(1).all()
    assert table["experiment"].tolist() == ["otrain2"] and table["target"].tolist() == ["B/p"]
