"""``otrain train`` on labels, and in words what is known of a training on all of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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
