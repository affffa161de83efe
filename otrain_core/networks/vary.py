"""Random variations of training cutouts, which imitate other telescopes and other pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from otrain_core.classify.descriptors import image_noise, psf_width

if TYPE_CHECKING:
    from otrain_core.plan.config import VaryInputs

IMAGES = ("science", "reference")
RIM = 2  # largest width of a missing rim or column [px]
ONE_OF_TWO = 0.2  # share of the cutouts without images that still have one of the two
WRONG_BY = 0.15  # scatter of the logarithm of the width of a wrong PSF
SHIFTED_BY = 0.15  # scatter of the position of a wrong PSF [px]
FLUX_SCALE = (0.02, 0.5)  # smallest and largest share of the reference that remains in a difference
LEFT_IN_TRUE = 0.2  # largest share of the light of a True candidate that may come from the reference
NEIGHBOUR = 5  # residuals of neighbours count at this distance from the middle [px] and this height [noise], or more


def vary_inputs(
    cutouts: np.ndarray,
    channels: Sequence[str],
    *,
    options: VaryInputs,
    rng: np.random.Generator,
    labels: np.ndarray | None = None,
) -> np.ndarray:
    """Change some of the cutouts at random.

    Parameters
    ----------
    cutouts : numpy.ndarray
        float32 (N, S, S, C) before the input stage, NaN where missing. They are changed in place.
    channels : sequence of str
        Names of the C channels.
    options : VaryInputs
        Share of the cutouts for each variation.
    rng : numpy.random.Generator
    labels : numpy.ndarray, optional
        (N,) 1 for True, 0 for False; required for ``flux_scale``.

    Returns
    -------
    numpy.ndarray
        The same array.
    """
    planes = {name: cutouts[..., k] for k, name in enumerate(channels)}
    pixels = [planes[name] for name in ("difference", *IMAGES) if name in planes]
    n = len(cutouts)

    def some(share: float) -> np.ndarray:
        return np.flatnonzero(rng.random(n) < share)

    if options.flux_scale and labels is not None and {"difference", "reference"} <= set(planes):
        _leave_light(planes["difference"], planes["reference"], labels, some(options.flux_scale), rng)
    if options.pixels and "difference" in planes:
        noise = np.nan_to_num(image_noise(planes["difference"]))[:, None, None]
        _smooth([*pixels, *([planes["psf"]] if "psf" in planes else [])], some(options.pixels), rng)
        _change_unit([planes[name] for name in IMAGES if name in planes], some(options.pixels), rng)
        _add_slope(planes["difference"], noise, some(options.pixels), rng)
        _quantise(planes["difference"], noise, some(options.pixels), rng)
        _lose_pixels(pixels, planes.get("mask"), some(options.pixels), rng)
        _fill(pixels, noise, some(options.pixels), rng)
    if "psf" in planes:
        draw = rng.random(n)
        planes["psf"][draw < options.no_psf] = np.nan
        _replace_psf(
            planes["psf"], np.flatnonzero((draw >= options.no_psf) & (draw < options.no_psf + options.wrong_psf)), rng
        )
    missing = rng.random(n) < options.no_images
    kept = np.where(rng.random(n) < ONE_OF_TWO, rng.integers(0, 2, n), -1)
    for k, name in enumerate(IMAGES):
        if name in planes:
            planes[name][missing & (kept != k)] = np.nan
    if "mask" in planes:
        planes["mask"][some(options.no_mask)] = 0
    return cutouts


def _leave_light(
    difference: np.ndarray, reference: np.ndarray, labels: np.ndarray, rows: np.ndarray, rng: np.random.Generator
) -> None:
    """Leave a part of the reference in the difference, as after a subtraction with a wrong flux scale.

    A False candidate is then the residual of a star whose neighbours have similar residuals. The residual of a star in the
    middle is positive, because candidates are. A False cutout without a visible residual of a neighbour is not changed,
    because it would look like a star that became brighter.
    """
    with np.errstate(invalid="ignore"):
        noise = np.nan_to_num(image_noise(difference[rows]))
        known = np.isfinite(reference[rows]).any(axis=(1, 2))
    rows, noise = rows[known & (noise > 0)], noise[known & (noise > 0), None, None]
    light = np.nan_to_num(reference[rows] - np.nanmedian(reference[rows], axis=(1, 2), keepdims=True))
    half = difference.shape[1] // 2
    middle = (slice(None), slice(half - 1, half + 2), slice(half - 1, half + 2))
    star = light[middle].sum(axis=(1, 2), keepdims=True)
    source = np.nan_to_num(difference[rows][middle]).sum(axis=(1, 2), keepdims=True)
    low, high = np.log(FLUX_SCALE)
    part = np.exp(rng.uniform(low, high, (len(rows), 1, 1)))
    part *= np.where(star > 3 * noise, 1, rng.choice([-1, 1], (len(rows), 1, 1)))
    true = labels[rows][:, None, None] == 1
    largest = LEFT_IN_TRUE * np.abs(source) / np.maximum(np.abs(star), 1e-9 * noise)
    part = np.where(true, np.clip(part * rng.choice([-1, 1], (len(rows), 1, 1)), -largest, largest), part)
    y, x = np.mgrid[: difference.shape[1], : difference.shape[2]] - half
    beside = np.where(np.hypot(x, y) >= NEIGHBOUR, np.abs(part * light), 0).max(axis=(1, 2), keepdims=True)
    left = np.where(true | (beside > NEIGHBOUR * noise), part * light, 0)
    difference[rows] += left.astype(np.float32)


def _smooth(planes: list[np.ndarray], rows: np.ndarray, rng: np.random.Generator) -> None:
    """Correlate neighbouring pixels, as resampling does, with the weights (a, 1 - 2a, a) along both axes."""
    side = rng.uniform(0.03, 0.22, len(rows)).astype(np.float32)[:, None, None]

    def blurred(values: np.ndarray) -> np.ndarray:
        for axis in (1, 2):
            wide = np.pad(values, [(0, 0), *[(1, 1) if a == axis else (0, 0) for a in (1, 2)]])
            before, after = (wide[:, :-2], wide[:, 2:]) if axis == 1 else (wide[:, :, :-2], wide[:, :, 2:])
            values = side * (before + after) + (1 - 2 * side) * values
        return values

    for plane in planes:
        known = np.isfinite(plane[rows])
        weight = blurred(known.astype(np.float32))
        total = blurred(np.where(known, plane[rows], 0))
        plane[rows] = np.where(known, total / np.maximum(weight, 1e-6), np.nan)


def _change_unit(planes: list[np.ndarray], rows: np.ndarray, rng: np.random.Generator) -> None:
    """Change the unit of science and reference image with respect to the difference."""
    factor = 10 ** rng.uniform(-1, 1, (len(rows), 1, 1)).astype(np.float32)
    for plane in planes:
        plane[rows] *= factor


def _add_slope(plane: np.ndarray, noise: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> None:
    """Add a background gradient: up to twice the noise from the middle to the edge."""
    y, x = (np.mgrid[: plane.shape[1], : plane.shape[2]] / (plane.shape[1] / 2) - 1).astype(np.float32)
    angle, size = rng.uniform(0, 2 * np.pi, (len(rows), 1, 1)), rng.uniform(0, 2, (len(rows), 1, 1))
    plane[rows] += noise[rows] * size * (np.cos(angle) * x + np.sin(angle) * y)


def _quantise(plane: np.ndarray, noise: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> None:
    """Round pixels to multiples of a unit that is comparable to the noise."""
    rows = rows[noise[rows, 0, 0] > 0]
    unit = noise[rows] * rng.uniform(0.1, 0.8, (len(rows), 1, 1))  # from 1.3 on the MAD would be 0
    plane[rows] = np.round(plane[rows] / unit) * unit


def _lose_pixels(pixels: list[np.ndarray], mask: np.ndarray | None, rows: np.ndarray, rng: np.random.Generator) -> None:
    """Remove pixels: beyond an edge of the image, in a rim, or in a bad column or row outside the middle."""
    size = pixels[0].shape[1]
    place = np.arange(size)
    for row in rows:
        kind, width = rng.integers(0, 3), int(rng.integers(1, RIM + 1))
        if kind == 0:  # beyond an edge; the candidate and its surroundings remain
            lost = place < rng.integers(1, max(2, size // 3))
        elif kind == 1:
            lost = (place < width) | (place >= size - width)
        else:
            start = int(rng.choice([rng.integers(0, size // 2 - 3), rng.integers(size // 2 + 3, size)]))
            lost = (place >= start) & (place < start + width) & (abs(place - size // 2) > 2)
        lost = np.broadcast_to(lost, (size, size))
        lost = lost | lost.T if kind == 1 else np.rot90(lost, int(rng.integers(0, 4)))
        for plane in pixels:
            plane[row][lost] = np.nan
        if mask is not None:
            mask[row][lost] = 1


def _fill(pixels: list[np.ndarray], noise: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> None:
    """Replace missing pixels (NaN) by 0 or another number."""
    rows = rows[~np.isfinite(pixels[0][rows]).all(axis=(1, 2))]
    size = 10 ** rng.uniform(0, 4, (len(rows), 1, 1)) * rng.choice([-1, 0, 0, 1], (len(rows), 1, 1))
    value = (noise[rows] * size).astype(np.float32)
    for plane in pixels:
        plane[rows] = np.where(np.isfinite(plane[rows]), plane[rows], value)


def _replace_psf(plane: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> None:
    """Replace the PSF by a round Moffat profile or Gaussian of about the same width and position."""
    width = psf_width(plane[rows]).astype(np.float32)
    rows, width = rows[np.isfinite(width)], width[np.isfinite(width)]
    n, (y, x) = len(rows), np.mgrid[: plane.shape[1], : plane.shape[2]].astype(np.float32)
    old = np.clip(np.nan_to_num(plane[rows]), 0, None)
    total = old.sum(axis=(1, 2))
    place = [np.sum(old * axis, axis=(1, 2)) / total + rng.normal(0, SHIFTED_BY, n) for axis in (y, x)]
    r2 = sum((axis - at[:, None, None].astype(np.float32)) ** 2 for axis, at in zip((y, x), place, strict=True))
    width = width * np.exp(rng.normal(0, WRONG_BY, n)).astype(np.float32)
    sigma2 = (width**2 / (8 * np.log(2)))[:, None, None]
    # The Moffat profile has the same noise-equivalent area as the Gaussian, 4 pi sigma^2.
    beta = rng.uniform(2, 5, (n, 1, 1)).astype(np.float32)
    alpha2 = 4 * sigma2 * (beta - 1) ** 2 / (2 * beta - 1)
    gaussian = (rng.random(n) < 0.5)[:, None, None]
    new = np.where(gaussian, np.exp(-0.5 * r2 / sigma2), (1 + r2 / alpha2) ** -beta)
    plane[rows] = new / new.sum(axis=(1, 2), keepdims=True)
