"""Duplicate cutouts are found despite another scale, background or small shift; other cutouts are not."""

import numpy as np
import pytest

from otrain_core.cubes.copies import (
    copies_of_cube,
    count_copies,
    drop_copies,
    find_copies,
    leave_out_copies,
    tell_copies,
)
from tests.unit.synthetic_cube import make_cube


def noise(n, seed=0, size=32):
    return np.random.default_rng(seed).normal(0, 5, (n, size, size)).astype(np.float32)


def groups_of(pixels, images):
    return find_copies(lambda rows: pixels[rows], np.asarray(images))


def test_noise_under_eight_names():
    pixels, images = np.concatenate([noise(30)] * 8), np.repeat([f"img{k}" for k in range(8)], 30)
    labels = np.tile(np.arange(30) < 15, 8).astype(int)
    groups = groups_of(pixels, images)
    assert (groups.reshape(8, 30) == groups[:30]).all() and len(np.unique(groups)) == 30 and (groups >= 0).all()
    keep = leave_out_copies(groups, labels)
    assert keep[:30].all() and not keep[30:].any()
    record = count_copies(groups, labels=labels, images=images, candids=np.arange(240).astype(str))
    assert (record["n_copies"], record["n_groups"], record["n_across_images"], record["n_both_labels"]) == (
        240,
        30,
        240,
        0,
    )
    assert record["examples"][0] == ["0", "30", "60", "90"]
    assert (
        tell_copies(record, 240)
        == "240 of 240 cutouts have the same pixels as another one (for example 0 = 30 = 60 = 90)"
    )


def test_duplicates_with_both_labels_are_all_left_out():
    pixels = np.concatenate([noise(6), noise(6)[:2]])
    groups = groups_of(pixels, ["a"] * 6 + ["b"] * 2)
    labels = np.array([1, 0, 1, 1, 1, 1, 0, 0])
    assert leave_out_copies(groups, labels).tolist() == [False, True, True, True, True, True, False, False]
    record = count_copies(groups, labels=labels, images=np.array(["a"] * 8), candids=np.arange(8).astype(str))
    assert (record["n_copies"], record["n_both_labels"], record["n_across_images"]) == (4, 2, 0)


@pytest.mark.parametrize(("factor", "level"), [(1.0, 0.0), (7.0, -3.0), (0.01, 400.0), (-1.0, 0.0)])
def test_rescaled_copies(factor, level):
    pixels = noise(50)
    groups = groups_of(np.concatenate([pixels, factor * pixels + level]), ["a"] * 50 + ["b"] * 50)
    if factor > 0:
        assert np.array_equal(groups[:50], groups[50:]) and (groups >= 0).all()
    else:
        assert (groups == -1).all()  # an inverted difference is another one


def test_shifted_copies_of_another_image_and_neighbours_of_the_same():
    y, x = np.mgrid[:48, :48] - 24
    large = noise(100, size=48) + 300 * np.exp(-(x**2 + y**2) / 2 / 1.3**2)
    pixels = np.concatenate([large[:, 8:40, 8:40], 3 * large[:, 10:42, 5:37] + 40])
    groups = groups_of(pixels, ["a"] * 100 + ["b"] * 100)
    assert np.array_equal(groups[:100], groups[100:]) and (groups >= 0).all()
    # Two candidates of one image, 3 px apart, are two candidates.
    assert (groups_of(pixels, ["a"] * 200) == -1).all()


def test_similar_bright_sources_are_not_duplicates():
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:21, :21] - 10
    source = np.exp(-(x**2 + y**2) / 2 / 1.3**2)
    pixels = 10 ** rng.uniform(1, 5, 2000)[:, None, None] * source + rng.normal(0, 5, (2000, 21, 21))
    assert (groups_of(pixels, [f"i{k % 40}" for k in range(2000)]) == -1).all()


def test_missing_pixels_constant_and_tiny_cutouts():
    pixels = noise(20, size=9)
    pixels[:, 0] = np.nan
    pixels[:5] = 0  # no noise: nothing to compare
    pixels[5] = np.nan
    groups = groups_of(np.concatenate([pixels, pixels]), ["a"] * 20 + ["b"] * 20)
    assert (groups[:6] == -1).all() and np.array_equal(groups[6:20], groups[26:]) and (groups[6:20] >= 0).all()
    assert groups_of(np.zeros((0, 9, 9)), []).tolist() == []
    assert groups_of(pixels[6:7], ["a"]).tolist() == [-1]


def test_a_cube_of_different_cutouts_has_none():
    cube = make_cube(400)
    assert (copies_of_cube(cube) == -1).all()
    cube["cube"][7] = cube["cube"][300]
    groups = copies_of_cube(cube)
    assert np.flatnonzero(groups >= 0).tolist() == [7, 300]
    nothing = count_copies(groups[:5], labels=groups[:5], images=groups[:5], candids=groups[:5])
    assert tell_copies(nothing, 5) == ""


def test_a_cube_without_its_copies():
    cube = make_cube(60)
    same, record = drop_copies(cube)
    assert record["n_left_out"] == 0 and same["cube"] is cube["cube"]
    cube["cube"][50:] = cube["cube"][:10]
    cube["labels"][50:] = cube["labels"][:10]
    kept, record = drop_copies(cube)
    assert record["n_left_out"] == 10 and kept["candids"].tolist() == cube["candids"][:50].tolist()
    assert kept["cube"].shape == (50, 32, 32, 4) and kept["channels"].tolist() == cube["channels"].tolist()
