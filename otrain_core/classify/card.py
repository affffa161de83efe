"""Model cards: training data, evaluation protocol, scores and known failures of a model."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd

from otrain_core.errors import OtrainError
from otrain_core.evaluation.words import count, interval, several

UNKNOWN = "not measured"
SCORES = ("auc", "mcc", "recall", "fpr", "ece")  # each with _low and _high if an interval is known
NAMES = {"auc": "AUC", "mcc": "MCC", "recall": "recall", "fpr": "FPR", "ece": "ECE"}


def card_lines(card: Mapping[str, Any]) -> list[str]:
    """Summary of a card, at most 98 columns wide: the scores of each data set with all inputs, without counts."""
    lines = [f"trained on: {data_words(card.get('data') or {})}", f"protocol: {card.get('protocol') or UNKNOWN}"]
    best: dict[str, Mapping[str, Any]] = {}
    for row in card.get("scores") or []:
        best.setdefault(str(row.get("set", "?")).split(", inputs: ")[0], row)
    for name, row in best.items():
        shown = ("mcc" if row.get("auc") is None else "auc", "recall", "fpr")
        values = [f"{NAMES[key]} {_value(row, key)}" for key in shown if row.get(key) is not None]
        lines.append(f"{name}: {', '.join(values) or UNKNOWN}")
    failures = card.get("failures") or []
    lines += [] if best else [f"scores: {UNKNOWN}"]
    lines.append(f"known failures: {len(failures) or UNKNOWN}; `otrain models list --json` shows them and all scores")
    return [part for line in lines for part in textwrap.wrap(line, 98, subsequent_indent="  ")]


def data_words(data: Mapping[str, Any]) -> str:
    """Describe the training data of a model in words."""
    kinds = (("n_telescopes", "telescope"), ("n_images", "image"))
    parts = [several(data[key], noun) for key, noun in kinds if data.get(key) is not None]
    parts += [f"{count(data[key])} {name}" for key, name in (("n_true", "True"), ("n_false", "False")) if key in data]
    return "; ".join(filter(None, (data.get("text"), ", ".join(parts)))) or UNKNOWN


def _value(row: Mapping[str, Any], key: str) -> str:
    return interval(row, key, percent=key in ("recall", "fpr"))


def card_markdown(card: Mapping[str, Any]) -> str:
    """A card as Markdown: training, scores, failures, notes, prior."""
    data, network = card.get("data") or {}, card.get("network") or {}
    parts = [f"# Model {card.get('model', '')}", "", f"Trained on {data_words(data)}.", ""]
    facts = {**(card.get("training") or {}), **network, "threshold": card.get("threshold")}
    parts += ["| training and network | |", "|---|---|"]
    parts += [f"| {key} | {_plain(value)} |" for key, value in facts.items()]
    parts += ["", "## Scores", "", f"Protocol: {card.get('protocol') or UNKNOWN}.", ""]
    scores = card.get("scores") or []
    if scores:
        names = [key for key in SCORES if any(row.get(key) is not None for row in scores)]
        parts += [f"| data | images | True / False | {' | '.join(NAMES[key] for key in names)} |"]
        parts += ["|" + "---|" * (3 + len(names))]
        for row in scores:
            values = [_value(row, key) if row.get(key) is not None else UNKNOWN for key in names]
            counts = f"{count(row.get('n_true'))} / {count(row.get('n_false'))}"
            parts += [f"| {row.get('set', '')} | {count(row.get('n_images'))} | {counts} | {' | '.join(values)} |"]
    else:
        parts += [f"{UNKNOWN.capitalize()}."]
    failures = [f"- {text}" for text in card.get("failures") or []]
    parts += ["", "## Known failures", "", *(failures or [f"{UNKNOWN.capitalize()}."])]
    if notes := card.get("notes"):
        parts += ["", "## Notes", "", *(f"- {text}" for text in notes)]
    if prior := card.get("prior"):
        parts += ["", "## Prior of the telescopes", "", "| key | distribution |", "|---|---|"]
        parts += [f"| {key} | {_plain(value)} |" for key, value in prior.items()]
    return "\n".join(parts) + "\n"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return UNKNOWN if value is None else str(value)


def training_card(
    train: Mapping[str, Any], metrics: Mapping[str, Any], scores: pd.DataFrame, cube: Mapping[str, Any]
) -> dict[str, Any]:
    """Make the card of a model from the records of its training.

    Parameters
    ----------
    train, metrics : mapping
        ``train.json`` and ``metrics.json``.
    scores : pandas.DataFrame
        ``scores.csv``, in which images are named telescope:image.
    cube : mapping
        ``cube.json``.

    Returns
    -------
    dict
        data (of the training set), training, network, options, threshold, protocol, and scores: one row for all
        held-out telescopes together, and one with the mean and the lowest MCC per telescope.
    """
    headline = dict(metrics["headline"])
    used = scores[scores["set"] == "train"]
    telescopes = used["image"].astype(str).str.partition(":")[0]
    kept = {f"{key}{end}": headline.get(f"{key}{end}") for key in SCORES for end in ("", "_low", "_high")}
    together = {"set": "simulated telescopes, held out", **kept}
    together |= {key: headline.get(key) for key in ("n_images", "n_true", "n_false")}
    rows: list[dict[str, Any]] = [together]
    each = metrics.get("telescopes") or {}
    if "mcc_mean" in each:
        words = f"the same, mean of {len(each['single'])} telescopes (lowest: {each['worst']}, {each['mcc_worst']:.3f})"
        rows.append({"set": words} | {f"mcc{end}": each.get(f"mcc_mean{end}") for end in ("", "_low", "_high")})
    return {
        "data": {
            "text": "simulated telescopes drawn at random",
            "n_telescopes": int(telescopes.nunique()),
            "n_images": int(used["image"].nunique()),
            "n_true": int((used["label"] == 1).sum()),
            "n_false": int((used["label"] == 0).sum()),
        },
        "training": {key: train.get(key) for key in ("seed", "commit", "epochs", "kept_epoch", "train_seconds")}
        | {"images_failed": cube.get("n_images_failed")},
        "network": {key: train.get(key) for key in ("n_parameters", "flops_per_cutout")},
        "options": train.get("options") or {},
        "threshold": headline["threshold"],
        "protocol": f"telescopes that were not trained on, threshold and calibration from others again ({metrics.get('protocol')})",
        "scores": rows,
    }


def table_scores(table: pd.DataFrame, *, model: str) -> list[dict[str, Any]]:
    """Make rows of the card from a table of scores on data sets, written by `tools.real_sky`.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns set, model, n_images, n_true and n_false (or n_real and n_bogus), optionally inputs, and those of
        `SCORES` that were measured, with _low and _high.
    model : str
        The rows of this model are used.

    Raises
    ------
    OtrainError
        The table has no row for this model.
    """
    mine = table[table["model"].astype(str) == model]
    if mine.empty:
        raise OtrainError(
            f"the table has no row for the model {model!r}; it has {', '.join(sorted(set(table['model'].astype(str))))}"
        )
    names = {"n_real": "n_true", "n_bogus": "n_false"}
    wanted = ["n_images", "n_true", "n_false", *(f"{key}{end}" for key in SCORES for end in ("", "_low", "_high"))]
    rows = []
    for row in mine.rename(columns=names).to_dict("records"):
        inputs = str(row.get("inputs", "all"))
        name = str(row["set"]) if inputs in ("all", "nan") else f"{row['set']}, inputs: {inputs}"
        rows.append({"set": name} | {key: row[key] for key in wanted if key in row and not pd.isna(row[key])})
    return rows
