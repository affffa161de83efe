"""The two tables of a run, complete or not, and the closing table."""

import shutil

import numpy as np
import pytest

from otrain_core import io
from otrain_core.evaluation.summary import (
    QUALITY_COLUMNS,
    SUMMARY_COLUMNS,
    TABLES,
    build_quality,
    build_summary,
    closing_table,
    quality_row,
    summary_row,
    tune_mcc,
)
from otrain_core.results import read_benchmark, run_keys
from scripts.evaluation.summary import main
from tests.unit.synthetic_results import BENCHMARK, write_results

AGREED = (
    "telescope pipeline experiment seed protocol n_images n_true n_false threshold accuracy precision recall f1 mcc mcc_low"
    " mcc_high fpr_at_1pct_missed fpr_at_5pct_missed ece false_alarms_per_image train_seconds"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    return root, write_results(root, protocols=("grouped", "paper"), seeds=(1, 2), failed=("I03",))


@pytest.fixture(scope="module")
def tables(run):
    root, made = run
    paths = {name: root / f"{name}.csv" for name in TABLES}
    main(cubes=["tiny/builtin"], images={"tiny": made["images"]}, runs=made["runs"], root=root, **paths)
    return {name: io.read_table(path) for name, path in paths.items()}


def test_the_agreed_columns_come_first(tables):
    assert list(tables["summary"].columns)[: len(AGREED.split())] == AGREED.split()
    assert list(tables["summary"].columns) == list(SUMMARY_COLUMNS)
    assert list(tables["quality"].columns) == list(QUALITY_COLUMNS)


def test_one_row_for_each_training_with_the_numbers_of_its_record(run, tables):
    summary, (_, made) = tables["summary"], run
    assert len(summary) == len(made["runs"]) == 8
    assert not summary.duplicated(["telescope", "pipeline", "experiment", "seed", "protocol"]).any()
    assert sorted(summary["protocol"].unique()) == ["grouped", "paper"]
    for folder, row in zip(made["runs"], summary.to_dict("records"), strict=True):
        headline = io.read_json(f"{folder}/metrics.json")["headline"]
        for name in ("n_images", "n_true", "threshold", "mcc", "mcc_low", "fpr_at_5pct_missed", "baseline_mcc"):
            assert row[name] == pytest.approx(headline[name], rel=1e-8), name
        assert row["mcc_low"] <= row["mcc"] <= row["mcc_high"]
        assert row["train_seconds"] == 12.5
        assert row["status"] == "ok"


def test_the_mcc_on_tune_is_that_of_the_models_own_threshold(run, tables):
    for folder, row in zip(run[1]["runs"], tables["summary"].to_dict("records"), strict=True):
        assert row["mcc_tune"] == pytest.approx(tune_mcc(folder), nan_ok=True)
    folder = run[1]["runs"][0]
    scores, threshold = io.read_table(f"{folder}/scores.csv"), io.read_json(f"{folder}/metrics.json")["headline"]
    tune = scores[scores["set"] == "tune"]
    called = tune["score"] >= threshold["threshold"]
    assert tune_mcc(folder) == pytest.approx(np.corrcoef(called, tune["label"])[0, 1])


@pytest.mark.parametrize("removed", ["scores.csv", "metrics.json"])
def test_the_mcc_on_tune_is_unknown_without_scores(run, tmp_path, removed):
    shutil.copytree(run[1]["runs"][0], tmp_path / "seed1")
    (tmp_path / "seed1" / removed).unlink()
    assert np.isnan(tune_mcc(tmp_path / "seed1"))


def test_one_row_for_each_image_and_why_one_failed(tables):
    quality = tables["quality"].set_index("image")
    assert len(quality) == 8
    assert quality.loc["I03", "status"] == "failed"
    assert quality.loc["I03", "reason"] == "prepare: SATURATE: 61 % of the pixels are saturated"
    assert np.isnan(quality.loc["I03", "noise_spread"])
    assert quality.loc["I03", "limit_5sigma_mag"] > 15  # measured before it failed
    good = quality.drop(index="I03")
    assert (good["status"] == "ok").all()
    assert (good["reason"] == "").all()
    assert (good["n_true"] + good["n_false"] + good["n_left_out"] == good["candidates"]).all()
    assert (
        good[["noise_spread", "flux_bias", "completeness_50_mag", "subtract_cpu_seconds", "subtract_peak_mb"]]
        .notna()
        .all(axis=None)
    )
    assert quality.loc["I03", ["psf_cpu_seconds", "cutouts_cpu_seconds"]].isna().tolist() == [False, True]


def test_a_run_that_ended_early_leaves_empty_cells(tmp_path):
    main(
        cubes=["far/builtin"],
        images={"far": ["A", "B"]},
        runs=[str(tmp_path / "far/builtin/paper/seed1")],
        root=tmp_path,
        **{name: tmp_path / f"{name}.csv" for name in TABLES},
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
    folder = tmp_path / "far/builtin/paper/seed3/random_split"
    io.write_json(folder / "train.json", {"train_seconds": 4.0})
    row = summary_row(folder)
    assert row["status"] == "not evaluated"
    assert row["train_seconds"] == 4.0
    assert (row["seed"], row["protocol"]) == (3, "paper")


@pytest.mark.parametrize("folder", ["seed1", "a/b/c/d", "a/b/c/seedx", "a/b/seed1", "a/b/c/seed1/other"])
def test_folders_that_are_no_training(folder):
    with pytest.raises(ValueError, match="not the folder of a training"):
        run_keys(folder)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2.5\t0:00:02\t210.5\t9\t9\t9\t0\t0\t80\t1.75", (1.75, 210.5)),
        ("0.4\t0:00:00\tNA\tNA\tNA\tNA\tNA\tNA\tNA\tNA", (0.4, np.nan)),
        ("0.4\t0:00:00\t-\t-\t-\t-\t-\t-\t0\t0", (0.4, np.nan)),
    ],
)
def test_benchmark_files(tmp_path, line, expected):
    (tmp_path / "a.tsv").write_text(f"{BENCHMARK}{line}\n")
    np.testing.assert_equal(read_benchmark(tmp_path / "a.tsv"), expected)


@pytest.mark.parametrize("text", ["", "s\n"])
def test_broken_benchmark_file_is_no_number(tmp_path, text):
    (tmp_path / "a.tsv").write_text(text)
    assert np.isnan(read_benchmark(tmp_path / "a.tsv")).all()
    assert np.isnan(read_benchmark(tmp_path / "b.tsv")).all()


def test_closing_table_is_aligned_and_fits(tables):
    text = closing_table(tables["summary"], tables["quality"], report="results/report.html")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    row = tables["summary"].iloc[0]
    assert f"{row['mcc']:.3f} [{row['mcc_low']:.3f}, {row['mcc_high']:.3f}]" in text
    assert f"{row['n_true']}/{row['n_false']}" in text
    assert "tiny/builtin: 7 images" in text
    assert "1 image failed" in text
    assert "FPR at recall 95 %" in text
    assert "results/report.html" in text
    rows = [line for line in lines if line.count("[") == 2]
    assert len(rows) == len(tables["summary"])
    assert len({line.index("[") for line in rows}) == 1  # the MCC columns stand under each other


def test_closing_table_cuts_long_names_not_numbers(tables):
    summary = tables["summary"].assign(experiment="an_experiment_with_a_name_that_never_seems_to_end")
    text = closing_table(summary, tables["quality"])
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("]") >= 2 * len(summary)


def test_closing_table_without_anything():
    text = closing_table(build_summary([]), build_quality([]))
    assert "MLflow" in text
