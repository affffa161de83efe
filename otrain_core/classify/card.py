"""The card of a model: what it was trained on, how it was scored, what it reaches and where it fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from otrain_core.evaluation.words import count, interval, several

UNKNOWN = "not measured"
SCORES = ("auc", "mcc", "recall", "fpr", "ece")  # each with _low and _high where an interval is known
NAMES = {"auc": "AUC", "mcc": "MCC", "recall": "recall", "fpr": "FPR", "ece": "ECE"}


def card_lines(card: Mapping[str, Any]) -> list[str]:
    """A card in a few lines of plain text; what it does not hold is `UNKNOWN`."""
    data, training = card.get("data") or {}, card.get("training") or {}
    made = [f"{key} {training[key]}" for key in ("seed", "commit") if training.get(key) not in (None, "")]
    lines = [f"trained on: {data_words(data)}" + (f" ({', '.join(made)})" if made else "")]
    lines.append(f"protocol: {card.get('protocol') or UNKNOWN}")
    scores = card.get("scores") or []
    lines += [f"{row.get('set', '?')}: {score_words(row)}" for row in scores] or [f"scores: {UNKNOWN}"]
    lines += [f"known failure: {text}" for text in card.get("failures") or []] or [f"known failures: {UNKNOWN}"]
    return lines


def data_words(data: Mapping[str, Any]) -> str:
    """What a model was trained on, in words."""
    kinds = (("n_telescopes", "telescope"), ("n_images", "image"))
    parts = [several(data[key], noun) for key, noun in kinds if data.get(key) is not None]
    parts += [f"{count(data[key])} {name}" for key, name in (("n_true", "True"), ("n_false", "False")) if key in data]
    told = ", ".join(parts)
    return "; ".join(filter(None, (data.get("text"), told))) or UNKNOWN


def score_words(row: Mapping[str, Any]) -> str:
    """The scores on one data set, with their intervals and the counts behind them."""
    values = [f"{NAMES[key]} {_value(row, key)}" for key in SCORES if row.get(key) is not None]
    counts = [several(row["n_images"], "image")] if row.get("n_images") else []
    counts += [f"{count(row[key])} {name}" for key, name in (("n_true", "True"), ("n_false", "False")) if row.get(key)]
    return (", ".join(values) or UNKNOWN) + (f" ({', '.join(counts)})" if counts else "")


def _value(row: Mapping[str, Any], key: str) -> str:
    return interval(row, key, percent=key in ("recall", "fpr"))
