from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from otrain_core.candidates.measure import SIGMA, BroadenedPSF
from otrain_core.candidates.planes import PLANES, Field, Planes
from otrain_core.networks.tiles import (
    TARGETS,
    TileImage,
    _with_artefacts,
    draw_batch,
    draw_tile,
    make_targets,
    shifted_reference,
    sources_of,
    turned,
)
from otrain_core.plan.finder import FinderOptions

SEEING = 3.0
QUIET = FinderOptions(heat_width=1.0, drop_difference=0, drop_mask=0, shift_reference=0, add_artefacts=0)


class Gaussian:
    def stamp(self, x, y):
        x0, y0 = int(np.floor(x + 0.5)) - 9, int(np.floor(y + 0.5)) - 9
        place = np.arange(19)
        stamp = np.exp(-((y0 + place - y)[:, None] ** 2 + (x0 + place - x) ** 2) / (2 * (SIGMA * SEEING) ** 2))
        return stamp / stamp.sum(), y0, x0


def sources(*rows):
    return pd.DataFrame(rows, columns=["x", "y", "flux", "snr", "kind", "real", "usable"]).assign(limit=0.1)


SOURCES = sources(
    (20.3, 30.6, 300.0, 25.0, "random", False, True),
    (50.0, 12.0, 20.0, 2.0, "random", False, True),
    (10.0, 50.0, 300.0, 25.0, "transplanted", True, True),
)


@pytest.fixture
def field():
    rng = np.random.default_rng(4)
    reference = rng.normal(0, 1, (72, 80)).astype("f4")
    light, psf = np.zeros((72, 80)), Gaussian()
    for row in SOURCES.itertuples():
        stamp, y0, x0 = psf.stamp(row.x, row.y)
        top, left = max(-y0, 0), max(-x0, 0)
        stamp = stamp[top:, left:]
        light[max(y0, 0) : max(y0, 0) + stamp.shape[0], max(x0, 0) : max(x0, 0) + stamp.shape[1]] += row.flux * stamp
    difference = (rng.normal(0, 1, (72, 80)) + light).astype("f4")
    mask, noise = np.zeros((72, 80), np.uint8), np.full((72, 80), 1.4, "f4")
    planes = Planes.of(reference + difference, reference, difference, noise, mask, seeing=SEEING)
    return Field("i", planes, SOURCES, psf, psf)


def target(found, name):
    return found[..., TARGETS.index(name)]


def test_targets_of_sources_that_train_and_of_others(field):
    found = make_targets(field.planes, sources_of(field), corner=(0, 0), spread=1.0, options=QUIET)
    heat = target(found, "heat")
    assert np.argwhere(heat == 1).tolist() == [[31, 20]]  # neither the faint one nor the star that was moved
    assert target(found, "dx")[31, 20] == pytest.approx(0.3, abs=1e-5)
    assert target(found, "dy")[30, 21] == pytest.approx(0.6, abs=1e-5)
    assert target(found, "log_snr")[31, 20] == pytest.approx(np.log(25))
    assert target(found, "near").sum() == 9
    assert heat[31, 22] == pytest.approx(np.exp(-(1.7**2 + 0.4**2) / (2 * (SIGMA * SEEING) ** 2)), rel=1e-4)
    counts = target(found, "counts")
    assert counts[12, 50] == 0 and counts[12, 54] == 1  # one FWHM about the faint one
    assert counts[50, 20] == 0 and counts[50, 24] == 1  # the stamp of the star
    peak = 300 / (2 * np.pi * (SIGMA * SEEING) ** 2)
    radius = SIGMA * SEEING * np.sqrt(2 * np.log(peak / 1.4))  # where the light falls to the noise
    assert target(found, "footprint").sum() == pytest.approx(np.pi * radius**2, rel=0.15)


def test_the_corner_moves_the_sources_along(field):
    whole = make_targets(field.planes, sources_of(field), corner=(0, 0), spread=1.0, options=QUIET)
    part = field.planes.cut(slice(8, 60), slice(5, 70))
    found = make_targets(part, sources_of(field), corner=(8, 5), spread=1.0, options=QUIET)
    np.testing.assert_allclose(found, whole[8:60, 5:70], atol=1e-5)


def test_of_two_near_sources_a_pixel_leads_to_the_nearer(field):
    two = sources((20.0, 30.0, 300.0, 25.0, "random", False, True), (22.0, 30.0, 300.0, 25.0, "random", False, True))
    dx = target(
        make_targets(field.planes, sources_of(replace(field, sources=two)), corner=(0, 0), spread=1.0, options=QUIET),
        "dx",
    )
    assert dx[30, 19:24].tolist() == pytest.approx([1, 0, dx[30, 21], 0, -1]) and abs(dx[30, 21]) == 1


