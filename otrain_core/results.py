"""Files of a results folder: where they are, and how they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from otrain_core.errors import OtrainError, UpstreamFailed
from otrain_core.io import FAILED_MARK, read_json, read_table

if TYPE_CHECKING:  # the plan of a run starts without pandas
    import pandas as pd

RUN_KEYS = ("telescope", "pipeline", "experiment", "seed", "protocol")
# What a run closes with, one CSV each.
TABLES = ("summary", "quality", "pipelines", "artefacts", "telescopes", "experiments", "mcnemar")
# Steps of one image, in order.
STEPS = ("simulate", "catalogue", "psf", "inject", "prepare", "subtract", "detect", "crossmatch", "cutouts")


def run_keys(folder: str | Path) -> dict[str, Any]:
    """Telescope, pipeline, experiment, seed and protocol of a training, from its folder.

    Raises
    ------
    ValueError
        The folder is not of the form telescope/pipeline/experiment/seedN[/random].
    """
    parts = Path(folder).parts
    protocol = "by-image"
    if parts and parts[-1] == "random":
        parts, protocol = parts[:-1], "random"
    if len(parts) < 4 or not parts[-1].startswith("seed") or not parts[-1][4:].isdigit():
        raise ValueError(f"{folder}: not the folder of a training (telescope/pipeline/experiment/seedN[/random])")
    return dict(zip(RUN_KEYS, (*parts[-4:-1], int(parts[-1][4:]), protocol), strict=True))


def training_folder(cube: str, experiment: str, seed: int, protocol: str = "by-image") -> str:
    """Folder of a training under the results; `cube` is telescope/pipeline."""
    return f"{cube}/{experiment}/seed{seed}" + ("/random" if protocol == "random" else "")


def results_root(folder: str | Path) -> Path:
    """Results folder of the training in `folder`."""
    folder = Path(folder)
    return (folder.parent if folder.name == "random" else folder).parents[3]


def trained_folders(root: str | Path) -> list[Path]:
    """Folders under the results that hold a finished training, sorted."""
    return sorted(
        path.parent for depth in ("", "/random") for path in Path(root).glob(f"*/*/*/seed*{depth}/train.json")
    )


def image_folder(cube: str | Path, image: str) -> Path:
    """Folder of the steps of one image; `cube` is the folder of its cube."""
    return Path(cube, "images", image)


def job_folder(
    root: str | Path, kind: Literal["failures", "benchmarks"], telescope: str, pipeline: str, image: str
) -> Path:
    """Folder of the failures or benchmarks of the steps of one image; the pipeline is sky for what all share."""
    return Path(root, kind, telescope, pipeline, image)


def store_path(root: str | Path) -> Path:
    """The SQLite store of MLflow."""
    return Path(root, "mlflow.db")


def read_record(path: str | Path) -> dict[str, Any]:
    """A JSON record, or an empty one where the file is missing, unreadable or a failure mark."""
    try:
        record = read_json(path)
    except (OSError, ValueError, UpstreamFailed):
        return {}
    return record if isinstance(record, dict) else {}


def read_scores(folder: str | Path) -> pd.DataFrame | None:
    """``scores.csv`` of a training, or None where it is not there."""
    return table_if_there(Path(folder) / "scores.csv")


def table_if_there(path: str | Path) -> pd.DataFrame | None:
    """A table, or None where it is missing, unreadable or a failure mark."""
    try:
        return read_table(path)
    except (OSError, OtrainError):
        return None


def number(record: Mapping[str, Any], key: str) -> float:
    """The number under `key` of `record`, or NaN."""
    value = record.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan


def read_benchmark(path: str | Path) -> tuple[float, float]:
    """CPU time [s] and peak memory [MB] of one job, from Snakemake's benchmark file.

    Jobs too short to be sampled have no CPU time of their own: their wall time, an upper
    limit for one thread, is taken. NaN where the file is missing.
    """
    import pandas as pd

    try:
        row = pd.read_csv(path, sep="\t", na_values=["-", "NA"]).iloc[-1]
    except (OSError, ValueError, IndexError):
        return np.nan, np.nan
    cpu = number(row, "cpu_time")
    if not cpu > 0:
        cpu = number(row, "s")
    return cpu, number(row, "max_rss")


def fused_costs(cube: str | Path) -> dict[tuple[str, str], tuple[float, float]]:
    """CPU time [s] and peak memory [MB] by image and step, from the records of jobs that took whole images.

    Parameters
    ----------
    cube : path-like
        Folder of a cube; empty where its images were not fused (`run.fused`). The start of a process is the step
        ``start`` of the first image of its job.
    """
    costs = {}
    for path in sorted(Path(cube).glob("images/*/steps.csv")):
        table = table_if_there(path)
        if table is not None:
            table["image"] = table["image"].replace("", path.parent.name)
            for row in table.itertuples():
                costs[row.image, row.step] = (float(row.cpu_seconds), float(row.peak_mb))
    return costs


def read_failure(path: str | Path) -> dict[str, Any] | None:
    """What a failed image left in place of a file: image, key, message, step; None where it did not fail."""
    try:
        with open(path, "rb") as file:
            if file.read(len(FAILED_MARK)) != FAILED_MARK:
                return None
        return dict(json.loads(Path(path).read_text())["otrain_failed"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
