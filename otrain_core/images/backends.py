"""What the subtraction back ends share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.images.pixels import ENOUGH, sampled
from otrain_core.images.polynomials import polynomial
from otrain_core.images.windows import dilated
from otrain_core.widths import FWHM_PER_SIGMA, mad_sigma

HIGHEST_AUTO = 2  # degree of the kernel's variation at most, where it is chosen by the stamps
MIN_STAMPS_EVERYWHERE = 2.0


@dataclass
class Inputs:
    """Science and reference, filled so that nothing in them is NaN."""

    name: str
    science: np.ndarray
    noise: np.ndarray
    bad_science: np.ndarray
    reference: np.ndarray
    reference_noise: np.ndarray
    bad_reference: np.ndarray
    smoothing: np.ndarray
    stars: pd.DataFrame
    seeing: float
    seeing_reference: float

    @cached_property
    def quiet(self) -> np.ndarray:
        """Pixels away from sources of either image, bool (height, width)."""
        source = np.zeros(self.science.shape, dtype=bool)
        for image, sigma in ((self.science, self.noise), (self.reference, self.reference_noise)):
            total = np.pad(image / sigma, 1, mode="edge")
            total = total[:-2] + total[1:-1] + total[2:]
            source |= total[:, :-2] + total[:, 1:-1] + total[:, 2:] > 9.0  # 3 sigma of the mean of nine pixels
        return ~dilated(source, max(1, round(self.seeing / 2)))


@dataclass
class Matched:
    """Result of a back end, before masking.

    `kernel`, (n_terms, size, size), is what the science image was convolved with, of sum 1, see
    `otrain_core.images.kernel.KernelField`; None where it was not, or where nobody knows.
    """

    diff: np.ndarray
    noise: np.ndarray
    contaminated_reference: np.ndarray
    contaminated_science: np.ndarray
    record: dict[str, Any]
    kernel: np.ndarray | None = None


def kernel_sizes(seeing: float, sharper: float, half_width: int = 0) -> tuple[tuple[float, ...], int, int]:
    """Widths of the Gaussians, half width of the kernel and of the stamps [px].

    The middle Gaussian is the one that brings the sharper PSF to the other; the
    others are half and twice as wide, as HOTPANTS recommends.
    """
    match = max(np.sqrt(max(seeing**2 - sharper**2, 0)) / FWHM_PER_SIGMA, 0.9, 0.25 * seeing)
    half = half_width or int(np.clip(np.ceil(max(5 * match, 2 * seeing)), 6, 25))
    return (0.6 * match, 1.2 * match, 2.4 * match), half, int(np.clip(np.ceil(2.5 * seeing), 6, 25))


def affordable_order(order: int | str, x: np.ndarray, y: np.ndarray, shape: tuple[int, int]) -> int:
    """Largest degree of the kernel's variation, at most `order`, that the stamps determine over the whole frame.

    At no place of the frame may the fitted kernel be noisier than the mean of `MIN_STAMPS_EVERYWHERE` stamps: the
    leverage of the polynomial (the variance of its value there, over that of one stamp) bounds the degree by the
    number of the stamps and by their spread.

    Parameters
    ----------
    order : int or 'auto'
        'auto': at most `HIGHEST_AUTO`.
    x, y : numpy.ndarray
        Centres of the stamps [px].
    shape : tuple of int
    """
    degree = HIGHEST_AUTO if order == "auto" else int(order)
    mesh = [grid.ravel() for grid in np.meshgrid(np.linspace(0, shape[1] - 1, 9), np.linspace(0, shape[0] - 1, 9))]
    while degree > 0:
        terms = polynomial(x, y, shape, degree)
        matrix = terms @ terms.T
        if len(x) >= len(terms) and np.linalg.cond(matrix) < 1e8:
            everywhere = polynomial(mesh[0], mesh[1], shape, degree)
            leverage = (everywhere * np.linalg.solve(matrix, everywhere)).sum(axis=0)
            if leverage.max() * MIN_STAMPS_EVERYWHERE <= 1:
                break
        degree -= 1
    return degree


def noise_correlation(inputs: Inputs) -> float:
    """Correlation of the noise of both images: 0 for independent ones, 1/sqrt(N) where the reference is the mean of N
    images and one of them is the science image.

    From the highest spatial frequencies (second differences along both axes) of pixels away from sources: no star, however
    faint, has power there. NaN with fewer than 1000 such pixels.
    """
    step = max(1, inputs.science.size // ENOUGH)
    middle = np.arange(1, inputs.science.shape[0] - 1, step)
    bad = inputs.bad_science | inputs.bad_reference
    clear = ~(bad[middle - 1] | bad[middle] | bad[middle + 1])
    use = inputs.quiet[middle, 1:-1] & clear[:, :-2] & clear[:, 1:-1] & clear[:, 2:]
    if use.sum() < 1000:
        return np.nan
    ours, theirs = (
        _rough(image / sigma, middle)[use]
        for image, sigma in ((inputs.science, inputs.noise), (inputs.reference, inputs.reference_noise))
    )
    if not (ours.any() and theirs.any()):
        return np.nan
    return float(np.corrcoef(ours, theirs)[0, 1])


def _rough(plane: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Second differences along both axes at some rows, without the first and last column; outliers moved in to 3 sigma."""
    along = plane[rows - 1] - 2 * plane[rows] + plane[rows + 1]
    both = along[:, :-2] - 2 * along[:, 1:-1] + along[:, 2:]
    limit = 3 * mad_sigma(both)
    return np.clip(both, -limit, limit)


def noise_spread(diff: np.ndarray, noise: np.ndarray, inputs: Inputs) -> tuple[float, float]:
    """Robust sigma and median of diff / noise in pixels away from sources of either image."""
    diff, noise = sampled(diff), sampled(noise)
    use = sampled(inputs.quiet) & np.isfinite(diff)
    if use.sum() < 100:
        use = np.isfinite(diff)
    values = diff[use] / noise[use]
    if values.size == 0:
        return np.nan, np.nan
    return mad_sigma(values), float(np.median(values))
