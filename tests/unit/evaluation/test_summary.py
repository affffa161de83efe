"""The two tables of a run, complete or not, and the closing table."""

import numpy as np
import pytest

from otrain_core import io
from otrain_core.evaluation.closing import closing_table
from otrain_core.evaluation.summary import (
    QUALITY_COLUMNS,
    SUMMARY_COLUMNS,
    build_summary,
    quality_row,
    summary_files,
    summary_row,
)
from otrain_core.plan.config import EvaluateOptions
from otrain_core.results import TABLES
from tests.unit.synthetic_results import summary_tables, write_results

AGREED = (
    "telescope pipeline experiment seed protocol n_images n_true n_false threshold accuracy precision recall f1 mcc mcc_low"
    " mcc_high fpr_at_1pct_missed fpr_at_5pct_missed ece false_alarms_per_image train_seconds"
)


OPTIONS = EvaluateOptions(bootstrap=200)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    return root, write_results(root, protocols=("by-image", "random"), seeds=(1, 2), failed=("I03",))


@pytest.fixture(scope="module")
def tables(run):
    return summary_tables(*run)


def test_the_agreed_columns_come_first(tables):
    assert list(tables["summary"].columns)[: len(AGREED.split())] == AGREED.split()
    assert list(tables["summary"].columns) == list(SUMMARY_COLUMNS)
    assert list(tables["quality"].columns) == list(QUALITY_COLUMNS)


def test_one_row_for_each_training_with_the_numbers_of_its_record(run, tables):
    everything, (_, made) = tables["summary"], run
    summary = everything[everything["experiment"] != "fixed-cuts"]
    assert len(summary) == len(made["runs"]) == 8
    assert not summary.duplicated(["telescope", "pipeline", "experiment", "seed", "protocol"]).any()
    assert sorted(summary["protocol"].unique()) == ["by-image", "random"]
    for folder, row in zip(made["runs"], summary.to_dict("records"), strict=True):
        headline = io.read_json(f"{folder}/metrics.json")["headline"]
        for name in ("n_images", "n_true", "threshold", "mcc", "mcc_low", "fpr_at_5pct_missed", "baseline_mcc"):
            assert row[name] == pytest.approx(headline[name], rel=1e-8), name
        assert row["mcc_low"] <= row["mcc"] <= row["mcc_high"]
        assert row["train_seconds"] == 12.5
        assert row["status"] == "ok"


def test_one_row_for_each_image_and_why_one_failed(tables):
    quality = tables["quality"].set_index("image")
    assert len(quality) == 8
    assert quality.loc["I03", "status"] == "failed"
    assert quality.loc["I03", "reason"] == "prepare: SATURATE: 61 % of the pixels are saturated"
    assert np.isnan(quality.loc["I03", "noise_spread"])
    assert quality.loc["I03", "limit_5sigma_mag"] > 15  # measured before it failed
    good = quality.drop(index="I03")
    assert (good["status"] == "ok").all()
    assert (good["zero_point_source"] == "header").all()
    assert (good["reason"] == "").all()
    assert (good["n_true"] + good["n_false"] + good["n_left_out"] == good["candidates"]).all()
    assert (
        good[["noise_spread", "flux_bias", "completeness_50_mag", "subtract_cpu_seconds", "subtract_peak_mb"]]
        .notna()
        .all(axis=None)
    )
    assert quality.loc["I03", ["psf_cpu_seconds", "cutouts_cpu_seconds"]].isna().tolist() == [False, True]


def test_a_run_that_ended_early_leaves_empty_cells(tmp_path):
    summary_files(
        cubes=["far/builtin"],
        images={"far": ["A", "B"]},
        runs=[str(tmp_path / "far/builtin/paper/seed1")],
        tables={name: tmp_path / f"{name}.csv" for name in TABLES},
        options=OPTIONS,
        seed=1,
        root=tmp_path,
    )
    summary, quality = io.read_table(tmp_path / "summary.csv"), io.read_table(tmp_path / "quality.csv")
    assert summary.loc[0, ["telescope", "experiment", "seed", "status"]].tolist() == ["far", "paper", 1, "not trained"]
    assert np.isnan(summary.loc[0, "mcc"])
    assert quality["status"].tolist() == ["not run", "not run"]
    assert quality["candidates"].isna().all()
    assert "not trained" in closing_table(summary, quality)


def test_a_failure_mark_alone_tells_the_reason(tmp_path):
    mark = {"otrain_failed": {"image": "A", "key": "WCS", "message": "no overlap", "step": "subtract"}}
    io.write_json(tmp_path / "A" / "cutouts.npz", mark)
    row = quality_row(tmp_path / "A", telescope="far", pipeline="builtin")
    assert (row["status"], row["reason"]) == ("failed", "subtract: WCS: no overlap")


def test_trained_but_not_evaluated(tmp_path):
    folder = tmp_path / "far/builtin/paper/seed3/random"
    io.write_json(folder / "train.json", {"train_seconds": 4.0})
    row = summary_row(folder)
    assert row["status"] == "not evaluated"
    assert row["train_seconds"] == 4.0
    assert (row["seed"], row["protocol"]) == (3, "random")


def test_a_run_without_any_training_has_tables_all_the_same(tmp_path):
    paths = {name: tmp_path / f"{name}.csv" for name in TABLES}
    summary_files(
        cubes=["far/builtin"], images={"far": ["A"]}, runs=[], tables=paths, options=OPTIONS, seed=1, root=tmp_path
    )
    for name in ("summary", "experiments", "mcnemar"):
        assert io.read_table(paths[name]).empty
    assert io.read_table(paths["quality"])["status"].tolist() == ["not run"]
    assert "far/builtin: 0 images" in closing_table(io.read_table(paths["summary"]), io.read_table(paths["quality"]))


def test_the_fixed_cuts_have_a_row_of_their_own(run, tables):
    summary = tables["summary"]
    rows = summary[summary["experiment"] == "fixed-cuts"]
    assert (
        sorted(rows["protocol"]) == ["by-image", "random"]
        and (rows["seed"] == 0).all()
        and (rows["status"] == "ok").all()
    )
    for row in rows.itertuples():
        mine = summary[(summary["protocol"] == row.protocol) & (summary["experiment"] != "fixed-cuts")]
        assert row.mcc == pytest.approx(mine["baseline_mcc"].iloc[0]) and row.mcc_low < row.mcc < row.mcc_high
        assert (row.n_images, row.n_true, row.n_false) == tuple(mine.iloc[0][["n_images", "n_true", "n_false"]])
        assert np.isnan(row.threshold) and np.isnan(row.gain)
        assert row.Index > mine.index.max() - 1
    assert "fixed-cuts" not in build_summary(run[1]["runs"])["experiment"].tolist()
