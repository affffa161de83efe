"""Fit a `otrain_core.images.kernel.KernelField` to stamps of stars."""

from __future__ import annotations

import numpy as np
from scipy import linalg

from otrain_core.images.kernel import KernelField
from otrain_core.images.kernel_stamps import Stamps
from otrain_core.images.polynomials import exponents, polynomial
from otrain_core.widths import SIGMA_PER_MAD, mad_sigma

# Fractions of the noise of the source that are subtracted from the normal matrix, tried in turn. What remains
# regularises the bases that no star constrains.
NOISE_SHARES = (0.8, 0.6, 0.4, 0.2, 0.0)
MEDIAN_ERROR = 1.2533  # standard error of the median of Gaussian values over that of their mean
FOLDS = 5  # of the cross-validation over the stamps


def fit_kernel(
    stamps: Stamps,
    *,
    order: int,
    background_order: int,
    sigma_clip: float = 3.0,
    lowest: float = 0.005,
    iterations: int = 6,
) -> KernelField:
    """Fit ``target = kernel(x, y) * source + background`` on stamps.

    Parameters
    ----------
    stamps : Stamps
    order, background_order : int
        Degrees of the kernel's spatial variation and of the background; `background_order` is at most that of the stamps.
    sigma_clip : float
        Stamps whose reduced chi^2 exceeds the median by more than this many standard deviations are rejected.
    lowest : float
        Smallest error of the model, as a fraction of the signal. The clipping allows for the error that
        the brighter stars show, so that they are not rejected for what no kernel can model, such as
        coarse sampling.
    iterations : int
        Largest number of iterations of the clipping.

    Returns
    -------
    KernelField
        Its record has n_stamps, n_rejected, stamp_chi2 (median of the reduced chi^2), model_error (residual of the
        brighter stamps beyond their noise, root mean square as a fraction of the signal) and model_error_low (its
        lower limit, two standard errors below).

    Raises
    ------
    ValueError
        The stamps do not determine a kernel (`numpy.linalg.LinAlgError` is one).
    """
    system = _System(stamps, order, background_order)
    used, keep = stamps.good, np.ones(len(stamps.x), dtype=bool)
    photon, sky_variance = stamps.noise
    model = np.maximum(stamps.data, 0)
    softening = max(lowest, 0.01)
    shares: tuple[float, ...] = (0.0,)
    for iteration in range(iterations):
        # Weights from the model, not from the pixel values: weights that follow the noise would bias the flux ratio.
        signal = np.maximum(model, 0)
        expected = sky_variance[:, None] + photon * signal
        weight = stamps.weight(model, used)
        tolerant = used / (expected + (softening * signal) ** 2)
        system.weigh(weight, stamps.first if iteration == 0 else None)
        solution, model, keep, middle = _clipped_solution(
            system, keep, tolerant=tolerant, shares=shares, clip=sigma_clip
        )
        with np.errstate(invalid="ignore"):  # a stamp without any used pixel is not kept
            excess = (used * ((stamps.data - model) ** 2 - expected)).sum(axis=1) / (used * model**2).sum(axis=1)
        bright = keep & (signal.sum(axis=1) >= np.median(signal[keep].sum(axis=1)))
        error = float(np.sqrt(max(np.median(excess[bright]), lowest**2)))
        doubt = 2 * MEDIAN_ERROR * mad_sigma(excess[bright]) / np.sqrt(bright.sum())
        softening = min(error, 0.2)
        if iteration == 0:
            ratio = (used * (stamps.data - model) ** 2).sum(axis=1) / (used * expected).sum(axis=1)
            # Residuals far below the noise mean that both images share it: it is then no error of the regressors.
            shares = NOISE_SHARES if np.median(ratio[keep]) > 0.25 else (0.0,)
            continue
        previous = used
        # Drop pixels that no kernel explains: cosmic rays, variable stars and new sources near the star.
        used = stamps.good & (tolerant * (stamps.data - model) ** 2 <= 25 * max(middle, 1e-12))
        if iteration > 1 and np.array_equal(previous, used):
            break
    kernels = np.tensordot(system.kernel_coefficients(solution), stamps.basis.kernels(), ([0], [0]))
    field = KernelField(kernels, solution[-system.n_sky :], stamps.shape, order, background_order)
    signal = np.maximum(model, 0)
    judged = stamps.good / (sky_variance[:, None] + photon * signal + (lowest * signal) ** 2)
    field.predicted_chi2 = _predicted_chi2(system, keep, judged=judged, shares=shares)
    field.record = {
        "n_stamps": int(keep.sum()),
        "n_rejected": int((~keep).sum()),
        "stamp_chi2": float(middle),
        "model_error": error,
        "model_error_low": float(np.sqrt(max(np.median(excess[bright]) - doubt, 0.0))),
    }
    return field


