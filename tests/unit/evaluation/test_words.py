"""Numbers as text."""

import numpy as np
import pandas as pd
import pytest

from otrain_core.evaluation.words import count, decisions, interval, num, pct, several


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (num(0.12345), "0.123"),
        (num(None), "–"),
        (num(np.nan), "–"),
        (num("x"), "–"),
        (pct(0.0512), "5.1 %"),
        (pct(None), "–"),
        (pct(pd.NA), "–"),
        (pct(np.inf), "–"),
        (count(12345), "12\u202f345"),
        (count(pd.NA), "–"),
        (interval({"mcc": 0.9, "mcc_low": 0.85, "mcc_high": 0.95}, "mcc"), "0.900 [0.850, 0.950]"),
        (interval({"fpr": 0.02, "fpr_low": None, "fpr_high": None}, "fpr", percent=True), "2.0 %"),
        (interval({}, "mcc"), "–"),
    ],
)
def test_numbers_for_people(made, expected):
    assert made == expected


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (several(1, "image"), "1 image"),
        (several(0, "image"), "0 images"),
        (several(1.0, "image"), "1 image"),
        (several(2, "galaxy", "galaxies"), "2 galaxies"),
        (several(None, "image"), "– images"),
    ],
)
def test_one_is_not_several(made, expected):
    assert made == expected


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, "1 candidate: 1 real, 0 undecided, 0 bogus"), (1234, "1234 candidates: 1 real, 0 undecided, 1233 bogus")],
)
def test_decisions(n, expected):
    assert decisions({"n": n, "real": 1, "undecided": 0}) == expected
