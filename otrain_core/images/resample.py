"""Pixel mappings between images, and the interpolation from one pixel grid to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage
from scipy.interpolate import RectBivariateSpline

from otrain_core.images.frames import MASK_MISSING
from otrain_core.images.pixels import fill_bad
from otrain_core.images.polynomials import nodes, polynomial

MIN_OVERLAP = 0.1  # least common area, as a fraction of the smaller image


@dataclass
class Mapping:
    """Mapping from science pixels to reference pixels: a first guess and a polynomial correction.

    ``x_reference = base_x(x, y) + sum_k cx_k u^i v^j``, where ``u, v`` are the science
    coordinates scaled to -1..1 over the image; likewise for y.

    Attributes
    ----------
    base : callable
        First guess: x, y of science pixels to x, y of reference pixels.
    shape : tuple of int
        (height, width) of the science image.
    order : int
        Degree of the correction (-1: none).
    cx, cy : numpy.ndarray
        Coefficients of the correction [reference px], in the order of
        `otrain_core.images.polynomials.exponents`.
    """

    base: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    shape: tuple[int, int]
    order: int = -1
    cx: np.ndarray = field(default_factory=lambda: np.zeros(0))
    cy: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __call__(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rx, ry = self.base(x, y)
        if self.order >= 0:
            terms = polynomial(x, y, self.shape, self.order)
            rx = rx + np.tensordot(self.cx, terms, 1)
            ry = ry + np.tensordot(self.cy, terms, 1)
        return rx, ry

    def affine(self) -> np.ndarray:
        """Affine mapping that is closest to this one over the image.

        It does not contain distortions: it says which parts of the two images show the same sky, but it is not exact
        enough for positions of stars.

        Returns
        -------
        numpy.ndarray
            (2, 3), coefficients of x, y and 1 for the reference x and y [px].
        """
        mesh_x, mesh_y = np.meshgrid(nodes(self.shape[1]), nodes(self.shape[0]))
        rx, ry = self(mesh_x, mesh_y)
        terms = np.stack([mesh_x.ravel(), mesh_y.ravel(), np.ones(mesh_x.size)], axis=1)
        return np.linalg.lstsq(terms, np.stack([rx.ravel(), ry.ravel()], axis=1), rcond=None)[0].T

    def grid(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Evaluate the mapping at every science pixel.

        Returns
        -------
        x, y : numpy.ndarray
            float64 (height, width) [reference px].
        area : numpy.ndarray
            float32 (height, width), area of a science pixel in reference pixels.

        Raises
        ------
        ValueError
            The mapping is not finite everywhere.
        """
        height, width = self.shape
        ys, xs = nodes(height), nodes(width)
        mesh_x, mesh_y = np.meshgrid(xs, ys)
        rx, ry = self(mesh_x, mesh_y)
        if not (np.isfinite(rx).all() and np.isfinite(ry).all()):
            raise ValueError("the mapping is not defined over the whole image")
        splines = [RectBivariateSpline(ys, xs, r, kx=min(3, len(ys) - 1), ky=min(3, len(xs) - 1)) for r in (rx, ry)]
        y, x = np.arange(height, dtype=float), np.arange(width, dtype=float)
        (xx, xy), (yx, yy) = [(s(ys, xs, dy=1), s(ys, xs, dx=1)) for s in splines]
        area = RectBivariateSpline(ys, xs, np.abs(xx * yy - xy * yx), kx=1, ky=1)(y, x).astype(np.float32)
        return splines[0](y, x), splines[1](y, x), area


def identity(shape: tuple[int, int]) -> Mapping:
    """The identity mapping for images of this shape."""
    return Mapping(lambda x, y: (x, y), shape)


