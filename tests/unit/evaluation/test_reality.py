"""Recall on real stars against recall on injected sources of the same magnitude."""

import numpy as np
import pandas as pd
import pytest

from otrain_core.evaluation.reality import reality_gap


def table(mags, scores, *, kind="random", n_images=6):
    images = [f"I{k % n_images}" for k in range(len(mags))]
    return pd.DataFrame({"image": images, "mag": mags, "score": scores, "kind": kind})


def test_equal_recall_at_every_magnitude_is_no_gap_though_the_magnitudes_differ():
    # Injected are mostly bright and found, real ones mostly faint and missed: by magnitude they agree.
    bright, faint = [16.2], [18.2]
    injected = table(bright * 90 + faint * 20, [0.9] * 90 + [0.9] * 10 + [0.1] * 10)
    real = table(bright * 10 + faint * 60, [0.9] * 10 + [0.9] * 30 + [0.1] * 30, kind="removed")
    result = reality_gap(injected, real, threshold=0.5, rng=np.random.default_rng(1), draws=200, confidence=0.95)
    assert result["reality_gap"] == pytest.approx(0.0)
    assert result["recall_real"] == pytest.approx(40 / 70)
    assert result["reality_gap_low"] <= 0 <= result["reality_gap_high"]


def test_gap_and_counts_by_hand():
    injected = table([16.1] * 10 + [17.1] * 10, [0.9] * 10 + [0.9] * 8 + [0.1] * 2)
    real = table([16.1] * 4 + [17.1] * 4, [0.9] * 3 + [0.1] + [0.9] * 2 + [0.1] * 2, kind="transplanted")
    result = reality_gap(injected, real, threshold=0.5, rng=np.random.default_rng(1), draws=100, confidence=0.95)
    assert result["recall_injected"] == pytest.approx(0.9)
    assert result["recall_real"] == pytest.approx(5 / 8)
    assert result["reality_gap"] == pytest.approx(0.9 - 5 / 8)
    assert result["kinds"] == {"transplanted": {"n": 8, "recall": 5 / 8}}
    assert [(row["mag_low"], row["n_real"], row["n_injected"]) for row in result["bins"]] == [
        (16.0, 4, 10),
        (16.5, 0, 0),
        (17.0, 4, 10),
    ]


def test_real_stars_at_magnitudes_without_injections_do_not_count():
    injected = table([16.1] * 10, [0.9] * 10)
    real = table([16.1] * 5 + [12.0] * 50, [0.9] * 5 + [0.0] * 50, kind="removed")
    result = reality_gap(injected, real, threshold=0.5, rng=np.random.default_rng(1), draws=100, confidence=0.95)
    assert result["reality_gap"] == 0 and result["n_real"] == 55


def test_no_real_stars_no_gap():
    injected = table([16.1] * 10, [0.9] * 10)
    nothing = injected[:0]
    assert reality_gap(injected, nothing, threshold=0.5, rng=np.random.default_rng(1), draws=100, confidence=0.95) == {}
    lost = table([np.nan] * 3, [0.9] * 3, kind="removed")
    assert reality_gap(injected, lost, threshold=0.5, rng=np.random.default_rng(1), draws=100, confidence=0.95) == {}
