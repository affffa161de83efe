"""The section on experiments: what stands in which cell, what is said in words, and when there is none."""

import re

import numpy as np
import pandas as pd
import pytest

from otrain_core.evaluation.experiments import EXPERIMENT_COLUMNS, PAIR_COLUMNS
from otrain_core.report.experiments import p_words, pair_sentence, side_by_side


def experiment(cube="A/one", name="paper", protocol="by-image", **values):
    telescope, pipeline = cube.split("/")
    row = {"telescope": telescope, "pipeline": pipeline, "protocol": protocol, "experiment": name}
    row |= {"cubes": 2 if telescope == "all" else 1, "seeds": 1, "n_test": 100, "n_images": 5, "errors": 10.0}
    row |= {"mcc": 0.8, "mcc_low": 0.7, "mcc_high": 0.9, "mcc_tuned_on_test": 0.85, "n_parameters": 1e5}
    return row | values


def pair(cube="A/one", **values):
    row = experiment(cube, "otrain2") | {"other": "paper", "errors": 5.0, "errors_other": 10.0, "n": 1200}
    row |= {"error_ratio": 0.5, "error_ratio_low": 0.4, "error_ratio_high": 0.61, "p_value": 1e-9}
    return row | values


def section(experiments, pairs=()):
    return side_by_side(
        pd.DataFrame(experiments, columns=list(EXPERIMENT_COLUMNS)), pd.DataFrame(pairs, columns=list(PAIR_COLUMNS))
    )


def test_nothing_to_compare_makes_no_section():
    assert section([]) is None
    assert section([experiment()]) is None
    assert section([experiment(), experiment("B/one")]) is None


@pytest.mark.parametrize("other", [{"name": "otrain2"}, {"protocol": "random"}, {"seeds": 3, "cube": "B/one"}])
def test_two_experiments_protocols_or_seeds_make_one(other):
    assert section([experiment(), experiment(**other)]) is not None


def test_every_number_is_in_its_cell():
    cubes = ("A/one", "B/one", "all/all")
    made = section(
        [
            experiment(cube, name, protocol, mcc=10 * i + j)
            for i, cube in enumerate(cubes)
            for j, (name, protocol) in enumerate((("paper", "random"), ("paper", "by-image"), ("otrain2", "by-image")))
        ]
    )
    names = [(column["experiment"], column["protocol"]) for column in made["columns"]]
    assert names == [("paper", "images never seen"), ("otrain2", "images never seen"), ("paper", "random split")]
    assert [[cell["mcc"] for cell in row["cells"]] for row in made["rows"]] == [[1, 2, 0], [11, 12, 10], [21, 22, 20]]
    assert [row["cube"] for row in made["rows"]] == ["A/one", "B/one", "all 2 cubes"]


def test_a_missing_training_leaves_an_empty_cell():
    made = section([experiment(), experiment("B/one", "otrain2")])
    assert [[cell is None for cell in row["cells"]] for row in made["rows"]] == [[False, True], [True, False]]


def test_a_pair_is_said_in_words():
    text = pair_sentence(pair("all/all")).replace("\u202f", "").replace("\u00a0", " ")
    assert text == (
        "otrain2 makes 0.50 [0.40, 0.61] times the errors of paper on the pooled test images of 2 cubes"
        " (5 against 10 of 1200 cutouts, p < 0.001)."
    )
    assert pair_sentence(pair(protocol="random")).endswith("by the paper's own protocol.")


def test_a_ratio_to_no_error_is_said_in_words():
    none = {"errors_other": 0.0, "error_ratio": np.nan, "p_value": 0.25, "n": 23}
    text = pair_sentence(pair() | none | {"errors": 3.0}).replace("\u00a0", " ")
    assert text == "otrain2 makes 3 errors on the test images where paper makes none (of 23 cutouts, p = 0.25)."
    text = pair_sentence(pair() | none | {"errors": 0.0, "n": 1, "p_value": 1.0}).replace("\u00a0", " ")
    assert text == "Neither otrain2 nor paper makes an error on the test images (of 1 cutout, p = 1.00)."


def test_words_are_for_all_cubes_and_the_rest_is_a_table():
    experiments = [experiment(cube, name) for cube in ("A/one", "B/one", "all/all") for name in ("paper", "otrain2")]
    pairs = [
        pair(cube, protocol=protocol) for cube in ("A/one", "B/one", "all/all") for protocol in ("by-image", "random")
    ]
    made = section(experiments, pairs)
    assert len(made["sentences"]) == 1 and "2 cubes" in made["sentences"][0]
    assert len(made["pair_rows"]) == 3 and len(made["pair_columns"]) == 2
    alone = section(experiments[:2], pairs[:1])
    assert len(alone["sentences"]) == 1 and alone["pair_rows"] == []


def test_steps_of_honesty():
    rows = [experiment(cube, protocol="random", mcc=0.95) for cube in ("A/one", "B/one", "all/all")]
    rows += [experiment(cube) for cube in ("A/one", "all/all")]
    made = section(rows)["honesty"]
    assert [row["steps"] for row in made["rows"]] == [[[0.95, 0.85, 0.8]], [[0.95, 0.85, 0.8]]]
    (sentence,) = made["sentences"]
    assert re.search(r"0\.950 by the paper's protocol, 0\.850 .* 0\.800", sentence)
    assert section([experiment(), experiment(name="otrain2")])["honesty"]["sentences"] == []


def test_steps_over_other_cubes_are_not_set_against_each_other():
    rows = [experiment("all/all", protocol="random", cubes=3), experiment("all/all", cubes=2)]
    assert section(rows)["honesty"]["rows"] == []


def test_costs_are_of_each_experiment_once():
    rows = [experiment(name=name, protocol=p) for name in ("paper", "otrain2") for p in ("by-image", "random")]
    rows.append(experiment(name="unknown", n_parameters=float("nan")))
    assert [row["experiment"] for row in section(rows)["costs"]] == ["paper", "otrain2"]


@pytest.mark.parametrize(
    ("p", "text"),
    [(1e-12, "p < 0.001"), (0.001, "p = 0.001"), (0.0499, "p = 0.050"), (0.5, "p = 0.50"), (1, "p = 1.00")],
)
def test_p_for_people(p, text):
    assert p_words(p).replace("\u00a0", " ") == text
