"""Data classes and functions shared by the subtraction back ends."""

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

HIGHEST_AUTO = 2  # highest degree of the spatial variation of the kernel that is tried with `kernel_order: auto`
MIN_STAMPS_EVERYWHERE = 2.0  # least effective number of stamps that determine the kernel at any place


@dataclass
class Inputs:
    """Science image and reference on one grid, with bad pixels filled: no plane contains NaN.

    Attributes
    ----------
    name : str
        Name of the science image, for errors.
    science, noise, reference, reference_noise : numpy.ndarray
        float32 (height, width) [ADU], background subtracted, and their 1 sigma noise.
    bad_science, bad_reference : numpy.ndarray
        bool (height, width), filled and otherwise unusable pixels.
    smoothing : numpy.ndarray
        Autocorrelation of the noise of the reference, see `otrain_core.images.align.Aligned`.
    stars : pandas.DataFrame
        Stars found in both images, see `otrain_core.images.align.Aligned`.
    seeing, seeing_reference : float
        FWHM [px].
    """

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

    Attributes
    ----------
    diff, noise : numpy.ndarray
        float32 (height, width), the difference and its 1 sigma noise [ADU of the science image].
    contaminated_reference, contaminated_science : numpy.ndarray
        bool (height, width), pixels affected by bad pixels of the reference or of the science image.
    record : dict
        Entries for the quality record.
    kernel : numpy.ndarray or None
        (n_terms, size, size), kernel of sum 1 that the science image was convolved with, see
        `otrain_core.images.kernel.KernelField`; None if the science image was not convolved or the kernel is not known.
    """

    diff: np.ndarray
    noise: np.ndarray
    contaminated_reference: np.ndarray
    contaminated_science: np.ndarray
    record: dict[str, Any]
    kernel: np.ndarray | None = None


def kernel_sizes(seeing: float, sharper: float, half_width: int = 0) -> tuple[tuple[float, ...], int, int]:
    """Widths (sigma) of the three Gaussians, half width of the kernel, and half width of the stamps [px].

    The widths scale with that of the Gaussian that brings the sharper PSF to the other;
    each Gaussian is twice as wide as the one before, as HOTPANTS recommends.

    Parameters
    ----------
    seeing, sharper : float
        FWHM of the less sharp and of the sharper image [px].
    half_width : int
        Half width of the kernel [px] (0: derived from the seeing).
    """
    match = max(np.sqrt(max(seeing**2 - sharper**2, 0)) / FWHM_PER_SIGMA, 0.9, 0.25 * seeing)
    half = half_width or int(np.clip(np.ceil(max(5 * match, 2 * seeing)), 6, 25))
    return (0.6 * match, 1.2 * match, 2.4 * match), half, int(np.clip(np.ceil(2.5 * seeing), 6, 25))


def affordable_order(order: int | str, x: np.ndarray, y: np.ndarray, shape: tuple[int, int]) -> int:
    """Highest degree of the kernel's spatial variation, at most `order`, that the stamps determine over the whole frame.

    The fitted kernel must nowhere be noisier than the mean of `MIN_STAMPS_EVERYWHERE` stamps. The criterion is the
    leverage of the polynomial at each place: the variance of its value over that of one stamp. It depends on the
    number of stamps and on how they are spread.

    Parameters
    ----------
    order : int or 'auto'
        'auto': at most `HIGHEST_AUTO`.
    x, y : numpy.ndarray
        Centres of the stamps [px].
    shape : tuple of int
        (height, width) of the image.
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
    """Correlation coefficient of the noise of both images.

    It is 0 for independent images, and 1/sqrt(N) if the reference is the mean of N images one of which is the science
    image. It is measured at the highest spatial frequencies (second differences along both axes), where stars have
    almost no power, in pixels away from sources. NaN with fewer than 1000 such pixels.
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
    """Second differences along both axes at the given rows, without the first and last column, clipped at 3 sigma."""
    along = plane[rows - 1] - 2 * plane[rows] + plane[rows + 1]
    both = along[:, :-2] - 2 * along[:, 1:-1] + along[:, 2:]
    limit = 3 * mad_sigma(both)
    return np.clip(both, -limit, limit)


def noise_spread(diff: np.ndarray, noise: np.ndarray, inputs: Inputs) -> tuple[float, float]:
    """Robust standard deviation and median of ``diff / noise`` in pixels away from sources of either image.

    All pixels are used if fewer than 100 are away from sources; NaN if the difference has no value at all.
    """
    diff, noise = sampled(diff), sampled(noise)
    use = sampled(inputs.quiet) & np.isfinite(diff)
    if use.sum() < 100:
        use = np.isfinite(diff)
    values = diff[use] / noise[use]
    if values.size == 0:
        return np.nan, np.nan
    return mad_sigma(values), float(np.median(values))
