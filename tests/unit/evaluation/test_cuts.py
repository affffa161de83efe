"""Fixed cuts on S/N and FWHM."""

import numpy as np
import pandas as pd
import pytest

from otrain_core.evaluation import metrics
from otrain_core.evaluation.cuts import baseline_cut
from tests.unit.synthetic_cube import make_cube, make_split


def test_the_baseline_finds_the_cut_that_made_the_classes():
    rng = np.random.default_rng(1)
    n = 4000
    snr, fwhm = rng.uniform(4, 50, n), rng.uniform(1, 9, n)
    labels = ((snr > 10) & (fwhm > 3) & (fwhm < 6)).astype(int)
    table = pd.DataFrame({"index": np.arange(n), "set": np.array(["train", "tune", "test"])[rng.integers(0, 3, n)]})
    found = baseline_cut({"labels": labels, "snr": snr, "fwhms": fwhm}, table)
    assert found["mcc"] > 0.93
    assert found["snr_min"] == pytest.approx(10, abs=1) and found["fwhm_unit"] == "px"
    assert found["fwhm_low"] == pytest.approx(3, abs=0.3) and found["fwhm_high"] == pytest.approx(6, abs=0.3)
    # The cut it reports is the one it scored.
    test = (table["set"] == "test").to_numpy()
    accepted = (snr >= found["snr_min"]) & (fwhm >= found["fwhm_low"]) & (fwhm < found["fwhm_high"])
    assert found["recall"] == pytest.approx(accepted[test & (labels == 1)].mean())
    # In units of the seeing, where it is known.
    assert baseline_cut({"labels": labels, "snr": snr, "fwhms": fwhm * 2, "seeing": np.full(n, 2.0)}, table)[
        "fwhm_low"
    ] == pytest.approx(found["fwhm_low"])


def test_the_baseline_takes_brute_force_no_better():
    cube = make_cube(300, size=3)
    table = make_split(cube)
    found = baseline_cut(cube, table)
    ratio, fit = cube["fwhms"] / cube["seeing"], table["set"].isin(("train", "tune")).to_numpy()

    def mcc(snr_min, low, high):
        accepted = (cube["snr"] >= snr_min) & (ratio >= low) & (ratio < high)
        return metrics.rates(**metrics.confusion(cube["labels"][fit], accepted[fit].astype(float), 0.5))["mcc"]

    best = mcc(found["snr_min"], found["fwhm_low"], found["fwhm_high"])
    rng = np.random.default_rng(0)
    grid = np.quantile(ratio[fit], np.linspace(0, 1, 61))
    for _ in range(2000):
        low, high = np.sort(rng.choice(grid, 2, replace=False))
        assert mcc(np.quantile(cube["snr"][fit], rng.integers(0, 61) / 60), low, high) <= best + 1e-9
