"""Sky of an image, and selection of the stars for the measurement of its PSF."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from otrain_core.errors import ImageError
from otrain_core.images.extraction import extract
from otrain_core.images.frames import Image
from otrain_core.images.polynomials import polynomial
from otrain_core.stars.psf_fit import Stars
from otrain_core.widths import SIGMA_PER_MAD


@dataclass
class Sky:
    """Background-subtracted image with the level and noise of its sky.

    Attributes
    ----------
    data : numpy.ndarray
        float32 (height, width) [ADU]; 0 where missing.
    missing : numpy.ndarray
        bool (height, width), pixels without a value.
    level, rms : float
        Level of the subtracted background and noise of the sky [ADU].
    """

    data: np.ndarray
    missing: np.ndarray
    level: float
    rms: float

    @cached_property
    def sources(self) -> tuple[np.ndarray, np.ndarray]:
        """Sources above 4 sigma (table of sep) and the segmentation map with their numbers, from 1.

        sep raises a plain Exception if a buffer overflows.
        """
        import sep

        sep.set_sub_object_limit(4096)
        return extract(
            self.data,
            4.0,
            most=max(300_000, self.data.size // 4),
            err=self.rms,
            mask=self.missing,
            minarea=3,
            deblend_cont=0.01,
            segmentation_map=True,
        )


def measure_sky(image: Image, *, box: int = 64) -> Sky:
    """Measure the background by sep's clipped mode in boxes of `box` px, without the missing pixels.

    Raises
    ------
    ImageError
        The noise of the sky cannot be measured, in a constant or empty image (key ``data``).
    """
    import sep

    missing = ~np.isfinite(image.data)
    filled = np.where(missing, np.float32(0), image.data).astype(np.float32)
    height, width = image.shape
    background = sep.Background(filled, mask=missing, bw=min(box, width), bh=min(box, height), fw=3, fh=3)
    if missing.all() or np.ptp(image.data[~missing]) == 0 or not background.globalrms > 0:
        raise ImageError(image.name, "data", "the noise of the sky cannot be measured (no spread between pixels)")
    data = filled - background.back(dtype=np.float32)
    data[missing] = 0
    return Sky(data, missing, float(background.globalback), float(background.globalrms))


def select_stars(image: Image, sky: Sky, *, min_snr: float, max_ellipticity: float, max_stars: int) -> Stars:
    """Select isolated, round, unsaturated sources with the size of stars, the brightest first.

    Hot pixels and cosmic rays are rejected because they have little light around the
    brightest pixel (an undersampled star with a FWHM of 1.3 px has 1.3 times the light of
    that pixel there), galaxies because of their half-light radius.

    Parameters
    ----------
    image : Image
    sky : Sky
        Of this image.
    min_snr : float
        Least S/N of the isophotal flux.
    max_ellipticity : float
        Largest 1 - b/a.
    max_stars : int

    Returns
    -------
    Stars

    Raises
    ------
    ImageError
        The sources cannot be extracted, in a very crowded image (key ``psf``).
    """
    import sep

    try:
        found, segments = sky.sources
    except Exception as error:
        raise ImageError(image.name, "psf", f"sources cannot be extracted ({error})") from None
    height, width = image.shape
    peak_x, peak_y = found["xpeak"].astype(int), found["ypeak"].astype(int)
    padded = np.pad(sky.data, 1)
    block = sum(padded[peak_y + j, peak_x + i] for j in range(3) for i in range(3))
    peak = sky.data[peak_y, peak_x]
    snr = found["flux"] / np.sqrt(found["npix"] * sky.rms**2 + np.maximum(found["flux"], 0) / image.gain)
    good = (
        (snr > min_snr)
        & (found["flag"] & ~sep.OBJ_MERGED == 0)
        & (found["npix"] >= 5)
        & (peak > 0)
        & (block - peak > 0.8 * peak)
        & (found["b"] > (1 - max_ellipticity) * found["a"])
        & (found["cpeak"] > 0)
    )
    if np.isfinite(image.saturation):
        good &= np.nan_to_num(image.data[peak_y, peak_x], nan=np.inf) < 0.8 * image.saturation
    index = np.flatnonzero(good)
    if index.size == 0:
        return _stars(found, index, np.nan, sky, segments)
    index = index[np.argsort(-found["flux"][index], kind="stable")]
    candidates = found[index]
    sizes = _half_light(sky, candidates, candidates["flux"], 6 * candidates["a"])
    rough = _locus(sizes[sizes > 0.45]) if (sizes > 0.45).any() else 0.45
    margin = int(np.ceil(4 * rough))
    inside = (
        (candidates["x"] > margin)
        & (candidates["x"] < width - 1 - margin)
        & (candidates["y"] > margin)
        & (candidates["y"] < height - 1 - margin)
    )
    keep = inside & _isolated(found, index, 5 * rough)
    index, candidates = index[keep], candidates[keep]
    # Isophotal fluxes bias the half-light radii of faint stars to small values: use one aperture for all.
    flux, *_ = sep.sum_circle(sky.data, candidates["x"], candidates["y"], 3 * rough, mask=sky.missing, subpix=5)
    half_light = _half_light(sky, candidates, flux, np.full(index.size, 6 * rough))
    keep = (half_light > max(0.45, 0.6 * rough)) & (half_light < 1.4 * rough) & (flux > 0)
    index, candidates, half_light = index[keep], candidates[keep], half_light[keep]
    if index.size == 0:
        return _stars(found, index, np.nan, sky, segments)
    locus = _locus(half_light)
    near = _on_locus(candidates["x"], candidates["y"], half_light / locus, image.shape)
    return _stars(found, index[near][:max_stars], locus, sky, segments)


def _half_light(sky: Sky, sources: np.ndarray, flux: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Radius that contains half of the flux [px]; 0 if it cannot be measured."""
    import sep

    radius, _ = sep.flux_radius(
        sky.data, sources["x"], sources["y"], np.maximum(reach, 4.0), 0.5, normflux=flux, mask=sky.missing, subpix=5
    )
    return np.nan_to_num(radius)


