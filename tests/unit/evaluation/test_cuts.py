"""Fixed cuts on S/N, FWHM and shape."""

import numpy as np
import pandas as pd
import pytest

from otrain_core.evaluation import metrics
from otrain_core.evaluation.cuts import Properties, evaluate_cuts, fit_cuts, negative_share, properties_of
from otrain_core.plan.config import EvaluateOptions
from tests.unit.synthetic_cube import make_cube, make_split

OPTIONS = EvaluateOptions(bootstrap=200)


def cut(cube, table, *, threshold=0.5):
    if "score" not in table:
        table = table.assign(score=0.0)
    return evaluate_cuts(cube, table, threshold=threshold, rng=np.random.default_rng(0), options=OPTIONS)


@pytest.fixture(scope="module")
def box():
    """Candidates that a box in S/N and FWHM parts, and their split."""
    rng = np.random.default_rng(1)
    n = 4000
    snr, fwhm = rng.uniform(4, 50, n), rng.uniform(1, 9, n)
    labels = ((snr > 10) & (fwhm > 3) & (fwhm < 6)).astype(int)
    table = pd.DataFrame(
        {"index": np.arange(n), "set": np.array(["train", "validation", "test"])[rng.integers(0, 3, n)]}
    )
    table = table.assign(label=labels, image=[f"I{k % 12:02d}" for k in range(n)])
    return {"labels": labels, "snr": snr, "fwhms": fwhm}, table


def test_the_cut_that_made_the_classes_is_found(box):
    cube, table = box
    found = cut(cube, table)
    assert found["mcc"] > 0.93 and found["mcc_low"] < found["mcc"] < found["mcc_high"]
    assert found["snr_min"] == pytest.approx(10, abs=1) and found["fwhm_unit"] == "px"
    assert found["fwhm_low"] == pytest.approx(3, abs=0.3) and found["fwhm_high"] == pytest.approx(6, abs=0.3)
    assert np.isposinf(found["negative_max"])  # a cube without pixels has no shape
    # The cut it reports is the one it scored.
    snr, fwhm, labels = cube["snr"], cube["fwhms"], cube["labels"]
    test = (table["set"] == "test").to_numpy()
    accepted = (snr >= found["snr_min"]) & (fwhm >= found["fwhm_low"]) & (fwhm < found["fwhm_high"])
    assert found["recall"] == pytest.approx(accepted[test & (labels == 1)].mean())
    # In units of the seeing, where it is known.
    seen = cut({**cube, "fwhms": fwhm * 2, "seeing": np.full(len(fwhm), 2.0)}, table)
    assert seen["fwhm_low"] == pytest.approx(found["fwhm_low"]) and seen["fwhm_unit"] == "seeing"


def test_the_gain_of_a_network_is_that_of_the_same_images(box):
    cube, table = box
    perfect = cut(cube, table.assign(score=table["label"]))
    assert perfect["gain"] == pytest.approx(1 - perfect["mcc"])
    assert 0 < perfect["gain_low"] <= perfect["gain"] <= perfect["gain_high"]
    blind = cut(cube, table.assign(score=np.tile([0.0, 1.0], len(table) // 2)))
    assert blind["gain_high"] < 0
    few = cut(cube, table.assign(score=table["label"], image="one"))
    assert few["gain"] == pytest.approx(perfect["gain"]) and np.isnan(few["gain_low"])


def test_no_random_cut_is_better():
    cube = make_cube(300, size=9)
    table = make_split(cube)
    of = properties_of(cube)
    fit = table["set"].isin(("train", "validation")).to_numpy()
    labels = cube["labels"] == 1

    def mcc(accepted):
        return metrics.rates(**metrics.confusion(labels[fit], accepted[fit].astype(float), 0.5))["mcc"]

    best = mcc(fit_cuts(of, labels, fit).accept(of))
    rng = np.random.default_rng(0)
    grid = np.quantile(of.fwhm[fit], np.linspace(0, 1, 61))
    for _ in range(2000):
        low, high = np.sort(rng.choice(grid, 2, replace=False))
        snr_min = np.quantile(of.snr[fit], rng.integers(0, 61) / 60)
        assert mcc((of.snr >= snr_min) & (of.fwhm >= low) & (of.fwhm < high)) <= best + 1e-9


def test_shape_tells_dipoles_from_sources():
    cube = make_cube(300, size=15)
    share = negative_share(cube)
    bright = cube["snr"] > 20
    dipole, source = bright & (cube["artefacts"] == "dipole"), bright & (cube["labels"] == 1)
    assert np.nanmedian(share[dipole]) > 0.3 > 0.22 > np.nanmedian(share[source])
    # Dipoles that have the S/N and FWHM of sources: only their shape parts them.
    kept = dipole | source
    one = np.ones(kept.sum())
    of = Properties(10 * one, one, share[kept], "seeing")
    cuts = fit_cuts(of, cube["labels"][kept] == 1, np.full(kept.sum(), True))
    assert np.isfinite(cuts.negative_max)
    assert np.mean(cuts.accept(of) == (cube["labels"][kept] == 1)) > 0.9


def test_unknown_pixels_and_blocks_change_nothing(monkeypatch):
    cube = make_cube(50, size=9)
    whole = negative_share(cube)
    monkeypatch.setattr("otrain_core.evaluation.cuts.BLOCK", 7)
    assert np.array_equal(negative_share(cube), whole, equal_nan=True)
    cube["cube"][3] = np.nan
    assert np.isnan(negative_share(cube)[3])


def test_without_properties_there_are_no_cuts(box):
    cube, table = box
    found = cut({"labels": cube["labels"]}, table)
    assert np.isnan(found["mcc"]) and np.isnan(found["gain_low"])
