"""Align a reference image to the pixel grid of a science image, resampling it once.

The first guess of the mapping comes from the two WCSs or from the pattern of the
stars (astroalign; Beroiz et al. 2020, A&C 32, 100384). Stars found in both images
then correct it, before the one and only interpolation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.interpolate import RectBivariateSpline
from scipy.spatial import cKDTree

from otrain_core.errors import ImageError
from otrain_core.io import MASK_MISSING, Image
from otrain_core.prepare import Prepared, prepare_image

MESH = 32  # step of the mesh on which a WCS is evaluated exactly [px]
MIN_STARS = 5  # matched stars below which nothing is said about an alignment
MIN_OVERLAP = 0.1  # smallest common area, of the smaller image
SEARCH = 30.0  # largest offset between WCS and stars that is looked for [px]


@dataclass
class Aligned:
    """A reference on the grid of a science image.

    Attributes
    ----------
    data : numpy.ndarray
        float32 (height, width), background subtracted, reference ADU per science
        pixel; NaN where the reference has no value.
    noise : numpy.ndarray
        float32 (height, width), 1 sigma [ADU] of independent pixels of the same area,
        that is before the interpolation correlated them; NaN where data is.
    mask : numpy.ndarray
        uint8 (height, width), `MASK_MISSING` and `MASK_SATURATED` of the reference.
    stars : pandas.DataFrame
        Stars found in both images: x, y (science pixels), flux, flux_reference [ADU],
        peak (science), fwhm, fwhm_reference [science px]; both fluxes are in one aperture on the sky.
    smoothing : numpy.ndarray
        Mean autocorrelation of the interpolation, (2k+1, 2k+1): how the noise of the
        resampled pixels is correlated; its centre is 1 where nothing was interpolated.
    record : dict
        How the alignment was done and how good it is.
    """

    data: np.ndarray
    noise: np.ndarray
    mask: np.ndarray
    stars: pd.DataFrame
    smoothing: np.ndarray
    record: dict[str, Any] = field(default_factory=dict)


@dataclass
class Mapping:
    """Science pixel to reference pixel: a first guess, then a polynomial correction.

    ``x_reference = base_x(x, y) + sum_k cx_k u^i v^j`` with ``u, v`` the science
    coordinates scaled to -1..1 over the frame.
    """

    base: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    shape: tuple[int, int]
    order: int = -1
    cx: np.ndarray = field(default_factory=lambda: np.zeros(0))
    cy: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def terms(self, x: np.ndarray, y: np.ndarray, order: int) -> np.ndarray:
        u = 2 * x / max(self.shape[1] - 1, 1) - 1
        v = 2 * y / max(self.shape[0] - 1, 1) - 1
        return np.array([u**i * v**j for i, j in exponents(order)])

    def __call__(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rx, ry = self.base(x, y)
        if self.order >= 0:
            terms = self.terms(x, y, self.order)
            rx = rx + np.tensordot(self.cx, terms, 1)
            ry = ry + np.tensordot(self.cy, terms, 1)
        return rx, ry

    def moved(self, x: int, y: int, shape: tuple[int, int]) -> Mapping:
        """The same mapping for a science grid of another shape whose pixel (x, y) was (0, 0)."""
        return Mapping(lambda px, py: self(px - x, py - y), shape)

    def grid(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reference x and y at every science pixel, and reference pixels per science pixel."""
        height, width = self.shape
        ys, xs = _nodes(height), _nodes(width)
        mesh_x, mesh_y = np.meshgrid(xs, ys)
        rx, ry = self(mesh_x, mesh_y)
        if not (np.isfinite(rx).all() and np.isfinite(ry).all()):
            raise ValueError("the mapping is not defined over the whole image")
        splines = [RectBivariateSpline(ys, xs, r, kx=min(3, len(ys) - 1), ky=min(3, len(xs) - 1)) for r in (rx, ry)]
        y, x = np.arange(height, dtype=float), np.arange(width, dtype=float)
        (xx, xy), (yx, yy) = [(s(ys, xs, dy=1), s(ys, xs, dx=1)) for s in splines]
        area = RectBivariateSpline(ys, xs, np.abs(xx * yy - xy * yx), kx=1, ky=1)(y, x).astype(np.float32)
        return splines[0](y, x), splines[1](y, x), area