def _stars(found: np.ndarray, index: np.ndarray, locus: float, sky: Sky, segments: np.ndarray) -> Stars:
    """The sources with these indices as `Stars`."""
    chosen = found[index]
    return Stars(
        chosen["x"], chosen["y"], chosen["flux"], float(locus), sky.data, sky.missing, segments, labels=index + 1
    )


def _locus(half_light: np.ndarray) -> float:
    """Half-light radius of the stars [px] among sources sorted by flux: the mode of the brighter two thirds.

    The mode is that of an interval of 15 % in size.
    """
    return float(np.exp(_mode(np.log(half_light[: max(30, 2 * half_light.size // 3)]), 0.15)))


def _mode(values: np.ndarray, width: float) -> float:
    """Median of the values in the interval of this width that contains most of them; the lowest of equal intervals."""
    values = np.sort(values)
    counts = np.searchsorted(values, values + width, side="right") - np.arange(values.size)
    start = int(np.argmax(counts))
    return float(np.median(values[start : start + counts[start]]))


def _on_locus(x: np.ndarray, y: np.ndarray, size: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Select sources on the stellar locus, whose size may vary over the field.

    `size` is the half-light radius over its mode. The width of the locus is measured on its
    lower side, which contains no galaxies.
    """
    near = np.abs(size - 1) < 0.25
    for _ in range(4):
        degree = 2 if near.sum() >= 24 else 1 if near.sum() >= 12 else 0
        design = polynomial(x, y, shape, degree, axis=-1)
        off = size - design @ np.linalg.lstsq(design[near], size[near], rcond=None)[0]
        off -= _mode(off[near], 0.1)
        below = off[near & (off <= 0)]
        spread = SIGMA_PER_MAD * np.median(np.abs(below)) if below.size else 0.0
        least = max(0.08, 0.6 / np.sqrt(near.sum()))  # the scatter of few stars is uncertain
        near = (np.abs(off) < np.clip(2.5 * spread, min(least, 0.25), 0.25)) & (np.abs(size - 1) < 0.5)
    return near


def _isolated(found: np.ndarray, index: np.ndarray, distance: float) -> np.ndarray:
    """Which of the sources `index` have no neighbour within `distance` [px] with more than 2 % of their flux."""
    from scipy.spatial import cKDTree

    points = np.column_stack([found["x"], found["y"]])
    pairs = cKDTree(points).query_ball_point(points[index], distance)
    return np.array(
        [
            all(j == i or found["flux"][j] < 0.02 * found["flux"][i] for j in near)
            for i, near in zip(index, pairs, strict=True)
        ],
        dtype=bool,
    )
