"""Stamps of stars, cut out and convolved with the bases of a kernel, for `otrain_core.images.kernel_fit`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from otrain_core.images.kernel import Basis
from otrain_core.images.polynomials import polynomial

# Fraction of the photon noise that enters the weights of the fit. With all of it, faint stars weigh as much as bright
# ones and their noise blurs the kernel; with none of it, the few brightest stars dominate. In simulated images, crowded
# and undersampled ones included, the residuals of star cores are smallest between 0.2 and 0.5.
PHOTON_SHARE = 0.3


@dataclass
class Stamps:
    """Pixels to fit, cut out once for all fits; all planes but `columns` are (n_stamps, n_pixels).

    Attributes
    ----------
    columns : numpy.ndarray
        (n_stamps, n_bases + n_sky, n_pixels): the source convolved with each basis, then the terms of the background.
    data, variance, source_variance : numpy.ndarray
        Target [ADU], variance of target - model and variance of the source [ADU^2].
    good : numpy.ndarray
        bool, pixels to fit.
    x, y : numpy.ndarray
        (n_stamps,), centres [px].
    shape : tuple of int
        (height, width) of the images.
    basis : Basis
    noise_gram : numpy.ndarray
        `Basis.gram` for the autocorrelation of the noise of the source.
    """

    columns: np.ndarray
    data: np.ndarray
    variance: np.ndarray
    source_variance: np.ndarray
    good: np.ndarray
    x: np.ndarray
    y: np.ndarray
    shape: tuple[int, int]
    basis: Basis
    noise_gram: np.ndarray

    @property
    def n_bases(self) -> int:
        return len(self.basis.pairs)

    @cached_property
    def noise(self) -> tuple[float, np.ndarray]:
        """`photon_noise` of the good pixels."""
        return photon_noise(self.data, np.where(self.good, self.variance, np.nan))

    def weight(self, model: np.ndarray, used: np.ndarray) -> np.ndarray:
        """Weights of the pixels in a fit [1/ADU^2], from a noise-free model of them."""
        photon, sky = self.noise
        return used / (sky[:, None] + PHOTON_SHARE * photon * np.maximum(model, 0))

    @cached_property
    def first(self) -> tuple[np.ndarray, np.ndarray]:
        """Normal equations of all columns with the data as the model: the start of every fit."""
        return self.normal_equations(self.weight(self.data, self.good), self.columns.shape[1])

    def normal_equations(self, weight: np.ndarray, n_columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Normal matrix (n_stamps, n_columns, n_columns) and right-hand side (n_stamps, n_columns) of each stamp."""
        root = np.sqrt(weight)
        columns = self.columns[:, :n_columns] * root[:, None, :]
        # BLAS multiplies a matrix by its own transpose in half the time of a general product.
        return columns @ columns.swapaxes(1, 2), (columns @ (root * self.data)[:, :, None])[:, :, 0]