def _nodes(size: int) -> np.ndarray:
    return np.linspace(0, size - 1, max(4, int(np.ceil((size - 1) / MESH)) + 1))


def exponents(order: int) -> list[tuple[int, int]]:
    """Exponents (i, j) of x and y of all terms of a polynomial of this degree."""
    return [(i, n - i) for n in range(order + 1) for i in range(n, -1, -1)]


def prepare_reference(image: Image, *, seeing: float) -> Prepared:
    """Background, noise and mask of a reference on its own grid, found as those of a science image are.

    One way of measuring the background for both leaves the same error under the same
    bright star, which the subtraction takes away.
    """
    return prepare_image(image, seeing=seeing, cosmics="none", saturation_grow=1)


def find_stars(
    data: np.ndarray, noise: np.ndarray, mask: np.ndarray, *, threshold: float = 5.0, max_stars: int = 1500
) -> pd.DataFrame:
    """Sources that touch no masked pixel, brightest first.

    Parameters
    ----------
    data, noise : numpy.ndarray
        float32 [ADU], background subtracted.
    mask : numpy.ndarray
        Non-zero where a pixel must not be used.

    Returns
    -------
    pandas.DataFrame
        x, y (windowed centroid [px]), flux (within three half-light radii) and peak
        [ADU], fwhm (twice the half-light radius [px]).
    """
    import sep

    bad = mask.astype(bool) | ~np.isfinite(data) | ~np.isfinite(noise)
    filled = fill_bad(data, np.where(bad, np.uint8(MASK_MISSING), np.uint8(0)))
    error = np.where(bad, np.float32(np.nanmedian(noise)), noise)
    sep.set_extract_pixstack(max(1_000_000, data.size // 2))
    for factor in (1, 4, 16):
        try:
            found = sep.extract(filled, threshold * factor, err=error, mask=bad, minarea=4, deblend_cont=0.02)
            break
        except Exception as failure:  # sep raises bare exceptions for its full buffers
            if factor == 16 or "full" not in str(failure) and "limit" not in str(failure):
                raise
    near_bad = ndimage.binary_dilation(bad, iterations=2) if bad.any() else bad
    column, row = np.rint(found["x"]).astype(int), np.rint(found["y"]).astype(int)
    inside = (column > 2) & (row > 2) & (column < data.shape[1] - 3) & (row < data.shape[0] - 3)
    found = found[inside & ~near_bad[row.clip(0, data.shape[0] - 1), column.clip(0, data.shape[1] - 1)]]
    found = found[np.argsort(-found["flux"], kind="stable")][:max_stars]
    if len(found) == 0:
        return pd.DataFrame({key: np.zeros(0) for key in ("x", "y", "flux", "peak", "fwhm")})
    # One aperture for all: blends and structures of the background have no say in what a star is.
    reach = np.full(len(found), 5 * np.median(np.sqrt(found["a"] * found["b"])) + 1)
    radius, _ = sep.flux_radius(filled, found["x"], found["y"], reach, 0.5, normflux=None, subpix=5)
    good = np.isfinite(radius) & (radius > 0.4)
    found, radius = found[good], radius[good]
    typical = np.median(radius) if len(radius) else 1.0
    aperture, _, _ = sep.sum_circle(filled, found["x"], found["y"], 3 * typical, subpix=5)
    x, y, flag = sep.winpos(filled, found["x"], found["y"], 2 * typical / 2.355)
    moved = (flag > 0) | (np.hypot(x - found["x"], y - found["y"]) > 1.0)
    table = pd.DataFrame(
        {
            "x": np.where(moved, found["x"], x),
            "y": np.where(moved, found["y"], y),
            "flux": aperture.astype(float),
            "peak": found["peak"].astype(float),
            "fwhm": 2 * radius,
        }
    )
    return table[table["flux"] > 0].reset_index(drop=True)


def aperture_flux(data: np.ndarray, mask: np.ndarray, x: Any, y: Any, radius: float) -> np.ndarray:
    """Flux in a circle above the level of the ring around it [ADU]; `radius` in px."""
    import sep

    bad = (mask > 0) | ~np.isfinite(data)
    filled = fill_bad(data, np.where(bad, np.uint8(MASK_MISSING), np.uint8(0)))
    positions = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    flux, _, _ = sep.sum_circle(filled, *positions, radius, bkgann=(1.5 * radius + 1, 2 * radius + 3), subpix=5)
    return flux


def _vote(predicted: np.ndarray, target: np.ndarray, search: float) -> tuple[np.ndarray, int, float]:
    """Most frequent offset target - predicted, how many pairs share it, how many would by chance."""
    dx = (target[None, :, 0] - predicted[:, None, 0]).ravel()
    dy = (target[None, :, 1] - predicted[:, None, 1]).ravel()
    near = (np.abs(dx) < search) & (np.abs(dy) < search)
    bins = int(2 * search)
    histogram, _, _ = np.histogram2d(dx[near], dy[near], bins=bins, range=[[-search, search]] * 2)
    votes = ndimage.uniform_filter(histogram, 3, mode="constant") * 9
    peak = np.unravel_index(np.argmax(votes), votes.shape)
    centre = np.array(peak) * 2 * search / bins - search + search / bins
    close = near & (np.hypot(dx - centre[0], dy - centre[1]) < 2)
    if close.any():
        centre = np.array([np.median(dx[close]), np.median(dy[close])])
    return centre, int(round(votes[peak])), float(histogram.sum() * 9 / bins**2)


def _pairs(predicted: np.ndarray, target: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Mutual nearest neighbours within `radius`."""
    tree, back = cKDTree(target), cKDTree(predicted)
    distance, index = tree.query(predicted, distance_upper_bound=radius)
    ours = np.flatnonzero(np.isfinite(distance))
    theirs = index[ours]
    _, nearest = back.query(target[theirs])
    mutual = nearest == ours
    return ours[mutual], theirs[mutual]


def _fit_correction(mapping: Mapping, science: np.ndarray, target: np.ndarray, lowest: int) -> tuple[Mapping, float]:
    """Polynomial of the degree with the least Bayesian information criterion, and its scatter [px]."""
    x, y = science.T
    base_x, base_y = mapping.base(x, y)
    residual = np.array([target[:, 0] - base_x, target[:, 1] - base_y])
    n = len(x)
    best: tuple[float, Mapping, float] | None = None
    for order in range(lowest, 4):
        terms = mapping.terms(x, y, order) if order >= 0 else np.zeros((0, n))
        if order > lowest and 3 * len(terms) > n:
            break
        coefficients = np.linalg.lstsq(terms.T, residual.T, rcond=None)[0].T if len(terms) else np.zeros((2, 0))
        scatter = float(np.sqrt(np.mean((residual - coefficients @ terms) ** 2)))
        criterion = 2 * n * np.log(scatter**2 + 1e-10) + 2 * len(terms) * np.log(n)
        if best is None or criterion < best[0]:
            best = criterion, Mapping(mapping.base, mapping.shape, order, *coefficients), scatter
    return best[1], best[2]


def refine(
    mapping: Mapping,
    science: pd.DataFrame,
    reference: pd.DataFrame,
    *,
    search: float = SEARCH,
    lowest: int = -1,
) -> tuple[Mapping, np.ndarray, np.ndarray, dict[str, Any]]:
    """Match the stars of both images and correct the mapping.

    Parameters
    ----------
    mapping : Mapping
        First guess.
    science, reference : pandas.DataFrame
        From `find_stars`, each in its own pixels.
    search : float
        Largest offset of the first guess [reference px].
    lowest : int
        Lowest degree of the correction (-1: none at all is allowed).

    Returns
    -------
    mapping : Mapping
    science_index, reference_index : numpy.ndarray
        Rows of the two tables that are the same stars.
    record : dict
        n_stars, offset [px], scatter [px], order, agree (whether the stars support the guess).
    """
    xy, target = science[["x", "y"]].to_numpy(), reference[["x", "y"]].to_numpy()
    none = np.zeros(0, dtype=int)
    record: dict[str, Any] = {"n_stars": 0, "agree": False, "offset": np.nan, "scatter": np.nan, "order": -1}
    if min(len(xy), len(target)) < MIN_STARS:
        return mapping, none, none, record
    predicted = np.column_stack(mapping(*xy.T))
    inside = _inside(predicted, target)
    bright_p, bright_t = predicted[inside][:400], target[:400]
    if len(bright_p) < MIN_STARS:
        return mapping, none, none, record
    offset, votes, chance = _vote(bright_p, bright_t, search)
    if votes < max(MIN_STARS, 0.1 * min(len(bright_p), len(bright_t)), chance + 5 * np.sqrt(chance + 1)):
        return mapping, none, none, record
    current: Callable[..., np.ndarray] = lambda: predicted + offset  # noqa: E731
    corrected, ours, theirs, scatter = mapping, none, none, np.nan
    radius = 2.5
    for _ in range(8):
        previous = (ours, theirs)
        ours, theirs = _pairs(current(), target, radius)
        if len(ours) < MIN_STARS:
            return mapping, none, none, record
        keep = np.ones(len(ours), dtype=bool)
        for _ in range(5):
            corrected, scatter = _fit_correction(mapping, xy[ours[keep]], target[theirs[keep]], lowest)
            error = np.hypot(*(np.column_stack(corrected(*xy[ours].T)) - target[theirs]).T)
            limit = max(3 * 1.4826 * np.median(error[keep]), 0.02)
            if np.array_equal(keep, error < limit) or (error < limit).sum() < MIN_STARS:
                break
            keep = error < limit
        ours, theirs = ours[keep], theirs[keep]
        if np.array_equal(previous[0], ours) and np.array_equal(previous[1], theirs):
            break
        current = lambda mapping=corrected: np.column_stack(mapping(*xy.T))  # noqa: E731
        radius = max(1.0, min(2.5, 6 * scatter))
    record = {
        "n_stars": len(ours),
        "agree": True,
        "offset": float(np.hypot(*offset)),
        "scatter": scatter,
        "order": corrected.order,
    }
    return corrected, ours, theirs, record


def _inside(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    low, high = target.min(axis=0) - SEARCH, target.max(axis=0) + SEARCH
    return np.isfinite(points).all(axis=1) & (points > low).all(axis=1) & (points < high).all(axis=1)


def wcs_mapping(science_wcs: Any, reference_wcs: Any, shape: tuple[int, int]) -> Mapping:
    """Science pixel to sky to reference pixel, exact at every call."""
    from astropy.wcs.utils import wcs_to_celestial_frame

    frames = [wcs_to_celestial_frame(wcs) for wcs in (science_wcs, reference_wcs)]
    same = frames[0].is_equivalent_frame(frames[1])

    def base(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lon, lat = science_wcs.all_pix2world(x, y, 0)
        if not same:
            from astropy.coordinates import SkyCoord

            sky = SkyCoord(lon, lat, unit="deg", frame=frames[0]).transform_to(frames[1])
            lon, lat = sky.spherical.lon.deg, sky.spherical.lat.deg
        rx, ry = reference_wcs.wcs_world2pix(lon, lat, 0)
        if reference_wcs.has_distortion:
            # Far outside the reference its distortion has no inverse; those pixels are missing anyway.
            height, width = reference_wcs.array_shape or np.ceil(2 * reference_wcs.wcs.crpix[::-1])
            near = (np.abs(rx - width / 2) < width) & (np.abs(ry - height / 2) < height)
            rx[near], ry[near] = reference_wcs.all_world2pix(lon[near], lat[near], 0, quiet=True)
        return np.nan_to_num(rx, nan=-1e6), np.nan_to_num(ry, nan=-1e6)

    return Mapping(base, shape)


def star_mapping(science: pd.DataFrame, reference: pd.DataFrame, shape: tuple[int, int]) -> Mapping | None:
    """Similarity between the two patterns of stars (mirrored ones too), or None."""
    import astroalign

    xy, target = science[["x", "y"]].to_numpy()[:150], reference[["x", "y"]].to_numpy()[:150]
    if min(len(xy), len(target)) < MIN_STARS:
        return None
    for flip in (1.0, -1.0):
        try:
            transform, _ = astroalign.find_transform(xy * [flip, 1.0], target, max_control_points=60)
        except (astroalign.MaxIterError, ValueError, TypeError):
            continue
        matrix = transform.params @ np.diag([flip, 1.0, 1.0])

        def base(x: np.ndarray, y: np.ndarray, m: np.ndarray = matrix) -> tuple[np.ndarray, np.ndarray]:
            return m[0, 0] * x + m[0, 1] * y + m[0, 2], m[1, 0] * x + m[1, 1] * y + m[1, 2]

        guess = Mapping(base, shape)
        _, ours, theirs, record = refine(guess, science, reference, search=5.0, lowest=1)
        if not record["agree"]:
            continue
        # The random choices of the pattern search must leave no trace: start again from the pairs themselves.
        return _fit_correction(_identity(shape), *_positions(science, reference, ours, theirs), 1)[0]
    return None


def resample(
    data: np.ndarray, noise: np.ndarray, mask: np.ndarray, mapping: Mapping, *, order: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Bring an image onto the science grid by one spline interpolation that conserves flux.

    Parameters
    ----------
    data, noise, mask : numpy.ndarray
        On the reference grid; `data` may hold NaN where `mask` is not zero.
    mapping : Mapping
        Science pixel to reference pixel.
    order : int
        Degree of the spline.

    Returns
    -------
    data, noise, mask : numpy.ndarray
        As in `Aligned`. A bad pixel of the reference masks the pixels it reaches
        with more than a few per cent of its value, not the whole image.
    smoothing : numpy.ndarray
        As in `Aligned`.
    """
    rx, ry, area = mapping.grid()
    height, width = data.shape
    shift_x, shift_y = np.rint(rx[0, 0]), np.rint(ry[0, 0])
    whole = (
        max(
            np.abs(rx - np.arange(rx.shape[1]) - shift_x).max(),
            np.abs(ry - np.arange(ry.shape[0])[:, None] - shift_y).max(),
        )
        < 1e-3
    )
    filled = fill_bad(data, mask)
    # Half a pixel of tolerance at the edge: the value there is still an interpolation, not an extrapolation.
    outside = (rx < -1e-3) | (ry < -1e-3) | (rx > width - 1 + 1e-3) | (ry > height - 1 + 1e-3)
    column = np.rint(rx).clip(0, width - 1).astype(np.intp)
    row = np.rint(ry).clip(0, height - 1).astype(np.intp)
    if whole:
        out, smoothing, reach = filled[row, column], np.ones((1, 1)), mask
    else:
        blur = np.sqrt(max(float(np.median(area)) - 1, 0)) * 0.5
        if blur > 0.25:  # many reference pixels a science pixel: average, do not pick
            filled = ndimage.gaussian_filter(filled, blur)
        coefficients = ndimage.spline_filter(filled, order=order, output=np.float32, mode="mirror")
        out = ndimage.map_coordinates(
            coefficients, [ry, rx], order=order, output=np.float32, prefilter=False, mode="mirror"
        )
        smoothing = _autocorrelation(rx, ry, order, blur)
        reach = _grow(mask)
    out *= area
    noise_out = noise[row, column] * np.sqrt(area)  # independent pixels of this area
    mask_out = reach[row, column]
    mask_out[outside] = MASK_MISSING
    missing = (mask_out & MASK_MISSING) > 0
    out[missing], noise_out[missing] = np.nan, np.nan
    return out, noise_out.astype(np.float32), mask_out, smoothing


def _grow(mask: np.ndarray) -> np.ndarray:
    """Bits of each pixel joined with those of its four neighbours."""
    grown = mask.copy()
    for axis in (0, 1):
        for cut, paste in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
            source, target = [slice(None)] * 2, [slice(None)] * 2
            source[axis], target[axis] = cut, paste
            grown[tuple(target)] |= mask[tuple(source)]
    return grown


def fill_bad(data: np.ndarray, bad: np.ndarray, *, sigma: float = 1.5) -> np.ndarray:
    """Copy with missing pixels replaced by their neighbours' mean, or 0 (the background) far from any.

    Saturated pixels have a value and keep it.
    """
    hole = ~np.isfinite(data) | ((bad & MASK_MISSING) > 0)
    filled = np.where(hole, np.float32(0), data).astype(np.float32, copy=False)
    if hole.any():
        weight = ndimage.gaussian_filter((~hole).astype(np.float32), sigma)
        near = hole & (weight > 0.05)
        if near.any():
            filled[near] = ndimage.gaussian_filter(filled, sigma)[near] / weight[near]
    return filled


def _autocorrelation(rx: np.ndarray, ry: np.ndarray, order: int, blur: float, reach: int = 5) -> np.ndarray:
    """Mean autocorrelation of the interpolating kernel over the sub-pixel phases that occur."""
    size = 4 * reach + 1
    delta = np.zeros(size)
    delta[size // 2] = 1
    if blur > 0.25:
        delta = ndimage.gaussian_filter1d(delta, blur)
    coefficients = ndimage.spline_filter1d(delta, order=order, mode="mirror")
    step = max(1, min(rx.shape) // 50)
    total = np.zeros((2 * reach + 1, 2 * reach + 1))
    phases = np.column_stack([(r[::step, ::step] % 1).ravel() for r in (ry, rx)])
    cells, counts = np.unique(np.floor(phases * 8).astype(int) % 8, axis=0, return_counts=True)
    lines = []
    for phase in range(8):
        at = np.arange(size) + (phase + 0.5) / 8
        line = ndimage.map_coordinates(coefficients, [at], order=order, prefilter=False, mode="mirror")
        lines.append(np.correlate(line, line, "same")[size // 2 - reach : size // 2 + reach + 1])
    for (py, px), count in zip(cells, counts, strict=True):
        total += count * np.outer(lines[py], lines[px])
    return total / counts.sum()


@dataclass
class Located:
    """A prepared reference and where its pixels are on the science grid (see `Aligned`)."""

    mapping: Mapping
    prepared: Prepared
    stars: pd.DataFrame
    record: dict[str, Any]


def locate_reference(
    reference: Image,
    *,
    science_data: np.ndarray,
    science_noise: np.ndarray,
    science_mask: np.ndarray,
    science_wcs: Any = None,
    name: str | None = None,
    method: str = "auto",
    seeing: float | None = None,
) -> Located:
    """Find the mapping from science to reference pixels; parameters as `align_reference`."""
    name = name or reference.name
    shape = science_data.shape
    if method == "wcs" and (science_wcs is None or reference.wcs is None):
        missing = "science image" if science_wcs is None else "reference"
        raise ImageError(name, "wcs", f"align: wcs is chosen but the {missing} has no celestial WCS")
    prepared = prepare_reference(reference, seeing=seeing or 3.0)
    stars = find_stars(science_data, science_noise, science_mask)
    stars_reference = find_stars(prepared.sci, prepared.noise, prepared.mask)
    mapping, problem = None, None
    if method != "stars" and science_wcs is not None and reference.wcs is not None:
        mapping = wcs_mapping(science_wcs, reference.wcs, shape)
        problem = _overlap_problem(mapping, reference.shape)
        if problem is None:
            mapping, ours, theirs, record = refine(mapping, stars, stars_reference)
            few = min(len(stars), len(stars_reference)) < 3 * MIN_STARS
            if method == "auto" and not record["agree"] and not few:
                mapping = None
        elif method == "wcs":
            raise ImageError(name, "reference", problem)
        else:
            mapping = None
    used = "wcs"
    if mapping is None:
        used = "stars"
        mapping = star_mapping(stars, stars_reference, shape)
        if mapping is None:
            counts = f"{len(stars)} stars in the science image, {len(stars_reference)} in the reference"
            if problem:
                raise ImageError(name, "reference", problem)
            raise ImageError(name, "align", f"the stars of the reference could not be matched ({counts})")
        mapping, ours, theirs, record = refine(mapping, stars, stars_reference, search=5.0)
    elif method == "auto" and len(ours) >= 4 * MIN_STARS:
        # A WCS with a noisy distortion serves to match the stars; a plain map between them may fit better.
        plain, _ = _fit_correction(_identity(shape), *_positions(stars, stars_reference, ours, theirs), 1)
        plain = refine(plain, stars, stars_reference, search=5.0)
        if plain[3]["agree"] and len(plain[1]) >= 0.9 * len(ours) and plain[3]["scatter"] < 0.7 * record["scatter"]:
            mapping, ours, theirs, record = plain
            used = "stars"
    problem = _overlap_problem(mapping, reference.shape)
    if problem:
        raise ImageError(name, "reference", problem)
    table = stars.iloc[ours].reset_index(drop=True)
    pixel = 1 / np.sqrt(_area(mapping))
    table["fwhm_reference"] = stars_reference["fwhm"].to_numpy()[theirs] * pixel
    # Both fluxes in one aperture on the sky: their ratio must not hang on the seeings.
    radius = 1.5 * float(np.median(table[["fwhm", "fwhm_reference"]].max(axis=1))) if len(table) else 1.0
    table["flux"] = aperture_flux(science_data, science_mask, table["x"], table["y"], radius)
    x, y = stars_reference[["x", "y"]].to_numpy()[theirs].T
    table["flux_reference"] = aperture_flux(prepared.sci, prepared.mask, x, y, radius / pixel)
    positive = (table["flux"] > 0) & (table["flux_reference"] > 0)
    table = table[positive].reset_index(drop=True)
    record = {"align": used, **{f"align_{key}": value for key, value in record.items()}}
    return Located(mapping, prepared, table, record)


def align_reference(
    reference: Image,
    *,
    science_data: np.ndarray,
    science_noise: np.ndarray,
    science_mask: np.ndarray,
    science_wcs: Any = None,
    name: str | None = None,
    method: str = "auto",
    seeing: float | None = None,
) -> Aligned:
    """Bring the reference onto the science grid.

    Parameters
    ----------
    reference : Image
        As read; its background is subtracted here.
    science_data, science_noise : numpy.ndarray
        float32 (height, width), the prepared science image [ADU].
    science_mask : numpy.ndarray
        Non-zero where a science pixel must not be used.
    science_wcs : astropy.wcs.WCS or None
    name : str, optional
        Name of the science image, for errors (default: the reference's).
    method : {'auto', 'wcs', 'stars'}
        wcs: both WCSs, corrected by the stars where enough are matched. stars: the
        pattern of the stars. auto: wcs where both images have one and the stars
        agree with it (or are too few to tell), else stars; stars too where the stars
        the WCS matched follow a plain polynomial better.
    seeing : float, optional
        FWHM of the science image [px], about that of the reference too (default: 3).

    Returns
    -------
    Aligned

    Raises
    ------
    ImageError
        No WCS where one is needed, no overlap, or too few matched stars.
    """
    located = locate_reference(
        reference,
        science_data=science_data,
        science_noise=science_noise,
        science_mask=science_mask,
        science_wcs=science_wcs,
        name=name,
        method=method,
        seeing=seeing,
    )
    prepared = located.prepared
    data, noise, mask, smoothing = resample(prepared.sci, prepared.noise, prepared.mask, located.mapping)
    record = {**located.record, "overlap": float(np.isfinite(data).mean())}
    return Aligned(data, noise, mask, located.stars, smoothing, record)


def _identity(shape: tuple[int, int]) -> Mapping:
    return Mapping(lambda x, y: (x, y), shape)


def _positions(
    science: pd.DataFrame, reference: pd.DataFrame, ours: np.ndarray, theirs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return science[["x", "y"]].to_numpy()[ours], reference[["x", "y"]].to_numpy()[theirs]


def _area(mapping: Mapping) -> float:
    """Reference pixels per science pixel at the centre."""
    y, x = (np.array(mapping.shape) - 1) / 2
    rx, ry = mapping(np.array([x - 0.5, x + 0.5, x, x]), np.array([y, y, y - 0.5, y + 0.5]))
    return float(abs((rx[1] - rx[0]) * (ry[3] - ry[2]) - (rx[3] - rx[2]) * (ry[1] - ry[0])))


def _overlap_problem(mapping: Mapping, shape: tuple[int, int]) -> str | None:
    ys, xs = _nodes(mapping.shape[0]), _nodes(mapping.shape[1])
    rx, ry = mapping(*np.meshgrid(xs, ys))
    finite = np.isfinite(rx) & np.isfinite(ry)
    with np.errstate(invalid="ignore"):
        inside = finite & (rx >= -0.5) & (ry >= -0.5) & (rx <= shape[1] - 0.5) & (ry <= shape[0] - 0.5)
    common = inside.mean()
    area = _area(mapping)
    if np.isfinite(area) and area > 0:
        science = mapping.shape[0] * mapping.shape[1] * area  # in reference pixels
        common *= max(1.0, science / (shape[0] * shape[1]))
    if common >= MIN_OVERLAP:
        return None
    return f"the reference covers {100 * common:.0f} % of the field; {100 * MIN_OVERLAP:.0f} % are needed"
