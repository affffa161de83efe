"""Differences of known content: point sources with wings on white noise."""

import numpy as np
import pandas as pd
from astropy.wcs import WCS

SEEING, NOISE, ZERO_POINT = 2.5, 5.0, 25.0


class Moffat:
    """A PSF with wings, as a telescope has: beta 3."""

    def __init__(self, fwhm=SEEING, beta=3.0, half=12):
        self.alpha, self.beta, self.half = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1), beta, half

    def stamp(self, x, y):
        y0, x0 = int(np.floor(y + 0.5)) - self.half, int(np.floor(x + 0.5)) - self.half
        rows, columns = np.mgrid[: 2 * self.half + 1, : 2 * self.half + 1]
        profile = (1 + ((rows + y0 - y) ** 2 + (columns + x0 - x) ** 2) / self.alpha**2) ** -self.beta
        return profile / profile.sum(), y0, x0

    def flux_error(self):
        return NOISE / np.sqrt((self.stamp(0, 0)[0] ** 2).sum())


def add(image, psf, x, y, flux):
    stamp, y0, x0 = psf.stamp(x, y)
    padded = np.pad(image, 30)
    padded[y0 + 30 : y0 + 30 + stamp.shape[0], x0 + 30 : x0 + 30 + stamp.shape[1]] += flux * stamp
    image[:] = padded[30:-30, 30:-30]


def blank(seed, size=300):
    rng = np.random.default_rng(seed)
    diff = rng.normal(0, NOISE, (size, size)).astype(np.float32)
    return diff, np.full_like(diff, NOISE), np.zeros(diff.shape, np.uint8)


def grid_of_sources(snr, seed=1, size=300, step=50):
    diff, noise, mask = blank(seed, size)
    psf = Moffat()
    rng = np.random.default_rng(seed + 100)
    y, x = (
        axis.ravel() + rng.uniform(-3, 3, axis.size)
        for axis in np.mgrid[step // 2 : size : step, step // 2 : size : step]
    )
    flux = snr * psf.flux_error() * np.ones(x.size)
    for xi, yi, fi in zip(x, y, flux, strict=True):
        add(diff, psf, xi, yi, fi)
    return (diff, noise, mask), psf, pd.DataFrame({"x": x, "y": y, "flux": flux})


def tangential(size=300):
    """WCS of 1 arcsec/px about the middle of the image."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [30, 40], [-1 / 3600, 1 / 3600]
    wcs.wcs.crpix = [size / 2 + 1, size / 2 + 1]
    return wcs
