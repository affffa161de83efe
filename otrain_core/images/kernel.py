"""Spatially varying convolution kernel between two images.

Alard & Lupton (1998, ApJ 503, 325) with the spatial variation and the constant
photometric ratio of Alard (2000, A&AS 144, 363): the kernel is a sum of Gaussians
times polynomials of the pixel offsets, its coefficients are polynomials of the
position, all bases but the first add up to zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import fft, linalg

from otrain_core.images.polynomials import axes, exponents, polynomial, polynomial_map
from otrain_core.widths import SIGMA_PER_MAD, mad_sigma

# Of the photon noise in the weights of the fit. With all of it faint stars say as much as bright ones and their
# noise blurs the kernel; with none of it the brightest few rule. On simulated, crowded and undersampled images
# alike, the residuals of star cores are least between 0.2 and 0.5.
PHOTON_SHARE = 0.3
# Of the reference's noise that is taken off the normal matrix; the rest keeps the bases in check that no star constrains.
NOISE_SHARES = (0.8, 0.6, 0.4, 0.2, 0.0)
MEDIAN_ERROR = 1.2533  # standard error of the median of Gaussian values over that of their mean
FOLDS = 5  # of the stamps, to judge a fit by stamps that are not in it
DEGREES = (6, 4, 2)  # of the polynomials that go with the three Gaussians


@dataclass
class Basis:
    """Bases of the kernel, all separable in x and y.

    Attributes
    ----------
    half_width : int
        Kernels are (2 half_width + 1, 2 half_width + 1).
    lines : numpy.ndarray
        (n_lines, 2 half_width + 1), the one-dimensional factors.
    pairs : list of (int, int)
        Line along y and line along x of each separable function.
    mix : numpy.ndarray
        (n, n): basis = mix @ functions, which makes the sums 1, 0, 0, ...
    """

    half_width: int
    lines: np.ndarray
    pairs: list[tuple[int, int]]
    mix: np.ndarray

    def kernels(self) -> np.ndarray:
        """(n, size, size), the bases as images."""
        functions = np.array([np.outer(self.lines[j], self.lines[i]) for j, i in self.pairs])
        return np.tensordot(self.mix, functions, 1)

    def gram(self, smoothing: np.ndarray | None = None) -> np.ndarray:
        """(n, n): covariance of the bases' responses to unit noise with this autocorrelation (default: white)."""
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
    """Gaussians of these widths [px] times polynomials, and a single pixel.

    The single pixel lets the kernel be the identity where both images have the
    same PSF.
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
        (n_terms, size, size): kernel at (u, v) = sum_k kernels[k] u^i v^j; only the
        first has a sum, the photometric ratio.
    background : numpy.ndarray
        Coefficients of the background polynomial [ADU of the target].
    shape : tuple of int
        Of the images.
    order, background_order : int
    predicted_chi2 : numpy.ndarray
        (n_stamps,), reduced chi^2 of each stamp about what the fit to other stamps says of it; infinite
        where the others do not determine a kernel.
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
        """From `kernels` alone, for images of this shape; without a background."""
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
        """Source convolved with the kernel of each pixel, float32; zero is assumed outside the frame.

        As the kernel is linear in the terms of the position, this is exact: one
        convolution per term, weighted by the term.
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
        """Sum of the squared kernel at each pixel (float32): variance of convolved white noise."""
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
        # The transform of a small kernel by two matrix products is cheaper than padding it.
        fy = np.exp(-2j * np.pi * np.outer(np.fft.fftfreq(self.size[0]), np.arange(-half, half + 1)))
        fx = np.exp(-2j * np.pi * np.outer(np.arange(-half, half + 1), np.fft.rfftfreq(self.size[1])))
        product = (fy @ kernel).astype(np.complex64) @ fx.astype(np.complex64)
        product *= self.transform
        return fft.irfft2(product, self.size, overwrite_x=True)[: self.shape[0], : self.shape[1]]


def _cut(image: np.ndarray, x: np.ndarray, y: np.ndarray, half: int) -> np.ndarray:
    offsets = np.arange(-half, half + 1)
    return image[(y[:, None] + offsets)[:, :, None], (x[:, None] + offsets)[:, None, :]]


