"""Real stars as new and fading sources: a test of the classifier without simulated sources.

A star that is subtracted from the reference, with the PSF of the reference, appears in the
difference as a new source with the true PSF and noise of the science image. So does a star
that is copied from one place of the science image to another; the copy includes sky noise,
so that the noise there is higher by up to the square root of two. A star that is subtracted
from the science image is a fading source; its photon noise remains in the science image.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from otrain_core.images.frames import Image
from otrain_core.images.pixels import add_stamp
from otrain_core.plan.pipelines import InjectOptions
from otrain_core.stars.kinds import STAMP_RADIUS
from otrain_core.stars.one_star import fit_star, others
from otrain_core.stars.psf_model import PSFModel
from otrain_core.stars.psf_stars import Sky, measure_sky, select_stars
from otrain_core.stars.truth import NEAR_SATURATION, TRUTH_COLUMNS, add_light, limits, sky_positions, usable_places

log = logging.getLogger("otrain.real_stars")

DEFAULTS = InjectOptions()
MIN_SNR = 8.0
MAX_CHI2 = 3.0  # per pixel of the core
FREE_RADIUS = 2.5  # least distance between a copied star and any detected source [FWHM]
APART = 4.0  # least distance between a real star and injected sources [FWHM]
MAX_SHIFT = 0.25  # largest shift of a copied star over the side of the image, so that its PSF fits the new place


def choose_stars(
    image: Image,
    psf: PSFModel,
    sky: Sky,
    *,
    record: Mapping[str, Any],
    rng: np.random.Generator,
    n: int,
    options: InjectOptions,
    avoid: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Choose isolated, unsaturated, round stars of an image in the magnitude range of the injection.

    The stars are chosen at random with weights that make the distribution of magnitudes about uniform.

    Parameters
    ----------
    image : Image
        As read.
    psf : PSFModel
    sky : Sky
        Of this image.
    record : mapping
        Record of `otrain_core.stars.psf.measure_psf`.
    rng : numpy.random.Generator
    n : int
        Largest number of stars.
    options : InjectOptions
        The range of magnitudes is that of the injected sources; a star must also have a S/N of 8.
    avoid : pandas.DataFrame, optional
        x, y [px] of sources that the stars must not be close to.

    Returns
    -------
    stars : pandas.DataFrame
        x, y [px], mag, flux [ADU] and label (number in `segments`).
    segments : numpy.ndarray
        int (height, width), number of the source that a pixel belongs to (0: none).
    """
    limit, zero_point = limits(image, record)
    stars = select_stars(image, sky, min_snr=MIN_SNR, max_ellipticity=0.3, max_stars=100_000)
    rows: list[dict[str, float]] = []
    if len(stars.x):
        free = usable_places(image, stars.x, stars.y, fwhm=psf.fwhm)
        free &= distance_to(avoid, stars.x, stars.y) > APART * psf.fwhm
        height, width = image.shape
        edge = np.minimum(np.minimum(stars.x, width - 1 - stars.x), np.minimum(stars.y, height - 1 - stars.y))
        free &= edge > STAMP_RADIUS * psf.fwhm + 2
        index = np.flatnonzero(free)
        bins = np.floor(-2.5 * np.log10(stars.flux[index])).astype(int)
        _, bins, counts = np.unique(bins, return_inverse=True, return_counts=True)
        # Weighted random order (Efraimidis & Spirakis 2006, Inf. Process. Lett. 97, 181).
        order = index[np.argsort(-np.log(rng.random(index.size)) * counts[bins], kind="stable")]
        for star in order:
            if len(rows) == n:
                break
            label = stars.labels[star]
            fit = fit_star(sky, stars.segments, label, psf, stars.x[star], stars.y[star], gain=image.gain)
            if fit is None or fit.covered < 1 or fit.chi2 > MAX_CHI2 or fit.flux < MIN_SNR * fit.fluxerr:
                continue
            mag = zero_point - 2.5 * np.log10(fit.flux)
            if limit - options.bright_mag <= mag <= limit + options.faint_mag:
                rows.append({"x": fit.x, "y": fit.y, "mag": mag, "flux": fit.flux, "label": label})
    return pd.DataFrame(rows, columns=["x", "y", "mag", "flux", "label"]).astype({"label": int}), stars.segments


