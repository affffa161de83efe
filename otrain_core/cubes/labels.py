"""Labels given by people: combine the answers into one label, which overrides the label of the cross-match."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

ANSWERS = ("True", "False", "unsure")
LEFT_OUT = "left out"  # word for a candidate without a label
AGREEMENT = 2 / 3  # fraction of the answers that must agree
SAME_PLACE = 2.0  # a row of the sheet belongs to a candidate within this distance [px]
SNR_EDGES = (0.0, 6.0, 8.0, 12.0, 20.0, np.inf)  # S/N bins, as people tend to label faint sources as bogus
BY_HAND = "by hand"  # kind of a True candidate that was not injected


def agreed(answers: Sequence[str]) -> int:
    """Combine the answers of several people into one label: 1 (True), 0 (False) or -1 (no label).

    At least two thirds of the answers must agree; "unsure" counts as an answer. So one answer is sufficient, two
    answers must agree, and of three answers two must agree.
    """
    counts = Counter(answers)
    for value, name in ((1, "True"), (0, "False")):
        if counts[name] and counts[name] >= AGREEMENT * len(answers):
            return value
    return -1


def word(label: int) -> str:
    """A label as in the column ``before`` of the label sheet."""
    return {1: "True", 0: "False"}.get(int(label), LEFT_OUT)


def override_labels(
    column: Mapping[str, np.ndarray], rows: Iterable[Mapping[str, Any]], *, telescope: str, pipeline: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Override the labels of candidates by those of a label sheet.

    A row belongs to the candidate that it names, if the candidate is within `SAME_PLACE` of the position in the row;
    otherwise it belongs to the nearest candidate within this distance, because a run with another threshold numbers
    its candidates differently. A row without a position belongs to the candidate that it names. A row is void if the
    candidate was True when it was shown but is not True now, or the reverse: then a source has been injected or
    removed, and the answer was given for other pixels.

    Parameters
    ----------
    column : mapping of arrays
        image, candid, x, y [px], label, edge, reason, kind, artefact, injection and, optionally, snr; all (N,).
    rows : iterable of mapping
        Rows of the label sheet, see `otrain_core.plan.sheets.LabelRow`. If a person has several rows for a
        candidate, the latest one counts.
    telescope, pipeline : str
        Rows of other telescopes and pipelines are ignored; a row without pipeline is valid for all pipelines.

    Returns
    -------
    column : dict
        label, reason, kind, artefact and injection are changed according to the sheet; the additional column
        ``label_before`` has the original labels.
    record : dict
        n_rows, and among these n_not_found, n_void and n_edge; n_candidates, and among these n_true, n_false and
        n_left_out; n_changed; people (number of rows of each person that count); by_snr (see `answers_by_snr`).
    """
    mine = [row for row in rows if row["telescope"] == telescope and row.get("pipeline") in (None, pipeline)]
    label = np.asarray(column["label"]).astype(int)
    answers, lost = _answers(column, mine)
    new = {key: np.asarray(column[key]).astype(object) for key in ("reason", "kind", "artefact")}
    new |= {"label": label.copy(), "injection": np.array(column["injection"])}
    people: Counter[str] = Counter()
    for index, by_person in answers.items():
        given = list(by_person.values())
        decided = agreed(given)
        people.update(by_person.keys())
        shown = f", {given.count(word(decided))} of {len(given)}" if decided >= 0 else ": unsure"
        new["reason"][index] = f"labelled by hand{shown}"
        if decided == label[index]:
            continue
        new["label"][index] = decided
        new["artefact"][index] = ""
        new["kind"][index] = BY_HAND if decided == 1 else ""
        new["injection"][index] = -1
    settled = new["label"][list(answers)] if answers else np.empty(0, int)
    changed = {key: values.astype(str) if values.dtype == object else values for key, values in new.items()}
    return dict(column) | changed | {"label_before": label.astype(np.int8)}, {
        "n_rows": len(mine),
        **lost,
        "n_candidates": len(answers),
        "n_true": int((settled == 1).sum()),
        "n_false": int((settled == 0).sum()),
        "n_left_out": int((settled < 0).sum()),
        "n_changed": int((new["label"] != label).sum()),
        "people": dict(sorted(people.items())),
        "by_snr": answers_by_snr(column, settled, label, rows=list(answers)) if "snr" in column else [],
    }


