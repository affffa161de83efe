"""Patterns of stars are matched for any rotation, reflection and scale, also if one list has additional stars."""

import numpy as np
import pytest

from otrain_core.images.patterns import similarities


def lists(*, seed, n, others=0, turn=0.0, scale=1.0, mirrored=False, scatter=0.3):
    """Two lists with n common stars, `others` that are only in the first, and the transformation between them."""
    rng = np.random.default_rng(seed)
    first, more = rng.uniform(0, 640, (n, 2)), rng.uniform(0, 640, (others, 2))
    angle = np.radians(turn)
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored:
        matrix = matrix @ np.diag([1, -1])

    def move(xy):
        return xy @ matrix.T + [40.0, -25.0]

    second = move(first) + rng.normal(0, scatter, first.shape) * scale
    return rng.permutation(np.vstack([first, more])), rng.permutation(second), move


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turn", [0.0, 12.3, 180.0])
@pytest.mark.parametrize("scale", [0.45, 1.0])
def test_the_similarity_is_found(turn, mirrored, scale):
    first, second, move = lists(seed=1, n=18, others=42, turn=turn, scale=scale, mirrored=mirrored)
    best = similarities(first, second)[0]
    assert best.mirrored == mirrored
    assert abs(best.turn) == pytest.approx(scale, rel=0.01)
    expected = move(first)
    found = np.column_stack(best(*first.T))
    assert np.hypot(*(found - expected).T).max() < 5 * scale


def test_the_votes_tell_a_match_from_chance():
    first, second, _ = lists(seed=2, n=15, others=20)
    other, _, _ = lists(seed=3, n=35)
    assert similarities(first, second)[0].votes > 4 * similarities(other, second)[0].votes


def test_nothing_is_drawn_at_random():
    first, second, _ = lists(seed=4, n=15, others=10, turn=33.0)
    assert similarities(first, second) == similarities(first, second)


def test_too_few_stars_have_no_pattern():
    assert similarities(np.zeros((2, 2)), np.ones((9, 2))) == []
    line = np.column_stack([np.arange(9.0), np.zeros(9)])
    assert similarities(line[:3], np.array([[0, 0], [0, 1.0], [30, 0]])) == []
