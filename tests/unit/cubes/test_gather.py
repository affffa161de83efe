"""Cutouts of many images read as one array, in any order of rows and channels."""

import numpy as np
import pytest

from otrain_core.arrays import read_stack, write_arrays
from otrain_core.cubes.gather import Gathered
from otrain_core.errors import CubeError


def stack(image, n, channels=("difference", "mask"), size=3):
    """Pixels are 100 x channel + row of the image + 10 x number of the image."""
    pixels = 100 * np.arange(len(channels)) + (np.arange(n) + 10 * image)[:, None, None, None]
    pixels = np.broadcast_to(pixels, (n, size, size, len(channels))).astype(np.float32)
    return {
        "stack": pixels,
        "label": np.zeros(n, int),
        "channels": np.array(channels),
        "image_name": np.array(f"i{image}"),
    }


OFFSETS, ROWS = np.array([0, 3, 7]), np.array([5, 0, 3, 2])


def test_rows_come_in_the_order_wanted():
    gathered = Gathered([stack(1, 3), stack(2, 4)], OFFSETS, ROWS, ["mask", "difference"])
    assert gathered.shape == (4, 3, 3, 2) and len(gathered) == 4
    cube = gathered.read()
    assert cube.dtype == np.float32
    np.testing.assert_array_equal(cube[:, 1, 1, 1], [22, 10, 20, 12])
    np.testing.assert_array_equal(cube[..., 0], cube[..., 1] + 100)


def test_blocks_are_the_whole_and_files_are_read_in_place(tmp_path):
    stacks = []
    for image, n in ((1, 3), (2, 4)):
        write_arrays(tmp_path / f"{image}.npz", stack(image, n))
        stacks.append(read_stack(tmp_path / f"{image}.npz", later=("stack",)))
    gathered = Gathered(stacks, OFFSETS, ROWS, ["difference"])
    blocks = list(gathered.blocks(3))
    assert [len(block) for block in blocks] == [3, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), gathered.read())
    np.testing.assert_array_equal(gathered.read()[:, 0, 0, 0], [22, 10, 20, 12])


def test_images_may_have_their_channels_in_different_orders():
    other = stack(2, 4, channels=("mask", "difference"))
    cube = Gathered([stack(1, 3), other], OFFSETS, ROWS, ["difference"]).read()
    np.testing.assert_array_equal(cube[:, 0, 0, 0], [122, 10, 120, 12])


def test_an_image_without_cutouts_does_not_decide_the_size():
    empty = stack(3, 0, size=9)
    assert Gathered([stack(1, 3), empty], np.array([0, 3, 3]), np.array([2]), ["mask"]).shape == (1, 3, 3, 1)
    assert Gathered([empty], np.array([0, 0]), np.empty(0, int), ["mask"]).read().shape == (0, 9, 9, 1)


def test_cutouts_that_cannot_be_joined_are_refused():
    with pytest.raises(CubeError, match="different sizes"):
        Gathered([stack(1, 3), stack(2, 4, size=5)], OFFSETS, ROWS, ["difference"])
    with pytest.raises(CubeError, match=r"image i2: no channel mask \(cube.channels\)"):
        Gathered([stack(1, 3), stack(2, 4, channels=("difference",))], OFFSETS, ROWS, ["mask"])
