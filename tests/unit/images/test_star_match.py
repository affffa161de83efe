"""The mapping between two images by their stars."""

import numpy as np
import pandas as pd
import pytest

from otrain_core.images.resample import identity
from otrain_core.images.star_match import mutual_pairs, places, refine, star_mapping

SHAPE = (320, 360)


def stars(seed=1, n=80):
    x, y = np.random.default_rng(seed).uniform(0, [[SHAPE[1]], [SHAPE[0]]], (2, n))
    return pd.DataFrame({"x": x, "y": y})


def moved(table, matrix, shift):
    x, y = matrix @ places(table).T + np.reshape(shift, (2, 1))
    return pd.DataFrame({"x": x, "y": y})


def test_pairs_are_mutual_nearest_neighbours():
    ours, theirs = mutual_pairs(np.array([[1.0, 0.0], [0.0, 0.0], [9.0, 9.0]]), np.array([[0.4, 0.0], [30.0, 0.0]]), 2)
    assert (ours.tolist(), theirs.tolist()) == ([1], [0])


def test_an_offset_is_found_and_corrected():
    science = stars()
    reference = moved(science, np.eye(2), (4.0, -3.0)).iloc[::-1].reset_index(drop=True)
    match = refine(identity(SHAPE), science, reference)
    assert match.record["agree"] and match.record["n_stars"] == len(science)
    assert match.record["offset"] == pytest.approx(5.0, abs=0.01) and match.record["scatter"] < 1e-6
    ours, theirs = match.positions(science, reference)
    np.testing.assert_allclose(theirs - ours, np.tile([4.0, -3.0], (len(ours), 1)), atol=1e-9)


@pytest.mark.parametrize("other", [stars(seed=2), stars(n=4), stars().iloc[:0]], ids=["others", "few", "none"])
def test_other_stars_leave_the_mapping_as_it_came(other):
    first = identity(SHAPE)
    match = refine(first, stars(), other)
    assert match.mapping is first and not match.record["agree"] and len(match.ours) == match.record["n_stars"] == 0
    assert len(other) > 4 or star_mapping(stars(), other, SHAPE) is None


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_a_turned_or_mirrored_pattern_is_found(mirror):
    angle = np.deg2rad(37.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([mirror, 1.0])
    science = stars()
    reference = moved(science, turn, (150.0, 90.0))
    mapping = star_mapping(science, reference, SHAPE)
    np.testing.assert_allclose(np.column_stack(mapping(*places(science).T)), places(reference), atol=1e-6)
