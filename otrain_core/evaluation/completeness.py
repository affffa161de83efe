"""Completeness: injected sources that are found and accepted, by magnitude."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from otrain_core.errors import OtrainError
from otrain_core.io import read_table
from otrain_core.results import number, read_record, read_scores

FEW_SOURCES = 5  # True cutouts of a bin, below which their recall is not used


def completeness_table(images: list[Path], accepted: pd.DataFrame | None = None) -> pd.DataFrame:
    """Injected and found sources of all images in bins of the injected magnitude.

    Parameters
    ----------
    images : list of path
        Folders with crossmatch.json.
    accepted : pandas.DataFrame, optional
        mag (injected) and called (bool: called True) of the True cutouts of the test set. The column
        ``accepted`` is then the number found times the recall of these cutouts in the same bin,
        NaN in bins with fewer than `FEW_SOURCES` of them.

    Returns
    -------
    pandas.DataFrame
        low, high [mag], injected, found and, if known, accepted.
    """
    rows = [row for folder in images for row in read_record(folder / "crossmatch.json").get("completeness") or []]
    if not rows:
        return pd.DataFrame(columns=["low", "high", "injected", "found"])
    table = pd.DataFrame(rows).rename(columns={"mag_low": "low", "mag_high": "high", "recovered": "found"})
    table = table.groupby(["low", "high"], as_index=False)[["injected", "found"]].sum()
    table = table[table["injected"] > 0].reset_index(drop=True)
    if accepted is not None and len(accepted):
        bins = pd.cut(accepted["mag"], [*table["low"], table["high"].iloc[-1]], labels=False, include_lowest=True)
        recall = accepted.groupby(bins)["called"].agg(["mean", "size"]).reindex(range(len(table)))
        enough = recall["mean"].where(recall["size"] >= FEW_SOURCES)
        table["accepted"] = table["found"] * enough.to_numpy(float)
    return table


def accepted_injections(cube: Mapping[str, np.ndarray], folder: Path, images: Path) -> pd.DataFrame | None:
    """Injected magnitude and decision of every True cutout of the test set of one training.

    Parameters
    ----------
    cube : mapping
        Arrays of the cube: images and injections.
    folder, images : path
        Folder of the training, and of the images with their ``injected.csv``.

    Returns
    -------
    pandas.DataFrame or None
        image, id, called (bool) and mag; None where the scores, metrics or injections are missing.
    """
    scores, metrics = read_scores(folder), read_record(folder / "metrics.json")
    if scores is None or not metrics or "injections" not in cube:
        return None
    part = scores[(scores["set"] == "test") & (scores["label"] == 1)]
    rows = part["index"].to_numpy()
    table = pd.DataFrame(
        {
            "image": np.asarray(cube["images"])[rows].astype(str),
            "id": np.asarray(cube["injections"])[rows],
            "called": part["score"].to_numpy() >= number(metrics["headline"], "threshold"),
        }
    )
    truths = []
    for name in table["image"].unique():
        try:
            truths.append(read_table(images / name / "injected.csv")[["id", "mag"]].assign(image=name))
        except (OSError, OtrainError, KeyError):
            continue
    return table.merge(pd.concat(truths), on=["image", "id"]) if truths else None
