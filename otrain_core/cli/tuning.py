"""``otrain train`` with a label sheet: the labelled cutouts, and the text on a training without a test set."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def labelled(cube: Path, labels: str) -> dict[str, Any]:
    """The cutouts of a cube, or of a folder, that have a label in a label sheet.

    Returns
    -------
    dict of str to array
        Arrays of a cube.
    """
    from otrain_core.cubes.new_labels import label_cutouts, read_cutouts
    from otrain_core.plan.sheets import read_labels

    arrays, record = label_cutouts(read_cutouts(cube), read_labels(labels), where=labels)
    text = f"{labels}: {record['n_true']} True and {record['n_false']} False, {record['n_left_out']} left out"
    if record["n_not_found"]:
        text += f"; {record['n_not_found']} answers belong to other cutouts"
    print(text, file=sys.stderr)
    return arrays


def in_words(record: Mapping[str, Any], why: str) -> str:
    """What a user should know about a training on all labels.

    Parameters
    ----------
    record : mapping
        Record of the training (train.json).
    why : str
        Reason why the cutouts could not be split.
    """
    adapted = record["adapted"]
    losses = adapted["log_loss"]
    lines = [f"no test set: {why}"]
    lines.append(
        f"the shipped model was fine-tuned on all {adapted['n_labels']} labels of {adapted['n_labelled_images']} image(s); "
        "its performance on other images is unknown, so that it is in no report and cannot become champion"
    )
    if not losses:
        lines.append("too few labels to change the weights: only the probabilities were calibrated on the labels")
    elif not adapted["step"]:
        lines.append("no gain in cross-validation: the weights were kept, only the probabilities were calibrated")
    else:
        new, old = losses[f"{adapted['step']:g}"], losses["0"]
        lines.append(f"log loss in cross-validation: {new:.3f}; with the shipped weights: {old:.3f}")
    return "\n".join(lines)
