"""``otrain train`` on labels and from the shipped model; on all labels where they are too few for a test set."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.io import write_json, write_table

if TYPE_CHECKING:
    from otrain_core.plan.config import Experiment, FinetuneOptions

EVEN_ODDS = 0.5  # the threshold of a fine-tuned network


def labelled(cube: Path, labels: str) -> dict[str, Any]:
    """Cutouts that a label sheet labels, of a cube or of a folder of them."""
    from otrain_core.cubes.new_labels import label_cutouts, read_cutouts
    from otrain_core.plan.sheets import read_labels

    arrays, record = label_cutouts(read_cutouts(cube), read_labels(labels), where=labels)
    text = f"{labels}: {record['n_true']} True and {record['n_false']} False, {record['n_left_out']} left out"
    if record["n_not_found"]:
        text += f"; {record['n_not_found']} answers are about other cutouts"
    print(text, file=sys.stderr)
    return arrays


def completed(arrays: dict[str, Any]) -> dict[str, Any]:
    """A cube with all that the shipped model reads: what it can do without is missing (NaN), and so is a rim of small cutouts."""
    from otrain_core.classify.classifier import Classifier
    from otrain_core.classify.shipped import shipped_file
    from otrain_core.cubes.inputs import SAMPLING, select_inputs

    model = Classifier.load(shipped_file())
    pixels = [name for name in model.channels if name not in SAMPLING]
    there = [str(name) for name in arrays["channels"]]
    read = pixels + [name for name in there if name not in pixels]
    size, side = model.size, min(arrays["cube"].shape[1:3])
    cutouts = select_inputs(
        arrays, inputs=read, size=max(size, side), optional=[*model.optional, "psf"], least=model.least_size
    )
    columns = {
        name: np.full(len(cutouts), np.nan) for name in model.channels if name in SAMPLING and name not in arrays
    }
    return arrays | columns | {"cube": cutouts, "channels": np.array(read)}


def train_on_all(
    cube: str | Path,
    folder: str | Path,
    *,
    experiment: Experiment,
    options: FinetuneOptions,
    seed: int,
    threads: int | None = None,
) -> dict[str, Any]:
    """Fine-tune the shipped model on all cutouts of a cube; nothing is held out, so nothing is scored.

    Writes ``split.csv``, ``model.keras``, ``history.csv``, ``train.json`` and ``model.onnx``. Without ``metrics.json``
    the registry does not take the training, and no gate can make it a champion.

    Returns
    -------
    dict
        What ``train.json`` holds.

    Raises
    ------
    OtrainError
        No shipped model, or the cube lacks a channel that it reads.
    """
    from otrain_core.cubes.cube_format import read_cube
    from otrain_core.io import digest
    from otrain_core.jobs.provenance import provenance
    from otrain_core.networks.architecture import save_model
    from otrain_core.networks.export_onnx import N_CHECKED, export_model, model_record
    from otrain_core.networks.predict import model_inputs
    from otrain_core.networks.train import finetune_model

    folder, arrays = Path(folder), read_cube(cube)
    split = split_of_all(arrays)
    network, history, record = finetune_model(
        arrays, split, experiment=experiment, options=options, seed=seed, threads=threads
    )
    record |= {"test_set": None, "cube_digest": digest(cube)} | provenance()
    write_table(folder / "split.csv", split)
    write_table(folder / "history.csv", history)
    save_model(network, folder / "model.keras")
    write_json(folder / "train.json", record)
    metrics: dict[str, Any] = {key: str(arrays[key]) for key in ("telescope", "pipeline") if key in arrays}
    metrics |= {"experiment": "fine-tuned", "headline": {"threshold": EVEN_ODDS}}
    checked = model_inputs(network, arrays, np.arange(min(len(split), N_CHECKED)))
    about = model_record(metrics, record, arrays, split.assign(score=np.nan))
    export_model(network, folder / "model.onnx", about=about, cutouts=checked)
    return record


def split_of_all(cube: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A split whose only set is train: index, candid, image, label, set."""
    labels = np.asarray(cube["labels"]).astype(int)
    images = np.asarray(cube["images"]).astype(str) if "images" in cube else np.full(len(labels), "")
    return pd.DataFrame(
        {
            "index": np.arange(len(labels)),
            "candid": cube["candids"],
            "image": images,
            "label": labels,
            "set": "train",
        }
    )


def in_words(record: Mapping[str, Any], why: str) -> str:
    """What a user should know of such a training, `why` being the reason of the split."""
    adapted = record["adapted"]
    losses = adapted["log_loss"]
    lines = [f"no test set could be kept: {why}"]
    lines.append(
        f"all {adapted['n_labels']} labels of {adapted['n_labelled_images']} image(s) went into the shipped model: "
        "how well it does on other images is not known, no report shows it, and it cannot become champion"
    )
    if not losses:
        lines.append("too few labels to train on: its weights stayed, the probabilities alone follow the labels")
    elif not adapted["step"]:
        lines.append("on images left out in turn no gain was shown: its weights stayed, the probabilities alone follow")
    else:
        new, old = losses[f"{adapted['step']:g}"], losses["0"]
        lines.append(f"on images left out in turn: log loss {new:.3f}, of the shipped weights {old:.3f}")
    return "\n".join(lines)
