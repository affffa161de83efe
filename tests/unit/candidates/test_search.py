import numpy as np
import pandas as pd
import pytest

from otrain_core.candidates import search
from otrain_core.candidates.search import (
    catalogue_pixels,
    drop_catalogued,
    find_sep,
    find_source_extractor,
    find_sources,
    find_stdpipe,
    merge_searches,
)
from otrain_core.errors import ImageError, MissingProgramError
from tests.unit.candidates.test_detect import needs_source_extractor
from tests.unit.synthetic_difference import NOISE, SEEING, Moffat, add, blank, tangential

OPTIONS = {"image": "a", "seeing": SEEING, "threshold": 4.5, "min_area": 4}


def planes(*positions, snr=60, size=200, seed=1):
    data, error, mask = blank(seed, size)
    for x, y in positions:
        add(data, Moffat(), x, y, snr * Moffat().flux_error())
    return data, error, mask > 0


@needs_source_extractor
def test_masked_footprints_are_rejected_by_stdpipe_alone():
    data, error, bad = planes((60, 60), (140, 140))
    bad[60, 62] = True  # on the wing of the first source
    assert len(find_source_extractor(data, error, bad, **OPTIONS)) == 2
    found = find_stdpipe(data, error, bad, **OPTIONS)
    assert len(found) == 1 and np.hypot(found["x"][0] - 140, found["y"][0] - 140) < 0.3
    assert len(find_stdpipe(data, error, bad & False, **OPTIONS)) == 2


@needs_source_extractor
def test_stdpipe_asks_nothing_of_the_network(monkeypatch):
    import socket

    def refuse(*args, **options):
        raise AssertionError("a look-up on the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(find_stdpipe(*planes((60, 60)), **OPTIONS)) == 1


@needs_source_extractor
def test_thresholds_of_the_programs():
    grid = [(x, y) for x in range(30, 180, 30) for y in range(30, 180, 30)]
    data, error, bad = planes(*grid, snr=8)
    assert len(find_stdpipe(data, error, bad, **OPTIONS)) >= 0.8 * len(grid)
    assert len(find_stdpipe(data, error, bad, **OPTIONS | {"threshold": 12.0})) == 0
    # gmadet's threshold of 4 is in units of the noise of a pixel, far above S/N 4 of a source.
    assert len(find_source_extractor(data, error, bad, **OPTIONS | {"threshold": 4.0})) < 5
    data, error, bad = planes(*grid, snr=25)
    assert len(find_source_extractor(data, error, bad, **OPTIONS | {"threshold": 4.0})) == len(grid)
    # The noise map is used unchanged: scaling it is up to the caller.
    assert len(find_source_extractor(data, 20 * error, bad, **OPTIONS)) == 0


@needs_source_extractor
def test_source_extractor_follows_the_noise_map():
    rng = np.random.default_rng(3)
    _, error, mask = blank(2, 400)
    error[:, 200:] = 10 * NOISE
    data = (error * rng.normal(size=error.shape)).astype(np.float32)
    add(data, Moffat(), 100, 100, 40 * Moffat().flux_error())
    found = find_source_extractor(data, error, mask > 0, **OPTIONS)
    assert len(found) == 1 and np.hypot(found["x"][0] - 100, found["y"][0] - 100) < 0.3


def test_sep_finds_negative_sources_when_asked():
    data, error, bad = planes((60, 60))
    add(data, Moffat(), 140, 140, -60 * Moffat().flux_error())
    assert len(find_sep(data, error, bad, **OPTIONS)) == 1
    assert len(find_sources("sep", data, error, bad, **OPTIONS, both_signs=True)) == 2


@needs_source_extractor
def test_a_program_that_fails_is_an_error_of_the_image(monkeypatch, tmp_path):
    broken = tmp_path / "source-extractor"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ImageError, match="image a: detect.method: .*source-extractor failed"):
        find_source_extractor(*planes(), **OPTIONS)


def test_a_missing_program_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for method in ("source-extractor", "stdpipe"):
        with pytest.raises(MissingProgramError, match="source-extractor"):
            find_sources(method, *planes(), **OPTIONS)


def table(*rows, method):
    return pd.DataFrame(rows, columns=["x", "y"], dtype=float).assign(method=method, flux=1.0)


def test_merging_pairs_within_the_radius():
    difference = table((10, 10), (50, 50), method="difference")
    catalogue = table((11, 10), (50, 53), (90, 90), method="catalogue").assign(flux=2.0)
    merged = merge_searches(difference, catalogue, radius=2.5)
    assert merged["method"].tolist() == ["both", "difference", "catalogue", "catalogue"]
    assert merged["flux"].tolist() == [1.0, 1.0, 2.0, 2.0]
    assert difference["method"].tolist() == ["difference", "difference"]
    assert merge_searches(difference, catalogue[:0], radius=2.5)["method"].tolist() == ["difference"] * 2
    assert merge_searches(difference[:0], catalogue, radius=2.5)["method"].tolist() == ["catalogue"] * 3


def test_two_catalogue_rows_beside_one_difference_row_are_that_one():
    merged = merge_searches(
        table((10, 10), method="difference"), table((9, 10), (11, 10), method="catalogue"), radius=2.0
    )
    assert merged["method"].tolist() == ["both"]


def test_catalogue_entries_that_are_near_the_image():
    wcs = tangential()
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    from astropy.wcs import Sip

    a = np.zeros((4, 4))
    a[2, 0], a[3, 0] = 2e-4, -3e-6  # this distortion maps positions far outside back into the field
    wcs.sip = Sip(a, np.zeros((4, 4)), None, None, wcs.wcs.crpix)
    x, y = np.array([20.0, 280.0]), np.array([100.0, 250.0])
    ra, dec = wcs.all_pix2world(x, y, 0)
    far = pd.DataFrame({"ra": [210.0, 31.0, np.nan, 30.4], "dec": [-40.0, 40.0, 40.0, np.nan]})
    catalogue = pd.concat([far, pd.DataFrame({"ra": ra, "dec": dec})], ignore_index=True)
    pixels = catalogue_pixels(catalogue, wcs, (300, 300))
    np.testing.assert_allclose(pixels, np.column_stack([x, y]), atol=1e-3)
    assert catalogue_pixels(catalogue[:3], wcs, (300, 300)).shape == (0, 2)
    sources = pd.DataFrame({"x": [22.9, 23.1, 150.0], "y": [100.0, 100.0, 150.0]})
    assert drop_catalogued(sources, catalogue, wcs, (300, 300), radius=3.0)["x"].tolist() == [23.1, 150.0]


def test_stdpipe_asks_for_at_least_three_pixels(monkeypatch):
    asked = {}

    def run(data, **options):
        asked.update(options)
        raise ImageError("a", "stop", "here")

    monkeypatch.setattr(search, "_run_source_extractor", run)
    for min_area, used in ((1, 3), (7, 7)):
        with pytest.raises(ImageError, match="stop"):
            find_stdpipe(*planes(), **OPTIONS | {"min_area": min_area})
        assert asked["minarea"] == used
