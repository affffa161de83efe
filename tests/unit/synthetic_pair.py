"""Pairs of images of one field of Gaussian stars, with exact truth, for alignment and subtraction."""

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from astropy.io import fits
from astropy.wcs import WCS

from otrain_core.images.align import Aligned, align_reference
from otrain_core.images.common_stars import find_stars
from otrain_core.images.frames import Image
from otrain_core.images.prepare import prepare_image
from otrain_core.images.subtract import subtract_images
from otrain_core.plan.pipelines import PrepareOptions, SubtractOptions
from tests.unit.synthetic_field import star

GAIN, READ_NOISE = 1.5, 4.0


@dataclass
class Sky:
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    shape: tuple[int, int]


def make_sky(*, shape=(320, 360), n=160, seed=1, logflux=(3.3, 5.0), margin=-30):
    rng = np.random.default_rng(seed)
    x = rng.uniform(margin, shape[1] - margin, n)
    y = rng.uniform(margin, shape[0] - margin, n)
    return Sky(x, y, 10 ** rng.uniform(*logflux, n), shape)


def turned(sky, *, angle=0.0, shift=(0.0, 0.0), scale=1.0):
    """Positions on a camera turned by `angle` [deg] about the centre, moved by `shift` [px]."""
    centre = (np.array(sky.shape[::-1]) - 1) / 2
    c, s = np.cos(np.radians(angle)) * scale, np.sin(np.radians(angle)) * scale
    dx, dy = sky.x - centre[0], sky.y - centre[1]
    return c * dx - s * dy + centre[0] + shift[0], s * dx + c * dy + centre[1] + shift[1]


def observe(
    sky,
    *,
    seed,
    fwhm=2.5,
    variation=0.0,
    angle=0.0,
    shift=(0.0, 0.0),
    level=100.0,
    factor=1.0,
    noise=True,
    extra=(),
    name="science",
    saturation=60000.0,
    wcs=True,
    wcs_error=(0.0, 0.0),
):
    """Image of the sky; `variation` makes the seeing worse to the right edge, `extra` are x, y, flux of new sources."""
    x, y = turned(sky, angle=angle, shift=shift)
    data = np.full(sky.shape, float(level))
    sources = [*zip(x, y, sky.flux * factor, strict=True), *extra]
    for xi, yi, flux in sources:
        width = fwhm * (1 + variation * (xi / sky.shape[1] - 0.5))
        y0, x0 = max(0, int(yi) - 25), max(0, int(xi) - 25)
        y1, x1 = min(sky.shape[0], int(yi) + 26), min(sky.shape[1], int(xi) + 26)
        if y1 > y0 and x1 > x0:
            data[y0:y1, x0:x1] += flux * star(xi - x0, yi - y0, width, (y1 - y0, x1 - x0))
    if noise:
        rng = np.random.default_rng(seed)
        data = rng.poisson(data * GAIN) / GAIN + rng.normal(0, READ_NOISE / GAIN, sky.shape)
    data = np.minimum(data, saturation)
    header = camera(sky, angle=angle, shift=np.array(shift) + wcs_error) if wcs else fits.Header()
    return Image(
        name=name,
        data=data.astype(np.float32),
        header=header,
        wcs=WCS(header) if wcs else None,
        gain=GAIN,
        read_noise=READ_NOISE,
        saturation=saturation,
    )


def camera(sky, *, angle=0.0, shift=(0.0, 0.0)):
    """Header of a tangential WCS of 1 arcsec/px for a camera that is turned and moved."""
    header = fits.Header()
    centre = (np.array(sky.shape[::-1]) - 1) / 2
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"] = 150.0, 20.0
    header["CRPIX1"], header["CRPIX2"] = centre[0] + 1 + shift[0], centre[1] + 1 + shift[1]
    scale = 1 / 3600
    header["CD1_1"], header["CD1_2"] = -c * scale, -s * scale
    header["CD2_1"], header["CD2_2"] = -s * scale, c * scale
    return header


def difference(science, reference, *, change=None, **options):
    """Prepare, align and subtract; `change` is done to the prepared science image, `options` are of the step."""
    options = SubtractOptions(**options)
    prepared = prepare_image(science, seeing=3.0, options=PrepareOptions(cosmics="none"))
    if change:
        change(prepared)
    aligned = align_reference(
        reference,
        science_data=prepared.sci,
        science_noise=prepared.noise,
        science_mask=prepared.mask,
        science_wcs=science.wcs,
        name=science.name,
        seeing=3.0,
        options=options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return subtract_images(prepared.sci, prepared.noise, prepared.mask, aligned, name=science.name, options=options)


def already_aligned(data, noise, mask):
    """An image as the reference of itself: nothing is resampled, all its stars are common."""
    found = find_stars(data, noise, mask)
    stars = pd.DataFrame(found.assign(flux_reference=found["flux"], fwhm_reference=found["fwhm"]))
    return Aligned(data.copy(), noise, mask, stars, np.ones((1, 1)), {"align": "none", "align_n_stars": len(stars)})


def gaussian(sigma, half=12):
    u = np.arange(-half, half + 1)
    line = np.exp(-0.5 * (u / sigma) ** 2)
    return np.outer(line, line) / line.sum() ** 2