def add_real_stars(
    image: Image,
    data: np.ndarray,
    truth: pd.DataFrame,
    psf: PSFModel,
    *,
    record: Mapping[str, Any],
    rng: np.random.Generator,
    options: InjectOptions = DEFAULTS,
    sky: Sky | None = None,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Choose stars to be subtracted from the reference, subtract others from the image, and copy others within it.

    Parameters
    ----------
    image : Image
        As read, without injected sources.
    data : numpy.ndarray
        float32 (height, width), the image with injected sources [ADU].
    truth : pandas.DataFrame
        Table of the injected sources, with the columns `otrain_core.stars.truth.TRUTH_COLUMNS`.
    psf : PSFModel
    record : mapping
        Record of `otrain_core.stars.psf.measure_psf`.
    rng : numpy.random.Generator
        A separate stream, so that the injected sources do not depend on the draws here.
    options : InjectOptions
        `removed_stars`, `vanished_stars` and `transplanted_stars` are the numbers of stars. There are fewer if the
        image has too few suitable stars, and no removed stars without a WCS.
    sky : Sky, optional
        Sky of the image, if already measured.

    Returns
    -------
    data : numpy.ndarray
        float32 (height, width) [ADU].
    truth : pandas.DataFrame
        `truth` followed by rows of the kinds "removed" (position and flux of the star in the science image),
        "vanished" (the same with a negative flux) and "transplanted" (new position).
    """
    removed_stars = options.removed_stars
    if image.wcs is None and removed_stars:
        log.warning("image %s: WCS: missing, so that no star is subtracted from the reference", image.name)
        removed_stars = 0
    wanted = removed_stars + options.vanished_stars + options.transplanted_stars
    if wanted == 0:
        return data, truth
    sky = sky or measure_sky(image)
    stars, segments = choose_stars(image, psf, sky, record=record, rng=rng, n=wanted, options=options, avoid=truth)
    # If there are too few stars, they are divided among the kinds in proportion.
    first, second = (round(len(stars) * n / wanted) for n in (removed_stars, removed_stars + options.vanished_stars))
    removed, vanished, copied = stars[:first], stars[first:second], stars[second:]
    added, moved = transplant(image, psf, sky, segments, copied, rng=rng, avoid=pd.concat([truth, stars]))
    for star in vanished.itertuples():
        stamp, y0, x0 = psf.stamp(star.x, star.y)
        add_stamp(added, -star.flux * stamp, y0, x0)
    kinds = {"removed": removed, "vanished": vanished.assign(flux=-vanished["flux"]), "transplanted": moved}
    rows = pd.concat([table.assign(kind=kind) for kind, table in kinds.items()], ignore_index=True)
    if len(rows) == 0:
        return data, truth
    next_id = int(truth["id"].max()) + 1 if len(truth) else 0
    rows["id"] = next_id + np.arange(len(rows))
    rows["ra"], rows["dec"] = sky_positions(image, rows["x"].to_numpy(), rows["y"].to_numpy())
    rows["usable"] = usable_places(image, rows["x"], rows["y"], fwhm=psf.fwhm)
    return add_light(image, added, data), pd.concat([truth, rows[TRUTH_COLUMNS]], ignore_index=True)


def transplant(
    image: Image,
    psf: PSFModel,
    sky: Sky,
    segments: np.ndarray,
    stars: pd.DataFrame,
    *,
    rng: np.random.Generator,
    avoid: pd.DataFrame,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Copy stars to empty places, shifted by whole pixels so that they are not resampled.

    Pixels of detected neighbours are replaced by the fitted PSF; fainter neighbours are copied too. The stamp is tapered
    over the outer quarter of its radius. A star without an empty place within a quarter of the image's side is left out.

    Parameters
    ----------
    image : Image
    psf : PSFModel
    sky : Sky
        Of this image.
    segments, stars
        Result of `choose_stars`.
    rng : numpy.random.Generator
    avoid : pandas.DataFrame
        x, y [px] of sources that the copies must not be close to.

    Returns
    -------
    added : numpy.ndarray
        float64 (height, width), light to be added [ADU].
    moved : pandas.DataFrame
        x, y (new position) [px], mag, flux [ADU].
    """
    height, width = image.shape
    added = np.zeros(image.shape)
    radius = int(np.ceil(STAMP_RADIUS * psf.fwhm))
    reach = MAX_SHIFT * min(height, width)
    with np.errstate(invalid="ignore"):
        blocked = (segments > 0) | sky.missing | (image.data >= NEAR_SATURATION * image.saturation)
    empty = ndimage.distance_transform_edt(~blocked) > FREE_RADIUS * psf.fwhm
    places = avoid[["x", "y"]]
    offset = np.arange(-radius, radius + 1)
    away = np.hypot(offset[:, None], offset) / (STAMP_RADIUS * psf.fwhm)
    edge = np.clip((away - 0.75) / 0.25, 0, 1)
    taper = 0.5 * (1 + np.cos(np.pi * edge))
    rows = []
    for star in stars.itertuples():
        cx, cy = int(np.floor(star.x + 0.5)), int(np.floor(star.y + 0.5))
        box = np.s_[cy - radius : cy + radius + 1, cx - radius : cx + radius + 1]
        fit = fit_star(sky, segments, star.label, psf, star.x, star.y, gain=image.gain)
        if fit is None:
            continue
        model = np.zeros(taper.shape)
        stamp, y0, x0 = psf.stamp(star.x, star.y)
        add_stamp(model, star.flux * stamp, y0 - cy + radius, x0 - cx + radius)
        foreign = sky.missing[box] | others(segments[box], star.label)
        light = np.where(foreign, model, sky.data[box].astype(np.float64) - fit.level) * taper
        for _ in range(200):
            dx, dy = (int(value) for value in np.round(rng.uniform(-reach, reach, 2)))
            x, y = cx + dx, cy + dy
            if not (radius <= x < width - radius and radius <= y < height - radius) or not empty[y, x]:
                continue
            if distance_to(places, np.array([x]), np.array([y]))[0] > APART * psf.fwhm:
                add_stamp(added, light, y - radius, x - radius)
                rows.append({"x": star.x + dx, "y": star.y + dy, "mag": star.mag, "flux": star.flux})
                places = pd.concat([places, pd.DataFrame({"x": [x], "y": [y]})])
                break
    return added, pd.DataFrame(rows, columns=["x", "y", "mag", "flux"])


def distance_to(points: pd.DataFrame | None, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance of each position (n,) to the nearest of the points (columns x, y) [px]; infinite without any point."""
    from scipy.spatial import cKDTree

    if points is None or len(points) == 0:
        return np.full(len(x), np.inf)
    return cKDTree(points[["x", "y"]].to_numpy(float)).query(np.column_stack([x, y]))[0]