def convolve_stamps(stamps: np.ndarray, basis: Basis, half: int) -> np.ndarray:
    """Every stamp convolved with every basis.

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
    # toeplitz[l, out, in]: convolution with line l as a matrix
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


def fit_kernel(
    source: np.ndarray,
    target: np.ndarray,
    variance: np.ndarray,
    source_variance: np.ndarray,
    bad: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    *,
    basis: Basis,
    smoothing: np.ndarray | None = None,
    half: int,
    order: int,
    background_order: int,
    sigma_clip: float = 3.0,
    lowest: float = 0.005,
    iterations: int = 6,
) -> KernelField:
    """Fit ``target = kernel(x, y) * source + background`` on stamps.

    Parameters
    ----------
    source, target : numpy.ndarray
        float32 (height, width) [ADU], no NaN.
    variance : numpy.ndarray
        Of target - model in the sky and sources [ADU^2].
    source_variance : numpy.ndarray
        Of the source alone [ADU^2]: its noise is in the regressors.
    bad : numpy.ndarray
        bool, pixels not to fit.
    x, y : numpy.ndarray
        int, centres of the stamps, at least ``half + basis.half_width`` from the edge.
    basis : Basis
    smoothing : numpy.ndarray, optional
        Autocorrelation of the noise of the source, see `otrain_core.images.align.Aligned`.
    half : int
        Half width of the fitted square of each stamp [px].
    order, background_order : int
        Degree of the kernel's variation and of the background.
    sigma_clip : float
        Stamps whose reduced chi^2 is off by more standard deviations are left out.
    lowest : float
        Least error of the model as a fraction of the signal. The clipping takes the error
        that the brighter stars show, so that they are not clipped for what no kernel can
        model, such as coarse sampling.
    iterations : int
        Of the clipping, at most.

    Returns
    -------
    KernelField
        Its record has n_stamps, n_rejected, stamp_chi2 (median, reduced), model_error (what the kernel leaves of the
        brighter stamps beyond their noise, root mean square as a share of the signal) and model_error_low (what it
        surely is, two standard errors below).

    Raises
    ------
    ValueError
        Fewer than three stamps, or none left.
    """
    if len(x) < 3:
        raise ValueError(f"{len(x)} usable stars; 3 are needed")
    stamps = _cut_stamps(
        source,
        target,
        variance,
        source_variance,
        bad,
        x,
        y,
        basis=basis,
        half=half,
        background_order=background_order,
    )
    noise_gram = basis.gram(smoothing)
    terms = polynomial(x, y, source.shape, order).T  # (stamp, term)
    system = _System(stamps.n_bases, stamps.n_sky, terms)
    used = stamps.good
    photon, sky_variance = photon_noise(stamps.data, np.where(used, stamps.variance, np.nan))
    keep = np.ones(len(x), dtype=bool)
    model = np.maximum(stamps.data, 0)
    softening = max(lowest, 0.01)
    shares: tuple[float, ...] = (0.0,)
    for iteration in range(iterations):
        # From the model, not the pixel's own value: weights that follow the noise would bias the flux ratio.
        signal = np.maximum(model, 0)
        expected = sky_variance[:, None] + photon * signal
        weight = used / (sky_variance[:, None] + PHOTON_SHARE * photon * signal)
        tolerant = used / (expected + (softening * signal) ** 2)
        noise_power = (weight * stamps.source_variance).sum(axis=1)[:, None, None] * noise_gram
        solution, model, keep, middle = _clipped_solution(
            system,
            stamps,
            keep,
            weight=weight,
            tolerant=tolerant,
            noise_power=noise_power,
            shares=shares,
            clip=sigma_clip,
        )
        excess = (used * ((stamps.data - model) ** 2 - expected)).sum(axis=1) / (used * model**2).sum(axis=1)
        bright = keep & (signal.sum(axis=1) >= np.median(signal[keep].sum(axis=1)))
        error = float(np.sqrt(max(np.median(excess[bright]), lowest**2)))
        doubt = 2 * MEDIAN_ERROR * mad_sigma(excess[bright]) / np.sqrt(bright.sum())
        softening = min(error, 0.2)
        if iteration == 0:
            ratio = (used * (stamps.data - model) ** 2).sum(axis=1) / (used * expected).sum(axis=1)
            # Residuals below the noise: both images share their noise, which is then no error of the regressors.
            shares = NOISE_SHARES if np.median(ratio[keep]) > 0.25 else (0.0,)
            continue
        previous = used
        # What no kernel explains: cosmic rays, variables and new sources near the star.
        used = stamps.good & (tolerant * (stamps.data - model) ** 2 <= 25 * max(middle, 1e-12))
        if iteration > 1 and np.array_equal(previous, used):
            break
    kernels = np.tensordot(system.kernel_coefficients(solution), basis.kernels(), ([0], [0]))
    field = KernelField(kernels, solution[-stamps.n_sky :], source.shape, order, background_order)
    signal = np.maximum(model, 0)
    field.predicted_chi2 = _predicted_chi2(
        system,
        stamps,
        keep,
        weight=weight,
        judged=stamps.good / (sky_variance[:, None] + photon * signal + (lowest * signal) ** 2),
        noise_power=noise_power,
        shares=shares,
    )
    field.record = {
        "n_stamps": int(keep.sum()),
        "n_rejected": int((~keep).sum()),
        "stamp_chi2": float(middle),
        "model_error": error,
        "model_error_low": float(np.sqrt(max(np.median(excess[bright]) - doubt, 0.0))),
    }
    return field


@dataclass
class _Stamps:
    """What is fitted: (n_stamps, n_pixels) each, but for the columns.

    Attributes
    ----------
    columns : numpy.ndarray
        (n_stamps, n_bases + n_sky, n_pixels): source convolved with each basis, then the terms of the background.
    data, variance, source_variance : numpy.ndarray
        Target, variance of target - model, variance of the source.
    good : numpy.ndarray
        bool, pixels to fit.
    n_bases, n_sky : int
    """

    columns: np.ndarray
    data: np.ndarray
    variance: np.ndarray
    source_variance: np.ndarray
    good: np.ndarray
    n_bases: int
    n_sky: int


def _cut_stamps(
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
) -> _Stamps:
    convolved = convolve_stamps(_cut(source, x, y, half + basis.half_width).astype(float), basis, half)
    offsets = np.arange(-half, half + 1)
    px = np.broadcast_to(x[:, None, None] + offsets[None, None, :], (len(x), 2 * half + 1, 2 * half + 1))
    py = np.broadcast_to(y[:, None, None] + offsets[None, :, None], px.shape)
    sky = polynomial(px, py, source.shape, background_order).reshape(-1, len(x), px[0].size).swapaxes(0, 1)
    return _Stamps(
        columns=np.concatenate([convolved, sky], axis=1),
        data=_cut(target, x, y, half).reshape(len(x), -1).astype(float),
        variance=_cut(variance, x, y, half).reshape(len(x), -1).astype(float),
        source_variance=_cut(source_variance, x, y, half).reshape(len(x), -1).astype(float),
        good=~_cut(bad, x, y, half).reshape(len(x), -1),
        n_bases=convolved.shape[1],
        n_sky=sky.shape[1],
    )


def _clipped_solution(
    system: _System,
    stamps: _Stamps,
    keep: np.ndarray,
    *,
    weight: np.ndarray,
    tolerant: np.ndarray,
    noise_power: np.ndarray,
    shares: tuple[float, ...],
    clip: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Solution without the stamps that no kernel fits.

    Parameters
    ----------
    keep : numpy.ndarray
        bool (n_stamps,), stamps to begin with.
    weight, tolerant : numpy.ndarray
        Weight of the pixels in the fit, and in the chi^2 that stamps are judged by.
    noise_power, shares
        As in `_System.solve`.
    clip : float
        In standard deviations of the reduced chi^2.

    Returns
    -------
    solution, model, keep : numpy.ndarray
    middle : float
        Median reduced chi^2.
    """
    normal = np.matmul(stamps.columns * weight[:, None, :], stamps.columns.swapaxes(1, 2))
    right = np.matmul(stamps.columns, (weight * stamps.data)[:, :, None])[:, :, 0]
    count = np.maximum((tolerant > 0).sum(axis=1), 1)
    for _ in range(5):
        solution = system.solve(normal, right, keep, noise_power, shares)
        model = np.matmul(system.local(solution)[:, None, :], stamps.columns)[:, 0]
        chi2 = (tolerant * (stamps.data - model) ** 2).sum(axis=1) / count
        middle = np.median(chi2[keep])
        spread = SIGMA_PER_MAD * np.median(np.abs(chi2[keep] - middle))
        accepted = chi2 <= middle + max(clip * spread, 0.05 * middle) + 1e-12
        if accepted.sum() < 3 or np.array_equal(accepted, keep):
            break
        keep = accepted
    return solution, model, keep, middle


