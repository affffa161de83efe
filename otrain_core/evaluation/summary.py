"""The tables of a run, among them one with a row per training and one with a row per image.

They are built from the files that exist: a missing file leaves empty cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.evaluation.comparison import compare_pipelines, compare_telescopes, count_artefacts
from otrain_core.evaluation.experiments import compare_experiments, compare_pairs, read_trainings
from otrain_core.evaluation.gate import CUTS, SHIPPED, validation_mcc
from otrain_core.io import write_table
from otrain_core.plan.config import EvaluateOptions
from otrain_core.results import (
    RUN_KEYS,
    STEPS,
    TABLES,
    fused_costs,
    image_folder,
    job_folder,
    number,
    read_benchmark,
    read_failure,
    read_record,
    run_keys,
)

COUNTS = ("n_images", "n_true", "n_false")
SCORES = (
    "accuracy",
    "precision",
    "recall",
    "f1",
    "mcc",
    "mcc_low",
    "mcc_high",
    "fpr_at_1pct_missed",
    "fpr_at_5pct_missed",
    "ece",
)
# Other programs may rely on the columns up to train_seconds.
SUMMARY_COLUMNS = (
    *RUN_KEYS,
    *COUNTS,
    "threshold",
    *SCORES,
    "false_alarms_per_image",
    "train_seconds",
    "stated_recall",
    "fpr_at_stated_recall",
    "fpr_at_stated_recall_low",
    "fpr_at_stated_recall_high",
    "fpr",
    "fp_share",
    "auc",
    "baseline_mcc",
    "gain",
    "gain_low",
    "gain_high",
    "sky_unknown",
    "n_real",
    "recall_real",
    "recall_injected",
    "reality_gap",
    "reality_gap_low",
    "reality_gap_high",
    "shipped_mcc",
    "shipped_gain",
    "shipped_gain_low",
    "shipped_gain_high",
    "mcc_validation",
    "interval",
    "status",
)
QUALITY_COUNTS = (
    "candidates",
    "n_true",
    "n_false",
    "n_left_out",
    "n_edge",
    "n_injected",
    "n_recovered",
    "bright_injected",
    "bright_recovered",
    "near_injection_false",
)
QUALITY_COLUMNS = (
    "telescope",
    "pipeline",
    "image",
    "status",
    "reason",
    "noise_spread",
    "flux_bias",
    "completeness_50_mag",
    "limit_5sigma_mag",
    "zero_point_source",
    "seeing_arcsec",
    *QUALITY_COUNTS,
    "candidates_per_sq_deg",
    "subtraction",
    "align_scatter_px",
    "star_residual",
    "stamp_chi2",
    "pixel_scale",
    "field_sq_deg",
    *(f"{step}_{what}" for step in STEPS for what in ("cpu_seconds", "peak_mb")),
)


def summary_files(
    *,
    cubes: Iterable[str],
    images: Mapping[str, Sequence[str]],
    runs: Iterable[str | Path],
    tables: Mapping[str, str | Path],
    options: EvaluateOptions,
    seed: int,
    root: str | Path = "results",
) -> None:
    """Write the tables of a run from the files that exist in `root` (step `summary`).

    Parameters
    ----------
    cubes : iterable of str
        Each cube as telescope/pipeline.
    images : mapping
        Names of the science images of each telescope.
    runs : iterable of path
        Folders of the trainings; may be empty.
    tables : mapping
        Files to write, by the names of `otrain_core.results.TABLES`.
    options : EvaluateOptions
        Number of draws and confidence of the intervals of experiments and pairs.
    seed : int
        Seed of these draws.
    root : path
        Folder of all results.
    """
    cubes, runs = list(cubes), list(runs)
    quality = build_quality(_quality_rows(Path(root), cubes, images))
    trainings = read_trainings(runs)
    draws, confidence = options.bootstrap, options.confidence
    made = {
        "summary": build_summary(runs, rivals=True),
        "quality": quality,
        "pipelines": compare_pipelines(quality),
        "artefacts": count_artefacts(quality, {cube: Path(root, cube) for cube in cubes}),
        "telescopes": compare_telescopes(quality),
        "experiments": compare_experiments(
            trainings, rng=np.random.default_rng(seed), draws=draws, confidence=confidence
        ),
        "mcnemar": compare_pairs(trainings, rng=np.random.default_rng(seed), draws=draws, confidence=confidence),
    }
    for name in TABLES:
        write_table(tables[name], made[name])


def _quality_rows(root: Path, cubes: Iterable[str], images: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """One row per image of each cube."""
    rows = []
    for cube in cubes:
        telescope, pipeline = cube.split("/")
        fused = fused_costs(root / cube)
        for image in images.get(telescope, []):
            owners = (pipeline, "sky")
            rows.append(
                quality_row(
                    image_folder(root / cube, image),
                    telescope=telescope,
                    pipeline=pipeline,
                    failures=[job_folder(root, "failures", telescope, owner, image) for owner in owners],
                    benchmarks=[job_folder(root, "benchmarks", telescope, owner, image) for owner in owners],
                    fused=fused,
                )
            )
    return rows


def summary_row(folder: str | Path) -> dict[str, Any]:
    """Row of one training, from ``metrics.json`` and ``train.json`` in its folder.

    ``status`` is ok, not evaluated (no metrics) or not trained (no record of a training).
    """
    train = read_record(Path(folder) / "train.json")
    record = read_record(Path(folder) / "metrics.json")
    headline = record.get("headline") or {}
    row: dict[str, Any] = {name: number(headline, name) for name in SUMMARY_COLUMNS}
    row |= {**run_keys(folder), "mcc_validation": validation_mcc(folder)}
    if np.isnan(row["train_seconds"]):
        row["train_seconds"] = number(train, "train_seconds")
    status = "ok" if headline else "not evaluated" if train else "not trained"
    return row | _states(record, status)


def rival_row(folder: str | Path, name: str) -> dict[str, Any] | None:
    """Row of the fixed cuts or the shipped model on the test set of a training; None if they were not evaluated."""
    record = read_record(Path(folder) / "metrics.json")
    found = record.get({CUTS: "baseline", SHIPPED: "shipped"}[name]) or {}
    if not np.isfinite(number(found, "mcc")):
        return None
    row: dict[str, Any] = {key: number(found, key) for key in SUMMARY_COLUMNS}
    row |= {**run_keys(folder), "experiment": name, "seed": 0, "mcc_validation": np.nan}
    row |= dict.fromkeys(("gain", "gain_low", "gain_high"), np.nan)
    return row | {"sky_unknown": number(record.get("headline") or {}, "sky_unknown"), **_states(record, "ok")}


def _states(record: Mapping[str, Any], status: str) -> dict[str, Any]:
    return {"interval": record.get("interval") or "", "status": status}


def build_summary(folders: Iterable[str | Path], *, rivals: bool = False) -> pd.DataFrame:
    """Table with one row per training, in the order given.

    Parameters
    ----------
    folders : iterable of path-like
        Folders of trainings, telescope/pipeline/experiment/seedN[/random].
    rivals : bool
        Add a row for the shipped model (experiment ``universal``) and one for the fixed cuts (``fixed-cuts``), both
        with seed 0, after the last training with the same cube and protocol.

    Returns
    -------
    pandas.DataFrame
        Columns `SUMMARY_COLUMNS`; counts are nullable integers.
    """
    folders = list(folders)
    rows = [summary_row(folder) for folder in folders]
    for name in (CUTS, SHIPPED) if rivals else ():  # the last insertion comes first
        found = {_place(row): row for folder in folders[::-1] if (row := rival_row(folder, name)) is not None}
        last = {_place(row): k for k, row in enumerate(rows) if row["experiment"] != CUTS}
        for place in sorted(found, key=lambda place: -last[place]):
            rows.insert(last[place] + 1, found[place])
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS)).astype(dict.fromkeys(COUNTS, "Int64"))


def _place(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["telescope"], row["pipeline"], row["protocol"]


def _failure_of(folder: Path, failures: Iterable[Path]) -> dict[str, Any] | None:
    for path in failures:
        record = read_record(path)
        if "message" in record:
            return record
    for name in ("psf.json", "injected.csv", "subtract.json", "candidates.csv", "labelled.csv", "cutouts.npz"):
        if failure := read_failure(folder / name):
            return failure
    return None


def quality_row(
    folder: str | Path,
    *,
    telescope: str,
    pipeline: str,
    failures: Iterable[str | Path] = (),
    benchmarks: Iterable[str | Path] = (),
    fused: Mapping[tuple[str, str], tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """Row of one image.

    Parameters
    ----------
    folder : path-like
        Folder of the image with psf.json, subtract.json, crossmatch.json and cutouts.npz; its
        name is that of the image.
    telescope, pipeline : str
    failures, benchmarks : iterable of path-like
        Folders with ``{step}.json`` of failed steps, and with ``{step}.tsv`` of Snakemake.
    fused : mapping, optional
        Costs of steps that ran together in one job, see `otrain_core.results.fused_costs`.

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
    row["zero_point_source"] = psf.get("zero_point_source", "")
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
        times.append((fused or {}).get((folder.name, step), (np.nan, np.nan)))
        cpu, memory = next((pair for pair in times if np.isfinite(pair[0])), (np.nan, np.nan))
        row[f"{step}_cpu_seconds"], row[f"{step}_peak_mb"] = cpu, memory
    return row


def build_quality(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of `quality_row` as a table with columns `QUALITY_COLUMNS`; counts are nullable integers."""
    return pd.DataFrame(list(rows), columns=list(QUALITY_COLUMNS)).astype(dict.fromkeys(QUALITY_COUNTS, "Int64"))
