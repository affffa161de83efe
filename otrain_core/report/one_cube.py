"""Part of the report page on one cube and its trainings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.arrays import arrays_if_there
from otrain_core.evaluation import completeness
from otrain_core.evaluation.gate import NOT_TRAINED, refusal
from otrain_core.evaluation.label_trend import label_trend
from otrain_core.io import read_table
from otrain_core.plan.config import GateOptions
from otrain_core.report import pictures as figures
from otrain_core.report.opening import opening
from otrain_core.report.studies import label_noise_part, neighbour_sentence
from otrain_core.report.text import map_cautions, verdict
from otrain_core.results import image_folder, number, read_record, run_keys


def cube_part(
    name: str, folder: Path, *, runs: list[Path], summary, quality, telescope, champion, config
) -> dict[str, Any]:
    """All values of one cube and its trainings that the page shows."""
    simulated, gate = telescope.get("source") == "simulated", config.gate
    instrumental = bool((quality["zero_point_source"] == "assumed").any())
    record = read_record(folder / "cube.json")
    part: dict[str, Any] = {
        "name": name,
        "id": name.replace("/", "-"),
        "data": "simulated images" if simulated else "real images",
        "simulated": simulated,
        "record": record,
        "label_trend": label_trend(
            (record.get("labels") or {}).get("by_snr") or [], confidence=config.evaluate.confidence
        ),
        "warnings": list(telescope.get("warnings", [])),
        "quality": quality.to_dict("records"),
        "instrumental": instrumental,
        "quality_plots": figures.quality_plots(quality, instrumental=instrumental)
        if (quality["status"] == "ok").any()
        else None,
        "splits": {title: _split_counts(folder / file) for title, file in SPLITS.items()},
        "figures": {},
        "artefacts": [],
        "completeness": [],
        "label_noise": label_noise_part(folder, config.run.experiments),
    }
    best = best_run(runs, summary, champion if champion and name.endswith(f"/{champion.get('pipeline')}") else None)
    part["best"] = best
    cube = arrays_if_there(folder / "cube.npz")
    table = pd.DataFrame()
    if cube is not None:
        part["figures"] = {
            "gallery": figures.gallery(cube, instrumental=instrumental),
            "true": figures.triplets(cube, label=1),
            "false": figures.triplets(cube, label=0),
        }
        part["artefacts"] = _artefacts(cube, read_record(best / "metrics.json") if best else {})
        accepted = completeness.accepted_injections(cube, best, folder / "images") if best else None
        table = completeness.completeness_table(_image_folders(folder, quality), accepted)
    else:
        table = completeness.completeness_table(_image_folders(folder, quality))
    if len(table):
        part["figures"]["completeness"] = figures.completeness(table, instrumental=instrumental)
        part["completeness"] = table.to_dict("records")
    part["trainings"] = [_training_part(run, summary, best=run == best, gate=gate) for run in runs]
    part["opening"] = opening(part, best, gate)
    part["verdict"] = verdict(part, best, champion, gate, validation=_validation_mcc(summary))
    return part


SPLITS = {"by image": "split.csv", "random, by cutout": "split_random.csv"}


def _image_folders(folder: Path, quality: pd.DataFrame) -> list[Path]:
    return [image_folder(folder, image) for image in quality.loc[quality["status"] == "ok", "image"]]


def _split_counts(path: Path) -> list[dict[str, Any]]:
    """Numbers of images, True and False of every set of a split."""
    if not path.is_file():
        return []
    table = read_table(path)
    rows = []
    for name in ("train", "validation", "test", "unused"):
        part = table[table["set"] == name]
        if len(part):
            images, n_true = part["image"].nunique() if "image" in part else np.nan, int((part["label"] == 1).sum())
            rows.append({"set": name, "images": images, "n_true": n_true, "n_false": len(part) - n_true})
    return rows


def _artefacts(cube: Mapping[str, np.ndarray], metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Number of False cutouts of each kind of artefact, and the false positives of the best training among them."""
    if "artefacts" not in cube:
        return []
    kinds = pd.Series(np.asarray(cube["artefacts"])[np.asarray(cube["labels"]) == 0].astype(str))
    errors = {row["group"]: row for row in metrics.get("artefacts") or []}
    rows = []
    for kind, n in kinds.replace("", "unknown").value_counts().items():
        tested = errors.get(kind, {})
        rows.append({"kind": kind, "n": int(n), "share": n / len(kinds)})
        rows[-1] |= {"tested": tested.get("n_false"), "fp": tested.get("fp")}
    return rows


def best_run(runs: list[Path], summary: pd.DataFrame, champion: Mapping[str, Any] | None) -> Path | None:
    """The training of the champion, or else the one with the highest MCC on the validation set (not on the test set)."""
    rated = []
    for run in runs:
        keys = run_keys(run)
        row = _row(summary, keys)
        if keys["protocol"] != "by-image" or row is None or not np.isfinite(row["mcc"]):
            continue
        is_champion = champion and (keys["experiment"], str(keys["seed"])) == (champion["experiment"], champion["seed"])
        rated.append((bool(is_champion), float(np.nan_to_num(row["mcc_validation"], nan=-np.inf)), run))
    return max(rated, key=lambda item: item[:2])[2] if rated else None


def _validation_mcc(summary: pd.DataFrame) -> dict[tuple[str, int], float]:
    """MCC on the validation set of the trainings from which the best is chosen, by experiment and seed."""
    rated = summary[
        (summary["protocol"] == "by-image") & summary["mcc"].notna() & ~summary["experiment"].isin(NOT_TRAINED)
    ]
    return {(row.experiment, row.seed): row.mcc_validation for row in rated.itertuples()}


def _row(summary: pd.DataFrame, keys: Mapping[str, Any]) -> dict[str, Any] | None:
    match = np.logical_and.reduce([summary[key].astype(str) == str(value) for key, value in keys.items()])
    return summary[match].iloc[0].to_dict() if match.any() else None


def _training_part(run: Path, summary: pd.DataFrame, *, best: bool, gate: GateOptions) -> dict[str, Any]:
    keys = run_keys(run)
    metrics, train, row = read_record(run / "metrics.json"), read_record(run / "train.json"), _row(summary, keys)
    headline = metrics.get("headline") or {}
    return {
        **keys,
        "title": f"{keys['experiment']}, seed {keys['seed']}"
        + (", random split" if keys["protocol"] == "random" else ""),
        "id": "-".join(str(value) for value in keys.values()),
        "best": best,
        "status": (row or {}).get("status", "not trained"),
        "metrics": metrics,
        "headline": headline,
        "train": train,
        "options": train.get("options") or {},
        "refusal": refusal(headline, gate, protocol=keys["protocol"]),
        "bins": {name: table for name, table in (metrics.get("bins") or {}).items() if table},
        "gap": number(metrics.get("accuracy_gap") or {}, "train_minus_validation"),
        "figures": figures.training_figures(run),
        "explain": (explain := read_record(run / "explain.json")),
        "looks_away": map_cautions(explain),
        "neighbours": neighbour_sentence(explain),
    }
