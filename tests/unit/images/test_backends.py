"""Functions shared by the back ends: sizes of the kernel, pixels away from sources, scatter and correlation of the noise."""

import numpy as np
import pandas as pd
import pytest

from otrain_core.images.backends import (
    Inputs,
    affordable_order,
    kernel_sizes,
    noise_correlation,
    noise_spread,
)
from tests.unit.synthetic_field import star


def inputs(science, *, reference=None, noise=2.0):
    nothing = np.zeros(science.shape, bool)
    sigma = np.full(science.shape, noise, np.float32)
    return Inputs(
        name="a",
        science=science,
        noise=sigma,
        bad_science=nothing,
        reference=np.zeros_like(science) if reference is None else reference,
        reference_noise=sigma,
        bad_reference=nothing,
        smoothing=np.ones((1, 1)),
        stars=pd.DataFrame(),
        seeing=3.0,
        seeing_reference=3.0,
    )


@pytest.mark.parametrize(
    ("seeing", "sharper", "match", "half", "stamp"),
    [
        (5.0, 3.0, 4 / 2.355, 10, 13),  # the matching Gaussian; the half width is at least twice the seeing
        (3.0, 3.0, 0.9, 6, 8),  # equal seeing: the lower limit
        (8.0, 8.0, 2.0, 16, 20),  # a quarter of the seeing
        (30.0, 3.0, np.sqrt(891) / 2.355, 25, 25),  # the upper limits
    ],
)
def test_the_kernel_is_as_wide_as_the_seeings_ask(seeing, sharper, match, half, stamp):
    sigmas, width, size = kernel_sizes(seeing, sharper)
    np.testing.assert_allclose(sigmas, np.array([0.6, 1.2, 2.4]) * match)
    assert (width, size) == (half, stamp)
    assert kernel_sizes(seeing, sharper, 11)[1] == 11


@pytest.mark.parametrize("which", ["science", "reference"])
def test_sources_of_either_image_are_not_quiet(which):
    rng = np.random.default_rng(1)
    science, reference = (rng.normal(0, 2, (80, 80)).astype(np.float32) for _ in range(2))
    (science if which == "science" else reference)[:] += np.float32(2000) * star(40, 30, 3.0, (80, 80)).astype(
        np.float32
    )
    quiet = inputs(science, reference=reference).quiet
    assert not quiet[27:34, 37:44].any()
    assert quiet.mean() > 0.8


def test_the_spread_is_that_of_the_noise_whatever_the_sources_are():
    rng = np.random.default_rng(1)
    diff = rng.normal(1.0, 3.0, (200, 200)).astype(np.float32)
    science = 5000 * star(100, 90, 3.0, diff.shape).astype(np.float32)
    noise = np.full(diff.shape, 2.0, np.float32)
    spread, centre = noise_spread(diff + science, noise, inputs(science))
    assert spread == pytest.approx(1.5, rel=0.02)
    assert centre == pytest.approx(0.5, abs=0.03)
    assert np.isnan(noise_spread(np.full_like(diff, np.nan), noise, inputs(science))).all()


def places(n, *, width=600.0, height=600.0):
    """n positions that are spread evenly over a frame, or over a part of it."""
    side = int(np.sqrt(n))
    x, y = np.meshgrid((np.arange(side) + 0.5) / side * width, (np.arange(side) + 0.5) / side * height)
    return x.ravel(), y.ravel()


@pytest.mark.parametrize(("n", "order"), [(100, 2), (64, 2), (36, 1), (16, 1), (9, 0), (1, 0)])
def test_the_order_falls_with_the_number_of_stamps(n, order):
    assert affordable_order("auto", *places(n), (600, 600)) == order
    assert affordable_order(0, *places(n), (600, 600)) == 0


def test_the_order_falls_where_stamps_leave_a_part_of_the_frame_empty():
    assert affordable_order(2, *places(100, width=300.0), (600, 600)) == 1
    assert affordable_order(2, *places(100, width=150.0), (600, 600)) == 0
    line = np.linspace(0, 599, 100)
    assert affordable_order(2, line, line, (600, 600)) == 0
    assert affordable_order(4, *places(900), (600, 600)) == 4


def test_the_correlation_of_the_noise_is_found_whatever_the_stars_are():
    rng = np.random.default_rng(1)
    shape = (200, 200)
    stars = sum(5000 * star(rng.uniform(0, 200), rng.uniform(0, 200), 3.0, shape) for _ in range(40))
    noise = [rng.normal(0, 2, shape) for _ in range(4)]
    science = (stars + noise[0]).astype(np.float32)
    alone = inputs(science, reference=(stars + noise[1]).astype(np.float32))
    assert abs(noise_correlation(alone)) < 0.04
    mean = inputs(science, reference=(stars + np.mean(noise, axis=0)).astype(np.float32))
    mean.reference_noise = mean.reference_noise / 2
    assert noise_correlation(mean) == pytest.approx(0.5, abs=0.04)
    assert noise_correlation(inputs(science, reference=science)) == pytest.approx(1)
    mean.bad_science = np.ones(shape, bool)
    assert np.isnan(noise_correlation(mean))
