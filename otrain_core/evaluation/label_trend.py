"""Whether people called faint sources bogus: their answers against S/N, judged by sources that are real by construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from otrain_core.evaluation.bootstrap import proportion_interval

FAINT = 8.0  # S/N
FEW = 10  # answers, on each side, from which a trend is looked for


def label_trend(rows: Sequence[Mapping[str, Any]], *, confidence: float = 0.95) -> dict[str, Any]:
    """Share of the answers "bogus" below and above S/N 8, of injected sources and of all candidates.

    An injected source, or a real star set down or taken out, is real whatever it looks like: where people call more of
    the faint ones bogus than of the bright ones, beyond the exact binomial intervals, so they did elsewhere.

    Parameters
    ----------
    rows : sequence of mapping
        As `otrain_core.cubes.labels.answers_by_snr` counts them.
    confidence : float

    Returns
    -------
    dict
        faint, bright, injected_faint, injected_bright: each k, n, share, low, high; trend (True, False, or None with
        too few answers about injected sources to tell) and sentence. Empty without answers.
    """
    if not rows:
        return {}
    found: dict[str, Any] = {}
    for prefix, of, bogus in (("", "n", "bogus"), ("injected_", "n_injected", "injected_bogus")):
        for name in ("faint", "bright"):
            part = [row for row in rows if (row["snr_low"] < FAINT) == (name == "faint")]
            k, n = sum(row[bogus] for row in part), sum(row[of] for row in part)
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
            f"People called {of_all} bogus; whether they call faint sources bogus is not known: they answered about "
            f"{faint['n']} and {bright['n']} injected sources, and {FEW} each are needed."
        )
    if found["trend"]:
        return (
            f"People call faint sources bogus: of the injected sources, which are real, {counts}. Faint False of the "
            "label sheet may be real."
        )
    return f"People do not call faint sources bogus more often than bright ones: of the injected sources, {counts}."


def _words(part: Mapping[str, Any]) -> str:
    if not part["n"]:
        return "none of 0"
    return (
        f"{part['k']} of {part['n']} ({100 * part['share']:.0f} % [{100 * part['low']:.0f}, {100 * part['high']:.0f}])"
    )
