import numpy as np
import pytest

from otrain_core.positions import match_one_to_one, nearest


def test_chain_of_neighbours_is_matched_in_order_of_distance():
    partner, distance = match_one_to_one(
        np.array([0.0, 1.0]), np.zeros(2), np.array([0.9, 1.6]), np.zeros(2), radius=2.0
    )
    assert partner.tolist() == [1, 0]
    np.testing.assert_allclose(distance, [1.6, 0.1])


@pytest.mark.parametrize("seed", range(5))
def test_no_entry_is_ever_used_twice(seed):
    rng = np.random.default_rng(seed)
    x, y, xr, yr = (rng.uniform(0, 20, n) for n in (80, 80, 50, 50))
    partner, distance = match_one_to_one(x, y, xr, yr, radius=1.5)
    used = partner[partner >= 0]
    assert len(used) == len(set(used)) > 10
    assert np.nanmax(distance) <= 1.5
    # No unmatched pair is left that could still be matched.
    free = np.setdiff1d(np.arange(50), used)
    away = np.hypot(x[partner < 0][:, None] - xr[free], y[partner < 0][:, None] - yr[free])
    assert (away > 1.5).all()


def test_equal_distances_go_to_the_first_and_nothing_matches_nothing():
    partner, distance = match_one_to_one(np.array([1.0]), np.zeros(1), np.array([0.0, 2.0]), np.zeros(2), radius=1.5)
    assert partner.tolist() == [0] and distance.tolist() == [1.0]
    partner, distance = match_one_to_one(np.zeros(2), np.zeros(2), np.empty(0), np.empty(0), radius=1.0)
    assert partner.tolist() == [-1, -1] and np.isnan(distance).all()


def test_nearest_may_be_used_twice():
    index, distance = nearest(np.array([0.0, 1.0, 9.0]), np.zeros(3), np.array([0.4, 50.0]), np.zeros(2), radius=2.0)
    assert index.tolist() == [0, 0, -1]
    np.testing.assert_allclose(distance, [0.4, 0.6, np.inf])
    index, distance = nearest(np.zeros(2), np.zeros(2), np.empty(0), np.empty(0), radius=1.0)
    assert index.tolist() == [-1, -1] and np.isinf(distance).all()
