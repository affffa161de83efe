"""Completeness and flux scale of the injected sources, and subtractions that are refused because of them."""

import numpy as np
import pytest

from otrain_core.candidates.recovery import completeness_limit
from otrain_core.errors import ImageError
from tests.unit.candidates.test_crossmatch import candidates, injections, label, many


@pytest.mark.parametrize("ratio", [0.6, 1.4])
def test_subtraction_that_scales_the_flux_is_refused(ratio):
    assert label(*many(ratio=ratio), max_flux_bias=0.45)[1]["flux_bias"] == pytest.approx(ratio - 1)
    with pytest.raises(ImageError, match=r"crossmatch: the fluxes of 40 bright injected sources are off by .40 %"):
        label(*many(ratio=ratio), max_flux_bias=0.3)
    label(*many(n=9, seen=9, ratio=ratio), max_flux_bias=0.3)  # too few sources to judge


def test_subtraction_that_loses_bright_sources_is_refused():
    found, truth = many(seen=8)
    options = {"limit_mag": 22.0, "min_recovered": 0.3}
    with pytest.raises(ImageError, match="only 8 of 40 sources injected above S/N 10 were found again"):
        label(found, truth, **options)
    for change in ({"limit_mag": 20.5}, {"min_recovered": 0.1}, {"limit_mag": np.nan}):
        label(found, truth, **(options | change))  # mag 20 is S/N 7.9 for a limit of 20.5
    # Sources at positions that no pipeline can use do not count.
    _, record = label(found, truth.assign(usable=np.arange(40) < 12), **options)
    assert (record["bright_injected"], record["bright_recovered"]) == (12, 8)
    # Real stars do not count either.
    _, record = label(found, truth.assign(kind="transplanted"), **options)
    assert (record["bright_injected"], record["n_injected"]) == (0, 0)


def test_fluxes_that_scatter_are_refused():
    found, truth = many()
    found.loc[:39, "flux"] = np.where(np.arange(40) % 2, 300.0, 1700.0)
    with pytest.raises(ImageError, match=r"scatter by 70 % \(crossmatch.max_flux_scatter is 0.5\)"):
        label(found, truth)
    assert label(found, truth, max_flux_scatter=0.8)[1]["flux_scatter"] == pytest.approx(0.7)
    found.loc[:39, "flux"] = np.where(np.arange(40) % 8 == 0, 2500.0, 1000.0)  # one in eight on another star
    record = label(found, truth)[1]
    assert (record["flux_bias"], record["flux_scatter"], record["n_flux"]) == (0, 0, 40)


def test_completeness_and_flux_scale():
    rng = np.random.default_rng(1)
    n = 2000
    truth = injections(*np.column_stack([np.arange(n) % 50 * 30.0, np.arange(n) // 50 * 30.0]))
    truth["mag"] = rng.uniform(17, 22, n)
    truth["flux"] = 10 ** (0.4 * (30 - truth["mag"]))
    seen = rng.uniform(size=n) < 1 / (1 + np.exp((truth["mag"] - 20.3) / 0.15))
    found = candidates(*truth.loc[seen, ["x", "y"]].to_numpy())
    found["flux"] = 1.02 * truth.loc[seen, "flux"].to_numpy()
    found["fluxerr"] = found["flux"] / 50
    _, record = label(found, truth)
    assert record["completeness_50_mag"] == pytest.approx(20.3, abs=0.05)
    assert record["flux_bias"] == pytest.approx(0.02, abs=1e-6)
    assert sum(row["injected"] for row in record["completeness"]) == n
    assert sum(row["recovered"] for row in record["completeness"]) == record["n_recovered"] == seen.sum()
    assert record["completeness"][0]["completeness"] == 1 and record["completeness"][-1]["completeness"] < 0.05


def test_the_limit_at_any_share_is_that_of_the_curve():
    rng = np.random.default_rng(1)
    mag = rng.uniform(16, 22, 4000)
    recovered = rng.random(4000) < 0.95 / (1 + np.exp((mag - 20) / 0.2))
    assert completeness_limit(mag, recovered) == pytest.approx(20 + 0.2 * np.log(0.9), abs=0.05)
    assert completeness_limit(mag, recovered, share=0.9) == pytest.approx(20 + 0.2 * np.log(0.05 / 0.9), abs=0.1)
    assert np.isnan(completeness_limit(mag, recovered, share=0.99))


def test_fifty_percent_without_a_crossing():
    mag = np.linspace(18, 20, 50)
    assert np.isnan(completeness_limit(mag, np.ones(50, bool)))
    assert np.isnan(completeness_limit(mag, np.zeros(50, bool)))
    assert np.isnan(completeness_limit(mag[:5], mag[:5] < 18.1))