def answers_by_snr(
    column: Mapping[str, np.ndarray], settled: np.ndarray, before: np.ndarray, *, rows: Sequence[int]
) -> list[dict[str, float]]:
    """How often people label candidates as bogus, in bins of S/N, for all candidates and for injected sources.

    Parameters
    ----------
    column : mapping of arrays
        snr (N,).
    settled : numpy.ndarray
        (n,) labels on which people agree: 1, 0 or -1 (no label).
    before : numpy.ndarray
        (N,) labels of the cross-match; 1 for injected sources and for real stars that were moved or removed.
    rows : sequence of int
        (n,) indices of the candidates with answers.

    Returns
    -------
    list of dict
        snr_low, snr_high (NaN if open), n, bogus, n_injected, injected_bogus; bins without answers are left out.
    """
    snr, real = np.asarray(column["snr"], float)[list(rows)], before[list(rows)] == 1
    found = []
    for low, high in zip(SNR_EDGES[:-1], SNR_EDGES[1:], strict=True):
        mine = (snr >= low) & (snr < high) & (settled >= 0)
        if not mine.any():
            continue
        numbers = {"n": mine, "bogus": mine & (settled == 0), "n_injected": mine & real}
        numbers["injected_bogus"] = numbers["bogus"] & real
        row = {"snr_low": low, "snr_high": high if np.isfinite(high) else np.nan}
        found.append(row | {name: int(which.sum()) for name, which in numbers.items()})
    return found


def _answers(
    column: Mapping[str, np.ndarray], rows: Sequence[Mapping[str, Any]]
) -> tuple[dict[int, dict[str, str]], dict[str, int]]:
    """Answers by candidate and person, and counts of the rows that do not count."""
    images, candids = (np.asarray(column[key]).astype(str) for key in ("image", "candid"))
    x, y = (np.asarray(column[key], float) for key in ("x", "y"))
    edge, before = np.asarray(column["edge"], bool), np.asarray(column["label"]).astype(int)
    by_name = {name: index for index, name in enumerate(candids)}
    of_image = {str(name): np.flatnonzero(images == name) for name in np.unique(images)}
    lost = dict.fromkeys(("n_not_found", "n_void", "n_edge"), 0)
    answers: dict[int, dict[str, str]] = {}
    # The sort is stable: rows without a time come first, in the order of the sheet.
    for row in sorted(rows, key=lambda row: row.get("when") or ""):
        index = by_name.get(row.get("candid"), -1)
        if index >= 0 and row.get("image") not in (None, images[index]):
            index = -1
        if row.get("x") is not None and row.get("y") is not None:
            of_named = np.flatnonzero(images == images[index]) if index >= 0 else np.empty(0, int)
            near = of_image.get(str(row.get("image")), of_named)
            index = _at(x, y, near, row["x"], row["y"], named=index)
        if index < 0:
            lost["n_not_found"] += 1
        elif edge[index]:
            lost["n_edge"] += 1
        elif row.get("before") is not None and (row["before"] == "True") != (before[index] == 1):
            lost["n_void"] += 1
        else:
            answers.setdefault(index, {})[row.get("who") or ""] = row["label"]
    return answers, lost


def _at(x: np.ndarray, y: np.ndarray, near: np.ndarray, x0: float, y0: float, *, named: int) -> int:
    """Index of the named candidate if it is close to (x0, y0), else of the nearest close candidate, -1 if none."""
    if named >= 0 and not np.isfinite(x[named]):
        return named  # cutouts without positions
    distance = np.hypot(x[near] - x0, y[near] - y0)
    inside = distance <= SAME_PLACE
    if named in near[inside]:
        return named
    return int(near[inside][distance[inside].argmin()]) if inside.any() else -1
