"""Polynomials over an image: their terms at positions, and their values at all pixels."""

import numpy as np
import pytest

from otrain_core.images.polynomials import axes, exponents, monomials, nodes, polynomial, polynomial_map


def test_the_terms_are_sorted_by_degree():
    assert exponents(2) == [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]
    assert exponents(-1) == []
    assert [len(exponents(n)) for n in range(5)] == [1, 3, 6, 10, 15]


def test_monomials_are_stacked_along_an_axis():
    u, v = np.array([1.0, 2.0, 3.0]), np.array([5.0, 7.0, 11.0])
    np.testing.assert_array_equal(monomials(u, v, [(0, 0), (2, 1)]), [[1, 1, 1], [5, 28, 99]])
    np.testing.assert_array_equal(monomials(u, v, [(0, 0), (2, 1)], axis=-1), [[1, 5], [1, 28], [1, 99]])
    assert monomials(u, v, []).shape == (0, 3)


def test_positions_are_scaled_to_the_frame():
    terms = polynomial([0, 10, 20], [40, 20, 0], (41, 21), 1)
    np.testing.assert_array_equal(terms, [[1, 1, 1], [-1, 0, 1], [1, 0, -1]])
    assert polynomial(3, 4, (41, 21), 2).shape == (6,)


@pytest.mark.parametrize("shape", [(7, 12), (1, 5), (6, 1)])
def test_the_map_is_the_polynomial_at_every_pixel(shape):
    coefficients = np.array([3.0, -1.0, 0.5, 2.0, 0.25, -0.75])
    y, x = np.indices(shape)
    u, v = axes(shape)
    assert (u.size, v.size) == (shape[1], shape[0])
    if min(shape) > 1:
        expected = np.tensordot(coefficients, polynomial(x, y, shape, 2), 1)
        np.testing.assert_allclose(polynomial_map(coefficients, shape, 2), expected, rtol=1e-5, atol=1e-6)
    else:  # along an axis of one pixel the position is 0
        assert polynomial_map(coefficients, shape, 2).shape == shape
        assert 0 in (u[0], v[0])


def test_the_nodes_span_the_axis():
    assert nodes(100)[0] == 0
    assert nodes(100)[-1] == 99
    assert np.diff(nodes(1000)).max() <= 32
    assert len(nodes(5)) == 4
