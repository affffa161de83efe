"""Sources of one plane: threshold auto, duplicates, masked pixels and the edge."""

import numpy as np
import pandas as pd
import pytest

from otrain_core.candidates.sources import FLAG_MASKED
from otrain_core.images.frames import MASK_COSMIC, MASK_MISSING, MASK_SATURATED
from tests.unit.candidates.test_detect import bright as bright
from tests.unit.candidates.test_detect import detect
from tests.unit.synthetic_difference import Moffat, add, blank, grid_of_sources


def test_edge_is_half_a_cutout_or_what_is_asked(bright):
    planes, psf, _, table = bright
    assert not table["edge"].any()
    wide = detect(planes, psf=psf, size=80)
    inside = wide["x"].between(40, 259) & wide["y"].between(40, 259)
    assert (wide["edge"] == ~inside).all() and inside.any() and not inside.all()
    asked = detect(planes, psf=psf, edge=100)
    assert (asked["edge"] == ~(asked["x"].between(100, 199) & asked["y"].between(100, 199))).all()


@pytest.mark.parametrize(
    "bit, edge", [(MASK_MISSING, True), (MASK_SATURATED, False), (MASK_COSMIC | MASK_MISSING, False)]
)
def test_masked_pixels_are_never_detected_on(bit, edge):
    diff, noise, mask = blank(4)
    add(diff, Moffat(), 100, 100, 60 * Moffat().flux_error())
    mask[97:104, 102:112] = bit
    diff[mask > 0] = 1e6  # would be by far the brightest source
    table = detect((diff, noise, mask), psf=Moffat(), threshold=6.0)
    assert len(table) == 1
    row = table.iloc[0]
    assert np.hypot(row["x"] - 100, row["y"] - 100) < 2 and mask[round(row["y"]), round(row["x"])] == 0
    assert row["flux"] == pytest.approx(60 * Moffat().flux_error(), rel=0.1)
    assert row["flags"] & FLAG_MASKED and bool(row["edge"]) is edge


def test_the_threshold_auto_goes_as_low_as_the_wanted_number_takes(caplog):
    caplog.set_level("INFO", logger="otrain")
    planes, psf, truth = grid_of_sources(snr=3.9, size=600)  # 144 sources, few of them above 4.5 sigma
    fixed = detect(planes, psf=psf, threshold=4.5)
    auto = detect(planes, psf=psf, threshold="auto", target_candidates=80)
    assert len(fixed) < 60 <= 80 <= len(auto)
    assert len(detect(planes, psf=psf, threshold="auto", target_candidates=len(fixed))) == len(fixed)
    assert "image a: detect.threshold: auto is 4.50 sigma" in caplog.text
    # A step with more candidates than allowed is not used, and 3 sigma is the lowest step.
    few = detect(planes, psf=psf, threshold="auto", target_candidates=5000, max_candidates=len(auto) - 1)
    assert len(fixed) <= len(few) < len(auto)
    lowest = detect(planes, psf=psf, threshold="auto", target_candidates=5000)
    assert len(lowest) == len(detect(planes, psf=psf, threshold=3.0)) < 5000


def test_two_peaks_that_have_one_centroid_are_one_candidate(monkeypatch):
    from otrain_core.candidates import sources as module

    planes, psf, truth = grid_of_sources(snr=60)
    find = module.find_sources

    def twice(*args, **options):
        found = find(*args, **options)
        return pd.concat([found, found[:5].assign(x=found["x"][:5] + 0.1)], ignore_index=True)

    monkeypatch.setattr(module, "find_sources", twice)
    assert len(detect(planes, psf=psf)) == len(truth)
