import numpy as np
import pandas as pd
import pytest

from otrain_core.arrays import write_arrays
from otrain_core.cubes import pool
from otrain_core.cubes.inputs import select_inputs
from otrain_core.errors import CubeError
from otrain_core.evaluation import metrics
from otrain_core.evaluation.thresholds import best_threshold
from otrain_core.io import read_table, write_table
from otrain_core.networks import architecture
from otrain_core.networks.predict import score_cutouts
from otrain_core.plan.config import EvaluateOptions
from otrain_core.studies import transfer
from tests.unit.synthetic_cube import make_cube, make_split
from tests.unit.tiny_network import tiny_network

pytestmark = pytest.mark.xdist_group("tensorflow")

FAST = EvaluateOptions(bootstrap=100)


@pytest.fixture(scope="module")
def model():
    architecture.keras.utils.set_random_seed(1)
    return tiny_network("otrain2", size=15, normalise="mad-asinh")


@pytest.fixture(scope="module")
def cubes():
    return {f"{name}/p": made(seed, size) for name, seed, size in (("A", 1, 15), ("B", 2, 20), ("C", 3, 13))}


def made(seed, size, n=200):
    cube = make_cube(n, size=size, seed=seed)
    return cube, make_split(cube)


def run(model, source, cubes, **options):
    pairs = [(name, *pair) for name, pair in cubes.items()]
    table = transfer.transfer(
        model,
        (source, *cubes[source]),
        pairs,
        rng=np.random.default_rng(0),
        rule="platt",
        evaluate=FAST,
        guard=4.0,
        **options,
    )
    return table.set_index("target", drop=False)


def test_numbers_are_those_of_the_targets_test_set(model, cubes):
    table = run(model, "A/p", cubes, experiment="e", seed=3)
    assert list(table.columns) == list(transfer.TRANSFER_COLUMNS)
    assert table["relation"].tolist() == ["own", "telescope", "telescope"] and (table["seed"] == 3).all()
    cube, split = cubes["B/p"]
    scores = score_cutouts(model, select_inputs(cube, inputs=["difference"], size=15))
    validation, test = ((split["set"] == name).to_numpy() for name in ("validation", "test"))
    row = table.loc["B/p"]
    assert row["n_true"] + row["n_false"] == test.sum() and row["n_images"] == split.loc[test, "image"].nunique()
    expected = metrics.rates(**metrics.confusion(cube["labels"][test], scores[test], row["threshold"]))
    for name in ("mcc", "recall", "fpr", "accuracy"):
        assert row[name] == pytest.approx(expected[name])
    assert row["auc"] == pytest.approx(metrics.auc(cube["labels"][test], scores[test]))
    assert row["mcc_low"] <= row["mcc"] <= row["mcc_high"]
    # The own threshold is that of the source's validation set for every target, the other one of the target's.
    assert (
        table["threshold"].nunique() == 1 and table.loc["A/p", "threshold"] == table.loc["A/p", "threshold_validation"]
    )
    best = best_threshold(cube["labels"][validation], scores[validation], "platt")
    assert row["threshold_validation"] == pytest.approx(best, abs=1e-5)


def test_labels_of_the_targets_test_set_reach_no_threshold(model, cubes):
    cube, split = cubes["B/p"]
    test = (split["set"] == "test").to_numpy()
    flipped = {**cubes, "B/p": ({**cube, "labels": np.where(test, 1 - cube["labels"], cube["labels"])}, split)}
    one, other = (run(model, "A/p", {name: some[name] for name in ("A/p", "B/p")}) for some in (cubes, flipped))
    names = ["threshold", "threshold_validation"]
    pd.testing.assert_frame_equal(one[names], other[names])
    assert one.loc["B/p", "mcc"] == pytest.approx(-other.loc["B/p", "mcc"])


def test_smaller_cutouts_take_the_same_weights(model, cubes):
    assert run(model, "A/p", cubes).loc["C/p", "size"] == 13
    smaller = transfer.fit_to(model, 13)
    assert smaller.input_shape[1] == 13 and transfer.fit_to(model, 20) is model
    assert all(map(np.array_equal, smaller.get_weights(), model.get_weights()))
    paper = tiny_network("paper", size=24)
    with pytest.raises(CubeError, match="15 px are too small for a network paper trained on 24 px"):
        transfer.fit_to(paper, 15)


def test_numbers_of_the_target_reach_the_model(cubes):
    channels = ["difference", "seeing"]
    reads = tiny_network("otrain2", size=20, channels=channels, precision="mixed_bfloat16")
    cube, rows = cubes["C/p"][0], np.array([7, 3, 11])
    other = {**cube, "seeing": 2 * cube["seeing"]}
    assert not np.array_equal(transfer.score_fitted(reads, cube, rows), transfer.score_fitted(reads, other, rows))