def _clipped_solution(
    system: _System, keep: np.ndarray, *, tolerant: np.ndarray, shares: tuple[float, ...], clip: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Solution after the rejection of the stamps that no kernel fits.

    Parameters
    ----------
    keep : numpy.ndarray
        bool (n_stamps,), stamps used in the first solution.
    tolerant : numpy.ndarray
        Weight of the pixels in the chi^2 of a stamp. A stamp without any weight is rejected.
    shares : tuple of float
        See `_System.solve`.
    clip : float
        Limit in standard deviations of the reduced chi^2.

    Returns
    -------
    solution, model, keep : numpy.ndarray
        Parameters, model of the stamps (n_stamps, n_pixels), and the stamps that were kept.
    middle : float
        Median reduced chi^2.
    """
    count = (tolerant > 0).sum(axis=1)
    for _ in range(5):
        solution = system.solve(keep, shares)
        model = system.model(solution)
        chi2 = (tolerant * (system.stamps.data - model) ** 2).sum(axis=1) / np.maximum(count, 1)
        middle = np.median(chi2[keep])
        spread = SIGMA_PER_MAD * np.median(np.abs(chi2[keep] - middle))
        accepted = (chi2 <= middle + max(clip * spread, 0.05 * middle) + 1e-12) & (count > 0)
        if accepted.sum() < 3 or np.array_equal(accepted, keep):
            break
        keep = accepted
    return solution, model, keep, middle


def _predicted_chi2(system: _System, keep: np.ndarray, *, judged: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    """Reduced chi^2 of each stamp for the solution from the stamps of the other folds, see `KernelField`.

    `judged` is the weight of the pixels in this chi^2, one over their variance; `keep` and `shares` are as in
    `_clipped_solution`.
    """
    fold = np.arange(len(keep)) % FOLDS
    chi2 = np.full(len(keep), np.inf)
    for number in range(FOLDS):
        mine, others = fold == number, keep & (fold != number)
        if not mine.any() or others.sum() < 3:
            continue
        try:
            model = system.model(system.solve(others, shares), mine)
        except np.linalg.LinAlgError:
            continue
        residual2 = judged[mine] * (system.stamps.data[mine] - model) ** 2
        chi2[mine] = residual2.sum(axis=1) / np.maximum((judged[mine] > 0).sum(axis=1), 1)
    return chi2


class _System:
    """Global normal equations, assembled from those of the stamps.

    The unknowns are the coefficient of the first basis (constant: the photometric ratio),
    then the polynomial of each further basis, then the background.
    """

    def __init__(self, stamps: Stamps, order: int, background_order: int):
        self.stamps = stamps
        self.terms = polynomial(stamps.x, stamps.y, stamps.shape, order).T  # (stamp, term)
        self.n, self.n_terms, self.n_sky = stamps.n_bases, self.terms.shape[1], len(exponents(background_order))
        self.n_columns = self.n + self.n_sky
        self.size = 1 + (self.n - 1) * self.n_terms + self.n_sky
        self.products = (self.terms[:, :, None] * self.terms[:, None, :]).reshape(len(self.terms), -1)

    def weigh(self, weight: np.ndarray, equations: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        """Set the weights of the pixels; `equations` are the normal equations of all columns, if already known."""
        n, size = self.n, self.n_columns
        normal, self.right = equations or self.stamps.normal_equations(weight, size)
        flat = len(normal), -1
        self.first, self.row, self.to_sky = normal[:, 0, 0], normal[:, 0, 1:n], normal[:, 0, n:size]
        self.inner = normal[:, 1:n, 1:n].reshape(flat)
        self.mixed = normal[:, 1:n, n:size].reshape(flat)
        self.sky = normal[:, n:size, n:size]
        self.noise_power = (weight * self.stamps.source_variance).sum(axis=1)

    def solve(self, keep: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
        """Solution from the stamps to keep.

        The noise of the source adds to the normal matrix and would bias the kernel and the
        flux ratio towards zero. Its expected contribution is subtracted, multiplied by the
        first of `shares` that leaves the matrix positive definite.
        """
        matrix, vector = self._assembled(keep)
        noise = self._noise(keep) if shares != (0.0,) else 0.0
        for share in shares:
            try:
                return self._solution(matrix - share * noise, vector)
            except np.linalg.LinAlgError:
                if share == shares[-1]:
                    raise
        raise ValueError("no share is given")

    def _assembled(self, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Normal matrix (size, size) and right-hand side (size,) of the stamps to keep."""
        n, q, size = self.n, self.n_terms, self.size
        matrix, vector, use = np.zeros((size, size)), np.zeros(size), keep.astype(float)
        terms, right = self.terms * use[:, None], self.right
        inner, outer = slice(1, size - self.n_sky), slice(size - self.n_sky, size)
        matrix[0, 0] = use @ self.first
        matrix[outer, outer] = np.tensordot(use, self.sky, 1)
        matrix[0, outer] = matrix[outer, 0] = use @ self.to_sky
        matrix[0, inner] = matrix[inner, 0] = (self.row.T @ terms).ravel()
        block = (self.inner.T @ (self.products * use[:, None])).reshape(n - 1, n - 1, q, q)
        matrix[inner, inner] = block.transpose(0, 2, 1, 3).reshape((n - 1) * q, -1)
        mixed = (self.mixed.T @ terms).reshape(n - 1, self.n_sky, q).swapaxes(1, 2).reshape(-1, self.n_sky)
        matrix[inner, outer], matrix[outer, inner] = mixed, mixed.T
        vector[0] = use @ right[:, 0]
        vector[inner] = (right[:, 1:n].T @ terms).ravel()
        vector[outer] = use @ right[:, n : self.n_columns]
        return matrix, vector

    def _noise(self, keep: np.ndarray) -> np.ndarray:
        """Contribution of the noise of the source to the normal matrix."""
        gram, power = self.stamps.noise_gram, self.noise_power * keep
        matrix, inner = np.zeros((self.size, self.size)), slice(1, self.size - self.n_sky)
        matrix[0, 0] = power.sum() * gram[0, 0]
        matrix[0, inner] = matrix[inner, 0] = np.outer(gram[0, 1:], power @ self.terms).ravel()
        matrix[inner, inner] = np.kron(gram[1:, 1:], (power @ self.products).reshape(self.n_terms, -1))
        return matrix

    def _solution(self, matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """Solve the normal equations by Cholesky decomposition; raises LinAlgError unless positive definite."""
        if np.diag(matrix).min() <= 0:
            raise np.linalg.LinAlgError("not positive definite")
        scale = 1 / np.sqrt(np.diag(matrix))
        matrix *= scale[:, None] * scale
        matrix[np.diag_indices(self.size)] += 1e-9  # the narrowest bases are nearly degenerate on few pixels
        factor = linalg.cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
        return scale * linalg.cho_solve(factor, scale * vector, overwrite_b=True, check_finite=False)

    def model(self, solution: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        """Model (n_stamps, n_pixels) by a solution, of all stamps or of those chosen."""
        columns = self.stamps.columns[:, : self.n_columns]
        local = self._local(solution)
        if chosen is not None:
            columns, local = columns[chosen], local[chosen]
        return np.matmul(local[:, None, :], columns)[:, 0]

    def _local(self, solution: np.ndarray) -> np.ndarray:
        """Coefficients of all columns for each stamp, (n_stamps, n_bases + n_sky)."""
        ones = np.ones((len(self.terms), 1))
        varying = self.terms @ self._varying(solution).T
        return np.concatenate([ones * solution[0], varying, ones * solution[-self.n_sky :]], axis=1)

    def _varying(self, solution: np.ndarray) -> np.ndarray:
        """Coefficients of the bases that vary over the field, (n_bases - 1, n_terms)."""
        return solution[1 : self.size - self.n_sky].reshape(self.n - 1, self.n_terms)

    def kernel_coefficients(self, solution: np.ndarray) -> np.ndarray:
        """Coefficients of all bases, (n_bases, n_terms)."""
        first = np.zeros((1, self.n_terms))
        first[0, 0] = solution[0]
        return np.concatenate([first, self._varying(solution)])
