"""The model `universal` that is shipped with O'TRAIN: its files and its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from otrain_core.errors import OtrainError
from otrain_core.io import digest

NAME = "universal"
FOLDER = Path(__file__).with_name("models")


def shipped_file(kind: str = "onnx") -> Path:
    """Path of the shipped model.

    Parameters
    ----------
    kind : {'onnx', 'keras'}
        The file for classification, or the file for fine-tuning.

    Raises
    ------
    OtrainError
        This installation has no shipped model.
    """
    path = FOLDER / f"{NAME}.{kind}"
    if not path.is_file():
        raise OtrainError(
            f"{path}: this installation has no shipped model; give another model (-m), or build it with `make universal`"
        )
    return path


def shipped_card() -> dict[str, Any] | None:
    """Card of the shipped model from ``universal.json`` (`otrain_core.classify.card`); None if there is no model.

    Raises
    ------
    OtrainError
        The card cannot be read.
    """
    if not (FOLDER / f"{NAME}.onnx").is_file():
        return None
    path = FOLDER / f"{NAME}.json"
    try:
        card = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise OtrainError(f"{path}: not a readable card ({error})") from None
    if not isinstance(card, dict):
        raise OtrainError(f"{path}: not a card")
    return card


def shipped_digest() -> str:
    """Digest of the shipped model, '' if there is none; the workflow computes new scores when it changes."""
    path = FOLDER / f"{NAME}.onnx"
    return digest(path) if path.is_file() else ""
