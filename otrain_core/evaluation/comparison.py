"""Tables that compare pipelines, artefacts and telescopes, from the records of the images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.results import STEPS, image_folder, read_record

PIPELINE_COLUMNS = (
    "telescope",
    "pipeline",
    "subtraction",
    "images",
    "images_failed",
    "injected",
    "found",
    "found_share",
    "bright_share",
    "false_per_image",
    "false_per_sq_deg",
    "noise_spread",
    "flux_bias",
    "completeness_50_minus_limit",
    "cpu_seconds_per_image",
    "peak_mb",
)
ARTEFACT_COLUMNS = ("telescope", "pipeline", "artefact", "n_false", "per_image", "share")
TELESCOPE_COLUMNS = (
    "telescope",
    "pipeline",
    "pixel_scale",
    "seeing_arcsec",
    "seeing_px",
    "limit_5sigma_mag",
    "zero_point_source",
    "field_sq_deg",
    "images",
    "candidates_per_sq_deg",
    "n_true",
    "n_false",
    "noise_spread",
    "flux_bias",
)


def compare_pipelines(quality: pd.DataFrame) -> pd.DataFrame:
    """Compare the pipelines of each telescope on the same images.

    Images that failed under one pipeline of a telescope are left out for all of its pipelines.

    Parameters
    ----------
    quality : pandas.DataFrame
        As from `otrain_core.evaluation.summary.build_quality`.

    Returns
    -------
    pandas.DataFrame
        Columns `PIPELINE_COLUMNS`, one row per cube. Spread, bias and completeness are medians
        over images; found_share is the fraction of all injected sources that are found, bright_share of those above
        S/N 10 away from saturated pixels; CPU seconds are the sum over the steps of an image.
    """
    rows = []
    for telescope, mine in quality.groupby("telescope", sort=False):
        n_pipelines = mine["pipeline"].nunique()
        good = mine[mine["status"] == "ok"]
        everywhere = good["image"].value_counts()
        shared = good[good["image"].isin(everywhere.index[everywhere == n_pipelines])]
        for pipeline, all_rows in mine.groupby("pipeline", sort=False):
            part = shared[shared["pipeline"] == pipeline]
            area = part["field_sq_deg"].sum()
            n = len(part)
            cpu = part[[f"{step}_cpu_seconds" for step in STEPS]].sum(axis=1, min_count=1)
            memory = part[[f"{step}_peak_mb" for step in STEPS]].max(axis=None) if n else np.nan
            used = sorted(set(part["subtraction"].dropna()) - {""})
            rows.append(
                {
                    "telescope": telescope,
                    "pipeline": pipeline,
                    "subtraction": ", ".join(used),
                    "images": n,
                    "images_failed": int((all_rows["status"] == "failed").sum()),
                    "injected": int(part["n_injected"].sum()),
                    "found": int(part["n_recovered"].sum()),
                    "found_share": _ratio(part["n_recovered"].sum(), part["n_injected"].sum()),
                    "bright_share": _ratio(part["bright_recovered"].sum(), part["bright_injected"].sum()),
                    "false_per_image": _ratio(part["n_false"].sum(), n),
                    "false_per_sq_deg": _ratio(part["n_false"].sum(), area),
                    "noise_spread": part["noise_spread"].median(),
                    "flux_bias": part["flux_bias"].median(),
                    "completeness_50_minus_limit": (part["completeness_50_mag"] - part["limit_5sigma_mag"]).median(),
                    "cpu_seconds_per_image": cpu.mean() if n else np.nan,
                    "peak_mb": memory,
                }
            )
    return pd.DataFrame(rows, columns=list(PIPELINE_COLUMNS))


def count_artefacts(quality: pd.DataFrame, folders: Mapping[str, str | Path]) -> pd.DataFrame:
    """Number of False of each kind of artefact by cube, before balancing.

    Parameters
    ----------
    quality : pandas.DataFrame
        As from `otrain_core.evaluation.summary.build_quality`.
    folders : mapping
        Folder of each cube, by telescope/pipeline; ``images/{image}/crossmatch.json`` is read.

    Returns
    -------
    pandas.DataFrame
        Columns `ARTEFACT_COLUMNS`; artefact is "unknown" for real images.
    """
    rows = []
    for name, folder in folders.items():
        telescope, pipeline = name.split("/")
        mine = quality[(quality["telescope"] == telescope) & (quality["pipeline"] == pipeline)]
        images = mine.loc[mine["status"] == "ok", "image"]
        counts: dict[str, int] = {}
        for image in images:
            record = read_record(image_folder(folder, image) / "crossmatch.json")
            for kind, n in (record.get("artefacts") or {}).items():
                counts[kind or "unknown"] = counts.get(kind or "unknown", 0) + int(n)
        total = sum(counts.values())
        for kind, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            row = {"telescope": telescope, "pipeline": pipeline, "artefact": kind, "n_false": n}
            rows.append(row | {"per_image": _ratio(n, len(images)), "share": _ratio(n, total)})
    return pd.DataFrame(rows, columns=list(ARTEFACT_COLUMNS))


def compare_telescopes(quality: pd.DataFrame) -> pd.DataFrame:
    """Compare telescopes: properties of their images, and their candidates.

    Parameters
    ----------
    quality : pandas.DataFrame
        As from `otrain_core.evaluation.summary.build_quality`.

    Returns
    -------
    pandas.DataFrame
        Columns `TELESCOPE_COLUMNS`, one row per cube; medians over the good images, sums for
        n_true and n_false.
    """
    rows = []
    for (telescope, pipeline), mine in quality.groupby(["telescope", "pipeline"], sort=False):
        good = mine[mine["status"] == "ok"]
        row: dict[str, Any] = {"telescope": telescope, "pipeline": pipeline, "images": len(good)}
        for name in ("pixel_scale", "seeing_arcsec", "limit_5sigma_mag", "field_sq_deg", "noise_spread", "flux_bias"):
            row[name] = good[name].median()
        row["zero_point_source"] = "+".join(sorted({str(name) for name in good["zero_point_source"].dropna()} - {""}))
        row["seeing_px"] = (good["seeing_arcsec"] / good["pixel_scale"]).median()
        row["candidates_per_sq_deg"] = _ratio(good["candidates"].sum(), good["field_sq_deg"].sum())
        row |= {name: int(good[name].sum()) for name in ("n_true", "n_false")}
        rows.append(row)
    return pd.DataFrame(rows, columns=list(TELESCOPE_COLUMNS))


def _ratio(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if pd.notna(part) and pd.notna(whole) and whole > 0 else np.nan
