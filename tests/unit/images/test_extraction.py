"""A buffer of sep that overflows is enlarged, with the same result as a large one."""

import numpy as np
import pytest
import sep
from scipy import ndimage

from otrain_core.images import extraction


@pytest.fixture
def crowded():
    rng = np.random.default_rng(1)
    return ndimage.gaussian_filter(rng.normal(0, 1, (200, 200)), 1.5).astype(np.float32)


def test_an_overflow_is_tried_again_with_the_larger_buffer(crowded, monkeypatch):
    sep.set_extract_pixstack(100_000)
    expected = sep.extract(crowded, 0.0, err=0.2)
    monkeypatch.setattr(extraction, "USUAL", 5_000)
    found = extraction.extract(crowded, 0.0, most=100_000, err=0.2)
    assert sep.get_extract_pixstack() == 100_000 and len(found) > 50
    np.testing.assert_array_equal(found, expected)


def test_a_small_image_needs_no_large_buffer(crowded):
    extraction.extract(crowded, 3.0, most=10_000_000, err=0.2)
    assert sep.get_extract_pixstack() == extraction.USUAL


def test_more_pixels_than_an_image_may_have_are_an_error(crowded, monkeypatch):
    monkeypatch.setattr(extraction, "USUAL", 500)
    with pytest.raises(Exception, match="pixel buffer full"):
        extraction.extract(crowded, -10.0, most=1_000, err=0.2)
