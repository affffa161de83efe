from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from otrain_core.evaluation.found import Judged, completeness, curve, judge, score_at
from otrain_core.plan.config import EvaluateOptions
from otrain_core.plan.pipelines import CrossmatchOptions


def truth(*rows):
    columns = ["x", "y", "kind", "snr", "flux", "real", "usable"]
    return pd.DataFrame(rows, columns=columns).assign(limit=0.1)


def image_of(sources, unused=None):
    planes = SimpleNamespace(shape=(100, 100), seeing=3.0)
    return SimpleNamespace(image="i", sources=sources, planes=planes, unused=unused)


def found(*rows):
    return pd.DataFrame(rows, columns=["x", "y", "score"])


def judged(scores, false, snr=7.0):
    scores = np.array(scores, float)
    table = pd.DataFrame({"score": scores, "snr": snr, "kind": "random", "real": False})
    return Judged(table, np.array(false, float))


def test_sources_are_matched_and_the_rest_are_false_alarms():
    sources = truth(
        (30, 30, "random", 9, 50, False, True),
        (60, 30, "random", 9, 50, False, True),
        (60, 70, "transplanted", 9, 50, True, True),
        (30, 70, "random", 9, 50, False, False),
    )
    seen = found((30.5, 30, 0.9), (80, 80, 0.4), (60, 71, 0.8), (30, 70, 0.7), (31, 33, 0.3), (3, 3, 0.6))
    one = judge(seen, image_of(sources), options=CrossmatchOptions())
    assert one.sources["score"].tolist() == [0.9, -np.inf, 0.8]  # unusable places do not count
    assert one.sources["real"].tolist() == [False, False, True]
    assert one.sources["distance"].iloc[0] == pytest.approx(0.5)
    assert one.false.tolist() == [0.4]  # neither beside a source, nor at the edge


def test_pixels_of_another_set_count_in_nothing():
    sources = truth((30, 30, "random", 9, 50, False, True), (60, 30, "random", 9, 50, False, True))
    unused = np.zeros((100, 100), bool)
    unused[:, 50:] = True
    one = judge(
        found((30, 30, 0.9), (60, 30, 0.8), (80, 80, 0.4), (30, 80, 0.3)),
        image_of(sources, unused),
        options=CrossmatchOptions(),
    )
    assert one.sources["x"].tolist() == [30] and one.false.tolist() == [0.3]


def test_real_stars_are_counted_by_their_kind_alone():
    table = pd.DataFrame({"score": [0.9, 0.1, 0.8], "snr": 7.0, "kind": ["random", "random", "removed"]})
    images = {"one": [Judged(table.assign(real=table["kind"] == "removed"), np.array([0.5]))]}
    options, rng = EvaluateOptions(), np.random.default_rng(1)
    for kind, n, share in ((None, 2, 0.5), ("removed", 1, 1.0)):
        row = completeness(images, low=5, high=10, per_image=0.5, options=options, rng=rng, kind=kind).iloc[0]
        assert (row["n"], row["completeness"]) == (n, share)


def test_nothing_found_is_no_error():
    sources = truth((30, 30, "random", 9, 50, False, True))
    one = judge(found(), image_of(sources), options=CrossmatchOptions())
    assert one.sources["score"].tolist() == [-np.inf] and one.false.size == 0


def test_score_that_lets_so_many_false_alarms_pass():
    images = [judged([], [0.9, 0.5]), judged([], [0.7, 0.3])]
    assert score_at(images, 1.0) == 0.5  # above it are two, one an image
    assert score_at(images, 0.0) == 0.9
    assert score_at(images, 9.0) == -np.inf
    assert score_at(images, 1.0, np.array([0, 2])) == 0.3  # the second image twice: 0.7, 0.7, 0.3, 0.3


def test_curve_counts_what_is_above_each_false_alarm():
    table = curve([judged([0.8, 0.4], [0.6]), judged([0.95, -np.inf], [0.9])])
    assert table["false_alarms"].tolist() == [0, 0.5]
    assert table["completeness"].tolist() == [0.25, 0.5]


def test_gain_over_the_baseline_with_its_interval():
    rng = np.random.default_rng(1)
    good = [judged(rng.uniform(0.5, 1, 20), [0.4, 0.3]) for _ in range(12)]
    poor = [judged(rng.uniform(0, 1, 20), [0.5, 0.3]) for _ in range(12)]
    table = completeness(
        {"good": good, "poor": poor},
        low=5,
        high=10,
        per_image=1.0,
        options=EvaluateOptions(),
        rng=rng,
        baseline="poor",
    ).set_index("detector")
    assert table.loc["good", "completeness"] == 1 and table.loc["good", "n"] == 240
    assert (
        0.2 < table.loc["good", "gain"] < 0.4
    )  # a third of the poor scores is below 0.3, the first false alarm too many
    assert 0.1 < table.loc["good", "gain_low"] < table.loc["good", "gain"] < table.loc["good", "gain_high"] < 0.5
    assert table.loc["poor", "gain"] == 0


def test_no_source_in_a_bin_has_no_completeness():
    table = completeness(
        {"one": [judged([0.5], [])]},
        low=50,
        high=60,
        per_image=1,
        options=EvaluateOptions(),
        rng=np.random.default_rng(1),
    )
    assert table["n"].iloc[0] == 0 and np.isnan(table["completeness"].iloc[0])