def test_a_target_that_cannot_be_scored_is_told(model, cubes):
    cube, split = cubes["B/p"]
    other = {**cube, "cube": cube["cube"][..., 1:], "channels": cube["channels"][1:]}
    row = run(model, "A/p", {"A/p": cubes["A/p"], "B/p": (other, split)}).loc["B/p"]
    assert "channel 'difference' is not in the cube" in row["note"] and np.isnan(row["mcc"]) and row["n_true"] > 0


def test_images_of_the_training_are_left_out(model, cubes):
    """The same images under another pipeline, dealt otherwise."""
    cube, split = cubes["A/p"]
    names = np.unique(cube["images"])
    sets = dict(
        zip(names, np.roll([split.loc[split["image"] == name, "set"].iloc[0] for name in names], 3), strict=True)
    )
    dealt = split.assign(set=[sets[name] for name in split["image"]])
    both = {"A/p": (cube, split), "A/q": (cube, dealt)}
    row = run(model, "A/p", both).loc["A/q"]
    allowed = set(split.loc[split["set"] == "test", "image"]) & set(dealt.loc[dealt["set"] == "test", "image"])
    assert row["relation"] == "pipeline" and row["n_images"] == len(allowed) > 0
    assert row["n_seen"] + row["n_true"] + row["n_false"] == (dealt["set"] == "test").sum()
    elsewhere = run(model, "A/p", {"A/p": (cube, split), "B/q": (cube, dealt)}).loc["B/q"]
    assert elsewhere["n_seen"] == 0  # the same names at another telescope are other images
    nothing = run(model, "A/p", {"A/p": (cube, split.assign(set="train").where(split["set"] != "validation", split)),
                                 "A/q": (cube, dealt)}).loc["A/q"]  # fmt: skip
    assert nothing["n_images"] == 0 and "every test cutout" in nothing["note"] and np.isnan(nothing["mcc"])


def test_places_of_the_training_are_left_out():
    """Two images of one field: the star of the training shows in the other image too."""
    cube = {"labels": np.array([1, 0, 1]), "images": np.array(["a", "b", "c"]), "cube": np.zeros((3, 15, 15, 1))}
    cube |= {"ra": np.array([10.0, 10.0001, 10.5]), "dec": np.zeros(3)}
    cube |= {"seeing": np.full(3, 3.0), "pixel_scale": np.ones(3)}
    options = {"target_telescope": "A", "source_telescope": "A", "guard": 4.0}
    assert transfer.unseen(cube, np.array([1, 2]), cube, np.array([0]), **options).tolist() == [False, True]
    options["source_telescope"] = "B"
    assert transfer.unseen(cube, np.array([1, 2]), cube, np.array([0]), **options).all()


def test_a_pool_is_scored_on_what_its_telescopes_kept_for_test(model, cubes):
    members = {name[0]: pair for name, pair in cubes.items() if name != "C/p"}
    pooled = pool.pool_cubes({k: c for k, (c, _) in members.items()}, {k: s for k, (_, s) in members.items()})
    table = run(model, "pool/p", {"pool/p": pooled, **cubes})
    assert table["relation"].to_dict() == {"pool/p": "own", "A/p": "pooled", "B/p": "pooled", "C/p": "left-out"}
    assert (table["n_seen"] == 0).all()
    # Were test images of B dealt to train, they would be left out.
    arrays, split = pooled
    leaky = split.assign(set=split["set"].where(split["telescope"] != "B", "train"))
    assert run(model, "pool/p", {"pool/p": (arrays, leaky), **cubes}).loc["B/p", "n_images"] == 0


def test_matrix():
    table = pd.DataFrame(
        {"source": list("aabb"), "target": list("xyxx"), "mcc": [0.1, 0.2, 0.4, 0.6], "experiment": "e"}
    )
    matrix = transfer.transfer_matrix(table, experiment="e")
    assert matrix.loc["b", "x"] == pytest.approx(0.5) and np.isnan(matrix.loc["b", "y"])


def test_files_of_the_table(model, cubes, tmp_path):
    architecture.save_model(model, tmp_path / "model.keras")
    for name, (cube, split) in cubes.items():
        write_arrays(tmp_path / f"{name[0]}.npz", cube)
        write_table(tmp_path / f"{name[0]}.csv", split)
    transfer.transfer_files(
        model=tmp_path / "model.keras",
        cube=tmp_path / "A.npz",
        split=tmp_path / "A.csv",
        target_cubes=[tmp_path / "B.npz"],
        target_splits=[tmp_path / "B.csv"],
        table=tmp_path / "transfer.csv",
        source="A/p",
        targets=["B/p"],
        experiment="otrain2",
        seed=1,
        rule="f1",
        evaluate=FAST,
        guard=4.0,
    )
    table = read_table(tmp_path / "transfer.csv")
    assert table[["source", "target", "experiment", "seed"]].iloc[0].tolist() == ["A/p", "B/p", "otrain2", 1]
