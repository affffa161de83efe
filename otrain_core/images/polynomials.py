"""Polynomials of the position in an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

MESH = 32  # step of the mesh on which a mapping is evaluated before it is interpolated [px]


def exponents(order: int) -> list[tuple[int, int]]:
    """Exponents (i, j) of x and y of all terms of a polynomial of degree `order`."""
    return [(i, n - i) for n in range(order + 1) for i in range(n, -1, -1)]


def monomials(u: np.ndarray, v: np.ndarray, powers: Sequence[tuple[int, int]], *, axis: int = 0) -> np.ndarray:
    """Terms u^i v^j for each (i, j) of `powers`, stacked along `axis`; shape (0, ...) without any."""
    if not powers:
        return np.zeros((0, *np.shape(u)))
    return np.stack([u**i * v**j for i, j in powers], axis=axis)


def polynomial(x: ArrayLike, y: ArrayLike, shape: tuple[int, int], order: int, *, axis: int = 0) -> np.ndarray:
    """Terms of a polynomial of the position, in the order of `exponents`.

    Parameters
    ----------
    x, y : array_like
        Positions [px], of any common shape.
    shape : tuple of int
        (height, width) of the image, over which the position is scaled to -1..1.
    order : int
        Degree (-1: no term).
    axis : int
        Axis of the terms in the result.

    Returns
    -------
    numpy.ndarray
        float64, of the shape of `x` with one more axis.
    """
    u = 2 * np.asarray(x, dtype=float) / max(shape[1] - 1, 1) - 1
    v = 2 * np.asarray(y, dtype=float) / max(shape[0] - 1, 1) - 1
    return monomials(u, v, exponents(order), axis=axis)


def polynomial_map(coefficients: np.ndarray, shape: tuple[int, int], order: int) -> np.ndarray:
    """Value of a polynomial with these coefficients of the terms of `polynomial` at every pixel, float32 (height, width)."""
    u, v = axes(shape)
    out = np.zeros(shape, dtype=np.float32)
    for coefficient, (i, j) in zip(coefficients, exponents(order), strict=True):
        out += np.float32(coefficient) * np.outer(v**j, u**i)
    return out


def axes(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of an image scaled to -1..1, float32."""
    u = np.linspace(-1, 1, shape[1], dtype=np.float32) if shape[1] > 1 else np.zeros(1, np.float32)
    v = np.linspace(-1, 1, shape[0], dtype=np.float32) if shape[0] > 1 else np.zeros(1, np.float32)
    return u, v


def nodes(size: int) -> np.ndarray:
    """Positions along one axis, about `MESH` px apart, for the evaluation of a smooth function that is then interpolated."""
    return np.linspace(0, size - 1, max(4, int(np.ceil((size - 1) / MESH)) + 1))