def _predicted_chi2(
    system: _System,
    stamps: _Stamps,
    keep: np.ndarray,
    *,
    weight: np.ndarray,
    judged: np.ndarray,
    noise_power: np.ndarray,
    shares: tuple[float, ...],
) -> np.ndarray:
    """Reduced chi^2 of each stamp about a solution from stamps of other folds, see `KernelField`.

    `judged` is the weight of the pixels in this chi^2, one over their variance; else as `_clipped_solution`.
    """
    normal = np.matmul(stamps.columns * weight[:, None, :], stamps.columns.swapaxes(1, 2))
    right = np.matmul(stamps.columns, (weight * stamps.data)[:, :, None])[:, :, 0]
    fold = np.arange(len(keep)) % FOLDS
    chi2 = np.full(len(keep), np.inf)
    for number in range(FOLDS):
        mine, others = fold == number, keep & (fold != number)
        if not mine.any() or others.sum() < 3:
            continue
        try:
            solution = system.solve(normal, right, others, noise_power, shares)
        except np.linalg.LinAlgError:
            continue
        model = np.matmul(system.local(solution)[mine][:, None, :], stamps.columns[mine])[:, 0]
        residual2 = judged[mine] * (stamps.data[mine] - model) ** 2
        chi2[mine] = residual2.sum(axis=1) / np.maximum((judged[mine] > 0).sum(axis=1), 1)
    return chi2


