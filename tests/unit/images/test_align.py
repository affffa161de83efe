"""Alignment: shifts and rotations are found, and flux and bad pixels are conserved."""

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from scipy import ndimage

from otrain_core.errors import ImageError
from otrain_core.images import align
from otrain_core.images.align import align_reference
from otrain_core.images.common_stars import find_stars
from otrain_core.images.prepare import prepare_image
from otrain_core.images.star_match import mutual_pairs
from otrain_core.plan.pipelines import PrepareOptions, SubtractOptions
from tests.unit.synthetic_pair import Sky, make_sky, observe, turned


@pytest.fixture(scope="module")
def sky():
    return make_sky()


@pytest.fixture(scope="module")
def science(sky):
    return observe(sky, seed=2)


def run(science, reference, *, method="auto"):
    prepared = prepare_image(science, seeing=2.5, options=PrepareOptions(cosmics="none"))
    return align_reference(
        reference,
        science_data=prepared.sci,
        science_noise=prepared.noise,
        science_mask=prepared.mask,
        science_wcs=science.wcs,
        name=science.name,
        seeing=2.5,
        options=SubtractOptions(align=method),
    )


def offset(science, aligned):
    """Largest median offset between the stars of the science image and of the aligned reference [px]."""
    prepared = prepare_image(science, seeing=2.5, options=PrepareOptions(cosmics="none"))
    ours = find_stars(prepared.sci, prepared.noise, prepared.mask, threshold=20)
    theirs = find_stars(aligned.data, aligned.noise, aligned.mask, threshold=20)
    rows, columns = mutual_pairs(theirs[["x", "y"]].to_numpy(), ours[["x", "y"]].to_numpy(), 2.0)
    assert len(rows) > 40
    return max(abs(np.median(theirs[k].to_numpy()[rows] - ours[k].to_numpy()[columns])) for k in ("x", "y"))


CASES = {
    "wcs": {"wcs_error": (0.0, 0.0)},
    "wcs off by pixels": {"wcs_error": (2.6, -4.3)},
    "no wcs": {"wcs": False},
}


@pytest.mark.parametrize("case", CASES)
def test_a_turned_and_moved_reference_lands_on_the_stars(sky, science, case):
    reference = observe(sky, seed=3, angle=0.6, shift=(7.3, -4.6), **CASES[case])
    aligned = run(science, reference)
    assert aligned.record["align"] == ("stars" if case == "no wcs" else "wcs")
    assert aligned.record["align_n_stars"] > 60
    assert aligned.record["align_scatter"] < 0.15
    assert offset(science, aligned) < 0.02


def test_a_wrong_wcs_is_replaced_by_the_stars(sky, science):
    reference = observe(sky, seed=3, angle=0.6, shift=(7.3, -4.6), wcs_error=(60.0, 45.0))
    aligned = run(science, reference)
    assert aligned.record["align"] == "stars"
    assert offset(science, aligned) < 0.02


def test_a_mirrored_reference_is_found(sky, science):
    reference = observe(sky, seed=3, wcs=False)
    reference.data = np.ascontiguousarray(reference.data[:, ::-1])
    assert offset(science, run(science, reference, method="stars")) < 0.02


def test_a_half_turn_is_found(sky, science):
    reference = observe(sky, seed=3, wcs=False, angle=180.0)
    assert offset(science, run(science, reference, method="stars")) < 0.02


def test_the_same_grid_is_not_interpolated(science):
    aligned = run(science, science)
    prepared = prepare_image(science, seeing=2.5, options=PrepareOptions(cosmics="none", saturation_grow=1))
    np.testing.assert_allclose(aligned.data, prepared.sci, rtol=1e-6)
    assert aligned.smoothing.shape == (1, 1)


def test_the_pattern_of_the_stars_leaves_no_randomness(sky, science):
    reference = observe(sky, seed=3, angle=0.6, shift=(7.3, -4.6), wcs=False)
    first, second = (run(science, reference) for _ in range(2))
    np.testing.assert_array_equal(first.data, second.data)


@pytest.mark.parametrize(
    ("change", "method", "match"),
    [
        ({"wcs": False}, "wcs", "science: wcs: .*the reference has no celestial WCS"),
        ({"shift": (340.0, 0.0)}, "wcs", "science: reference: the reference covers . % of the field"),
        ({"shift": (340.0, 0.0)}, "auto", "science: reference: the reference covers . % of the field"),
        ({"shift": (9999.0, 0.0)}, "auto", "science: reference: the reference covers 0 % of the field"),
    ],
)
def test_bad_references_are_named(sky, science, change, method, match):
    reference = observe(sky, seed=3, **change)
    with pytest.raises(ImageError, match=match):
        run(science, reference, method=method)


def test_other_stars_cannot_be_matched(science):
    reference = observe(make_sky(seed=99), seed=3, wcs=False)
    with pytest.raises(
        ImageError, match=r"science: align: the stars of the reference could not be matched to .* \(\d+ stars"
    ):
        run(science, reference)


def test_a_science_image_without_wcs_is_named(sky):
    science = observe(sky, seed=2, wcs=False)
    with pytest.raises(ImageError, match="the science image has no celestial WCS"):
        run(science, observe(sky, seed=3), method="wcs")


def test_few_stars_leave_the_wcs_alone():
    sky = make_sky(n=3, margin=60)
    science, reference = observe(sky, seed=2), observe(sky, seed=3, shift=(2.5, 1.5), fwhm=2.5)
    aligned = run(science, reference)
    assert aligned.record["align"] == "wcs"
    assert aligned.record["align_n_stars"] == 0
    first, second = (np.nan_to_num(ndimage.gaussian_filter(np.nan_to_num(d), 1)) for d in (aligned.data, science.data))
    assert (
        np.hypot(
            *np.subtract(np.unravel_index(first.argmax(), first.shape), np.unravel_index(second.argmax(), second.shape))
        )
        < 1.5
    )


