"""The results of a run of the paper, small and made up, for tests of its figures, tables and page."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from snakemake.utils import update_config

from otrain_core import io
from otrain_core.arrays import write_arrays
from otrain_core.evaluation.metrics import OUTCOMES
from otrain_core.paper.plan import plan_paper
from otrain_core.plan.run import Run
from tests.unit.synthetic_results import write_results

ROOT = Path(__file__).parents[2]
SEEDS = (1, 2)


def paper_values() -> dict:
    """config/paper.yaml over the default, with what needs no external program."""
    values = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    update_config(values, yaml.safe_load((ROOT / "config/paper.yaml").read_text()))
    values["run"]["seeds"] = list(SEEDS)
    return values


def make_plan(monkeypatch=None) -> dict:
    """The plan of config/paper.yaml with two seeds and the images of the made-up results."""
    if monkeypatch is not None:
        monkeypatch.setattr("otrain_core.plan.run.require_programs", lambda *args, **options: None)
    plan = plan_paper(Run.from_config(paper_values(), root=ROOT))
    plan["images"] = {name: [f"I{k:02d}" for k in range(8)] for name in plan["telescopes"]}
    return plan


def write_paper(root: Path, plan: dict) -> Path:
    """Records of all five cubes, with Grad-CAM, neighbours and both studies of the paper."""
    one = root / "JAST/gmadet"
    protocols = tuple(plan["protocols"])
    write_results(root, telescope="JAST", pipeline="gmadet", seeds=SEEDS, protocols=protocols, failed=())
    rng = np.random.default_rng(2)
    for run in one.glob("*/seed*"):
        write_maps(run, rng)
    for cube in plan["cubes"][1:]:
        shutil.copytree(one, root / cube)
    for number, row in enumerate(row for rows in plan["sweeps"].values() for row in rows):
        write_sweep_training(root / row["folder"], row, rng, number)
    return root


def write_maps(run: Path, rng: np.random.Generator) -> None:
    """gradcam.npz, neighbours.csv and explain.json of one training."""
    scores = io.read_table(run / "scores.csv")
    test = scores[scores["set"] == "test"].reset_index(drop=True).iloc[:8]
    kind = np.repeat(OUTCOMES, 2)
    arrays = {
        "cutouts": rng.normal(0, 3, (8, 32, 32, 1)).astype(np.float32),
        "maps": rng.random((8, 8, 8)).astype(np.float32),
        "resized": rng.random((8, 32, 32)).astype(np.float32),
        "fallback": np.array([False, False, True, False] * 2),
        "index": test["index"].to_numpy(),
        "candid": test["candid"].to_numpy().astype(str),
        "label": np.array([1, 1, 0, 0, 1, 1, 0, 0], np.uint8),
        "score": np.array([0.9, 0.8, 0.1, 0.2, 0.3, 0.2, 0.7, 0.8], np.float32),
        "kind": kind,
        "energy": rng.random(8),
        "channels": np.array(["difference"]),
        "layer": np.array("conv5"),
    }
    write_arrays(run / "gradcam.npz", arrays)
    table = pd.DataFrame({"index": arrays["index"], "candid": arrays["candid"], "kind": kind, "distance": 9.0})
    table["score_after"] = arrays["score"] + np.array([0, 0, 0, 0, 0.05, 0.5, 0, 0])
    table["score_change"] = table["score_after"] - arrays["score"]
    io.write_table(run / "neighbours.csv", table)
    record = {"n": 20, "energy_within_fwhm": 0.1, "energy_of_flat_map": 0.02, "fallbacks": 1}
    tried = {"n": 20, "n_neighbours": 5, "decisions_changed": 0.4}
    explain = {"layer": "conv5", "output": "logit", "threshold": 0.5, **dict.fromkeys(OUTCOMES, record)}
    io.write_json(run / "explain.json", explain | {"neighbours": {"wrong True": tried, "all": tried}})


def write_sweep_training(folder: Path, row: dict, rng: np.random.Generator, number: int) -> None:
    """metrics.json and train.json of one training of a study: the gap closes at 2000 cutouts, 55 px are random."""
    value = int(row["value"])
    large = row["option"] == "size" and value > 48
    gap = 0.01 if row["option"] == "size" or value >= 2000 else 0.05
    noise = rng.normal(0, 0.002)
    headline = {"accuracy": 0.95 + noise, "f1": 0.95 + noise, "mcc": (0.02 if large else 0.9) + noise}
    headline |= {"n_true": 50, "n_false": 50, "n_images": 5, "threshold": 0.5}
    gaps = {"train": 0.96, "validation": 0.96 - gap, "train_minus_validation": gap + noise}
    io.write_json(folder / "metrics.json", {"headline": headline, "accuracy_gap": gaps})
    history = pd.DataFrame({"epoch": [1, 2], "accuracy": [0.5, 0.94], "validation_accuracy": [0.6, 0.94 - gap]})
    io.write_table(folder / "history.csv", history)
    n_train = value if row["option"] == "n_train" else 6000
    options = {"epochs": 25, "network": row["experiment"]}
    record = {"n_train": n_train, "flops_per_cutout": 1000, "cpu_seconds": 20.0 + number, "options": options}
    io.write_json(folder / "train.json", record | {"epochs": 25})
