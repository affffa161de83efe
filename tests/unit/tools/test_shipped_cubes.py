"""The table of the shipped model on the cubes of a run."""

import numpy as np
import pandas as pd
import pytest

from otrain_core.arrays import write_arrays
from otrain_core.errors import OtrainError
from otrain_core.io import write_table
from tools.shipped_cubes import all_decisions, compare

IMAGES = [f"A:{number}" for number in range(6)]


def decisions(wrong, *, n=0, seed=1, model="own", cube="A/x"):
    """20 cutouts of each class in every image, of which so many of each are called wrong."""
    rows = [
        {"image": image, "label": label, "called": label if number >= wrong else 1 - label}
        for image in IMAGES
        for label in (0, 1)
        for number in range(20)
    ]
    return pd.DataFrame(rows).assign(cube=cube, model=model, n_labels=n, seed=seed, step=np.nan)


def test_differences_have_intervals_over_images():
    made = pd.concat([decisions(1), decisions(3, model="shipped"), decisions(2, model="tuned", n=50)])
    table = compare(made, rng=np.random.default_rng(1)).set_index(["cube", "model"])
    assert table.loc[("all", "own"), "mcc"] == pytest.approx(0.9)  # 5 % of both classes
    row = table.loc[("all", "shipped")]
    assert (row["n_images"], row["n_true"], row["n_false"]) == (6, 120, 120)
    assert row["mcc_minus_own"] == pytest.approx(-0.2) and np.isnan(row["mcc_minus_shipped"])
    assert row["mcc_minus_own_low"] == pytest.approx(-0.2) == row["mcc_minus_own_high"]  # all images alike
    assert table.loc[("all", "tuned"), "mcc_minus_shipped"] == pytest.approx(0.1)


def test_seeds_are_averaged():
    made = pd.concat([decisions(1), decisions(3, seed=2), decisions(2, model="shipped", seed=0)])
    row = compare(made, rng=np.random.default_rng(1)).iloc[0]
    assert (row["seeds"], row["n_true"]) == (2, 120) and row["mcc"] == pytest.approx(0.8)
    assert row["mcc_minus_shipped"] == pytest.approx(0)


def test_a_cube_with_too_few_labels_is_left_out_of_both():
    few = decisions(0, model="tuned", n=50).assign(image=lambda t: t["image"])
    other = [
        decisions(9, model=name, cube="B/x").assign(image=lambda t: t["image"] + "b") for name in ("own", "shipped")
    ]
    table = compare(pd.concat([decisions(1), decisions(1, model="shipped"), few, *other]), rng=np.random.default_rng(1))
    row = table[(table["cube"] == "all") & (table["model"] == "tuned")].iloc[0]
    assert row["mcc_minus_own"] == pytest.approx(0.1) and row["n_images"] == 6


def test_decisions_are_kept_and_those_of_another_shipped_model_made_anew(tmp_path):
    folder = tmp_path / "A/x"
    folder.mkdir(parents=True)
    cube = {"cube": np.zeros((2, 9, 9, 1), np.float32), "labels": np.array([0, 1])}
    cube |= {name: np.zeros(2) for name in ("mags", "errmags", "fwhms")}
    write_arrays(folder / "cube.npz", cube | {name: np.array(["a", "b"]) for name in ("filters", "candids")})
    write_table(folder / "split.csv", pd.DataFrame({"index": [0, 1], "set": ["train", "train"]}))
    asked = []

    def decide(cube, split, model, n, seed, name):
        asked.append((model, n))
        return decisions(0).drop(columns=["cube", "model", "n_labels", "seed"])

    for digest in ("one", "one", "two"):
        made = all_decisions(tmp_path, [2, 50], [1], digest=digest, decide=decide)
    shipped, once = [("shipped", 0), ("rethresholded", 0), ("tuned", 2)], [("own", 0), ("scratch", 2)]
    assert sorted(asked) == sorted([*shipped, *once, *shipped])
    assert set(made["n_labels"]) == {0, 2}
    with pytest.raises(OtrainError, match="contains no cube"):
        all_decisions(tmp_path / "none", [], [1], digest="one")
