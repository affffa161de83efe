"""Spatially varying convolution kernel between two images.

The method is that of Alard & Lupton (1998, ApJ 503, 325), with the spatial variation
and the constant photometric ratio of Alard (2000, A&AS 144, 363). The kernel is a sum
of Gaussians times polynomials of the pixel offsets, and its coefficients are
polynomials of the position. All basis functions but the first have the sum 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import fft

from otrain_core.images.polynomials import axes, exponents, polynomial, polynomial_map

DEGREES = (6, 4, 2)  # of the polynomials that multiply the three Gaussians


@dataclass
class Basis:
    """Basis functions of the kernel, linear combinations of functions that are separable in x and y.

    Attributes
    ----------
    half_width : int
        Kernels are (2 half_width + 1, 2 half_width + 1).
    lines : numpy.ndarray
        (n_lines, 2 half_width + 1), the one-dimensional factors.
    pairs : list of (int, int)
        Index of the line along y and of the line along x of each separable function.
    mix : numpy.ndarray
        (n, n): bases = mix @ functions. It is chosen so that the sums of the bases are 1, 0, 0, ...
    """

    half_width: int
    lines: np.ndarray
    pairs: list[tuple[int, int]]
    mix: np.ndarray

    def kernels(self) -> np.ndarray:
        """The basis functions as images, (n, size, size)."""
        functions = np.array([np.outer(self.lines[j], self.lines[i]) for j, i in self.pairs])
        return np.tensordot(self.mix, functions, 1)

    def gram(self, smoothing: np.ndarray | None = None) -> np.ndarray:
        """Covariance (n, n) of the responses of the bases to unit noise with this autocorrelation (default: white)."""
        kernels = self.kernels()
        other = kernels
        if smoothing is not None and smoothing.size > 1:
            reach = smoothing.shape[0] // 2
            shape = [fft.next_fast_len(kernels.shape[-1] + 2 * reach, real=True)] * 2
            product = fft.rfft2(kernels, shape) * fft.rfft2(smoothing, shape)
            size = kernels.shape[-1]
            other = fft.irfft2(product, shape)[:, reach : reach + size, reach : reach + size]
        return np.einsum("axy,bxy->ab", kernels, other, optimize=True)


def make_basis(sigmas: tuple[float, ...], half_width: int) -> Basis:
    """Gaussians of these widths (sigma) [px] times polynomials, and a single pixel.

    With the single pixel the kernel can be the identity, for images with the same PSF.
    """
    u = np.arange(-half_width, half_width + 1.0)
    factors: list[np.ndarray] = []
    pairs: list[tuple[int, int]] = []
    for sigma, degree in zip(sigmas, DEGREES, strict=True):
        first = len(factors)
        gaussian = np.exp(-0.5 * (u / sigma) ** 2)
        for power in range(degree + 1):
            line = (u / sigma) ** power * gaussian
            factors.append(line / np.sqrt((line**2).sum()))
        pairs += [(first + j, first + i) for i, j in exponents(degree)]
    factors.append((u == 0).astype(float))
    pairs.append((len(factors) - 1, len(factors) - 1))
    lines = np.array(factors)
    sums = np.array([lines[j].sum() * lines[i].sum() for j, i in pairs])
    mix = np.diag(np.concatenate([[1 / sums[0]], np.ones(len(pairs) - 1)]))
    mix[1:, 0] = -sums[1:] / sums[0]
    return Basis(half_width, lines, pairs, mix)


@dataclass
class KernelField:
    """A kernel that varies over the field and the differential background.

    Attributes
    ----------
    kernels : numpy.ndarray
        (n_terms, size, size): the kernel at (u, v) is sum_k kernels[k] u^i v^j. The sum of the
        first is the photometric ratio, that of the others is 0.
    background : numpy.ndarray
        Coefficients of the background polynomial [ADU of the target].
    shape : tuple of int
        (height, width) of the images.
    order, background_order : int
        Degrees of the polynomials of the kernel and of the background.
    predicted_chi2 : numpy.ndarray
        (n_stamps,), reduced chi^2 of each stamp in a cross-validation: it is predicted by a fit to other stamps.
        Infinite where the other stamps do not determine a kernel.
    record : dict
        Quality of the fit, see `otrain_core.images.kernel_fit.fit_kernel`.
    """

    kernels: np.ndarray
    background: np.ndarray
    shape: tuple[int, int]
    order: int
    background_order: int
    predicted_chi2: np.ndarray = field(default_factory=lambda: np.zeros(0))
    record: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_kernels(cls, kernels: np.ndarray, shape: tuple[int, int]) -> KernelField:
        """A field from `kernels` alone, for images of this shape; without a background."""
        order = next(order for order in range(len(kernels)) if len(exponents(order)) == len(kernels))
        return cls(kernels, np.zeros(1), shape, order, 0)

    @property
    def scale(self) -> float:
        """Photometric ratio target / source."""
        return float(self.kernels[0].sum())

    def at(self, x: float, y: float) -> np.ndarray:
        """Kernel at a pixel, (size, size)."""
        return np.tensordot(polynomial(x, y, self.shape, self.order), self.kernels, 1)

    def apply(self, source: np.ndarray) -> np.ndarray:
        """The source convolved with the kernel of each pixel, float32; zero is assumed outside the frame.

        The result is exact, because the kernel is linear in the terms of the position: it
        is the sum of one convolution per term, multiplied by the term.
        """
        out = np.zeros(source.shape, dtype=np.float32)
        convolve = Convolver(source, self.kernels.shape[-1] // 2)
        u, v = axes(self.shape)
        for kernel, (i, j) in zip(self.kernels, exponents(self.order), strict=True):
            term = convolve(kernel)
            term *= (v**j)[:, None]
            term *= (u**i)[None, :]
            out += term
        return out

    def background_map(self) -> np.ndarray:
        """Differential background, float32 [ADU of the target]."""
        return polynomial_map(self.background, self.shape, self.background_order)

    def power(self) -> np.ndarray:
        """Sum of the squared kernel at each pixel, float32: the variance of white unit noise after the convolution."""
        u, v = axes(self.shape)
        products = np.einsum("axy,bxy->ab", self.kernels, self.kernels)
        coefficients = np.zeros((2 * self.order + 1,) * 2)  # by the powers of v and of u
        for a, (i, j) in enumerate(exponents(self.order)):
            for b, (k, m) in enumerate(exponents(self.order)):
                coefficients[j + m, i + k] += products[a, b]
        power = np.arange(2 * self.order + 1)
        lines = (v[:, None] ** power) @ coefficients
        return lines.astype(np.float32) @ (u ** power[:, None]).astype(np.float32)


class Convolver:
    """One image convolved with several small kernels by FFT; zero is assumed outside."""

    def __init__(self, image: np.ndarray, half_width: int):
        self.half, self.shape = half_width, image.shape
        self.size = [fft.next_fast_len(n + half_width, real=True) for n in image.shape]
        self.transform = fft.rfft2(image.astype(np.float32, copy=False), self.size)

    def __call__(self, kernel: np.ndarray) -> np.ndarray:
        half = kernel.shape[0] // 2
        # Two matrix products give the transform of a small kernel faster than an FFT of the padded kernel.
        fy = np.exp(-2j * np.pi * np.outer(np.fft.fftfreq(self.size[0]), np.arange(-half, half + 1)))
        fx = np.exp(-2j * np.pi * np.outer(np.arange(-half, half + 1), np.fft.rfftfreq(self.size[1])))
        product = (fy @ kernel).astype(np.complex64) @ fx.astype(np.complex64)
        product *= self.transform
        return fft.irfft2(product, self.size, overwrite_x=True)[: self.shape[0], : self.shape[1]]
