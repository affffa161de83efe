"""Sections of the report on transfer, fine-tuning, sweeps, suspected labels and neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.evaluation.words import count, num, pct
from otrain_core.figures.canvas import data_uri, embed
from otrain_core.figures.sweep import draw_sweep
from otrain_core.plan.pools import is_pool, left_out
from otrain_core.results import number, read_record, table_if_there
from otrain_core.studies.transfer import transfer_matrix

RELATIONS = {
    "own": "its own cube",
    "pipeline": "another pipeline of the same telescope",
    "pooled": "all telescopes together",
    "left-out": "all other telescopes",
    "telescope": "one other telescope",
}
OF_TELESCOPE = ("own", "pipeline", "pooled")  # the training had images of the telescope


def read_studies(
    root: str | Path, name: str, *, cubes: Sequence[str], experiments: Iterable[str], seeds: Iterable[int]
) -> pd.DataFrame:
    """All tables ``{name}.csv`` (transfer or finetune) of the trainings of a run as one; empty if there are none.

    Rows are in the order of the cubes (targets) and experiments of the run. Rows of other cubes, experiments or
    seeds, from an earlier run in the same folder, are left out.
    """
    experiments = list(experiments)
    found = map(table_if_there, sorted(Path(root).glob(f"*/*/*/seed*/{name}.csv")))
    tables = [table for table in found if table is not None]
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables, ignore_index=True)
    mine = table["target"].isin(cubes) & table["experiment"].isin(experiments) & table["seed"].isin(list(seeds))
    known = table["source"].isin(cubes) | table["source"].map(lambda source: is_pool(source.split("/")[0]))
    ranks = {"target": {cube: place for place, cube in enumerate(cubes)}}
    ranks["experiment"] = {experiment: place for place, experiment in enumerate(experiments)}
    return table[mine & known].sort_values(
        list(ranks), key=lambda column: column.map(ranks[column.name]), kind="stable"
    )


def sweep_parts(root: str | Path, sweeps: Iterable[str]) -> list[dict[str, Any]]:
    """For each sweep with a table: name, option, figure as a data URI, numbers of finished and planned trainings."""
    parts = []
    for name in sweeps:
        table = table_if_there(Path(root) / "studies" / f"{name}.csv")
        if table is None:
            continue
        table["value"] = table["value"].astype(str)
        parts.append(
            {
                "name": name,
                "option": table["option"].iloc[0],
                "figure": embed(draw_sweep(table)),
                "n_done": int(table["mcc"].notna().sum()),
                "n": len(table),
                "seeds": table["seed"].nunique(),
            }
        )
    return parts


def source_name(source: str) -> str:
    """Name of a cube or pool as it is shown."""
    telescope, pipeline = source.split("/")
    if not is_pool(telescope):
        return source
    return f"all but {left_out(telescope)}, {pipeline}" if left_out(telescope) else f"all telescopes, {pipeline}"


def transfer_part(table: pd.DataFrame, cubes: Sequence[str]) -> list[dict[str, Any]]:
    """For each experiment the matrix of MCC, with sources as rows and targets as columns, and means by relation.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `otrain_core.studies.transfer.transfer`.
    cubes : sequence of str
        Order of the targets, and of the sources that are not pools.
    """
    parts = []
    for experiment, mine in table.groupby("experiment", sort=False):
        matrix = transfer_matrix(mine, experiment=experiment)
        place = {cube.split("/")[0]: number for number, cube in enumerate(cubes)}
        pools = [name for name in matrix.index if is_pool(name.split("/")[0])]
        pools.sort(key=lambda name: (place.get(left_out(name.split("/")[0]) or "", -1), name))
        matrix = matrix.reindex(
            index=[cube for cube in cubes if cube in matrix.index] + pools,
            columns=[cube for cube in cubes if cube in matrix.columns],
        )
        known = {(row.source, row.target): row.relation for row in mine.itertuples()}
        rows = [
            {
                "source": source_name(source),
                "cells": [
                    {"mcc": value, "shade": _shade(value), "seen": known.get((source, target)) in OF_TELESCOPE}
                    for target, value in zip(matrix.columns, values, strict=True)
                ],
            }
            for source, values in zip(matrix.index, matrix.to_numpy(float), strict=True)
        ]
        means = [
            {"relation": words, "n": len(of), "mcc": of["mcc"].mean(), "mcc_validation": of["mcc_validation"].mean()}
            for relation, words in RELATIONS.items()
            if len(of := mine[(mine["relation"] == relation) & mine["mcc"].notna()])
        ]
        shared = {"experiment": experiment, "seeds": mine["seed"].nunique(), "targets": list(matrix.columns)}
        parts.append({**shared, "rows": rows, "means": means})
    return parts


def _shade(mcc: float) -> float:
    """Opacity of the colour behind a number: 0 for MCC 0.5 and below."""
    return round(float(np.clip(0.7 * (mcc - 0.5), 0, 0.35)), 3) if np.isfinite(mcc) else 0.0


def finetune_part(table: pd.DataFrame, summary: pd.DataFrame) -> dict[str, Any] | None:
    """MCC against the number of labels, one row per target and experiment; None without rows.

    Values and bounds are means over seeds; ``full`` is the MCC of trainings on the whole train set of the target.
    """
    if table.empty:
        return None
    sizes, rows = sorted(int(n) for n in table["n_labels"].unique()), []
    for (target, experiment), mine in table.groupby(["target", "experiment"], sort=False):
        means = mine.groupby("n_labels")[["mcc", "mcc_low", "mcc_high"]].mean()
        own = summary[
            (summary["telescope"] + "/" + summary["pipeline"] == target)
            & (summary["experiment"] == experiment)
            & (summary["protocol"] == "by-image")
        ]
        row = {"target": target, "experiment": experiment, "source": source_name(mine["source"].iloc[0])}
        row |= {"cells": [means.loc[n].to_dict() if n in means.index else None for n in sizes]}
        rows.append(row | {"seeds": mine["seed"].nunique(), "full": own["mcc"].mean()})
    return {"sizes": sizes, "rows": rows}


def label_noise_part(folder: str | Path, experiments: Iterable[str]) -> list[dict[str, Any]]:
    """Suspected labels of a cube by experiment, if the study was run: sentences and the gallery."""
    parts = []
    for experiment in experiments:
        place = Path(folder, experiment, "label_noise")
        record = read_record(place / "label_noise.json")
        if "n_suspected" not in record:
            continue
        lines = [
            f"{count(record['n_suspected'])} of {count(record['n'])} labels of train and validation are more probably wrong than right"
            f" ({count(record['n_suspected_false'])} labelled False, {count(record['n_suspected_true'])} labelled True),"
            f" according to networks that saw no cutout of the same image."
        ]
        if trial := record.get("trial"):
            found = trial.get("found") or {}
            lines.append(
                f"Trial with {pct(trial['fraction'], 0)} of the labels flipped on purpose: MCC on test changes from"
                f" {num(number(trial, 'mcc_clean'))} to {num(number(trial, 'mcc_flipped'))}"
                f" ({num(number(trial, 'mcc_cleaned'))} without the suspects);"
                f" {pct(number(found, 'recall_at_precision_80'), 0)} of the flips are found at a precision of 80 %."
            )
        picture = place / "suspects.png"
        uri = data_uri(picture.read_bytes()) if picture.is_file() else None
        parts.append({"experiment": experiment, "lines": lines, "picture": uri})
    return parts


def neighbour_sentence(record: Mapping[str, Any]) -> str:
    """Sentence on the neighbour test of ``explain.json``; '' if it was not run."""
    tried = (record.get("neighbours") or {}).get("all") or {}
    if not tried.get("n"):
        return ""
    if not tried.get("n_neighbours"):
        return f"None of the {count(tried['n'])} cutouts of the test set has a neighbour."
    return (
        f"{count(tried['n_neighbours'])} of {count(tried['n'])} cutouts of the test set have a neighbour. Without it the decision"
        f" changes for {pct(tried.get('decisions_changed'))} of them, and the log odds by"
        f" {num(number(tried, 'median_abs_logit_change'), 2)} (median; {num(number(tried, 'median_abs_logit_control'), 2)}"
        f" if an empty place is replaced instead)."
    )
