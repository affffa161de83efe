"""Candidates that are worth a person's look, and why: uncertain, disagreeing, suspected, new."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from otrain_core.cubes.inputs import column
from otrain_core.cubes.labels import word
from otrain_core.labelling.sources import Source

REASONS = {
    "uncertain": "the best training leaves it undecided",
    "disagreeing": "trainings disagree about it",
    "against the label": "all trainings contradict its label",
    "suspected label": "networks that never saw its image doubt its label",
    "recent night": "it is of the last night, or new",
}
NIGHT = 16.0  # hours before the last candidate that are one night: no night is longer, no day shorter than 8


def worth_a_look(source: Source, *, most: int = 200) -> dict[int, dict[str, str]]:
    """Rows that are worth a look, with every reason and what it rests on.

    Reasons take turns, each with its clearest case first; of each at most `most`.

    Returns
    -------
    dict
        By row, in the order in which to show them: reason to a sentence.
    """
    found = {
        "uncertain": _uncertain(source),
        "disagreeing": _disagreeing(source),
        "against the label": _against(source),
        "suspected label": _suspected(source),
        "recent night": _recent(source),
    }
    found = {name: cases[:most] for name, cases in found.items()}
    chosen: dict[int, dict[str, str]] = {}
    for turn in range(max(map(len, found.values()))):
        for cases in found.values():
            if turn < len(cases):
                chosen.setdefault(cases[turn][0], {})
    for name, cases in found.items():
        for row, text in cases:
            chosen[row][name] = text
    return chosen


def _uncertain(source: Source) -> list[tuple[int, str]]:
    if not source.trainings:
        return []
    best = source.trainings[0]
    rows = np.flatnonzero(best.undecided)
    rows = rows[np.argsort(np.abs(best.score[rows] - best.threshold), kind="stable")]
    return [
        (int(k), f"{best.name} leaves it undecided: score {best.score[k]:.3f}, threshold {best.threshold:.3f}")
        for k in rows
    ]


def _votes(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """How many trainings have a score, and how many of them say True."""
    scores = np.array([training.score for training in source.trainings])
    limits = np.array([training.threshold for training in source.trainings])
    return np.isfinite(scores).sum(axis=0), (scores >= limits[:, None]).sum(axis=0)


def _disagreeing(source: Source) -> list[tuple[int, str]]:
    if len(source.trainings) < 2:
        return []
    n, true = _votes(source)
    rows = np.flatnonzero((true > 0) & (true < n))
    spread = np.nanstd([training.score[rows] for training in source.trainings], axis=0)
    rows = rows[np.lexsort((-spread, np.abs(true[rows] / n[rows] - 0.5)))]
    return [(int(k), f"{true[k]} of {n[k]} trainings say True") for k in rows]


def _against(source: Source) -> list[tuple[int, str]]:
    if not source.trainings:
        return []
    n, true = _votes(source)
    label = np.asarray(source.cube["labels"])
    rows = np.flatnonzero((n > 0) & (((true == n) & (label == 0)) | ((true == 0) & (label == 1))))
    distance = np.nanmean([np.abs(training.score[rows] - label[rows]) for training in source.trainings], axis=0)
    rows = rows[np.argsort(-distance, kind="stable")]
    who = "the training says" if len(source.trainings) == 1 else "all {n} trainings say"
    return [(int(k), f"{who.format(n=n[k])} {word(not label[k])}, its label is {word(label[k])}") for k in rows]


def _suspected(source: Source) -> list[tuple[int, str]]:
    ranked = sorted(source.suspects.items(), key=lambda item: (-item[1], item[0]))
    return [(row, f"its label is wrong with probability {p:.2f}") for row, p in ranked]


def _recent(source: Source) -> list[tuple[int, str]]:
    times = column(source.cube, "times").astype(str) if "times" in source.cube else np.full(len(source), "")
    hours = _hours(times)
    if source.new:
        rows, text = np.arange(len(source)), "new"
    elif np.isfinite(hours).any():
        last = np.nanmax(hours)
        rows = np.flatnonzero(hours > last - NIGHT)
        if len(rows) == np.isfinite(hours).sum():
            return []  # all of one night: nothing is more recent than the rest
        text = f"of the last night, {times[np.nanargmax(hours)][:10]}"
    else:
        return []
    best = source.trainings[0].score[rows] if source.trainings else np.zeros(len(rows))
    rows = rows[np.argsort(-np.nan_to_num(best, nan=-1), kind="stable")]
    return [(k, "; ".join(filter(None, [text, source.notes.get(k)]))) for k in map(int, rows)]


def _hours(times: np.ndarray) -> np.ndarray:
    try:
        stamps = np.array([text[:19] or "NaT" for text in times], dtype="datetime64[s]")
    except ValueError:  # of headers that are not as they should be
        return np.full(len(times), np.nan)
    return np.where(np.isnat(stamps), np.nan, stamps.astype("int64") / 3600)


def identity(source: Source, row: int) -> str:
    """A short name of a candidate that stays the same as long as its name and place do."""
    place = [f"{float(source.cube[axis][row]):.1f}" if axis in source.cube else "" for axis in ("x", "y")]
    image = str(source.cube["images"][row]) if "images" in source.cube else ""
    parts = [source.telescope, source.pipeline, image, str(source.cube["candids"][row]), *place]
    return hashlib.blake2s("\0".join(parts).encode(), digest_size=10).hexdigest()


def describe(source: Source, row: int) -> dict[str, Any]:
    """What is known of a candidate, as the page shows it and the store keeps it; None where unknown."""

    def value(key: str) -> Any:
        item = source.cube[key][row] if key in source.cube else None
        if isinstance(item, np.floating | float):
            return float(item) if np.isfinite(item) else None
        return str(item) if isinstance(item, str) and item else None

    scores = [
        {"name": one.name, "score": round(float(one.score[row]), 4), "threshold": round(one.threshold, 4)}
        for one in source.trainings
        if np.isfinite(one.score[row])
    ]
    label, before = int(source.cube["labels"][row]), int(source.before()[row])
    keys = {"mag": "mags", "magerr": "errmags", "filter": "filters", "fwhm": "fwhms", "time": "times"}
    keys |= {"label_reason": "reasons"} | {key: key for key in ("x", "y", "ra", "dec", "snr", "seeing", "pixel_scale")}
    values = {name: value(key) for name, key in keys.items()}
    return {
        "telescope": source.telescope,
        "pipeline": source.pipeline,
        "cube": source.name,
        "image": str(source.cube["images"][row]) if "images" in source.cube else "",
        "candid": str(source.cube["candids"][row]),
        **values,
        "label": "none" if source.new else word(label),
        "before": word(-1 if source.new else before),
        "set": str(source.sets[row]) if source.sets is not None else "",
        "scores": scores,
        "channels": [str(name) for name in source.cube["channels"]],
        "side": int(source.cube["cube"].shape[1]),
    }
