"""Directions on the sky, guard distances, and fields from footprints."""

import numpy as np
import pytest

from otrain_core.cubes import footprints
from otrain_core.cubes.footprints import find_fields, guard_distances, pairs_within, unit_vectors
from tests.unit.cubes.test_split import SCALE, SIZE, fake_cube


def test_guard_is_half_the_diagonal_of_a_cutout_and_the_asked_seeing():
    cube = fake_cube(n_images=3)
    expected = (SIZE / np.sqrt(2) + 4 * cube["seeing"]) * SCALE
    np.testing.assert_allclose(np.rad2deg(guard_distances(cube, 4.0)) * 3600, expected)


@pytest.mark.parametrize("dec0", [0.0, 45.0, 89.0])
def test_fields_are_connected_groups(dec0):
    parts = [
        fake_cube(n_images=4, offset=(200.0, 0.0), dec0=dec0),
        fake_cube(n_images=3, offset=(10.0, 5.0), dec0=dec0),
    ]
    parts[1]["ra"] = parts[1]["ra"] + 5 / np.cos(np.deg2rad(dec0))
    parts[1]["images"] = np.char.add("b", parts[1]["images"])
    cube = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    names, image = np.unique(cube["images"], return_inverse=True)
    fields = find_fields(unit_vectors(cube["ra"], cube["dec"]), image, guard_distances(cube, 4.0), n_images=len(names))
    assert dict(zip(names, fields, strict=True)) == {name: int(name.startswith("im")) for name in names}


@pytest.mark.parametrize(("neighbours", "at_once"), [(9, 256), (2, 1)])
def test_fields_are_those_of_all_pairs_compared(monkeypatch, neighbours, at_once):
    """Most pairs of images are never looked at; the groups are as if they were."""
    monkeypatch.setattr(footprints, "NEIGHBOURS", neighbours)
    monkeypatch.setattr(footprints, "AT_ONCE", at_once)
    rng = np.random.default_rng(3)
    centre = rng.uniform(0, 3, (15, 2))[rng.integers(0, 15, 60)] + rng.normal(0, 0.05, (60, 2))
    image = np.repeat(np.arange(60), 8)
    vectors = unit_vectors(*(centre[image] + rng.uniform(0, 0.3, (480, 2))).T)
    fields = find_fields(vectors, image, np.full(480, 1e-5), n_images=60)
    group = np.arange(60)
    for a in range(60):
        for b in range(a):
            if footprints._overlap(vectors[image == a], vectors[image == b], 1e-5):
                group[group == group[a]] = group[b]
    assert 1 < len(np.unique(group)) < 15
    pairs = set(zip(fields, group, strict=True))
    assert len(pairs) == len(np.unique(fields)) == len(np.unique(group))


def test_unit_vectors_point_to_the_sky():
    vectors = unit_vectors(np.array([0.0, 90.0, 0.0, 359.5]), np.array([0.0, 0.0, 90.0, 0.0]))
    np.testing.assert_allclose(vectors[:3], np.eye(3), atol=1e-15)
    assert np.degrees(np.arccos(vectors[0] @ vectors[3])) == pytest.approx(0.5)


def test_pairs_within_the_mean_of_their_guards():
    ours = unit_vectors(np.array([0.0, 10.0, np.nan]), np.zeros(3))
    theirs = unit_vectors(np.array([10.003, np.nan, 10.001]), np.zeros(3))
    guards = np.deg2rad(np.array([5.0, 5.0, 7.0]) / 3600)
    first, second, distance, needed = pairs_within(ours, guards, theirs, guards)  # 3.6 and 10.8 arcsec apart
    assert (first.tolist(), second.tolist()) == ([1], [2])
    assert np.rad2deg([distance[0], needed[0]]) * 3600 == pytest.approx([3.6, 6.0], rel=1e-6)
    assert len(pairs_within(ours, guards / 2, theirs, guards / 2)[0]) == 0
    assert len(pairs_within(ours[:0], guards[:0], theirs, guards)[0]) == 0