@pytest.mark.parametrize("symmetry", range(8))
def test_offsets_turn_with_the_tile(field, symmetry):
    inputs = field.planes.inputs(1.0)[:70, :70]
    targets = make_targets(field.planes, sources_of(field), corner=(0, 0), spread=1.0, options=QUIET)[:70, :70]
    seen, said = turned(inputs, targets, symmetry)
    row, column = np.argwhere(target(said, "heat") == 1)[0]
    x, y = column + target(said, "dx")[row, column], row + target(said, "dy")[row, column]
    expected = np.array([20.3, 30.6])
    if symmetry & 1:
        expected[0] = 69 - expected[0]
    if symmetry & 2:
        expected[1] = 69 - expected[1]
    expected = expected[::-1] if symmetry & 4 else expected
    np.testing.assert_allclose([x, y], expected, atol=1e-4)
    assert seen[row, column] == pytest.approx(inputs[31, 20])


def test_a_tile_as_it_is_is_a_part_of_the_image(field):
    image = TileImage(field)
    inputs, targets = draw_tile(image, QUIET, 72, np.random.default_rng(1), vary=False)
    left = int(
        np.flatnonzero(
            [
                np.allclose(inputs[..., 0], field.planes.inputs(image.spreads[True])[:, k : k + 72, 0], atol=1e-3)
                for k in range(9)
            ]
        )[0]
    )
    assert np.argwhere(target(targets, "heat") == 1).tolist() == [[31, 20 - left]]


def test_batches_vary_and_repeat_with_the_seed(field):
    options = FinderOptions(drop_difference=0.5, drop_mask=0.5, shift_reference=0.5)
    one, other = (
        draw_batch([TileImage(field)], options=options, side=48, n=12, rng=np.random.default_rng(7)) for _ in range(2)
    )
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
    inputs, targets = one
    assert inputs.shape == (12, 48, 48, len(PLANES)) and targets.shape == (12, 48, 48, len(TARGETS))
    assert np.isfinite(inputs).all() and np.isfinite(targets).all()
    there = inputs[..., PLANES.index("has_difference")].mean(axis=(1, 2))
    assert 0 < there.mean() < 1
    assert (target(targets, "heat") == 1).sum(axis=(1, 2)).max() > 1  # further sources, too: the image has one


def test_pixels_of_another_set_do_not_count(field):
    unused = np.ones((72, 80), bool)
    _, targets = draw_tile(TileImage(replace(field, unused=unused)), QUIET, 72, np.random.default_rng(1), vary=False)
    assert not target(targets, "counts").any() and not target(targets, "near").any()


def test_artefacts_are_no_sources_and_look_alike_in_science_and_difference(field):
    options = QUIET.model_copy(update={"add_sources": 0, "add_artefacts": 1})
    image, added = TileImage(replace(field, sources=SOURCES[:0])), []
    for seed in range(6):
        inputs, targets = draw_tile(image, options, 72, np.random.default_rng(seed), vary=True)
        assert not target(targets, "heat").any() and target(targets, "counts").all()
        added.append(np.sinh(inputs[..., PLANES.index("difference")]).max())
    quiet = np.abs(field.planes.inputs(image.spreads[True])[..., PLANES.index("difference")])
    assert max(added) > 2 * np.sinh(quiet.max())
    part = _with_artefacts(field.planes, field, (0, 0), np.random.default_rng(3))
    change = part.science - field.planes.science
    assert change.max() > 5 * 1.4
    np.testing.assert_allclose(part.difference - field.planes.difference, change, atol=1e-3)
    blurred = replace(field, psf=BroadenedPSF(field.psf, fwhm=SEEING, target=1.5 * SEEING))
    part = _with_artefacts(field.planes, blurred, (0, 0), np.random.default_rng(3))
    seen = part.difference - field.planes.difference
    assert seen.max() < 0.5 * change.max() and seen.sum() == pytest.approx(change.sum(), rel=0.05)


def test_a_shifted_reference_leaves_dipoles(field):
    star, _, _ = Gaussian().stamp(40, 40)
    planes = field.planes
    reference = planes.reference.copy()
    reference[31:50, 31:50] += 5000 * star
    still = Planes(reference, reference, np.zeros_like(reference), planes.noise, planes.bad, SEEING)
    found = shifted_reference(still, 1.0, 0.0)
    assert found.difference[40, 38] > 20 > -20 > found.difference[40, 42]
    blurred = shifted_reference(still, 0, 0, blur=0.6)
    assert blurred.difference[40, 40] > 20 and blurred.difference[40, 44] < 0
    assert np.abs(shifted_reference(still, 0, 0).difference).max() < 1e-3
