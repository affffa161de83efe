"""What a difference cutout holds beyond a point source: the fit that tells a star from what only looks like one."""

from __future__ import annotations

from keras import ops

FIT_ABOVE = 0.02  # pixels brighter than this share of the peak of the PSF are fitted
MAX_SHIFT = 0.7  # [px]; the position of a candidate is no worse, a larger one is not a point source there
# The PSF is not known better than this share of itself: without it, the residuals of bright injected sources,
# whose PSF is exact, would tell them from real ones.
MODEL_ERROR = 0.03


def psf_residual(difference, valid, psf):
    """Residual of a point source fitted to difference cutouts, in units of the noise.

    Flux and a small shift are fitted by linear least squares on the PSF and its slopes.

    Parameters
    ----------
    difference : tensor
        float32 (N, H, W), the median taken off, in units of the noise; 0 where missing.
    valid : tensor
        bool (N, H, W), False where the difference is missing.
    psf : tensor
        float32 (N, H, W), a point source at the place of the candidate, of any flux; 0 where it
        is not known: the residual is then the difference itself.

    Returns
    -------
    tensor
        float32 (N, H, W), 0 where missing.
    """
    peak = ops.max(psf, axis=(1, 2), keepdims=True)
    difference = ops.clip(difference, -1e9, 1e9)  # whose squares are finite
    star = psf / ops.where(peak > 0, peak, 1.0)
    weight = ops.cast(ops.logical_and(valid, star > FIT_ABOVE), "float32")
    basis = (star, _slope(star, 1), _slope(star, 2))
    matrix = [[_total(weight * a * b) for b in basis] for a in basis]
    flux, down, right = _solve(matrix, [_total(weight * a * difference) for a in basis])
    # Position times flux is what is fitted: a shift is limited in units of the flux.
    limit = MAX_SHIFT * ops.abs(flux)
    model = flux * basis[0] + ops.clip(down, -limit, limit) * basis[1] + ops.clip(right, -limit, limit) * basis[2]
    residual = (difference - model) / ops.sqrt(1.0 + ops.square(MODEL_ERROR * model))
    return residual * ops.cast(valid, "float32")


def _slope(plane, axis: int):
    """Central difference along an axis, as if the plane were 0 beyond its edge."""
    padded = ops.pad(plane, [[0, 0], [1, 1], [1, 1]])
    if axis == 1:
        return 0.5 * (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1])
    return 0.5 * (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2])


def _total(values):
    return ops.sum(values, axis=(1, 2), keepdims=True)


def _solve(matrix, target):
    """Solution of 3 x 3 symmetric equations by elimination; 0 for what no pixel determines."""
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
