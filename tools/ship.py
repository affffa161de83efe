"""Install a training as the shipped model: ``python -m tools.ship results/pool-drawn/all/any-telescope/seed1``.

Writes to ``otrain_core/classify/models``: ``universal.onnx`` for use, ``universal.keras`` for fine-tuning, the card
``universal.json`` and ``universal.md``, and ``universal_check.npz`` with held-out cutouts whose scores are in the card. With
``--real-sky`` the card also gets the scores of ``make real-sky``; without a training they are added to the existing card.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.arrays import read_stack, write_arrays
from otrain_core.classify import Classifier
from otrain_core.classify.card import card_markdown, table_scores, training_card
from otrain_core.classify.shipped import FOLDER, NAME
from otrain_core.cubes.inputs import SAMPLING
from otrain_core.errors import OtrainError
from otrain_core.io import read_json, read_table, write_json
from otrain_core.plan.sections import read_yaml

N_CHECKED = 16  # held-out cutouts shipped with the model, half of them True
MOST_BYTES = 2**20  # largest size of each file


def ship(training: Path, *, configs: list[Path], folder: Path = FOLDER, seed: int = 1) -> dict[str, Any]:
    """Copy the files of a training and write its card. Scores on real data, failures and notes of an older card are removed.

    Raises
    ------
    OtrainError
        A file is missing or larger than `MOST_BYTES`.
    """
    for name in ("model.onnx", "model.keras", "train.json", "metrics.json", "scores.csv"):
        if not (training / name).is_file():
            raise OtrainError(f"{training / name}: no such file; is the run of the training done?")
    for name in ("model.onnx", "model.keras"):
        if (size := (training / name).stat().st_size) > MOST_BYTES:
            raise OtrainError(f"{training / name}: {size} bytes, more than {MOST_BYTES}")
    cube, scores = training.parents[1] / "cube.npz", read_table(training / "scores.csv")
    record = training_card(
        read_json(training / "train.json"),
        read_json(training / "metrics.json"),
        scores,
        read_json(cube.with_suffix(".json")),
    )
    draw: dict[str, Any] = {}
    for path in configs:
        draw |= read_yaml(path).get("draw") or {}
    record["prior"] = draw.pop("prior", {})
    record["data"]["draw"] = {key: draw[key] for key in ("telescopes", "seed", "pipelines") if key in draw}
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("onnx", "keras"):
        shutil.copy(training / f"model.{kind}", folder / f"{NAME}.{kind}")
    record["network"]["bytes"] = (folder / f"{NAME}.onnx").stat().st_size
    record["check"] = _check(cube, scores, folder, np.random.default_rng(seed))
    card = {"model": NAME, **record, "failures": [], "notes": []}
    write_card(card, folder)
    return card


def _check(cube: Path, scores: pd.DataFrame, folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    """Store held-out cutouts, and return their scores from the model."""
    test = scores[scores["set"] == "test"]
    rows = [rng.permutation(test.loc[test["label"] == label, "index"])[: N_CHECKED // 2] for label in (1, 0)]
    index = np.sort(np.concatenate(rows))
    model, arrays = Classifier.load(folder / f"{NAME}.onnx"), read_stack(cube, mmap=("cube",))
    pixels = [k for k, name in enumerate(arrays["channels"]) if str(name) in model.channels]
    kept = {"cube": np.asarray(arrays["cube"][index][..., pixels]), "channels": arrays["channels"][pixels]}
    kept |= {name: np.asarray(arrays[name])[index] for name in ("labels", *SAMPLING) if name in arrays}
    write_arrays(folder / f"{NAME}_check.npz", kept)
    return {"file": f"{NAME}_check.npz", "scores": [round(float(value), 6) for value in model.score(kept)]}


def write_card(card: dict[str, Any], folder: Path) -> None:
    """Write a model card as JSON and as Markdown."""
    write_json(folder / f"{NAME}.json", card)
    (folder / f"{NAME}.md").write_text(card_markdown(card), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Install a training, or add to the card of the installed model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("training", type=Path, nargs="?", help="folder of the training")
    parser.add_argument("--config", type=Path, nargs="+", default=[Path("config/universal.yaml")])
    parser.add_argument("--real-sky", type=Path, metavar="CSV", help="scores on real data, set by set")
    parser.add_argument("--model", default=NAME, help="name of the model in that table (default: universal)")
    parser.add_argument("--failures", type=Path, metavar="TXT", help="known failures, one per line")
    parser.add_argument("--notes", type=Path, metavar="TXT", help="notes on the choice of the model, one per line")
    parser.add_argument("-o", "--output", type=Path, default=FOLDER, metavar="FOLDER")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.training:
            card = ship(chosen.training, configs=chosen.config, folder=chosen.output)
        else:
            card = read_json(chosen.output / f"{NAME}.json")
        if chosen.real_sky:
            simulated = [row for row in card["scores"] if not row.get("real")]
            rows = table_scores(read_table(chosen.real_sky), model=chosen.model)
            card["scores"] = simulated + [{**row, "real": True} for row in rows]
        for name, path in (("failures", chosen.failures), ("notes", chosen.notes)):
            if path:
                card[name] = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        write_card(card, chosen.output)
    except (OtrainError, OSError) as error:
        sys.exit(f"tools.ship: {error}")
    print(chosen.output / f"{NAME}.md")


if __name__ == "__main__":
    main()