def injected(seed=9, n=60, shape=(320, 360)):
    """x, y, flux of sources as bright as the brightest stars."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(10, shape[1] - 10, n), rng.uniform(10, shape[0] - 10, n)
    return pd.DataFrame({"x": x, "y": y, "flux": 10 ** rng.uniform(3.5, 5, n)})


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle", [0.0, 37.0, 179.2])
def test_sixty_injections_do_not_hide_the_pattern(angle, mirrored, known):
    sky = make_sky(n=75, seed=11, logflux=(3.5, 5.0))
    truth = injected()
    science = observe(sky, seed=2, wcs=False, extra=truth.to_numpy().tolist())
    reference = observe(sky, seed=3, wcs=False, angle=angle, shift=(6.4, -9.2))
    if mirrored:
        reference.data = np.ascontiguousarray(reference.data[:, ::-1])
    prepared = prepare_image(science, seeing=2.5, options=PrepareOptions(cosmics="none"))
    located = align.locate_reference(
        reference,
        science_data=prepared.sci,
        science_noise=prepared.noise,
        science_mask=prepared.mask,
        injected=truth if known else None,
        name="science",
        seeing=2.5,
    )
    x, y = np.array([20.0, 180, 340]), np.array([300.0, 160, 20])
    expected = np.array(turned(Sky(x, y, x, sky.shape), angle=angle, shift=(6.4, -9.2)))
    if mirrored:
        expected[0] = sky.shape[1] - 1 - expected[0]
    np.testing.assert_allclose(located.mapping(x, y), expected, atol=0.1)
    assert located.record["align"] == "stars"


def test_frames_on_one_grid_are_not_interpolated_though_they_have_no_wcs():
    sky = make_sky(n=75, seed=11, logflux=(3.5, 5.0))
    science = observe(sky, seed=2, wcs=False, extra=injected().to_numpy().tolist())
    aligned = run(science, observe(sky, seed=3, wcs=False))
    assert aligned.record["align_order"] == -1
    assert aligned.smoothing.shape == (1, 1)


def test_stars_beside_injections_are_no_part_of_the_pattern():
    stars = pd.DataFrame({"x": [10.0, 50.0, 90.0], "y": [10.0, 50.0, 90.0]})
    truth = pd.DataFrame({"x": [52.0, np.nan], "y": [51.0, 90.0]})
    assert list(align._not_injected(stars, truth, radius=3.0)["x"]) == [10.0, 90.0]
    assert len(align._not_injected(stars, truth[:0], radius=3.0)) == 3


def tangential(ra, dec, *, parity=-1.0, rot=0.0, shift=(0.0, 0.0), frame="icrs", first="RA"):
    """WCS of a camera of 320 x 360 px of 1 arcsec at a sky position, in any celestial frame and order of the axes."""
    wcs = WCS(naxis=2)
    place = SkyCoord(ra, dec, unit="deg").transform_to(frame)
    lon, lat = place.spherical.lon.deg, place.spherical.lat.deg
    c, s = np.cos(np.radians(rot)) / 3600, np.sin(np.radians(rot)) / 3600
    kinds, values, matrix = ["RA---TAN", "DEC--TAN"], [lon, lat], np.array([[parity * c, -parity * s], [s, c]])
    if frame == "galactic":
        kinds = ["GLON-TAN", "GLAT-TAN"]
    if first != "RA":
        kinds, values, matrix = kinds[::-1], values[::-1], matrix[::-1]
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cd = kinds, values, matrix
    wcs.wcs.crpix = 180.5 + shift[0], 160.5 + shift[1]
    if frame == "fk4":
        wcs.wcs.radesys, wcs.wcs.equinox = "FK4", 1950.0
    wcs.wcs.set()
    return wcs


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 5.0), (359.9999, -40.0), (30.0, 89.97), (200.0, -89.99)])
def test_the_mapping_holds_across_the_meridian_and_at_the_poles(ra, dec):
    science = tangential(ra, dec)
    reference = tangential(ra, dec, rot=0.3, shift=(12.0, -7.0))
    x, y = np.array([0.0, 179.5, 359, 40]), np.array([0.0, 159.5, 319, 300])
    found = align.wcs_mapping(science, reference, (320, 360), (320, 360))(x, y)
    # Both have the same tangent point, and one is rotated about it.
    angle = np.radians(-0.3)
    dx, dy = x - 179.5, y - 159.5
    expected = np.cos(angle) * dx - np.sin(angle) * dy + 191.5, np.sin(angle) * dx + np.cos(angle) * dy + 152.5
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("frame", "first"), [("icrs", "DEC"), ("galactic", "RA"), ("galactic", "DEC"), ("fk4", "RA")])
def test_other_axes_and_frames_are_the_same_sky(frame, first):
    science = tangential(150.0, 20.0)
    reference = tangential(150.0, 20.0, frame=frame, first=first)
    x, y = np.array([0.0, 179.5, 359, 40]), np.array([0.0, 159.5, 319, 300])
    rx, ry = align.wcs_mapping(science, reference, (320, 360))(x, y)
    here = science.pixel_to_world(x, y)
    there = reference.pixel_to_world(rx, ry).transform_to("icrs")
    assert here.separation(there).arcsec.max() < 1e-3
    assert np.hypot(rx - 179.5, ry - 159.5)[1] < 1e-3
