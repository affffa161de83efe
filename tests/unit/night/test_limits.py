"""Detection limits from sources added to a copy of the image."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from otrain_core.classify import Classifier
from otrain_core.io import read_json, read_table
from otrain_core.night import limits as module
from otrain_core.night.limits import limits_in_words, measure_limits, write_limits
from otrain_core.night.search import search_image
from otrain_core.plan.pipelines import Pipeline
from otrain_core.plan.recipe import Recipe
from otrain_core.plan.telescopes import Detector
from tests.unit.synthetic_night import NEW


@pytest.fixture(scope="module")
def measured(night_pair):
    science, reference, model = night_pair
    before = hashlib.sha256(Path(science).read_bytes()).hexdigest()
    options = {"reference": reference, "classifier": Classifier.load(model)}
    options["recipe"] = Recipe(Pipeline(), Detector(), telescope="T", name="builtin")
    found = search_image(science, image="n1", **options)
    limits = measure_limits(science, found=found, n=150, seed=3, **options)
    assert hashlib.sha256(Path(science).read_bytes()).hexdigest() == before
    return found, limits


def test_bright_sources_are_found_and_faint_ones_are_not(measured):
    found, limits = measured
    table, sources = limits.table, limits.sources
    assert table["injected"].sum() == len(sources) == limits.record["used"] <= 150
    limit = found.record["limit_mag"]
    assert sources.loc[sources["mag"] < limit - 2.5, "found"].mean() > 0.8
    assert sources.loc[sources["mag"] > limit + 0.5, "found"].mean() < 0.3
    assert (table["accepted"] <= table["found"]).all() and (table["found"] <= table["injected"]).all()
    share = table["accepted"] / table["injected"]
    assert (table["completeness_low"] <= share + 1e-9).all() and (share <= table["completeness_high"] + 1e-9).all()


def test_the_limit_lies_between_and_has_an_interval(measured):
    found, limits = measured
    record = limits.record
    assert record["limit_50_low"] < record["limit_50"] < record["limit_50_high"]
    assert abs(record["limit_50"] - found.record["limit_mag"]) < 2.5
    assert record["limit_50_high"] - record["limit_50_low"] < 1.5
    assert record["false_alarms"] == found.record["real"] == limits.table["called_real"].sum()


def test_a_source_on_a_candidate_of_the_image_does_not_count(measured):
    found, _ = measured
    x, y, _ = NEW[0]
    sources = pd.DataFrame({"x": [x, 10.0], "y": [y, 10.0], "mag": [18.0, 18.0], "flux": [1.0, 1.0]})
    kept = module._recovered(sources, found.table, found.table, radius=2.0)
    assert kept["x"].tolist() == [10.0] and not kept["found"].any()


def test_what_is_written(measured, tmp_path):
    found, limits = measured
    write_limits(tmp_path, "n1", limits, instrumental=False)
    assert read_json(tmp_path / "n1.limits.json")["limit_50"] == pytest.approx(limits.record["limit_50"])
    assert len(read_table(tmp_path / "n1.injected.csv")) == limits.record["used"]
    assert list(read_table(tmp_path / "n1.limits.csv")["injected"]) == limits.table["injected"].tolist()
    assert (tmp_path / "n1.limits.png").stat().st_size > 1000
    assert f"50 % of new sources are found at {limits.record['limit_50']:.2f} mag" in limits_in_words(limits.record)


def test_a_source_on_the_edge_of_a_bin_is_counted():
    sources = pd.DataFrame({"mag": [18.0, 18.2, 18.5], "found": True, "accepted": [True, False, True]})
    table = module._by_magnitude(sources, np.array([18.5, np.nan]))
    assert table[["low", "high", "injected", "accepted", "called_real"]].values.tolist() == [
        [18.0, 18.5, 2, 1, 0],
        [18.5, 19.0, 1, 1, 1],
    ]


def test_without_a_limit_none_is_stated():
    assert np.isnan(module._interval(np.array([np.nan] * 10 + [18.0] * 100))).all()
    assert module._interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    sources = pd.DataFrame({"mag": [18.0] * 12, "found": True, "accepted": True})
    before = {"real": np.zeros(0, bool), "undecided": np.zeros(0, bool), "mag": np.zeros(0)}
    limits = module._summary(sources, before, n=12, seed=1, image="a")
    assert np.isnan(limits.record["limit_50"])
    assert "the magnitude at which 50 % are found is unknown" in limits_in_words(limits.record)