def cut_stamps(
    source: np.ndarray,
    target: np.ndarray,
    variance: np.ndarray,
    source_variance: np.ndarray,
    bad: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    *,
    basis: Basis,
    half: int,
    background_order: int,
    smoothing: np.ndarray | None = None,
) -> Stamps:
    """Cut out the stamps for `fit_kernel`.

    Parameters
    ----------
    source, target : numpy.ndarray
        float32 (height, width) [ADU], no NaN.
    variance : numpy.ndarray
        Variance of target - model, sky and sources [ADU^2].
    source_variance : numpy.ndarray
        Variance of the source alone [ADU^2]: its noise is in the regressors.
    bad : numpy.ndarray
        bool, pixels not to fit.
    x, y : numpy.ndarray
        int, centres of the stamps, at least ``half + basis.half_width`` from the edge.
    basis : Basis
    half : int
        Half width of the fitted square of each stamp [px].
    background_order : int
        Highest degree of the background polynomial in later fits.
    smoothing : numpy.ndarray, optional
        Autocorrelation of the noise of the source, see `otrain_core.images.align.Aligned` (default: white noise).

    Raises
    ------
    ValueError
        Fewer than three stamps.
    """
    if len(x) < 3:
        raise ValueError(f"{len(x)} usable stars; 3 are needed")
    convolved = convolve_stamps(_cut(source, x, y, half + basis.half_width).astype(float), basis, half)
    offsets = np.arange(-half, half + 1)
    px = np.broadcast_to(x[:, None, None] + offsets[None, None, :], (len(x), 2 * half + 1, 2 * half + 1))
    py = np.broadcast_to(y[:, None, None] + offsets[None, :, None], px.shape)
    sky = polynomial(px, py, source.shape, background_order).reshape(-1, len(x), px[0].size).swapaxes(0, 1)
    return Stamps(
        columns=np.concatenate([convolved, sky], axis=1),
        data=_cut(target, x, y, half).reshape(len(x), -1).astype(float),
        variance=_cut(variance, x, y, half).reshape(len(x), -1).astype(float),
        source_variance=_cut(source_variance, x, y, half).reshape(len(x), -1).astype(float),
        good=~_cut(bad, x, y, half).reshape(len(x), -1),
        x=x,
        y=y,
        shape=source.shape,
        basis=basis,
        noise_gram=basis.gram(smoothing),
    )


def _cut(image: np.ndarray, x: np.ndarray, y: np.ndarray, half: int) -> np.ndarray:
    """Stamps (n_stamps, 2 half + 1, 2 half + 1) about integer positions inside the image."""
    offsets = np.arange(-half, half + 1)
    return image[(y[:, None] + offsets)[:, :, None], (x[:, None] + offsets)[:, None, :]]


def convolve_stamps(stamps: np.ndarray, basis: Basis, half: int) -> np.ndarray:
    """Convolve every stamp with every basis function.

    Parameters
    ----------
    stamps : numpy.ndarray
        (n_stamps, m, m) with m = 2 (half + basis.half_width) + 1.
    half : int
        Half width of the result.

    Returns
    -------
    numpy.ndarray
        (n_stamps, n_bases, (2 half + 1)^2), float64.
    """
    size, width = 2 * half + 1, 2 * basis.half_width + 1
    # toeplitz[l, out, in] is the convolution with line l as a matrix.
    toeplitz = np.zeros((len(basis.lines), size, size + width - 1))
    for row in range(size):
        toeplitz[:, row, row : row + width] = basis.lines[:, ::-1]
    along_x = np.einsum("smx,lox->lsmo", stamps, toeplitz, optimize=True)  # (line, stamp, m, out x)
    out = np.empty((len(stamps), len(basis.pairs), size * size))
    for index, (j, i) in enumerate(basis.pairs):
        out[:, index] = np.matmul(toeplitz[j], along_x[i]).reshape(len(stamps), -1)
    mixed = out[:, :1] * basis.mix[0, 0]
    out[:, 1:] += basis.mix[1:, 0][None, :, None] * out[:, :1]
    out[:, :1] = mixed
    return out


def photon_noise(data: np.ndarray, variance: np.ndarray) -> tuple[float, np.ndarray]:
    """Variance per unit of signal, and the variance of the sky of each stamp.

    Parameters
    ----------
    data, variance : numpy.ndarray
        (n_stamps, n_pixels) [ADU, ADU^2]; `variance` is NaN where a pixel is not used.

    Returns
    -------
    photon : float
        [ADU]; 0 without any pixel of signal.
    sky : numpy.ndarray
        (n_stamps,) [ADU^2].
    """
    sky = np.nanpercentile(variance, 20, axis=1)
    signal = np.isfinite(variance) & (data > 5 * np.sqrt(sky)[:, None])
    if not signal.any():
        return 0.0, sky
    return max(float(((variance - sky[:, None])[signal]).sum() / data[signal].sum()), 0.0), sky
