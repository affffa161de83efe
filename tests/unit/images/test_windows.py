"""Sliding windows give the same results as the filters of scipy."""

import numpy as np
import pytest
from scipy import ndimage

from otrain_core.images.windows import dilated, sliding


@pytest.mark.parametrize("reach", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(40, 61), (12, 11)])
def test_a_mask_grows_as_by_a_maximum_filter(shape, reach):
    mask = np.random.default_rng(1).random(shape) < 0.03
    np.testing.assert_array_equal(dilated(mask, reach), ndimage.maximum_filter(mask, 2 * reach + 1))


@pytest.mark.parametrize("size", [1, 2, 3, 6, 9])
def test_a_window_combines_each_size_neighbours(size):
    values = np.random.default_rng(1).normal(size=(30, 20))
    expected = np.lib.stride_tricks.sliding_window_view(values, size, axis=1).max(axis=-1)
    np.testing.assert_array_equal(sliding(values, size, 1, np.maximum), expected)
