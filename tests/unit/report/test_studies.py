"""Transfer, fine-tuning, suspected labels and neighbours in the report, from the tables that a run left."""

import numpy as np
import pandas as pd
import pytest

from otrain_core import io
from otrain_core.report.studies import (
    finetune_part,
    label_noise_part,
    neighbour_sentence,
    read_studies,
    source_name,
    transfer_part,
)
from otrain_core.studies import finetune, transfer

CUBES = ["B/one", "A/one"]
ASKED = {"cubes": CUBES, "experiments": ["paper", "otrain2"], "seeds": [1, 2]}


def transfer_row(source, target, mcc, relation, **values):
    row = {"source": source, "target": target, "experiment": "otrain2", "seed": 1, "relation": relation}
    return row | {"mcc": mcc, "mcc_validation": mcc + 0.05} | values


@pytest.fixture
def root(tmp_path):
    for seed in (1, 2, 9):
        rows = [
            transfer_row("A/one", "A/one", 0.9, "own"),
            transfer_row("A/one", "B/one", 0.5 + 0.1 * seed, "telescope"),
        ]
        rows.append(transfer_row("A/one", "gone/one", 0.1, "telescope"))
        table = pd.DataFrame(rows).assign(seed=seed).reindex(columns=list(transfer.TRANSFER_COLUMNS))
        io.write_table(tmp_path / f"A/one/otrain2/seed{seed}/transfer.csv", table)
    rows = [
        transfer_row("pool/one", "A/one", 0.8, "pooled"),
        transfer_row("pool-without-A/one", "A/one", 0.7, "left-out"),
    ]
    for row in rows:
        table = pd.DataFrame([row]).reindex(columns=list(transfer.TRANSFER_COLUMNS))
        io.write_table(tmp_path / row["source"] / "otrain2/seed1/transfer.csv", table)
    return tmp_path


def test_only_what_belongs_to_the_run_is_read(root):
    table = read_studies(root, "transfer", **ASKED)
    assert set(table["target"]) == {"A/one", "B/one"} and set(table["seed"]) == {1, 2}
    assert set(table["source"]) == {"A/one", "pool/one", "pool-without-A/one"}
    assert read_studies(root, "finetune", **ASKED).empty
    assert read_studies(root, "transfer", **ASKED | {"experiments": ["paper"]}).empty


def test_the_matrix_has_sources_down_and_targets_across(root):
    (part,) = transfer_part(read_studies(root, "transfer", **ASKED), CUBES)
    assert part["targets"] == CUBES
    assert [row["source"] for row in part["rows"]] == ["A/one", "all telescopes, one", "all but A, one"]
    values = np.array([[cell["mcc"] for cell in row["cells"]] for row in part["rows"]])
    np.testing.assert_allclose(values, [[0.65, 0.9], [np.nan, 0.8], [np.nan, 0.7]])  # means over seeds
    assert [[cell["seen"] for cell in row["cells"]] for row in part["rows"]] == [
        [False, True],
        [False, True],
        [False] * 2,
    ]
    shades = [row["cells"][1]["shade"] for row in part["rows"]]
    assert shades == sorted(shades, reverse=True) and part["rows"][1]["cells"][0]["shade"] == 0
    means = {row["relation"]: (row["mcc"], row["mcc_validation"]) for row in part["means"]}
    assert means["one other telescope"] == pytest.approx((0.65, 0.7))
    assert means["all other telescopes"] == pytest.approx((0.7, 0.75))
    assert "another pipeline of the same telescope" not in means


def test_fine_tuning_is_averaged_over_seeds():
    rows = [
        {"source": "pool-without-A/one", "target": "A/one", "experiment": "otrain2", "seed": seed, "n_labels": n}
        | {"mcc": mcc + 0.02 * seed, "mcc_low": mcc, "mcc_high": mcc + 0.1}
        for n, mcc in ((0, 0.6), (50, 0.7))
        for seed in (1, 2)
    ]
    summary = pd.DataFrame({"telescope": "A", "pipeline": "one", "experiment": "otrain2", "mcc": [0.9, 0.8, 0.1]})
    summary["protocol"] = ["by-image", "by-image", "random"]
    made = finetune_part(pd.DataFrame(rows).reindex(columns=list(finetune.FINETUNE_COLUMNS)), summary)
    assert made["sizes"] == [0, 50]
    (row,) = made["rows"]
    assert row["cells"][1] == pytest.approx({"mcc": 0.73, "mcc_low": 0.7, "mcc_high": 0.8})
    assert row["full"] == pytest.approx(0.85) and row["source"] == "all but A, one"
    assert finetune_part(pd.DataFrame(), summary) is None


def test_suspected_labels_and_the_trial_are_told(tmp_path):
    assert label_noise_part(tmp_path, ["otrain2"]) == []
    record = {"n": 1000, "n_suspected": 30, "n_suspected_false": 20, "n_suspected_true": 10}
    place = tmp_path / "otrain2/label_noise"
    io.write_json(place / "label_noise.json", record)
    (part,) = label_noise_part(tmp_path, ["paper", "otrain2"])
    assert part["picture"] is None and len(part["lines"]) == 1
    assert "20 labelled False, 10 labelled True" in part["lines"][0]
    trial = {"fraction": 0.1, "mcc_clean": 0.9, "mcc_flipped": 0.885, "mcc_cleaned": 0.895}
    trial["found"] = {"recall_at_precision_80": 0.84}
    io.write_json(place / "label_noise.json", record | {"trial": trial})
    (place / "suspects.png").write_bytes(b"png")
    (part,) = label_noise_part(tmp_path, ["otrain2"])
    assert part["picture"].startswith("data:image/png;base64,")
    for words in ("10 % of the labels", "from 0.900 to 0.885", "0.895 without the suspects", "84 % of the flips"):
        assert words in part["lines"][1]


def test_the_neighbour_test_is_told():
    tried = {"n": 400, "n_neighbours": 80, "decisions_changed": 0.025}
    tried |= {"median_abs_logit_change": 0.21, "median_abs_logit_control": 0.09}
    text = neighbour_sentence({"neighbours": {"all": tried}})
    assert "80 of 400" in text and "2.5 % of them" in text and "0.21" in text and "0.09" in text
    assert "None of the 400" in neighbour_sentence({"neighbours": {"all": {"n": 400, "n_neighbours": 0}}})
    assert neighbour_sentence({}) == ""


@pytest.mark.parametrize(
    ("source", "name"),
    [("A/one", "A/one"), ("pool/one", "all telescopes, one"), ("pool-without-A/one", "all but A, one")],
)
def test_names_of_sources(source, name):
    assert source_name(source) == name


def test_a_half_finished_sweep_is_shown_with_what_it_has(tmp_path):
    from otrain_core.io import write_table
    from otrain_core.report.studies import sweep_parts
    from otrain_core.studies.sweep import SWEEP_COLUMNS

    table = pd.DataFrame(index=range(3), columns=list(SWEEP_COLUMNS))
    table = table.assign(sweep="size", option="size", telescope="T", pipeline="p", experiment="otrain2", seed=1)
    table["value"], table["mcc"] = [15, 23, 31], [0.8, 0.9, np.nan]
    (tmp_path / "studies").mkdir()
    write_table(tmp_path / "studies" / "size.csv", table)
    (part,) = sweep_parts(tmp_path, ["size", "not_run"])
    assert (part["n_done"], part["n"], part["option"]) == (2, 3, "size")
    assert part["figure"].startswith("data:image/png;base64,")
