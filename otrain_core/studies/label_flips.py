"""Labels flipped on purpose, and how many of them a ranking finds."""

from __future__ import annotations

import numpy as np


def flip_labels(labels: np.ndarray, rng: np.random.Generator, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Flip a share of the labels, the same share of either class.

    Parameters
    ----------
    labels : array
        (N,) 0 or 1.
    rng : numpy.random.Generator
    fraction : float
        At least 0, below 0.5.

    Returns
    -------
    labels : numpy.ndarray
        A copy, of the same dtype.
    flipped : numpy.ndarray
        bool (N,).
    """
    if not 0 <= fraction < 0.5:
        raise ValueError(f"fraction must be at least 0 and below 0.5, not {fraction}")
    labels = np.array(labels)
    flipped = np.zeros(labels.size, dtype=bool)
    for value in (0, 1):
        rows = np.flatnonzero(labels == value)
        flipped[rng.choice(rows, round(fraction * rows.size), replace=False)] = True
    labels[flipped] = 1 - labels[flipped]
    return labels, flipped


def measure_flips(flipped: np.ndarray, quality: np.ndarray, suspected: np.ndarray | None = None) -> dict[str, float]:
    """How many flipped labels a ranking finds.

    Parameters
    ----------
    flipped : array
        bool (N,), from `flip_labels`.
    quality : array
        (N,), lowest where most suspect.
    suspected : array, optional
        bool (N,) the cut that is made without knowing what was flipped.

    Returns
    -------
    dict
        n_flipped, recall_at_precision_80 (the largest share of the flips in a head of the ranking in which
        at least 80 % are flips; 0 where there is none), average_precision, and of the cut: n_suspected,
        precision, recall (NaN where undefined).
    """
    flipped, quality = np.asarray(flipped, dtype=bool), np.asarray(quality, dtype=float)
    n_flipped = int(flipped.sum())
    order = np.argsort(quality, kind="stable")
    hits = np.cumsum(flipped[order])
    last = np.append(np.diff(quality[order]) > 0, True)  # a cut cannot part equal values
    precision, recall = hits[last] / (np.flatnonzero(last) + 1), hits[last] / max(n_flipped, 1)
    enough = precision >= 0.8
    found: dict[str, float] = {
        "n_flipped": n_flipped,
        "recall_at_precision_80": float(recall[enough].max()) if enough.any() and n_flipped else 0.0,
        "average_precision": float(np.sum(precision * np.diff(recall, prepend=0))) if n_flipped else np.nan,
    }
    if suspected is not None:
        chosen = np.asarray(suspected, dtype=bool)
        both = int(np.sum(chosen & flipped))
        found["n_suspected"] = int(chosen.sum())
        found["precision"] = both / int(chosen.sum()) if chosen.any() else np.nan
        found["recall"] = both / n_flipped if n_flipped else np.nan
    return found
