"""Polynomials in x and y over an image."""

from __future__ import annotations

from typing import Any

import numpy as np


def _axes(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    u = np.linspace(-1, 1, shape[1], dtype=np.float32) if shape[1] > 1 else np.zeros(1, np.float32)
    v = np.linspace(-1, 1, shape[0], dtype=np.float32) if shape[0] > 1 else np.zeros(1, np.float32)
    return u, v


def polynomial(x: Any, y: Any, shape: tuple[int, int], order: int) -> np.ndarray:
    """Terms u^i v^j at pixels (x, y), with u, v = -1..1 over the frame: (n_terms, ...)."""
    u = 2 * np.asarray(x, dtype=float) / max(shape[1] - 1, 1) - 1
    v = 2 * np.asarray(y, dtype=float) / max(shape[0] - 1, 1) - 1
    return np.array([u**i * v**j for i, j in exponents(order)])


def polynomial_map(coefficients: np.ndarray, shape: tuple[int, int], order: int) -> np.ndarray:
    """The polynomial of `polynomial` at every pixel, float32."""
    u, v = _axes(shape)
    out = np.zeros(shape, dtype=np.float32)
    for coefficient, (i, j) in zip(coefficients, exponents(order), strict=True):
        out += np.float32(coefficient) * np.outer(v**j, u**i)
    return out


MESH = 32  # step of the mesh on which a mapping is evaluated exactly [px]


def nodes(size: int) -> np.ndarray:
    return np.linspace(0, size - 1, max(4, int(np.ceil((size - 1) / MESH)) + 1))


def exponents(order: int) -> list[tuple[int, int]]:
    """Exponents (i, j) of x and y of all terms of a polynomial of this degree."""
    return [(i, n - i) for n in range(order + 1) for i in range(n, -1, -1)]
