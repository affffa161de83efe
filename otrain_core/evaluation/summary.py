"""The two tables of a run: one row for each training, one row for each image.

Both are built from whatever exists: a file that a run never wrote leaves empty cells.
``python -m otrain_core.evaluation.summary results`` prints the closing table of a run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.evaluation import metrics
from otrain_core.io import read_table
from otrain_core.results import (
    RUN_KEYS,
    STEPS,
    number,
    read_benchmark,
    read_failure,
    read_record,
    read_scores,
    run_keys,
)

COUNTS = ("n_images", "n_true", "n_false")
# Columns after train_seconds go beyond what others rely on.
SUMMARY_COLUMNS = (
    *RUN_KEYS,
    *COUNTS,
    *("threshold", "accuracy", "precision", "recall", "f1", "mcc", "mcc_low", "mcc_high"),
    *("fpr_at_1pct_missed", "fpr_at_5pct_missed", "ece", "false_alarms_per_image", "train_seconds"),
    *("stated_recall", "fpr_at_stated_recall", "fpr_at_stated_recall_low", "fpr_at_stated_recall_high"),
    *("fpr", "fp_share", "auc", "baseline_mcc"),
    *("n_real", "recall_real", "recall_injected", "reality_gap", "reality_gap_low", "reality_gap_high"),
    *("mcc_tune", "status"),
)
TABLES = (  # what a run closes with
    *("summary", "quality", "pipelines", "artefacts", "telescopes"),
    *("experiments", "mcnemar"),
)
QUALITY_COLUMNS = (
    *("telescope", "pipeline", "image", "status", "reason"),
    *("noise_spread", "flux_bias", "completeness_50_mag", "limit_5sigma_mag", "seeing_arcsec"),
    *("candidates", "n_true", "n_false", "n_left_out", "n_edge", "n_injected", "n_recovered"),
    *("bright_injected", "bright_recovered", "near_injection_false", "candidates_per_sq_deg"),
    *("subtraction", "align_scatter_px", "star_residual", "stamp_chi2", "pixel_scale", "field_sq_deg"),
    *(f"{step}_{what}" for step in STEPS for what in ("cpu_seconds", "peak_mb")),
)
_WIDTH = 100  # columns of the closing table
QUALITY_COUNTS = (
    *("candidates", "n_true", "n_false", "n_left_out", "n_edge", "n_injected", "n_recovered"),
    *("bright_injected", "bright_recovered", "near_injection_false"),
)


def tune_mcc(folder: str | Path) -> float:
    """MCC of a training on tune at its own threshold, by which the best training is chosen; NaN where unknown.

    A choice by test would flatter what is then read from test. Under the protocol ``paper`` nothing
    is tune: NaN.
    """
    scores, record = read_scores(folder), read_record(Path(folder) / "metrics.json")
    threshold = number(record.get("headline") or {}, "threshold")
    if scores is None or not np.isfinite(threshold):
        return np.nan
    tune = scores[scores["set"] == "tune"]
    if tune.empty:
        return np.nan
    return metrics.rates(**metrics.confusion(tune["label"], tune["score"], threshold))["mcc"]


def summary_row(folder: str | Path) -> dict[str, Any]:
    """Row of one training, from ``metrics.json`` and ``train.json`` in its folder.

    ``status`` is ok, not evaluated (no metrics) or not trained (no record of a training).
    """
    train = read_record(Path(folder) / "train.json")
    headline = read_record(Path(folder) / "metrics.json").get("headline") or {}
    row = {name: number(headline, name) for name in SUMMARY_COLUMNS}
    row |= {**run_keys(folder), "mcc_tune": tune_mcc(folder)}
    if np.isnan(row["train_seconds"]):
        row["train_seconds"] = number(train, "train_seconds")
    row["status"] = "ok" if headline else "not evaluated" if train else "not trained"
    return row


def build_summary(folders: Iterable[str | Path]) -> pd.DataFrame:
    """One row for each training, in the order given.

    Parameters
    ----------
    folders : iterable of path-like
        Folders of trainings, telescope/pipeline/experiment/seedN[/random_split].

    Returns
    -------
    pandas.DataFrame
        Columns `SUMMARY_COLUMNS`; counts are nullable integers.
    """
    rows = [summary_row(folder) for folder in folders]
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS)).astype(dict.fromkeys(COUNTS, "Int64"))


def _failure_of(folder: Path, failures: Iterable[Path]) -> dict[str, Any] | None:
    for path in failures:
        record = read_record(path)
        if "message" in record:
            return record
    for name in ("psf.json", "injected.csv", "subtract.json", "candidates.csv", "labelled.csv", "cutouts.npz"):
        if record := read_failure(folder / name):
            return record
    return None


def quality_row(
    folder: str | Path,
    *,
    telescope: str,
    pipeline: str,
    failures: Iterable[str | Path] = (),
    benchmarks: Iterable[str | Path] = (),
) -> dict[str, Any]:
    """Row of one image.

    Parameters
    ----------
    folder : path-like
        Folder of the image: psf.json, subtract.json, crossmatch.json, cutouts.npz; its last
        part is the name of the image.
    telescope, pipeline : str
    failures, benchmarks : iterable of path-like
        Folders with ``{step}.json`` of failed steps, and with ``{step}.tsv`` of Snakemake.

    Returns
    -------
    dict
        ``status`` is ok, failed (``reason``: step, key and message) or not run.
    """
    folder = Path(folder)
    psf, subtract, crossmatch = (read_record(folder / f"{name}.json") for name in ("psf", "subtract", "crossmatch"))
    row: dict[str, Any] = {"telescope": telescope, "pipeline": pipeline, "image": folder.name}
    found = [Path(part) / f"{step}.json" for step in STEPS for part in failures]
    failure = _failure_of(folder, found)
    if failure is not None:
        row["status"] = "failed"
        row["reason"] = f"{failure.get('step', '?')}: {failure.get('key', '?')}: {failure.get('message', '')}"
    elif (folder / "cutouts.npz").exists():
        row |= {"status": "ok", "reason": ""}
    else:
        row |= {"status": "not run", "reason": "the run ended before this image was done"}
    row["noise_spread"] = number(subtract, "noise_spread")
    row["limit_5sigma_mag"] = number(psf, "limit_mag")
    row["seeing_arcsec"] = number(psf, "seeing_arcsec")
    row["candidates"] = number(crossmatch, "n_candidates")
    row["n_edge"] = number(crossmatch.get("left_out") or {}, "edge")
    for name in (*QUALITY_COUNTS[1:4], *QUALITY_COUNTS[5:], "flux_bias", "completeness_50_mag"):
        row[name] = number(crossmatch, name)
    row["subtraction"] = subtract.get("method", "")
    row["align_scatter_px"] = number(subtract, "align_scatter")
    row |= {name: number(subtract, name) for name in ("star_residual", "stamp_chi2")}
    row["pixel_scale"] = number(psf, "pixel_scale")
    row["field_sq_deg"] = number(psf, "width") * number(psf, "height") * (row["pixel_scale"] / 3600) ** 2
    row["candidates_per_sq_deg"] = row["candidates"] / row["field_sq_deg"]
    for step in STEPS:
        times = [read_benchmark(Path(part) / f"{step}.tsv") for part in benchmarks]
        cpu, memory = next((pair for pair in times if np.isfinite(pair[0])), (np.nan, np.nan))
        row[f"{step}_cpu_seconds"], row[f"{step}_peak_mb"] = cpu, memory
    return row


def build_quality(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of `quality_row` as a table with columns `QUALITY_COLUMNS`; counts are nullable integers."""
    return pd.DataFrame(list(rows), columns=list(QUALITY_COLUMNS)).astype(dict.fromkeys(QUALITY_COUNTS, "Int64"))


