"""The report page: one HTML file that shows how far to trust the classifiers of a run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from otrain_core.evaluation.bootstrap import FEW_IMAGES
from otrain_core.evaluation.gate import CUTS, NOT_TRAINED, SHIPPED
from otrain_core.evaluation.thresholds import FEW_FALSE
from otrain_core.evaluation.words import count, interval, num, pct, several
from otrain_core.io import atomic, read_table
from otrain_core.jobs.provenance import provenance
from otrain_core.plan.config import Config
from otrain_core.report.experiments import p_words, side_by_side
from otrain_core.report.finder import finder_parts
from otrain_core.report.one_cube import cube_part
from otrain_core.report.opening import term, words_of
from otrain_core.report.studies import finetune_part, read_studies, sweep_parts, transfer_part
from otrain_core.report.text import config_lines, page_templates, words
from otrain_core.results import STEPS, TABLES, fused_costs, read_benchmark, read_record, run_keys

RATES = {  # columns of the table of all trainings: heading, and whether it is a percentage
    "mcc": ("MCC", False),
    "accuracy": ("Accuracy", True),
    "recall": ("Recall", True),
    "fpr_at_stated_recall": ("FPR at recall {recall}", True),
    "ece": ("ECE", False),
}


def report_files(
    *,
    page: str | Path,
    tables: Mapping[str, str | Path],
    cubes: Iterable[str],
    runs: Iterable[str | Path],
    config: Config,
    rows: Mapping[str, Mapping[str, Any]],
    mlflow: str | Path | None = None,
    root: str | Path = "results",
) -> None:
    """Write the report page of a run from the files that exist in `root` (step `report`).

    Parameters
    ----------
    page : path
        The page, one HTML file.
    tables : mapping
        Files of all of `otrain_core.results.TABLES`, by name.
    cubes : iterable of str
        telescope/pipeline of each cube.
    runs : iterable of path
        Folders of the trainings.
    config : Config
    rows : mapping
        Telescopes by name.
    mlflow : path, optional
        Record of the step `track`.
    root : path
        Folder of all results.

    Raises
    ------
    OSError
        A table does not exist.
    """
    read = {name: read_table(tables[name]) for name in TABLES}
    text = build_report(
        summary=read.pop("summary"),
        quality=read.pop("quality"),
        comparison=read,
        cubes={cube: Path(root, cube) for cube in cubes},
        runs=runs,
        config=config,
        telescopes=rows,
        mlflow=read_record(mlflow) if mlflow else None,
        root=root,
        about=provenance(),
    )
    with atomic(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


def build_report(
    *,
    summary: pd.DataFrame,
    quality: pd.DataFrame,
    comparison: Mapping[str, pd.DataFrame],
    cubes: Mapping[str, str | Path],
    runs: Iterable[str | Path],
    config: Config,
    telescopes: Mapping[str, Mapping[str, Any]],
    mlflow: Mapping[str, Any] | None = None,
    root: str | Path,
    about: Mapping[str, Any] | None = None,
) -> str:
    """The report page as HTML, from the files that a run has written.

    Parameters
    ----------
    summary, quality : pandas.DataFrame
        As from `otrain_core.evaluation.summary`.
    comparison : mapping
        Tables pipelines, artefacts and telescopes of `otrain_core.evaluation.comparison`, experiments and
        mcnemar of `otrain_core.evaluation.experiments`.
    cubes : mapping
        Folder of every cube, by telescope/pipeline.
    runs : iterable of path
        Folders of the trainings.
    config : Config
        The configuration of the run.
    telescopes : mapping
        Rows of the telescope sheet by name (``source`` distinguishes simulated from real data).
    mlflow : mapping, optional
        Record of the import (``champions``).
    root : path
        Folder of all results, with the tables of transfer and fine-tuning and the benchmark files of Snakemake, if any.
    about : mapping, optional
        commit, time, versions, cpus of this run.

    Returns
    -------
    str
        The page, which needs no other file and no network.
    """
    folders, champions = list(map(Path, runs)), (mlflow or {}).get("champions") or {}
    parts = [
        cube_part(
            name,
            Path(folder),
            runs=[run for run in folders if _cube_name(run) == name],
            summary=summary[_names(summary) == name],
            quality=quality[_names(quality) == name],
            telescope=telescopes.get(name.split("/")[0], {}),
            champion=champions.get(name.split("/")[0]),
            config=config,
        )
        for name, folder in cubes.items()
    ]
    environment = _templates()
    studies = {
        name: read_studies(root, name, cubes=list(cubes), experiments=config.run.experiments, seeds=config.run.seeds)
        for name in ("transfer", "finetune")
    }
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    page = environment.get_template("report.html").render(
        parts=parts,
        summary=summary.to_dict("records"),
        n_trainings=int((~summary["experiment"].isin(NOT_TRAINED)).sum()),
        worth=[(part["name"], sentence) for part in parts for sentence in part["verdict"]["worth"]],
        cuts=CUTS,
        shipped=SHIPPED,
        few_images=FEW_IMAGES if (summary["interval"] == "counts").any() else 0,
        rates=_rate_columns(summary),
        side=side_by_side(comparison["experiments"], comparison["mcnemar"]),
        transfer=transfer_part(studies["transfer"], list(cubes)) if len(studies["transfer"]) else [],
        finetune=finetune_part(studies["finetune"], summary),
        sweeps=sweep_parts(root, config.studies.sweeps),
        finders=finder_parts(root, cubes),
        failures=_failures(Path(root), quality, summary),
        pipelines=comparison["pipelines"].to_dict("records"),
        artefacts=_artefact_columns(comparison["artefacts"], list(cubes)),
        telescope_rows=comparison["telescopes"].to_dict("records"),
        timing=_timing(Path(root, "benchmarks"), list(cubes)),
        champions=champions,
        config=config_lines(config.model_dump(mode="json")),
        gate=config.gate,
        few_false=FEW_FALSE,
        confidence=config.evaluate.confidence,
        about={"commit": "", "versions": {}} | dict(about or {}) | {"time": now},
        simulated=sorted(name for name, row in telescopes.items() if row.get("source") == "simulated"),
    )
    return page.replace("WORDS_OF_THE_PAGE", environment.from_string(WORDS).render(words=words_of(page)))


def _templates() -> Any:
    """The templates, with the filters that they use."""
    environment = page_templates()
    environment.filters |= {"num": num, "pct": pct, "count": count, "interval": interval, "words": words}
    environment.filters |= {"several": several, "p_words": p_words, "term": term}
    return environment


def _rate_columns(summary: pd.DataFrame) -> dict[str, tuple[str, bool]]:
    """Columns of the table of all trainings: heading, and whether it is a percentage."""
    recalls = " / ".join(pct(recall, 0) for recall in sorted(set(summary["stated_recall"].dropna())))
    return {key: (title.format(recall=recalls), percent) for key, (title, percent) in RATES.items()}


def _artefact_columns(artefacts: pd.DataFrame, cubes: list[str]) -> list[dict[str, Any]]:
    """False per image for every kind of artefact (rows) and cube, most frequent first."""
    if artefacts.empty:
        return []
    wide = artefacts.assign(cube=_names(artefacts)).pivot(index="artefact", columns="cube", values="per_image")
    wide = wide.reindex(columns=cubes).fillna(0.0)
    wide = wide.loc[wide.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    return [{"kind": kind, "cells": list(row)} for kind, row in zip(wide.index, wide.to_numpy(), strict=True)]


def _cube_name(run: Path) -> str:
    keys = run_keys(run)
    return f"{keys['telescope']}/{keys['pipeline']}"


def _names(table: pd.DataFrame) -> pd.Series:
    return table["telescope"].astype(str) + "/" + table["pipeline"].astype(str)


WORDS = (
    '{% for word in words %}<dt id="word-{{ word.anchor }}">{{ word.word }}</dt><dd>{{ word.text }}</dd>{% endfor %}'
)


def _failures(root: Path, quality: pd.DataFrame, summary: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    images = []
    for row in quality[quality["status"] != "ok"].to_dict("records"):
        step, key, message = (
            ([*str(row["reason"]).split(": ", 2), "", ""])[:3] if row["status"] == "failed" else ("", "", row["reason"])
        )
        traceback = _traceback(root, row, step)
        images.append({**row, "step": step, "key": key, "message": message, "traceback": traceback})
    return {"images": images, "trainings": summary[summary["status"] != "ok"].to_dict("records")}


def _traceback(root: Path, row: Mapping[str, Any], step: str) -> str:
    """Traceback of an unexpected error in a step of an image; '' for other failures."""
    for owner in (row["pipeline"], "sky"):
        record = read_record(root / "failures" / row["telescope"] / owner / row["image"] / f"{step}.json")
        if text := record.get("traceback"):
            return str(text)
    return ""


def _timing(folder: Path, cubes: list[str]) -> list[dict[str, Any]]:
    """Jobs, CPU time and peak memory of every step, over all jobs of the cubes of this run."""
    if not folder.is_dir():
        return []
    telescopes = {name.split("/")[0] for name in cubes}
    rows = []
    for path in sorted(folder.rglob("*.tsv")):
        parts = path.relative_to(folder).parts
        mine = "/".join(parts[:2]) in cubes or (parts[0] in telescopes and parts[1:2] == ("sky",))
        if len(parts) == 1 or mine:
            cpu, memory = read_benchmark(path)
            rows.append({"step": path.stem, "cpu": cpu, "memory": memory})
    for cube in cubes:
        for (_, step), (cpu, memory) in fused_costs(folder.parent / cube).items():
            rows.append({"step": step, "cpu": cpu, "memory": memory})
    if not rows:
        return []
    table = pd.DataFrame(rows).groupby("step")
    result = table["cpu"].agg(jobs="size", median="median", largest="max", total="sum").join(table["memory"].max())
    order = [
        "start",
        "simulate",
        "reference",
        *STEPS[1:],
        "cube",
        "split",
        "train",
        "evaluate",
        "explain",
        "label_noise",
        "pool",
        "transfer",
        "finetune",
        "sweep",
        "track",
        "summary",
    ]
    rank = {name: position for position, name in enumerate(order)}
    result = result.sort_index(key=lambda index: index.map(lambda name: rank.get(name, len(rank))))
    return result.reset_index().to_dict("records")
