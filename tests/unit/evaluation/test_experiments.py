"""Experiments side by side and in pairs, against counts made by hand."""

import shutil

import numpy as np
import pandas as pd
import pytest

from otrain_core import io
from otrain_core.evaluation import experiments
from otrain_core.evaluation.bootstrap import bootstrap_intervals
from otrain_core.evaluation.experiments import (
    EXPERIMENT_COLUMNS,
    PAIR_COLUMNS,
    Training,
    read_training,
    read_trainings,
)
from tests.unit.synthetic_results import summary_tables, write_results


def training(wrong, *, cube=("A", "one"), experiment="ours", seed=1, protocol="by-image", n=200, images=10, costs=1.0):
    """A training that calls the cutouts `wrong` wrongly; cutout k is of image k % images, True where k is odd."""
    k = np.arange(n)
    label = (k // images) % 2 == 1
    called = np.where(np.isin(k, wrong), ~label, label)
    cutouts = pd.DataFrame(
        {"image": [f"{cube[0]}:{i:02d}" for i in k % images], "label": label, "called": called, "called_tuned": label},
        index=[f"{cube[0]}/{cube[1]}:{i}" for i in k],
    )
    names = ("n_parameters", "flops_per_cutout", "cpu_seconds", "cutouts_per_second")
    return Training(cube, protocol, experiment, seed, cutouts, dict.fromkeys(names, costs))


def compare_experiments(trainings, *, rng, draws=1000):
    return experiments.compare_experiments(trainings, rng=rng, draws=draws, confidence=0.95)


def compare_pairs(trainings, *, rng, draws=1000):
    return experiments.compare_pairs(trainings, rng=rng, draws=draws, confidence=0.95)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_errors_are_means_over_seeds(rng):
    table = compare_experiments([training(range(10)), training(range(20), seed=2, costs=3.0)], rng=rng, draws=300)
    assert list(table.columns) == list(EXPERIMENT_COLUMNS)
    row = table.iloc[0]
    assert (row["cubes"], row["seeds"], row["n_test"], row["n_images"]) == (1, 2, 200, 10)
    assert row["errors"] == 15 and row["error_rate"] == pytest.approx(0.075)
    # Seed 1 takes 10 of 100 False for True, seed 2 also misses 10 of 100 True.
    assert row["fpr"] == pytest.approx(0.1) and row["recall"] == pytest.approx(0.95)
    mcc = [(100 * 90) / np.sqrt(110 * 100 * 100 * 90), (90 * 90 - 100) / 1e4]
    assert row["mcc"] == pytest.approx(np.mean(mcc)) and row["mcc_sd"] == pytest.approx(np.std(mcc, ddof=1))
    assert row["mcc_tuned_on_test"] == 1.0
    assert row["cpu_seconds"] == 2.0
    assert len(table) == 1  # one cube: no rows over all


def test_intervals_are_those_of_a_bootstrap_by_image(rng):
    one = training(np.random.default_rng(0).choice(200, 30, replace=False))
    row = compare_experiments([one], rng=np.random.default_rng(8), draws=500).iloc[0]
    cutouts = one.cutouts
    wanted = bootstrap_intervals(
        cutouts["label"],
        cutouts["called"].astype(float),
        cutouts["image"],
        0.5,
        rng=np.random.default_rng(8),
        draws=500,
        confidence=0.95,
        stated_recall=0.95,
    )
    assert (row["mcc_low"], row["mcc_high"]) == pytest.approx(wanted["mcc"])
    assert (row["error_rate_high"], row["error_rate_low"]) == pytest.approx([1 - v for v in wanted["accuracy"]])


def test_one_image_leaves_the_interval_to_the_counts(rng):
    both = [training(range(5), images=1), training(range(9), images=1, experiment="theirs")]
    assert compare_experiments(both, rng=rng)[["mcc_low", "mcc_high", "error_rate_low"]].notna().all(axis=None)
    assert compare_pairs(both, rng=rng)["error_ratio_low"].isna().all()


def test_a_pair_by_hand(rng):
    # Both wrong on 0 to 3; ours alone on 4, theirs alone on 10 to 18: one against nine of ten.
    both = [training([0, 1, 2, 3, 4], experiment="ours"), training([0, 1, 2, 3, *range(10, 19)], experiment="theirs")]
    table = compare_pairs(both[::-1], rng=rng, draws=400)
    assert list(table.columns) == list(PAIR_COLUMNS)
    row = table.iloc[0]
    assert (row["experiment"], row["other"], row["n"], row["seeds"]) == ("ours", "theirs", 200, 1)  # the later first
    assert (row["errors"], row["errors_other"]) == (5, 13)
    assert (row["only_experiment_wrong"], row["only_other_wrong"]) == (1, 9)
    assert row["error_ratio"] == pytest.approx(5 / 13)
    assert row["error_ratio_low"] < 5 / 13 < row["error_ratio_high"]
    assert row["p_value"] == pytest.approx(2 * (1 + 10) / 2**10)


def test_the_largest_p_over_seeds_is_given_and_counts_are_not_added_up(rng):
    pairs = [training([0], seed=seed) for seed in (1, 2, 3)]
    pairs += [training([0, *range(10, 19)], seed=1, experiment="theirs")]
    pairs += [training([0, *range(10, 16)], seed=2, experiment="theirs")]
    row = compare_pairs(pairs, rng=rng).iloc[0]
    assert row["seeds"] == 2  # the third has no partner
    assert row["p_value"] == pytest.approx(2 / 2**6)
    assert row["only_experiment_wrong"] == 7.5  # theirs is the later: 9 and 6


def test_errors_that_come_image_by_image_widen_the_interval(rng):
    spread, heaped = range(0, 200, 7), range(0, 200, 10)
    other = training(range(1, 200, 9), experiment="zero")
    widths = []
    for wrong in (spread, [*heaped, *range(1, 90, 10)]):
        row = compare_pairs([other, training(wrong)], rng=np.random.default_rng(1)).iloc[0]
        widths.append((row["error_ratio_high"] - row["error_ratio_low"]) / row["error_ratio"])
    assert widths[1] > 2 * widths[0]


def test_rows_over_all_cubes_draw_shared_images_once(rng):
    cubes = [("A", "one"), ("A", "two"), ("B", "one")]
    runs = [training(range(5 + k), cube=cube, experiment=e) for k, cube in enumerate(cubes) for e in ("p", "q")]
    table = compare_experiments(runs, rng=rng)
    assert table[["telescope", "pipeline"]].drop_duplicates().to_numpy().tolist() == [*map(list, cubes), ["all", "all"]]
    row = table[table["telescope"] == "all"].iloc[0]
    assert (row["cubes"], row["n_test"], row["n_images"]) == (3, 600, 20)  # A's images are shared by its pipelines
    assert row["errors"] == 5 + 6 + 7
    pair = compare_pairs(runs, rng=rng).set_index("telescope").loc["all"]
    assert (pair["n"], pair["n_images"], pair["p_value"]) == (600, 20, 1.0)


def test_half_a_run_is_compared_as_far_as_it_goes(rng):
    cubes = [("A", "one"), ("B", "one")]
    runs = [training(range(5), cube=cube, seed=seed) for cube in cubes for seed in (1, 2)]
    runs += [training(range(9), cube=cubes[0], seed=2, experiment="late")]
    table = compare_experiments(runs, rng=rng).set_index(["telescope", "experiment"])
    assert table.loc[("all", "ours"), "cubes"] == 2
    assert ("all", "late") not in table.index
    pairs = compare_pairs(runs, rng=rng)
    assert pairs[["telescope", "seeds"]].to_numpy().tolist() == [["A", 1]]
    apart = [training(range(5), cube=cubes[0], seed=1), training(range(5), cube=cubes[1], seed=2)]
    assert "all" not in compare_experiments(apart, rng=rng)["telescope"].tolist()  # no seed that both cubes have


def test_no_errors_make_no_ratio(rng):
    row = compare_pairs([training([], experiment="perfect"), training([1])], rng=rng).iloc[0]
    assert np.isnan([row["error_ratio"], row["error_ratio_low"]]).all()
    assert row["p_value"] == 1.0


def test_cutouts_of_one_training_only_are_left_out(rng):
    short = training(range(5), experiment="short", n=150)
    row = compare_pairs([training(range(140, 200)), short], rng=rng).iloc[0]
    assert (row["n"], row["errors_other"]) == (150, 10)


def test_nothing_gives_empty_tables(rng):
    assert list(compare_experiments([], rng=rng).columns) == list(EXPERIMENT_COLUMNS)
    assert compare_pairs([], rng=rng).empty


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    return root, write_results(root, protocols=("by-image", "random"), seeds=(1, 2))


def test_a_training_is_read_at_its_own_threshold(run):
    folder = run[1]["runs"][0]
    record, scores = io.read_json(f"{folder}/metrics.json"), io.read_table(f"{folder}/scores.csv")
    one = read_training(folder)
    assert len(one.cutouts) == (scores["set"] == "test").sum()
    errors = (one.cutouts["called"] != one.cutouts["label"]).sum()
    assert errors == record["confusion"]["fp"] + record["confusion"]["fn"]
    tuned = (one.cutouts["called_tuned"] != one.cutouts["label"]).sum()
    assert tuned <= errors
    assert one.costs["n_parameters"] == 123456 and np.isnan(one.costs["flops_per_cutout"])
    assert one.cutouts["image"].str.startswith("tiny:").all() and one.cutouts.index.is_unique


def test_under_the_papers_protocol_the_threshold_is_set_on_what_is_scored(run):
    paper = [folder for folder in run[1]["runs"] if folder.endswith("random")][0]
    cutouts = read_training(paper).cutouts
    assert (cutouts["called"] == cutouts["called_tuned"]).all()


@pytest.mark.parametrize("removed", ["scores.csv", "metrics.json"])
def test_a_training_that_is_not_done_is_skipped(run, tmp_path, removed):
    shutil.copytree(run[0] / "tiny", tmp_path / "tiny")
    folders = [folder.replace(str(run[0]), str(tmp_path)) for folder in run[1]["runs"]]
    (tmp_path / "tiny/builtin/paper/seed1" / removed).unlink()
    assert len(read_trainings(folders)) == len(folders) - 1


def test_the_step_writes_both_tables(run):
    root, made = run
    made = summary_tables(root, made)
    table, pairs = made["experiments"], made["mcnemar"]
    assert len(table) == len(table[["protocol", "experiment"]].drop_duplicates()) == 4
    assert (pairs["experiment"] == "otrain2").all() and (pairs["other"] == "paper").all()
    assert pairs["protocol"].tolist() == ["by-image", "random"]
    summary = made["summary"]
    mean = summary.groupby(["protocol", "experiment"])["mcc"].mean()
    for row in table.itertuples():
        assert row.mcc == pytest.approx(mean[row.protocol, row.experiment])
        assert row.mcc_low <= row.mcc <= row.mcc_high and row.mcc_low < row.mcc_high
