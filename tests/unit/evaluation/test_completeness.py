"""Completeness over all images, and of what is called True."""

import numpy as np
import pandas as pd
import pytest

from otrain_core import io
from otrain_core.arrays import read_arrays
from otrain_core.evaluation.completeness import accepted_injections, completeness_table
from tests.unit.synthetic_results import write_results


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    return root, write_results(root, experiments=("otrain2",))


def test_completeness_adds_up_over_images(run):
    root, made = run
    images = [root / "tiny/builtin/images" / name for name in made["images"] if name != "I03"]
    table = completeness_table(images)
    records = [io.read_json(folder / "crossmatch.json") for folder in images]
    assert table["injected"].sum() == sum(record["n_injected"] for record in records)
    assert table["found"].sum() == sum(record["n_recovered"] for record in records)
    assert (table["found"] <= table["injected"]).all()
    assert table["low"].is_monotonic_increasing


def test_completeness_of_nothing_is_empty(tmp_path):
    accepted = pd.DataFrame({"mag": np.full(10, 17.2), "called": [True] * 8 + [False] * 2})
    assert completeness_table([tmp_path]).empty
    assert completeness_table([], accepted).empty


def test_called_true_uses_the_injected_magnitude(run):
    root, made = run
    folder = root / "tiny/builtin"
    cube = read_arrays(folder / "cube.npz")
    training = folder / "otrain2/seed1"
    accepted = accepted_injections(cube, training, folder / "images")
    scores = io.read_table(training / "scores.csv")
    threshold = io.read_json(training / "metrics.json")["headline"]["threshold"]
    part = scores[(scores["set"] == "test") & (scores["label"] == 1)]
    assert len(accepted) == len(part)
    assert accepted["called"].sum() == (part["score"] >= threshold).sum()
    images = [folder / "images" / name for name in made["images"] if name != "I03"]
    table = completeness_table(images, accepted)
    known = table["accepted"].notna()
    assert known.any()
    for row in table[known].itertuples():
        inside = (accepted["mag"] > row.low) & (accepted["mag"] < row.high)
        assert row.accepted == pytest.approx(row.found * accepted.loc[inside, "called"].mean())
