"""Numbers as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from otrain_core.results import number


def num(value: Any, digits: int = 3) -> str:
    """A number with `digits` decimals; a dash where it is missing."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return "–"
    return f"{value:.{digits}f}" if np.isfinite(value) else "–"


def pct(value: Any, digits: int = 1) -> str:
    """A fraction in percent; a dash where it is missing."""
    text = num(100 * float(value), digits) if not _missing(value) else "–"
    return text if text == "–" else f"{text} %"


def count(value: Any) -> str:
    """An integer with narrow no-break spaces between thousands; a dash where it is missing."""
    return "–" if _missing(value) else f"{int(value):,}".replace(",", "\u202f")


def _missing(value: Any) -> bool:
    try:
        return bool(np.isnan(float(value)))
    except TypeError:  # None, or the missing value of pandas
        return True


def several(n: Any, noun: str, plural: str = "") -> str:
    """A count and its noun, as in ``1 image`` and ``3 images``."""
    one = not _missing(n) and int(n) == 1
    return f"{count(n)} {noun if one else plural or noun + 's'}"


def decisions(counts: Mapping[str, int]) -> str:
    """Numbers of candidates by decision, as in ``3 candidates: 1 real, 0 undecided, 2 bogus``; ASCII, for terminals.

    Parameters
    ----------
    counts : mapping
        n, real, undecided.
    """
    n, real, undecided = (counts[name] for name in ("n", "real", "undecided"))
    return f"{n} candidate{'s' * (n != 1)}: {real} real, {undecided} undecided, {n - real - undecided} bogus"


def interval(row: Mapping[str, Any], name: str, *, percent: bool = False, digits: int | None = None) -> str:
    """A number and its interval, as in ``0.93 [0.91, 0.95]``."""
    digits = (1 if percent else 3) if digits is None else digits
    scale = 100 if percent else 1
    values = [scale * number(row, key) for key in (name, f"{name}_low", f"{name}_high")]
    text = num(values[0], digits) + (
        f" [{num(values[1], digits)}, {num(values[2], digits)}]" if np.isfinite(values[1]) else ""
    )
    return text + (" %" if percent and np.isfinite(values[0]) else "")
