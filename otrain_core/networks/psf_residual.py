"""Residual of a difference cutout after the fit of a point source, which distinguishes stars from artefacts."""

from __future__ import annotations

import numpy as np
from keras import ops  # noqa: TID253 - stored with registered models, and imported only with Keras

FIT_ABOVE = 0.02  # pixels brighter than this share of the peak of the PSF are fitted
MAX_SHIFT = 0.7  # largest shift of the fit [px]; positions of candidates are more accurate than this
# Relative error of the PSF. Without it, bright injected sources, whose PSF is exact, would differ from real sources by
# their small residuals.
MODEL_ERROR = 0.03
CLIPPED_MEAN = 0.778  # mean |x| of Gaussian noise of sigma 1, where |x| is limited twice to 2.5 times its mean
UNKNOWN_SIGMA = 1.3  # width of the matched filter if there is no PSF [px]


def psf_residual(difference, valid, psf):
    """Residual of a point source fitted to difference cutouts, in units of the noise.

    Flux and a small shift are fitted by linear least squares to the PSF and its derivatives.

    Parameters
    ----------
    difference : tensor
        float32 (N, H, W), median subtracted, in units of the noise; 0 where missing.
    valid : tensor
        bool (N, H, W), False where the difference is missing.
    psf : tensor
        float32 (N, H, W), a point source of any flux at the position of the candidate; all 0 if it is not known, for
        which the residual is the difference itself.

    Returns
    -------
    tensor
        float32 (N, H, W), 0 where missing.
    """
    difference = ops.clip(difference, -1e9, 1e9)  # so that squares are finite
    star = _of_peak_one(psf)
    weight = ops.cast(ops.logical_and(valid, star > FIT_ABOVE), "float32")
    basis = (star, _slope(star, 1), _slope(star, 2))
    matrix = [[_total(weight * a * b) for b in basis] for a in basis]
    flux, down, right = _solve(matrix, [_total(weight * a * difference) for a in basis])
    # The coefficients of the derivatives are shift times flux.
    limit = MAX_SHIFT * ops.abs(flux)
    model = flux * basis[0] + ops.clip(down, -limit, limit) * basis[1] + ops.clip(right, -limit, limit) * basis[2]
    residual = (difference - model) / ops.sqrt(1.0 + ops.square(MODEL_ERROR * model))
    return residual * ops.cast(valid, "float32")


def matched_filter(difference, valid, psf):
    """Significance of a point source at each pixel of difference cutouts, relative to their own noise.

    The filter is a round Gaussian with the noise-equivalent area of the PSF (King 1983, PASP 95, 163). The filtered image is
    divided by its scatter in the surroundings of the candidate, so that correlated noise is not more significant than
    independent noise.

    Parameters
    ----------
    difference, valid, psf : tensor
        As for `psf_residual`; without a PSF the width of the filter is `UNKNOWN_SIGMA`.

    Returns
    -------
    tensor
        float32 (N, H, W), 0 where missing.
    """
    size = difference.shape[1]
    star = _of_peak_one(psf)
    square, total = _total(star * star), _total(star)
    area = total * total / ops.where(square > 0, square, 1.0)
    sigma2 = ops.where(square > 0, area / (4 * np.pi), UNKNOWN_SIGMA**2)
    offset = np.arange(size)[:, None] - np.arange(size)[None, :]
    kernel = ops.exp(ops.convert_to_tensor(-0.5 * offset**2, "float32") / ops.clip(sigma2, 0.2, 25.0))
    kernel = kernel / ops.sqrt(ops.sum(kernel * kernel, axis=2, keepdims=True))  # each row has unit norm
    weight = ops.cast(valid, "float32")
    found = ops.matmul(ops.matmul(kernel, ops.clip(difference, -1e9, 1e9)), ops.transpose(kernel, (0, 2, 1)))
    far = np.max(np.abs(np.mgrid[:size, :size] - size // 2), axis=0) > size // 4
    around = weight * ops.convert_to_tensor(far.astype("float32"))
    count = ops.maximum(_total(around), 1.0)
    size_of = ops.abs(found)
    spread = _total(around * size_of) / count
    for _ in range(2):  # clipped, so that sources do not contribute
        spread = _total(around * ops.minimum(size_of, 2.5 * spread)) / count
    spread = spread / CLIPPED_MEAN
    return found / ops.where(spread > 0, spread, 1.0) * weight


def _of_peak_one(psf):
    """PSF scaled to a peak of 1; all 0 if it is not known."""
    peak = ops.max(psf, axis=(1, 2), keepdims=True)
    return ops.clip(psf / ops.where(peak > 0, peak, 1.0), -1.0, 1.0) * ops.cast(peak > 0, "float32")


def _slope(plane, axis: int):
    """Central difference along an axis, with 0 beyond the edge of the plane."""
    padded = ops.pad(plane, [[0, 0], [1, 1], [1, 1]])
    if axis == 1:
        return 0.5 * (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1])
    return 0.5 * (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2])


def _total(values):
    return ops.sum(values, axis=(1, 2), keepdims=True)


def _solve(matrix, target):
    """Solve 3 x 3 symmetric equations by elimination; an unknown that no pixel determines is 0."""
    (a, b, c), (_, d, e), (_, _, f) = matrix
    x, y, z = target
    pivot_a = ops.maximum(a, 1e-6)
    d, e, f = d - b * b / pivot_a, e - b * c / pivot_a, f - c * c / pivot_a
    y, z = y - x * b / pivot_a, z - x * c / pivot_a
    pivot_d = ops.maximum(d, 1e-6)
    f, z = f - e * e / pivot_d, z - y * e / pivot_d
    third = z / ops.maximum(f, 1e-6)
    second = (y - e * third) / pivot_d
    return (x - b * second - c * third) / pivot_a, second, third
