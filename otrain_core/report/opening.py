"""The first screen of the report: the verdict, a comparison of the scores, and the glossary of its terms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.evaluation.gate import CUTS, SHIPPED, not_beaten, not_better, refusal
from otrain_core.evaluation.words import count, interval, several
from otrain_core.plan.config import GateOptions
from otrain_core.results import number, read_record, run_keys

GLOSSARY = Path(__file__).with_name("templates") / "glossary.md"  # docs/glossary.md links to it


def opening(part: Mapping[str, Any], best: Path | None, gate: GateOptions) -> dict[str, Any]:
    """The verdict on one cube, for the top of the page.

    Parameters
    ----------
    part : mapping
        Values of the cube for the page: ``simulated`` and ``trainings``.
    best : path or None
        Folder of the training to which the verdict refers.
    gate : GateOptions

    Returns
    -------
    dict
        passes (whether the training passes the gate), usable (the verdict in a few words), sentences, rows (title,
        name and scores of the training, the shipped model and the fixed cuts, as far as they were scored), panels (the
        figure of the training, or None).
    """
    if best is None:
        sentences = ["No training of this telescope was scored on images that it never saw."]
        return {"passes": False, "usable": "No model yet.", "sentences": sentences, "rows": [], "panels": None}
    metrics, keys = read_record(best / "metrics.json"), run_keys(best)
    row = metrics["headline"]
    reason = refusal(row, gate)
    kept, passed = interval(row, "recall", percent=True), interval(row, "fpr", percent=True)
    data = "simulated " if part["simulated"] else ""
    sentences = [
        f"On {several(row['n_images'], f'{data}image')} that it never saw, with {count(row['n_true'])} real and"
        f" {count(row['n_false'])} bogus candidates, it accepts {kept} of the real ones and {passed} of the"
        f" bogus; MCC {interval(row, 'mcc')}.",
        _against(row, gate),
    ]
    others = ((SHIPPED, "shipped model", "shipped"), (CUTS, "fixed cuts", "baseline"))
    rows = [{"title": f"{keys['experiment']}, seed {keys['seed']}", "name": "model", **row}]
    for name, title, key in others:
        scores = metrics.get(key) or {}
        if np.isfinite(number(scores, "mcc")):
            rows.append({**scores, "title": title, "name": name})
    return {
        "passes": not reason,
        "usable": "Usable." if not reason else f"Do not use it yet: {reason}.",
        "sentences": [sentence for sentence in sentences if sentence],
        "rows": rows,
        "panels": next((t["figures"].get("panels") for t in part["trainings"] if t["best"]), None),
    }


def _against(row: Mapping[str, Any], gate: GateOptions) -> str:
    """Sentence on the gain over the fixed cuts and the shipped model, and on its significance."""
    said = []
    for name, key, worse in (
        ("fixed cuts", "gain", not_beaten(row, by=gate.min_gain)),
        ("the shipped model", "shipped_gain", not_better(row, by=gate.min_gain_shipped)),
    ):
        if np.isfinite(number(row, key)):
            words = "not shown to be better than" if worse else "better than"
            said.append(f"{words} {name} ({'+' if number(row, key) > 0 else ''}{interval(row, key)} in MCC)")
    return f"It is {' and '.join(said)}." if said else ""


@cache
def glossary() -> dict[str, str]:
    """Terms and their explanations, from the glossary of the documentation."""
    found: dict[str, str] = {}
    terms: list[str] = []  # several may share an explanation
    for line in GLOSSARY.read_text(encoding="utf-8").splitlines():
        if line.startswith(":   "):
            found |= dict.fromkeys(terms, line[4:])
        elif line.startswith("    "):
            found |= {term: f"{found[term]} {line.strip()}" for term in terms if term in found}
        else:
            terms = [*(term for term in terms if term not in found), line.strip()] if line.strip() else []
    return {term: re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", text) for term, text in found.items()}


def term(word: str, name: str = "") -> Any:
    """A word of the page as a link to its glossary entry; `name` is the entry if it differs from the word.

    Raises
    ------
    KeyError
        The glossary lacks the entry.
    """
    from markupsafe import Markup

    name = name or word
    link = Markup('<a class="term" href="#word-{}" title="{}">{}</a>')
    return link.format(_anchor(name), glossary()[name], word)


def words_of(text: str) -> list[dict[str, str]]:
    """Glossary entries to which a page links, with their anchors, in the order of the glossary."""
    named = set(re.findall(r'href="#word-([^"]+)"', text))
    return [{"anchor": _anchor(k), "word": k, "text": v} for k, v in glossary().items() if _anchor(k) in named]


def _anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