def closing_table(
    summary: pd.DataFrame,
    quality: pd.DataFrame,
    *,
    report: str = "results/report.html",
    store: str = "results/mlflow.db",
) -> str:
    """What a run ends with on the terminal, at most 100 columns wide.

    True, False, MCC and FPR are those of the images the model never saw (protocol grouped)
    or, for protocol paper, of the set it was tuned on; intervals are in brackets.
    """
    recalls = summary["stated_recall"].dropna().unique()
    recall = f"recall {100 * recalls[0]:g} %" if len(recalls) == 1 else "stated recall"
    header = ("experiment", "seed", "protocol", "images", "True/False", "thr.", "MCC", f"FPR at {recall}")
    cubes = list(dict.fromkeys([*_cubes(quality), *_cubes(summary)]))
    blocks: list[tuple[str, list[tuple[str, ...]]]] = []
    for telescope, pipeline in cubes:
        rows = summary[(summary["telescope"] == telescope) & (summary["pipeline"] == pipeline)]
        blocks.append((_cube_line(telescope, pipeline, quality), [_cells(row) for row in rows.to_dict("records")]))
    everything = [header, *(cells for _, rows in blocks for cells in rows)]
    widths = [max(len(cells[i]) for cells in everything) for i in range(len(header))]
    widths[0] = min(widths[0], _WIDTH + 1 - 2 * len(header) - sum(widths[1:]))  # a long name gives way to the numbers

    def line(cells: tuple[str, ...]) -> str:
        return (
            " " + "  ".join(f"{_fit(cell, width):<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
        )

    lines = [line(header), "-" * _WIDTH]
    for title, rows in blocks:
        lines += [_fit(title, _WIDTH), *map(line, rows)]
    lines += ["-" * _WIDTH, *_legend(summary), f"report  {report}", f"MLflow  {store}  (make ui)"]
    return "\n".join(lines)


def _cubes(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(table[["telescope", "pipeline"]].drop_duplicates().itertuples(index=False, name=None))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    name, seed, protocol = str(row["experiment"]), str(row["seed"]), str(row["protocol"])
    if row["status"] != "ok":
        return name, seed, protocol, "", "", "", str(row["status"]), ""
    counts = f"{_count(row['n_true'])}/{_count(row['n_false'])}"
    mcc, fpr = _interval(row, "mcc"), _interval(row, "fpr_at_stated_recall")
    return name, seed, protocol, _count(row["n_images"]), counts, _value(row["threshold"]), mcc, fpr


def _cube_line(telescope: str, pipeline: str, quality: pd.DataFrame) -> str:
    rows = quality[(quality["telescope"] == telescope) & (quality["pipeline"] == pipeline)]
    if rows.empty:
        return f"{telescope}/{pipeline}"
    good = rows[rows["status"] == "ok"]
    candidates, n_true, n_false, left_out = (
        int(good[name].sum()) for name in ("candidates", "n_true", "n_false", "n_left_out")
    )
    text = f"{telescope}/{pipeline}: {len(good)} images, {candidates} candidates: {n_true} True, {n_false} False"
    text += f", {left_out} left out"
    failed = len(rows) - len(good)
    return text + (f"; {failed} image{'s' if failed > 1 else ''} failed" if failed else "")


def _legend(summary: pd.DataFrame) -> list[str]:
    lines = ["images, True/False, MCC, FPR: of the scored set, with intervals over images in brackets"]
    if (summary["protocol"] == "grouped").any():
        lines.append("grouped: scored on images the model never saw, threshold set on yet others")
    if (summary["protocol"] == "paper").any():
        lines.append("paper: random split by cutout, threshold set on the scored cutouts themselves (optimistic)")
    return lines


def _count(value: Any) -> str:
    return "-" if pd.isna(value) else str(int(value))


def _value(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}"


def _interval(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    bounds = "" if pd.isna(low) or pd.isna(high) else f" [{low:.3f}, {high:.3f}]"
    return _value(row[name]) + bounds


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"


if __name__ == "__main__":
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
    if not (root / "summary.csv").is_file() or not (root / "quality.csv").is_file():
        sys.exit(f"{root}/summary.csv: no such file; the run has not come to its summary")
    tables = [read_table(root / f"{name}.csv") for name in ("summary", "quality")]
    print("\n" + closing_table(*tables, report=f"{root}/report.html", store=f"{root}/mlflow.db"))
