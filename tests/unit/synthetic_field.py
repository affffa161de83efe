"""Synthetic star fields for the tests: Gaussian stars integrated exactly over the pixels."""

import numpy as np
from astropy.io import fits
from scipy.special import erf

from otrain_core.images.frames import Image


def star(x, y, fwhm, shape):
    """Pixel-integrated circular Gaussian of flux 1; `fwhm` without the pixel."""
    scale = fwhm / 2.3548 * np.sqrt(2)
    step_x = np.diff(erf((np.arange(shape[1] + 1) - 0.5 - x) / scale)) / 2
    step_y = np.diff(erf((np.arange(shape[0] + 1) - 0.5 - y) / scale)) / 2
    return step_y[:, None] * step_x


def width(x, y, fwhm, variation, shape):
    """FWHM at a place of the field: larger by `variation` in the corners."""
    u, v = 2 * x / shape[1] - 1, 2 * y / shape[0] - 1
    return fwhm * (1 + variation * (u**2 + v**2) / 2)


def field(
    *,
    fwhm=2.0,
    shape=(384, 384),
    n=120,
    sky=200.0,
    gain=1.5,
    saturation=60000.0,
    variation=0.0,
    seed=1,
    logflux=(3.5, 5.3),
    name="field",
    noise=True,
):
    """Image of stars, and their x, y, flux."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-0.5, shape[1] - 0.5, n), rng.uniform(-0.5, shape[0] - 0.5, n)
    flux = 10 ** rng.uniform(*logflux, n)
    data = np.full(shape, sky)
    for xi, yi, fi in zip(x, y, flux, strict=True):
        data += fi * star(xi, yi, width(xi, yi, fwhm, variation, shape), shape)
    if noise:
        data = rng.poisson(data * gain) / gain + rng.normal(0, 3.0, shape)
    image = Image(
        name=name,
        data=np.minimum(data, saturation).astype(np.float32),
        header=fits.Header(),
        gain=gain,
        read_noise=3.0 * gain,
        saturation=saturation,
    )
    return image, x, y, flux
