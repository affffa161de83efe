"""Gap between simulation and reality: difference between the recall on injected sources and on real stars."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from otrain_core.evaluation.bootstrap import draw_images, percentile_interval

MAG_BIN = 0.5


def reality_gap(
    injected: pd.DataFrame,
    real: pd.DataFrame,
    *,
    threshold: float,
    rng: np.random.Generator,
    draws: int,
    confidence: float,
) -> dict[str, Any]:
    """Recall on injected sources minus recall on real stars of the same magnitudes.

    Both recalls are computed in bins of half a magnitude. The average over the bins is weighted with
    the number of real stars, so both recalls refer to the magnitudes of the real
    stars. Bins without injected sources are left out.

    Parameters
    ----------
    injected, real : pandas.DataFrame
        Scored candidates of the test images: image, mag, score; `real` also kind (removed:
        removed from the reference; transplanted: copied to another place in the science image).
    threshold : float
        Decision threshold.
    rng : numpy.random.Generator
        For the bootstrap over images.
    draws, confidence : int, float
        Number of bootstrap draws, and confidence of the interval.

    Returns
    -------
    dict
        n_real, recall_real, recall_injected (at the same magnitudes), reality_gap with _low
        and _high (positive: the classifier is better on injected sources), kinds (n, recall
        by kind) and bins (mag_low, mag_high, n_real, recall_real, n_injected, recall_injected).
        Empty if there are no real stars or no injected sources with a magnitude.
    """
    injected, real = (table[np.isfinite(table["mag"].to_numpy(float))] for table in (injected, real))
    if real.empty or injected.empty:
        return {}
    low = np.floor(real["mag"].min() / MAG_BIN) * MAG_BIN
    n_bins = int((real["mag"].max() - low) // MAG_BIN) + 1
    images = sorted({*injected["image"], *real["image"]})
    counts = [_counts(table, images, low, n_bins, threshold) for table in (injected, real)]

    def estimate(weights: np.ndarray) -> tuple[float, float, float]:
        (n_injected, found_injected), (n_real, found_real) = (
            tuple(np.tensordot(weights, plane, axes=1) for plane in planes) for planes in counts
        )
        both = (n_injected > 0) & (n_real > 0)
        total = n_real[both].sum()
        if total == 0:
            return np.nan, np.nan, np.nan
        ours = float((n_real[both] * found_injected[both] / n_injected[both]).sum() / total)
        theirs = float(found_real[both].sum() / total)
        return ours, theirs, ours - theirs

    recall_injected, recall_real, gap = estimate(np.ones(len(images)))
    weights = draw_images(len(images), rng=rng, draws=draws).astype(float)
    gap_low, gap_high = percentile_interval(np.array([estimate(row)[2] for row in weights]), confidence)
    sums = [[plane.sum(axis=0) for plane in planes] for planes in counts]
    bins = []
    for index in range(n_bins):
        row = {"mag_low": low + index * MAG_BIN, "mag_high": low + (index + 1) * MAG_BIN}
        for name, (n, found) in zip(("injected", "real"), sums, strict=True):
            row[f"n_{name}"] = int(n[index])
            row[f"recall_{name}"] = float(found[index] / n[index]) if n[index] else np.nan
        bins.append(row)
    kinds = {
        str(kind): {"n": len(part), "recall": float(np.mean(part["score"] >= threshold))}
        for kind, part in real.groupby("kind")
    }
    return {
        "n_real": len(real),
        "recall_real": recall_real,
        "recall_injected": recall_injected,
        "reality_gap": gap,
        "reality_gap_low": gap_low,
        "reality_gap_high": gap_high,
        "kinds": kinds,
        "bins": bins,
    }


def _counts(
    table: pd.DataFrame, images: list[str], low: float, n_bins: int, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of candidates and of accepted ones by image and bin of magnitude: two arrays (images, bins)."""
    place = np.floor((table["mag"].to_numpy(float) - low) / MAG_BIN).astype(int)
    inside = (place >= 0) & (place < n_bins)
    at = np.searchsorted(images, table["image"].to_numpy(str))[inside], place[inside]
    total, found = np.zeros((len(images), n_bins)), np.zeros((len(images), n_bins))
    np.add.at(total, at, 1)
    np.add.at(found, at, (table["score"].to_numpy(float) >= threshold)[inside])
    return total, found
