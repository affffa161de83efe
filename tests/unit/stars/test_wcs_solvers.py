"""Solutions by SCAMP and astropy, and the matched pairs of stars for them."""

import numpy as np
import pytest
from astropy.table import Table

from otrain_core.errors import ImageError
from otrain_core.plan.pipelines import PsfOptions
from otrain_core.stars.astrometry import refine_wcs
from otrain_core.stars.wcs_solvers import match_stars
from tests.unit.stars.test_astrometry import METHODS, needs_scamp, scene


@needs_scamp
def test_scamp_finds_a_field_far_off_and_astropy_says_that_it_does_not():
    image, catalogue, *_ = scene(off=(14.0, 9.0))
    _, record = refine_wcs(image, catalogue, options=PsfOptions(astrometry="scamp"), fwhm=2.4)
    assert record["n_stars"] > 100
    with pytest.raises(ImageError, match="image field: astrometry: .*does not agree with the catalogue"):
        refine_wcs(image, catalogue, options=PsfOptions(astrometry="astropy"), fwhm=2.4)


@pytest.mark.parametrize("method", METHODS)
def test_few_stars_do_no_harm_to_a_good_wcs(method):
    image, catalogue, truth, *_ = scene()
    image.wcs = truth
    sparse = catalogue.sort_values("mag").iloc[8:16].reset_index(drop=True)
    wcs, record = refine_wcs(image, sparse, options=PsfOptions(astrometry=method, match_radius=3.0), fwhm=2.4)
    y, x = np.mgrid[0:640:40, 0:640:40]
    moved = np.hypot(*(a - b for a, b in zip(truth.all_world2pix(*wcs.all_pix2world(x, y, 0), 0), (x, y), strict=True)))
    assert moved.max() < 0.5
    assert record["rms_arcsec"] <= record["rms_arcsec_before"]


def test_pairs_are_each_the_others_nearest():
    _, catalogue, truth, x, y = scene(n=40)
    objects = Table(
        {"x": np.append(x, x[0] + 0.5), "y": np.append(y, y[0])}
    )  # a neighbour of the first, 0.6 arcsec away
    stars = Table({"RAJ2000": catalogue["ra"][::-1], "DEJ2000": catalogue["dec"][::-1]})
    first, second, distance = match_stars(truth, objects, stars, 1.0)
    assert len(first) == len(x) and (first + second == len(x) - 1).all() and distance.max() < 1e-3
    assert len(match_stars(truth, objects[-1:], stars, 0.3)[0]) == 0
