"""Causes of False candidates on real images, from their surroundings."""

import numpy as np
import pandas as pd
import pytest

from otrain_core.candidates.crossmatch import crossmatch_candidates
from otrain_core.candidates.detect import detect_candidates
from otrain_core.candidates.surroundings import name_surroundings
from otrain_core.images.frames import MASK_BAD, MASK_COSMIC, MASK_SATURATED
from otrain_core.plan.pipelines import CrossmatchOptions, DetectOptions
from tests.unit.synthetic_difference import NOISE, SEEING, ZERO_POINT, Moffat, add, blank


def table(*rows):
    return pd.DataFrame(rows, columns=["x", "y", "snr", "negative"], dtype=float)


def name(rows, *, data=None, mask=None, reference=None, seeing=SEEING):
    clean, noise, clear = blank(1, 100)
    return name_surroundings(
        table(*rows),
        data=clean if data is None else data,
        noise=noise,
        mask=clear if mask is None else mask,
        reference=reference,
        seeing=seeing,
    ).tolist()


def test_masked_pixels():
    mask = np.zeros((100, 100), np.uint8)
    mask[20, 20], mask[60, 60], mask[80, 80] = MASK_SATURATED, MASK_BAD, MASK_COSMIC
    rows = [(28, 20, 30, 0), (31, 20, 30, 0), (62, 60, 30, 0), (63, 60, 30, 0), (80, 82, 30, 0), (20, 21, 30, 0.5)]
    assert name(rows, mask=mask) == ["saturated", "", "mask_edge", "", "mask_edge", "saturated"]


def test_one_bright_pixel_is_hot_and_a_star_is_not():
    data, _, _ = blank(2, 100)
    data[30, 30] += 30 * NOISE
    add(data, Moffat(), 70, 70, 60 * Moffat().flux_error())
    add(data, Moffat(1.5), 50.0, 20.0, 60 * Moffat(1.5).flux_error())
    rows = [(30, 30, 30, 0), (70, 70, 60, 0)]
    assert name(rows, data=data) == ["hot_pixel", ""]
    assert name([(50, 20, 60, 0)], data=data, seeing=1.5) == [""]  # with this seeing a star can be as sharp
    assert name([(10, 10, 4.6, 0)], data=data) == ["noise"]


def test_dipoles_stars_of_the_reference_and_noise():
    reference = np.random.default_rng(5).normal(0, NOISE, (100, 100)).astype(np.float32)
    add(reference, Moffat(), 40, 40, 100 * Moffat().flux_error())
    reference[5, 5] = np.nan
    rows = [(40, 41, 12, 0.5), (40, 42, 12, 0.0), (40, 52, 12, 0.0), (80, 80, 5.0, 0.0)]
    assert name(rows, reference=reference) == ["dipole", "star", "", "noise"]
    assert name(rows[1:2]) == [""]  # without a reference its sources are unknown
    assert name([]) == []


def test_noise_of_the_reference_is_no_star():
    reference = np.random.default_rng(6).normal(0, NOISE, (400, 400)).astype(np.float32)
    clean, noise, mask = blank(7, 400)
    x, y = np.random.default_rng(8).uniform(10, 390, (2, 300))
    rows = pd.DataFrame({"x": x, "y": y, "snr": 20.0, "negative": 0.0})
    named = name_surroundings(rows, data=clean, noise=noise, mask=mask, reference=reference, seeing=SEEING)
    assert (named == "").mean() > 0.97


@pytest.mark.parametrize("simulated", [False, True])
def test_the_cause_of_a_false_is_that_of_its_surroundings_where_there_is_no_truth(simulated):
    diff, noise, mask = blank(9, 200)
    reference = np.zeros_like(diff)
    for x, y in ((50, 50), (150, 150)):
        add(diff, Moffat(), x, y, 60 * Moffat().flux_error())
    add(reference, Moffat(), 50, 50, 500 * Moffat().flux_error())
    found = detect_candidates(
        diff,
        noise,
        mask,
        image="a",
        seeing=SEEING,
        zero_point=ZERO_POINT,
        size=32,
        options=DetectOptions(threshold=6.0),
        psf=Moffat(),
        reference=reference,
    )
    assert found["cause"].tolist() == ["star", ""]
    injected = pd.DataFrame(
        {"id": [1], "x": [150.0], "y": [150.0], "mag": [20.0], "flux": [60 * Moffat().flux_error()]}
    )
    truth = pd.DataFrame(columns=["kind", "x", "y", "size", "width", "angle", "flux"]).astype({"x": float, "y": float})
    labelled, record = crossmatch_candidates(
        found,
        injected,
        image="a",
        seeing=SEEING,
        options=CrossmatchOptions(),
        sky_truth=truth if simulated else None,
    )
    assert labelled["label"].tolist() == [0, 1]
    assert labelled["artefact"].tolist() == ["noise" if simulated else "star", ""]
    assert record["artefacts"] == ({"noise": 1} if simulated else {"star": 1})
