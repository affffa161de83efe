"""Section of the report that compares experiments, from the tables experiments.csv and mcnemar.csv."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.evaluation.experiments import POOLED
from otrain_core.evaluation.words import interval, num, several

PROTOCOLS = {"by-image": "images never seen", "random": "random split"}
SMALL_P = 0.001


def side_by_side(experiments: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, Any] | None:
    """The section on experiments, or None if there is nothing to compare.

    Parameters
    ----------
    experiments, pairs : pandas.DataFrame
        As from `otrain_core.evaluation.experiments.compare_experiments` and `compare_pairs`.

    Returns
    -------
    dict or None
        columns (experiment, protocol), rows (one per cube, with one cell per column), sentences (one
        per pair, over all cubes or on the only one), pair_columns and pair_rows (empty for one
        cube), honesty (`honesty_steps`), costs (one row per experiment). None for one experiment
        with one protocol and one seed.
    """
    if experiments.empty:
        return None
    columns = experiments[["experiment", "protocol"]].drop_duplicates()
    if len(columns) < 2 and experiments["seeds"].max() < 2:
        return None
    columns = columns.assign(rank=columns["protocol"].map(list(PROTOCOLS).index)).sort_values("rank", kind="stable")
    wide = _cells(experiments, ["experiment", "protocol"])
    names = list(columns[["experiment", "protocol"]].itertuples(index=False, name=None))
    pair_wide = _cells(pairs, ["experiment", "other", "protocol"])
    pair_names = list(dict.fromkeys(name for cells in pair_wide.values() for name in cells))
    pair_names.sort(key=lambda name: list(PROTOCOLS).index(name[2]))
    return {
        "columns": [{"experiment": name, "protocol": PROTOCOLS[protocol]} for name, protocol in names],
        "rows": [_row(cube, cells, names) for cube, cells in wide.items()],
        "several_protocols": columns["protocol"].nunique() > 1,
        "several_seeds": bool(experiments["seeds"].max() > 1),
        "sentences": _sentences(pair_wide),
        "pair_columns": [
            {"experiment": ours, "other": other, "protocol": PROTOCOLS[protocol]}
            for ours, other, protocol in pair_names
        ],
        "pair_rows": [_row(cube, cells, pair_names) for cube, cells in pair_wide.items()] if len(pair_wide) > 1 else [],
        "honesty": honesty_steps(wide),
        "costs": _costs(wide, names),
    }


def _cells(table: pd.DataFrame, names: list[str]) -> dict[str, dict[tuple, dict[str, Any]]]:
    """Rows of a table by cube (the last may be `POOLED`) and by the columns `names`."""
    cells: dict[str, dict[tuple, dict[str, Any]]] = {}
    for row in table.to_dict("records"):
        cube = POOLED if row["telescope"] == POOLED else f"{row['telescope']}/{row['pipeline']}"
        cells.setdefault(cube, {})[tuple(row[name] for name in names)] = row
    return cells


def _row(cube: str, cells: Mapping[tuple, dict[str, Any]], names: list[tuple]) -> dict[str, Any]:
    most = max(row["cubes"] for row in cells.values())
    return {
        "cube": f"all {most} cubes" if cube == POOLED else cube,
        "pooled": cube == POOLED,
        "cells": [cells.get(name) for name in names],
        "cubes": most,
        "scored": next((cells[name] for name in names if name in cells), {}),
    }


def _sentences(wide: Mapping[str, Mapping[tuple, dict[str, Any]]]) -> list[str]:
    """One sentence per pair, over all cubes or on the only one; the protocol random only if there is no other."""
    cells = wide.get(POOLED, {}) if len(wide) > 1 else next(iter(wide.values()), {})
    rows = list(cells.values())
    honest = [row for row in rows if row["protocol"] != "random"]
    return [pair_sentence(row) for row in honest or rows]


def p_words(p: float) -> str:
    """A p-value as text."""
    text = f"p < {SMALL_P:g}" if p < SMALL_P else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
    return text.replace(" ", "\u00a0")


def pair_sentence(row: Mapping[str, Any]) -> str:
    """Sentence on the ratio of the errors of two experiments, with its interval and p-value."""
    where = "pooled test images" if row["telescope"] == POOLED else "test images"
    where += f" of {several(row['cubes'], 'cube')}" if row["telescope"] == POOLED else ""
    counts = f"of {several(row['n'], 'cutout')}, {p_words(row['p_value'])}"
    if np.isfinite(row["error_ratio"]):
        text = (
            f"{row['experiment']} makes {interval(row, 'error_ratio', digits=2)} times the errors of {row['other']} on the"
            f" {where} ({row['errors']:.0f} against {row['errors_other']:.0f} {counts})"
        )
    elif row["errors"] > 0:  # the ratio is not defined
        text = (
            f"{row['experiment']} makes {several(round(row['errors']), 'error')} on the {where} where {row['other']} makes"
            f" none ({counts})"
        )
    else:
        text = f"Neither {row['experiment']} nor {row['other']} makes an error on the {where} ({counts})"
    return f"{text}, both by the paper's own protocol." if row["protocol"] == "random" else f"{text}."


def honesty_steps(wide: Mapping[str, Mapping[tuple, dict[str, Any]]]) -> dict[str, Any]:
    """MCC at each step from the protocol of the paper to the protocol by-image.

    For each cube and experiment with both protocols there are three values of MCC: with the
    protocol of the paper; on images never seen, with the best threshold for these images; and
    with the threshold from the validation set.

    Returns
    -------
    dict
        experiments, rows (cube, and for each experiment its three values or None), sentences.
    """
    names = [name for cells in wide.values() for name, protocol in cells if protocol == "random"]
    both = [n for n in dict.fromkeys(names) if any((n, "by-image") in c and (n, "random") in c for c in wide.values())]
    rows: list[dict[str, Any]] = []
    sentences = []
    for cube, cells in wide.items():
        steps = [_steps(cells.get((name, "random")), cells.get((name, "by-image"))) for name in both]
        if any(steps):
            rows.append({"cube": cube, "pooled": cube == POOLED, "steps": steps})
    if rows and (rows[-1]["pooled"] or len(rows) == 1):
        for name, steps in zip(both, rows[-1]["steps"], strict=True):
            if steps:
                sentences.append(
                    f"{name}: MCC {num(steps[0])} by the paper's protocol, {num(steps[1])} on images that it never saw,"
                    f" {num(steps[2])} with the threshold also set on other images."
                )
    return {"experiments": both, "rows": rows if len(rows) > 1 else [], "sentences": sentences}


def _steps(random: Mapping[str, Any] | None, by_image: Mapping[str, Any] | None) -> list[float] | None:
    if random is None or by_image is None or random["cubes"] != by_image["cubes"]:
        return None
    return [random["mcc"], by_image["mcc_tuned_on_test"], by_image["mcc"]]


def _costs(wide: Mapping[str, Mapping[tuple, dict[str, Any]]], names: list[tuple]) -> list[dict[str, Any]]:
    """Size and speed of the network of each experiment, over all cubes or else from the first cube that has them."""
    rows: dict[str, dict[str, Any]] = {}
    for cells in (wide.get(POOLED, {}), *wide.values()):
        for name in names:
            if name in cells and np.isfinite(cells[name]["n_parameters"]):
                rows.setdefault(name[0], cells[name])
    return list(rows.values())
