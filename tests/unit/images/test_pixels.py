import numpy as np
import pytest

from otrain_core.images.frames import MASK_MISSING, MASK_SATURATED
from otrain_core.images.pixels import add_stamp, any_near, fill_bad, nearest_pixel, stamps, value_at


def test_pixels_under_and_about_positions():
    plane = np.zeros((10, 20), bool)
    plane[3, 7] = True
    x, y = np.array([7.4, 7.6, -1.0, np.nan, 19.6]), np.array([2.6, 3.0, 3.0, 3.0, 3.0])
    assert value_at(plane, x, y, outside=True).tolist() == [True, False, True, True, True]
    assert any_near(plane, np.array([9.0, 10.1]), np.array([3.0, 3.0]), 2.0).tolist() == [True, False]


def test_halves_go_up():
    assert nearest_pixel(np.array([-0.5, 0.49, 0.5, 1.5, 2.5])).tolist() == [0, 0, 1, 2, 3]


def test_no_pixel_is_near_nowhere():
    assert any_near(np.zeros((5, 5), bool), np.array([2.0]), np.array([2.0]), 3.0).tolist() == [False]
    assert any_near(np.ones((5, 5), bool), np.empty(0), np.empty(0), 3.0).shape == (0,)


def test_stamps_are_about_the_nearest_pixel_and_know_their_offsets():
    plane = np.arange(12.0).reshape(3, 4)
    values, dx, dy = stamps(plane, np.array([1.2, 0.0]), np.array([0.9, 0.0]), 1, fill=-1)
    np.testing.assert_array_equal(values[0], plane[0:3, 0:3])
    np.testing.assert_array_equal(values[1], [[-1, -1, -1], [-1, 0, 1], [-1, 4, 5]])
    np.testing.assert_allclose(dx[0], [[-1.2, -0.2, 0.8]])
    np.testing.assert_allclose(dy[0], [[-0.9], [0.1], [1.1]])


@pytest.mark.parametrize(
    ("y0", "x0", "total"), [(1, 1, 9.0), (-1, -1, 4.0), (4, 4, 1.0), (5, 0, 0.0), (0, -3, 0.0), (-1, 2, 6.0)]
)
def test_what_of_a_stamp_falls_on_the_image_is_added(y0, x0, total):
    image = np.zeros((5, 5))
    add_stamp(image, np.ones((3, 3)), y0, x0)
    assert image.sum() == total
    if total == 1:
        assert image[4, 4] == 1


def test_holes_get_the_mean_of_their_neighbours_and_saturated_pixels_keep_their_value():
    data = np.full((40, 40), 7.0, np.float32)
    data[5, 5], data[20, 20] = np.nan, 9e4
    mask = np.zeros(data.shape, np.uint8)
    mask[8, 8], mask[20, 20] = MASK_MISSING, MASK_SATURATED
    data[8, 8] = -500
    data[25:40, 25:40] = np.nan
    filled = fill_bad(data, mask)
    assert filled[5, 5] == pytest.approx(7, rel=1e-5) and filled[8, 8] == pytest.approx(7, rel=1e-5)
    assert filled[20, 20] == np.float32(9e4)
    assert filled[39, 39] == 0  # far from any good pixel
    assert filled[26, 30] == pytest.approx(7, rel=1e-5)
    assert filled.dtype == np.float32 and np.isnan(data[5, 5])


def test_stamps_of_places_far_off_the_plane_hold_the_fill():
    plane = np.arange(12.0).reshape(3, 4) + 1
    found, _, _ = stamps(plane, np.array([1.0, 500.0, -90.0]), np.array([1.0, 1.0, 700.0]), 1, fill=0)
    assert found[0].tolist() == [[1, 2, 3], [5, 6, 7], [9, 10, 11]]
    assert not found[1:].any()
    assert any_near(plane > 11, np.array([3.0, 40.0]), np.array([2.0, 90.0]), 2).tolist() == [True, False]