def photon_noise(data: np.ndarray, variance: np.ndarray) -> tuple[float, np.ndarray]:
    """Variance per unit of signal, and the variance of the sky of each stamp.

    Parameters
    ----------
    data, variance : numpy.ndarray
        (n_stamps, n_pixels) [ADU, ADU^2]; NaN in `variance` where a pixel is not used.
    """
    sky = np.nanpercentile(variance, 20, axis=1)
    signal = np.isfinite(variance) & (data > 5 * np.sqrt(sky)[:, None])
    if not signal.any():
        return 0.0, sky
    return max(float(((variance - sky[:, None])[signal]).sum() / data[signal].sum()), 0.0), sky


class _System:
    """Global normal equations from those of the stamps.

    Unknowns: the coefficient of the first basis (constant: the photometric ratio),
    then of each further basis its polynomial, then the background.
    """

    def __init__(self, n_bases: int, n_sky: int, terms: np.ndarray):
        self.n, self.n_sky, self.terms = n_bases, n_sky, terms
        self.n_terms = terms.shape[1]
        self.size = 1 + (n_bases - 1) * self.n_terms + n_sky

    def solve(
        self,
        normal: np.ndarray,
        right: np.ndarray,
        keep: np.ndarray,
        noise_power: np.ndarray,
        shares: tuple[float, ...],
    ) -> np.ndarray:
        """Solution from the stamps to keep.

        The noise of the source adds to the normal matrix and would pull the kernel, the
        flux ratio too, towards zero. It is known and taken off, as much of it as the first of
        `shares` that leaves the matrix positive definite.
        """
        for share in shares:
            clean = normal[keep].copy()
            clean[:, : self.n, : self.n] -= share * noise_power[keep]
            try:
                return self._solve(clean, right[keep], self.terms[keep])
            except np.linalg.LinAlgError:
                if share == shares[-1]:
                    raise
        raise ValueError("no share is given")

    def _solve(self, normal: np.ndarray, right: np.ndarray, terms: np.ndarray) -> np.ndarray:
        n, q, size = self.n, self.n_terms, self.size
        matrix, vector = np.zeros((size, size)), np.zeros(size)
        inner, outer = slice(1, size - self.n_sky), slice(size - self.n_sky, size)
        total = normal.sum(axis=0)
        matrix[0, 0] = total[0, 0]
        matrix[outer, outer] = total[n:, n:]
        matrix[0, outer] = matrix[outer, 0] = total[0, n:]
        row = np.einsum("sb,sp->bp", normal[:, 0, 1:n], terms).ravel()
        matrix[0, inner] = matrix[inner, 0] = row
        products = (terms[:, :, None] * terms[:, None, :]).reshape(len(terms), -1)
        block = (normal[:, 1:n, 1:n].reshape(len(terms), -1).T @ products).reshape(n - 1, n - 1, q, q)
        matrix[inner, inner] = block.transpose(0, 2, 1, 3).reshape((n - 1) * q, -1)
        mixed = np.einsum("sbk,sp->bpk", normal[:, 1:n, n:], terms).reshape(-1, self.n_sky)
        matrix[inner, outer], matrix[outer, inner] = mixed, mixed.T
        vector[0] = right[:, 0].sum()
        vector[inner] = np.einsum("sb,sp->bp", right[:, 1:n], terms).ravel()
        vector[outer] = right[:, n:].sum(axis=0)
        if np.diag(matrix).min() <= 0:
            raise np.linalg.LinAlgError("not positive definite")
        scale = 1 / np.sqrt(np.diag(matrix))
        matrix *= scale[:, None] * scale
        matrix[np.diag_indices(size)] += 1e-9  # the narrowest bases are nearly alike on few pixels
        return scale * linalg.solve(matrix, scale * vector, assume_a="pos", check_finite=False)

    def local(self, solution: np.ndarray) -> np.ndarray:
        """Coefficients of all columns at each stamp, (n_stamps, n_bases + n_sky)."""
        kernel = np.einsum("bp,sp->sb", self._varying(solution), self.terms)
        ones = np.ones((len(self.terms), 1))
        return np.concatenate([ones * solution[0], kernel, ones * solution[-self.n_sky :]], axis=1)

    def _varying(self, solution: np.ndarray) -> np.ndarray:
        return solution[1 : self.size - self.n_sky].reshape(self.n - 1, self.n_terms)

    def kernel_coefficients(self, solution: np.ndarray) -> np.ndarray:
        """(n_bases, n_terms)."""
        first = np.zeros((1, self.n_terms))
        first[0, 0] = solution[0]
        return np.concatenate([first, self._varying(solution)])
