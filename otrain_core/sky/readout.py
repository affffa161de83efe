"""From the expected signal to a frame: sky, flat field, photon noise and effects of the detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from otrain_core.sky import artefacts
from otrain_core.sky.optics import Exposure

if TYPE_CHECKING:
    from otrain_core.plan.telescopes import SimulatedSky


def background(exposure: Exposure, rng) -> np.ndarray:
    """Sky background [ADU] with a gradient of up to a few percent, as from moonlight."""
    v, u = (np.linspace(-1, 1, side, dtype=np.float32) for side in exposure.shape)
    slope, bow = rng.normal(0, 0.015, 2), rng.normal(0, 0.006, 2)
    gradient = np.add.outer(slope[0] * v + bow[0] * v**2, slope[1] * u + bow[1] * u**2)
    return (exposure.sky * (1 + gradient)).astype(np.float32)


def flat_field(exposure: Exposure, rng) -> np.ndarray:
    """Residuals of an imperfect flat field: pixel noise, a large-scale pattern, and dust that has moved."""
    height, width = exposure.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    pattern = 1 + exposure.flat / 2 * rng.standard_normal(exposure.shape, dtype=np.float32)
    for _ in range(4):
        kx, ky = rng.normal(0, 4, 2)
        pattern += exposure.flat / 2 * np.cos(kx * x / width + ky * y / height + rng.uniform(0, 2 * np.pi))
    for _ in range(rng.poisson(2)):
        radius = rng.uniform(8, 30)
        r = np.hypot(x - rng.uniform(0, width), y - rng.uniform(0, height)) / radius
        pattern -= rng.uniform(0.5, 3) * exposure.flat * np.exp(-(((r - 0.75) / 0.3) ** 2))
    return pattern.astype(np.float32)


def detect_photons(image, exposure: Exposure, noise, sky: SimulatedSky | None = None, damage=None):
    """Turn the expected signal into a frame: photon noise, detector effects, saturation, read noise.

    Parameters
    ----------
    image : numpy.ndarray
        (height, width) expected signal [ADU].
    exposure : Exposure
    noise : numpy.random.Generator
        Draws the noise.
    sky : SimulatedSky, optional
        Amount of the detector effects (default: none, except saturation).
    damage : numpy.random.Generator, optional
        Draws the detector effects.

    Returns
    -------
    data : numpy.ndarray
        float32 (height, width) [ADU].
    rows : list of dict
        Rows of the truth, see `otrain_core.sky.artefacts`.
    """
    electrons = noise.poisson(np.maximum(image, 0).astype(np.float64) * exposure.gain)
    data = (electrons / exposure.gain).astype(np.float32)
    level, rows = exposure.saturation, []
    megapixels = data.size / 1e6
    if sky is not None:
        n = damage.poisson(sky.hot_pixels * megapixels)
        rows += artefacts.add_hot_pixels(data, damage, n=n, noise=exposure.noise)
        n = damage.poisson(sky.cosmics * megapixels)
        rows += artefacts.add_cosmics(data, damage, n=n, gain=exposure.gain)
    rows += artefacts.saturate(data, noise, level=level, bleed=exposure.bleed)
    if sky is not None:
        rows += artefacts.add_crosstalk(data, factor=sky.crosstalk, level=level)
        n = damage.poisson(sky.bad_columns)
        rows += artefacts.add_bad_columns(data, damage, n=n, noise=exposure.noise)
    data += exposure.read_noise / exposure.gain * noise.standard_normal(data.shape, dtype=np.float32)
    return np.minimum(data, np.float32(level)), rows
