"""What the subtraction back ends share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from otrain_core.widths import FWHM_PER_SIGMA, mad_sigma


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


@dataclass
class Matched:
    """Result of a back end, before masking."""

    diff: np.ndarray
    noise: np.ndarray
    contaminated_reference: np.ndarray
    contaminated_science: np.ndarray
    record: dict[str, Any]


def kernel_sizes(seeing: float, sharper: float, half_width: int = 0) -> tuple[tuple[float, ...], int, int]:
    """Widths of the Gaussians, half width of the kernel and of the stamps [px].

    The middle Gaussian is the one that brings the sharper PSF to the other; the
    others are half and twice as wide, as HOTPANTS recommends.
    """
    match = max(np.sqrt(max(seeing**2 - sharper**2, 0)) / FWHM_PER_SIGMA, 0.9, 0.25 * seeing)
    half = half_width or int(np.clip(np.ceil(max(5 * match, 2 * seeing)), 6, 25))
    return (0.6 * match, 1.2 * match, 2.4 * match), half, int(np.clip(np.ceil(2.5 * seeing), 6, 25))


def quiet_pixels(inputs: Inputs) -> np.ndarray:
    """Pixels away from sources of either image, bool."""
    source = np.zeros(inputs.science.shape, dtype=bool)
    for image, sigma in ((inputs.science, inputs.noise), (inputs.reference, inputs.reference_noise)):
        source |= ndimage.uniform_filter(image / sigma, 3) > 1.0  # 3 sigma of the mean of nine pixels
    return ~ndimage.maximum_filter(source, 2 * max(1, round(inputs.seeing / 2)) + 1)


def noise_spread(diff: np.ndarray, noise: np.ndarray, inputs: Inputs) -> tuple[float, float]:
    """Robust sigma and median of diff / noise in pixels away from sources of either image."""
    use = quiet_pixels(inputs) & np.isfinite(diff)
    if use.sum() < 100:
        use = np.isfinite(diff)
    values = diff[use] / noise[use]
    if values.size == 0:
        return np.nan, np.nan
    return mad_sigma(values), float(np.median(values))
