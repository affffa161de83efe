"""Section of the report on the detector network of each cube that has the study finder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.figures.canvas import embed
from otrain_core.figures.finder import MAIN, TABLES, draw_finder
from otrain_core.results import table_if_there

PLACE = "finder"  # folder of the study in that of a cube
SHOWN = 1.0  # false alarms per image


def finder_parts(root: str | Path, cubes: Iterable[str]) -> list[dict[str, Any]]:
    """For each cube with the study: name, figure as a data URI, seeds, rows of detectors, rows of degraded images."""
    parts = []
    for cube in cubes:
        found = ((name, table_if_there(Path(root, cube, PLACE, f"{name}.csv"))) for name in TABLES)
        tables = {name: table for name, table in found if table is not None}
        if len(tables) < len(TABLES):
            continue
        figure = draw_finder(tables["curves"], tables["completeness"], tables["stress"])
        part = {"name": cube, "figure": embed(figure), "seeds": int(tables["completeness"]["seed"].nunique())}
        parts.append(part | _rows(tables["completeness"], tables["precision"], tables["stress"]))
    return parts


def _rows(completeness: pd.DataFrame, precision: pd.DataFrame, stress: pd.DataFrame) -> dict[str, Any]:
    """Means over the seeds."""
    of_main = (completeness["snr_low"] == MAIN[0]) & (completeness["snr_high"] == MAIN[1])
    of_main &= (completeness["kind"] == "all") & (completeness["false_alarms"] == SHOWN)
    numbers = ["completeness", "completeness_low", "completeness_high", "gain", "gain_low", "gain_high"]
    found = completeness[of_main].groupby("detector", sort=False)[numbers].mean()
    found = found.join(precision.groupby("detector")[["position_ratio", "flux_scatter"]].mean())
    wide = stress.groupby(["test", "detector"], sort=False)["completeness"].mean().unstack()
    wide = wide.reindex(index=list(dict.fromkeys(stress["test"])), columns=list(found.index))
    return {
        "n": int(completeness.loc[of_main, "n"].max()) if of_main.any() else 0,
        "detectors": [{"name": name, **row} for name, row in found.to_dict("index").items()],
        "tests": [{"name": test, "cells": list(np.asarray(row, float))} for test, row in wide.iterrows()],
        "stressed_images": int(stress["images"].max()),
    }
