"""The closing table."""

import numpy as np
import pytest

from otrain_core.evaluation.closing import closing_table, main
from otrain_core.evaluation.summary import build_quality, build_summary
from otrain_core.io import write_table
from tests.unit.synthetic_results import summary_tables, write_results


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    made = write_results(root, protocols=("by-image", "random"), seeds=(1, 2), failed=("I03",))
    return summary_tables(root, made)


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
    assert (
        "\nby-image: scored on" in text and "\nrandom: random split by cutout" in text
    )  # as the column protocol has them
    assert "results/report.html" in text
    rows = [line for line in lines if line.count("[") == 2]
    assert len(rows) == (tables["summary"]["experiment"] != "fixed-cuts").sum()
    assert len({line.index("[") for line in rows}) == 1  # the MCC columns stand under each other


def test_closing_table_cuts_long_names_not_numbers(tables):
    summary = tables["summary"].assign(experiment="an_experiment_with_a_name_that_never_seems_to_end")
    text = closing_table(summary, tables["quality"])
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("]") >= 2 * len(summary) - 2  # the two rows of the fixed cuts have one each


def test_closing_table_without_anything():
    text = closing_table(build_summary([]), build_quality([]))
    assert "MLflow" in text


def test_it_is_printed_from_the_tables_of_a_run(tables, tmp_path, capsys):
    with pytest.raises(SystemExit, match="summary.csv: no such file"):
        main(tmp_path)
    for name in ("summary", "quality"):
        write_table(tmp_path / f"{name}.csv", tables[name])
    main(tmp_path)
    assert "tiny/builtin: 7 images" in capsys.readouterr().out


def test_fixed_cuts_and_what_does_not_beat_them_are_told(tables):
    summary = tables["summary"]
    lines = closing_table(summary.assign(gain_low=0.01), tables["quality"]).splitlines()
    cuts = [line for line in lines if line.startswith(" fixed-cuts")]
    assert len(cuts) == 2 and all(" - " in line and line.count("[") == 1 for line in cuts)
    assert not any(line.startswith("!") for line in lines)
    lines = closing_table(summary.assign(gain_low=-0.01, sky_unknown=1.0), tables["quality"]).splitlines()
    told = [line for line in lines if line.startswith("!")]
    by_image = summary[(summary["protocol"] == "by-image") & (summary["experiment"] != "fixed-cuts")]
    assert len(told) == len(by_image) + 1 and max(map(len, told)) <= 100
    assert told[0].startswith("! tiny/builtin paper seed 1: does not beat the fixed cuts") and "same sky" in told[-1]


def test_the_shipped_model_has_a_row_and_is_compared_with(tmp_path):
    made = write_results(tmp_path, shipped=6.0, experiments=("otrain2",), failed=(), n_images=24)
    summary = build_summary(made["runs"], rivals=True)
    assert summary["experiment"].tolist() == ["otrain2", "universal", "fixed-cuts"]
    ours, shipped = summary.iloc[0], summary.iloc[1]
    assert shipped["mcc"] == ours["shipped_mcc"] > ours["mcc"] and shipped["threshold"] == 0.5
    assert ours["shipped_gain"] == pytest.approx(ours["mcc"] - shipped["mcc"]) and np.isnan(shipped["shipped_gain"])
    lines = closing_table(summary, build_quality([])).splitlines()
    assert sum(line.startswith(" universal") for line in lines) == 1
    told = [line for line in lines if line.startswith("! ")]
    assert "does not beat the shipped model; gain in MCC -0." in told[-1] and max(map(len, told)) <= 100
    assert any("shipped model, the default of otrain classify" in line for line in lines)


def test_one_image_is_not_several(tables):
    text = closing_table(tables["summary"], tables["quality"][:1])
    assert "tiny/builtin: 1 image, 110 candidates" in text
