"""Test whether people label faint sources as bogus, by their answers about injected sources, which are real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from otrain_core.evaluation.bootstrap import proportion_interval

FAINT = 8.0  # S/N
FEW = 10  # answers that are needed on each side of `FAINT`


def label_trend(rows: Sequence[Mapping[str, Any]], *, confidence: float = 0.95) -> dict[str, Any]:
    """Fraction of the answers that are "bogus", below and above S/N 8, for injected sources and for all candidates.

    An injected source, or a real star that was moved or removed, is real whatever it looks like. There is a trend if
    people call more of the faint ones than of the bright ones bogus and the exact binomial intervals do not overlap.
    Then some of the other faint candidates that they call bogus may be real too.

    Parameters
    ----------
    rows : sequence of mapping
        As from `otrain_core.cubes.labels.answers_by_snr`.
    confidence : float
        Of the intervals.

    Returns
    -------
    dict
        faint, bright, injected_faint, injected_bright: each k, n, share, low, high; trend (True, False, or None with
        too few answers about injected sources) and sentence. Empty without answers.
    """
    if not rows:
        return {}
    found: dict[str, Any] = {}
    for prefix, total, bogus in (("", "n", "bogus"), ("injected_", "n_injected", "injected_bogus")):
        for name in ("faint", "bright"):
            part = [row for row in rows if (row["snr_low"] < FAINT) == (name == "faint")]
            k, n = sum(row[bogus] for row in part), sum(row[total] for row in part)
            low, high = proportion_interval(k, n, confidence)
            found[prefix + name] = {"k": k, "n": n, "share": k / n if n else None, "low": low, "high": high}
    faint, bright = found["injected_faint"], found["injected_bright"]
    enough = min(faint["n"], bright["n"]) >= FEW
    found["trend"] = bool(faint["low"] > bright["high"]) if enough else None
    return found | {"sentence": _sentence(found)}


def _sentence(found: Mapping[str, Any]) -> str:
    faint, bright = found["injected_faint"], found["injected_bright"]
    counts = f"{_words(faint)} below S/N {FAINT:g} and {_words(bright)} above it"
    if found["trend"] is None:
        of_all = f"{_words(found['faint'])} below S/N {FAINT:g} and {_words(found['bright'])} above it"
        return (
            f"People called {of_all} bogus. It is not known whether they call faint sources bogus: they answered about "
            f"{faint['n']} and {bright['n']} injected sources, and {FEW} each are needed."
        )
    if found["trend"]:
        return (
            f"People call faint sources bogus: of the injected sources, which are real, {counts}. Faint candidates "
            "that are False in the label sheet may be real."
        )
    return f"People do not call faint sources bogus more often than bright ones: of the injected sources, {counts}."


def _words(part: Mapping[str, Any]) -> str:
    if not part["n"]:
        return "none of 0"
    return (
        f"{part['k']} of {part['n']} ({100 * part['share']:.0f} % [{100 * part['low']:.0f}, {100 * part['high']:.0f}])"
    )