def resample(
    data: np.ndarray, noise: np.ndarray, mask: np.ndarray, mapping: Mapping, *, order: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Resample a reference to the science grid by a single spline interpolation that conserves flux.

    Parameters
    ----------
    data, noise, mask : numpy.ndarray
        On the reference grid; `data` may be NaN where `mask` is not 0.
    mapping : Mapping
        Science pixel to reference pixel.
    order : int
        Degree of the spline.

    Returns
    -------
    data, noise, mask : numpy.ndarray
        On the science grid, see `otrain_core.images.align.Aligned`. A bad pixel of the reference masks only
        the pixels to which it contributes more than a few per cent of its value.
    smoothing : numpy.ndarray
        See `otrain_core.images.align.Aligned`.
    """
    rx, ry, area = mapping.grid()
    height, width = data.shape
    whole = all(
        _shifted(rx[::step, ::step], ry[::step, ::step], step) for step in (64, 1)
    )  # a coarse grid first, which is fast
    filled = fill_bad(data, mask)
    if whole:
        column = np.rint(rx).clip(0, width - 1).astype(np.intp)
        row = np.rint(ry).clip(0, height - 1).astype(np.intp)
        out, smoothing = filled[row, column], np.ones((1, 1))
    else:
        blur = np.sqrt(max(float(np.median(area)) - 1, 0)) * 0.5
        blur = blur if blur > 0.25 else 0.0  # average if a science pixel covers several reference pixels
        if blur:
            filled = ndimage.gaussian_filter(filled, blur)
        coefficients = ndimage.spline_filter(filled, order=order, output=np.float32, mode="mirror")
        out = ndimage.map_coordinates(
            coefficients, [ry, rx], order=order, output=np.float32, prefilter=False, mode="mirror"
        )
        smoothing = autocorrelation(rx, ry, area, _spline_impulse(order, blur))
    out *= area
    noise_out, mask_out = pick(noise, mask, rx, ry, area, grow=not whole)
    missing = (mask_out & MASK_MISSING) > 0
    out[missing] = np.nan
    return out, noise_out, mask_out, smoothing


def _shifted(rx: np.ndarray, ry: np.ndarray, step: int) -> bool:
    """Whether positions for pixels `step` px apart are those pixels shifted by a whole number of pixels."""
    along_x, along_y = (step * np.arange(size) for size in rx.shape[::-1])
    off = np.abs(rx - along_x - np.rint(rx[0, 0])).max(), np.abs(ry - along_y[:, None] - np.rint(ry[0, 0])).max()
    return max(off) < 1e-3


def pick(
    noise: np.ndarray, mask: np.ndarray, rx: np.ndarray, ry: np.ndarray, area: np.ndarray, *, grow: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Resample noise and mask by taking the nearest pixel.

    Parameters
    ----------
    noise, mask : numpy.ndarray
        On the reference grid.
    rx, ry, area : numpy.ndarray
        From `Mapping.grid`.
    grow : bool
        Whether a bad pixel also masks its four neighbours, which an interpolation mixes with it.

    Returns
    -------
    noise : numpy.ndarray
        float32 (height, width), noise of independent pixels of the area of a science pixel; NaN where missing.
    mask : numpy.ndarray
        uint8 (height, width); `MASK_MISSING` also outside the reference.
    """
    height, width = mask.shape
    # A small tolerance, so that rounding errors do not mask the edge of an image that is already on the grid.
    outside = (rx < -1e-3) | (ry < -1e-3) | (rx > width - 1 + 1e-3) | (ry > height - 1 + 1e-3)
    column = np.rint(rx).clip(0, width - 1).astype(np.intp)
    row = np.rint(ry).clip(0, height - 1).astype(np.intp)
    noise_out = (noise[row, column] * np.sqrt(area)).astype(np.float32)
    mask_out = (_grow(mask) if grow else mask)[row, column]
    mask_out[outside] = MASK_MISSING
    noise_out[(mask_out & MASK_MISSING) > 0] = np.nan
    return noise_out, mask_out


def _grow(mask: np.ndarray) -> np.ndarray:
    """Combine the bits of each pixel with those of its four neighbours."""
    grown = mask.copy()
    for axis in (0, 1):
        for cut, paste in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
            source, target = [slice(None)] * 2, [slice(None)] * 2
            source[axis], target[axis] = cut, paste
            grown[tuple(target)] |= mask[tuple(source)]
    return grown


def autocorrelation(
    rx: np.ndarray,
    ry: np.ndarray,
    area: np.ndarray,
    impulse: Callable[[np.ndarray], np.ndarray],
    *,
    reach: int = 5,
    phases: int = 32,
) -> np.ndarray:
    """Autocorrelation of an interpolation, averaged over the sub-pixel phases that occur in the image.

    Parameters
    ----------
    rx, ry, area : numpy.ndarray
        From `Mapping.grid`.
    impulse : callable
        Weight of a pixel as a function of its distance along one axis [reference px]; it is normalised here.
    reach : int
        Largest lag [science px].
    phases : int
        Number of bins of the sub-pixel phase along one axis.

    Returns
    -------
    numpy.ndarray
        (2 reach + 1, 2 reach + 1), in units of the variance of independent pixels of the area of a
        science pixel; see `otrain_core.images.align.Aligned`.
    """
    scale = float(np.sqrt(np.median(area)))  # [reference px per science px]
    half = int(np.ceil(reach * scale)) + 12
    lines = []
    for phase in range(phases):
        at = (phase + 0.5) / phases + scale * np.arange(-reach, reach + 1)
        weights = impulse(at[:, None] - np.arange(-half, half + 1))
        weights /= weights.sum(axis=1, keepdims=True)
        line = scale * weights @ weights[reach]
        lines.append((line + line[::-1]) / 2)
    # Uneven steps, because even ones would sample only some of the phases for a scale such as 1/2.
    sample = np.ix_(*(np.linspace(0, size - 1, 67).astype(int) for size in rx.shape))
    places = np.column_stack([(r[sample] % 1).ravel() for r in (ry, rx)])
    cells, counts = np.unique(np.floor(places * phases).astype(int) % phases, axis=0, return_counts=True)
    total = np.zeros((2 * reach + 1, 2 * reach + 1))
    for (py, px), count in zip(cells, counts, strict=True):
        total += count * np.outer(lines[py], lines[px])
    return total / counts.sum()


def _spline_impulse(order: int, blur: float) -> Callable[[np.ndarray], np.ndarray]:
    """Impulse response of the interpolating spline after a Gaussian of width (sigma) `blur` [px]."""
    middle = 40
    delta = np.zeros(2 * middle + 1)
    delta[middle] = 1
    if blur:
        delta = ndimage.gaussian_filter1d(delta, blur)
    coefficients = ndimage.spline_filter1d(delta, order=order, mode="mirror")

    def impulse(distance: np.ndarray) -> np.ndarray:
        return ndimage.map_coordinates(coefficients, [distance + middle], order=order, prefilter=False)

    return impulse


def pixel_area(mapping: Mapping) -> float:
    """Area of a science pixel in reference pixels, at the centre of the image."""
    y, x = (np.array(mapping.shape) - 1) / 2
    rx, ry = mapping(np.array([x - 0.5, x + 0.5, x, x]), np.array([y, y, y - 0.5, y + 0.5]))
    return float(abs((rx[1] - rx[0]) * (ry[3] - ry[2]) - (rx[3] - rx[2]) * (ry[1] - ry[0])))


def overlap_problem(mapping: Mapping, shape: tuple[int, int]) -> str | None:
    """Reason why the reference, of this shape, overlaps too little with the science image; None if it overlaps enough."""
    ys, xs = nodes(mapping.shape[0]), nodes(mapping.shape[1])
    rx, ry = mapping(*np.meshgrid(xs, ys))
    finite = np.isfinite(rx) & np.isfinite(ry)
    with np.errstate(invalid="ignore"):
        inside = finite & (rx >= -0.5) & (ry >= -0.5) & (rx <= shape[1] - 0.5) & (ry <= shape[0] - 0.5)
    common = inside.mean()
    area = pixel_area(mapping)
    if np.isfinite(area) and area > 0:
        science = mapping.shape[0] * mapping.shape[1] * area  # in reference pixels
        common *= max(1.0, science / (shape[0] * shape[1]))
    if common >= MIN_OVERLAP:
        return None
    return f"the reference covers {100 * common:.0f} % of the field; {100 * MIN_OVERLAP:.0f} % are needed"
