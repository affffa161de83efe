"""Do people call faint sources bogus?"""

import numpy as np
import pytest

from otrain_core.cubes.labels import answers_by_snr
from otrain_core.evaluation.label_trend import label_trend


def rows(faint, bright):
    """Bins of the S/N; faint and bright are n, bogus, n_injected, injected_bogus."""
    names = ("n", "bogus", "n_injected", "injected_bogus")
    edges = ((0.0, 6.0), (20.0, np.nan))
    return [
        {"snr_low": low, "snr_high": high} | dict(zip(names, counts, strict=True))
        for (low, high), counts in zip(edges, (faint, bright), strict=True)
    ]


def test_faint_injected_sources_called_bogus_are_a_trend():
    found = label_trend(rows((60, 50, 40, 30), (80, 30, 50, 1)))
    assert found["trend"] is True
    assert found["injected_faint"]["share"] == 0.75
    assert found["injected_faint"]["low"] == pytest.approx(0.588, abs=0.001)  # Clopper & Pearson of 30 of 40
    assert "30 of 40 (75 % [59, 87]) below S/N 8 and 1 of 50 (2 % [0, 11]) above it" in found["sentence"]


def test_bogus_among_all_faint_candidates_is_no_trend_where_injected_ones_are_seen():
    found = label_trend(rows((90, 60, 30, 1), (80, 5, 50, 1)))
    assert found["trend"] is False and found["sentence"].startswith("People do not call faint sources bogus")


def test_without_injected_sources_it_is_not_known():
    found = label_trend(rows((60, 50, 9, 9), (80, 30, 50, 1)))
    assert found["trend"] is None and "about 9 and 50 injected sources, and 10 each are needed" in found["sentence"]
    none = label_trend(rows((5, 5, 0, 0), (80, 30, 50, 1))[1:])
    assert none["trend"] is None and "none of 0 below S/N 8" in none["sentence"]
    assert label_trend([]) == {}


def test_answers_are_counted_by_their_signal():
    column = {"snr": np.array([5.0, 5.5, 7.0, 30.0, 30.0, 40.0])}
    before = np.array([1, 0, 1, 1, 1, -1])
    settled = np.array([0, 0, -1, 1, 0])  # of the candidates 0, 1, 2, 3 and 5; -1: unsure
    counted = answers_by_snr(column, settled, before, rows=[0, 1, 2, 3, 5])
    first, last = counted
    assert (first["snr_high"], first["n"], first["bogus"], first["n_injected"], first["injected_bogus"]) == (
        6,
        2,
        2,
        1,
        1,
    )
    assert (last["snr_low"], last["n"], last["bogus"], last["n_injected"], last["injected_bogus"]) == (20, 2, 1, 1, 0)
    assert np.isnan(last["snr_high"])
