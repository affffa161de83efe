"""Detection of cosmic rays by L.A.Cosmic (van Dokkum 2001, PASP 113, 1420), restricted to pixels that may be hits.

The masks are the same as those of astroscrappy (``sepmed``, ``fsmode='median'``, ``cleantype='medmask'``), which
applies median filters to the whole image. Here the Laplacian, which is fast, selects the few pixels whose medians are
needed.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from otrain_core.widths import FWHM_PER_SIGMA

NEIGHBOUR_SHARE = 0.3  # fraction of `sigclip` above which a neighbour of a hit is part of it
SMALLEST_CONTRAST = 0.01  # lower limit of the fine structure [units of the noise]
CALM = 0.95  # lower limit of the noise of a pixel over the sky noise at its place
REACH = 6  # half width of the neighbourhood on which the decision about a pixel depends [px]
STRIP = 256  # rows processed at a time


def cosmic_rays(
    residual: np.ndarray,
    variance: np.ndarray,
    sky_noise: np.ndarray,
    excluded: np.ndarray,
    *,
    sigclip: float,
    objlim: float,
    iterations: int,
) -> np.ndarray:
    """Find pixels hit by particles; hot pixels and undersampled stars look the same and are included.

    Parameters
    ----------
    residual : numpy.ndarray
        float32 (height, width), the image without its background [ADU].
    variance : numpy.ndarray
        float32 (height, width), of each pixel: sky and photons of the sources [ADU^2].
    sky_noise : numpy.ndarray
        float32 (height, width), 1 sigma of the sky alone, smooth [ADU].
    excluded : numpy.ndarray
        bool (height, width), pixels that are not tested.
    sigclip, objlim : float
        Limits of the Laplacian in units of the noise, and of its ratio to the fine structure.
    iterations : int
        Largest number of iterations, each of which finds pixels next to the hits of the one before.

    Returns
    -------
    numpy.ndarray
        bool (height, width).
    """
    clean, variance, hit = residual.copy(), variance.copy(), np.zeros(residual.shape, bool)
    fresh: np.ndarray | None = None
    for _ in range(iterations):
        laplacian = _laplacian(clean)
        points = np.argwhere((laplacian > 2 * CALM * sigclip * sky_noise) & ~excluded)
        if fresh is not None:  # nothing has changed far from the new hits
            far, _ = cKDTree(fresh).query(points, p=np.inf, distance_upper_bound=REACH + 5)
            points = points[np.isfinite(far)]
        found = _hits(clean, variance, laplacian, excluded, points, sigclip=sigclip, objlim=objlim)
        if not len(found):
            break
        hit[tuple(found.T)] = True
        bad, hits = hit | excluded, np.argwhere(hit)
        for plane in (clean, variance):
            plane[hit] = _good_median(plane, bad, hits)
        fresh = found
    return hit


def _hits(
    clean: np.ndarray,
    variance: np.ndarray,
    laplacian: np.ndarray,
    excluded: np.ndarray,
    points: np.ndarray,
    *,
    sigclip: float,
    objlim: float,
) -> np.ndarray:
    """Those of the points (y, x) that are hits, with the neighbours that are part of them, int (n, 2)."""
    significance, noise = _significance(variance, laplacian, points)
    above = significance > sigclip
    points, significance, noise = points[above], significance[above], noise[above]
    if not len(points):
        return points
    smooth = _running_median(_windows(clean, points, REACH), 5)
    contrast = np.maximum((smooth[:, 4, 4] - _running_median(smooth, 9)[:, 0, 0]) / noise, SMALLEST_CONTRAST)
    seeds = points[significance > objlim * contrast]
    if not len(seeds):
        return seeds
    group = points[cKDTree(seeds).query(points, p=np.inf)[0] <= 1]
    around = _with_neighbours(group, excluded)
    return around[_significance(variance, laplacian, around)[0] > NEIGHBOUR_SHARE * sigclip]


def _laplacian(image: np.ndarray) -> np.ndarray:
    """Laplacian of the image on a grid of half pixels, negative values set to 0, averaged over the four quarters of a pixel."""
    out = np.empty_like(image)
    height = image.shape[0]
    for start in range(0, height, STRIP):
        stop = min(start + STRIP, height)
        rows = np.clip(np.arange(start - 1, stop + 1), 0, height - 1)
        block = np.pad(image[rows], ((0, 0), (1, 1)), mode="edge")
        middle = block[1:-1, 1:-1]
        beside = middle - block[1:-1, :-2], middle - block[1:-1, 2:]
        above = middle - block[:-2, 1:-1], middle - block[2:, 1:-1]
        total = out[start:stop]
        total[...] = 0
        for a in beside:
            for b in above:
                total += np.maximum(a + b, 0)
        total /= 4
    return out


def _significance(variance: np.ndarray, laplacian: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Laplacian minus its median over 7 x 7 pixels, in units of its noise, and the noise of the pixels, each (n,)."""
    noise = np.sqrt(np.maximum(_running_median(_windows(variance, points, 3), 7)[:, 0, 0], 1e-30))
    around = _windows(laplacian, points, 3)
    # The factor 2 comes from the division into half pixels.
    return (around[:, 3, 3] - _running_median(around, 7)[:, 0, 0]) / (2 * noise), noise


def _windows(plane: np.ndarray, points: np.ndarray, reach: int) -> np.ndarray:
    """Pixels around each point, (n, 2 reach + 1, 2 reach + 1); the image is mirrored at its border."""
    offset = np.arange(-reach, reach + 1)
    rows, columns = (
        size - 1 - np.abs(size - 1 - np.abs(points[:, axis, None] + offset)) for axis, size in enumerate(plane.shape)
    )
    return plane[rows[:, :, None], columns[:, None, :]]


def _running_median(windows: np.ndarray, size: int) -> np.ndarray:
    """Running median over `size` pixels along x, then along y, for positions with all pixels inside the window."""
    for axis in (2, 1):
        parts = np.lib.stride_tricks.sliding_window_view(windows, size, axis=axis)
        windows = np.partition(parts, size // 2, axis=-1)[..., size // 2]
    return windows


def _with_neighbours(points: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """The points and their eight neighbours, without duplicates and excluded pixels."""
    height, width = excluded.shape
    step = np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)])
    places = (points[:, None] + step).reshape(-1, 2)
    places = places[((places >= 0) & (places < (height, width))).all(axis=1)]
    places = np.unique(places[:, 0] * width + places[:, 1])
    places = places[~excluded.ravel()[places]]
    return np.column_stack(np.divmod(places, width))


def _good_median(plane: np.ndarray, bad: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Median of the good pixels in 5 x 5 pixels around each point; of the whole plane if none is good."""
    values = np.where(_windows(bad, points, 2), np.nan, _windows(plane, points, 2)).reshape(len(points), -1)
    none = np.isnan(values).all(axis=1)
    values[none] = np.median(plane[::4, ::4])
    return np.nanmedian(values, axis=1)


def star_templates(seeing: float, ellipticity: float = 0.0, angle: float = 0.0) -> np.ndarray:
    """Gaussian stars in patches of 5 x 5 pixels, for `star_like`.

    The centres of the stars cover -1.25 to 1.25 px in x and y, because the brightest pixel of a
    trailed star may be off its centre by more than half a pixel.

    Parameters
    ----------
    seeing : float
        FWHM [px].
    ellipticity, angle : float
        1 - b/a, and direction of the major axis from +x towards +y [deg].

    Returns
    -------
    numpy.ndarray
        float64 (n, 25); the sum of squares of each is 1.
    """
    major, minor = max(seeing, 1.0) / FWHM_PER_SIGMA * np.sqrt(1 - ellipticity) ** np.array([-1, 1])
    turn = np.radians(angle)
    phase = np.linspace(-1.25, 1.25, 11)
    py, px, y, x = np.meshgrid(phase, phase, np.arange(-2, 3), np.arange(-2, 3), indexing="ij")
    along = (x - px) * np.cos(turn) + (y - py) * np.sin(turn)
    across = (y - py) * np.cos(turn) - (x - px) * np.sin(turn)
    stars = np.exp(-((along / major) ** 2 + (across / minor) ** 2) / 2).reshape(-1, 25)
    return stars / np.sqrt((stars**2).sum(axis=1, keepdims=True))


def star_like(
    residual: np.ndarray, rms: np.ndarray, peaks: np.ndarray, *, templates: np.ndarray, gain: float
) -> np.ndarray:
    """Whether detections of `cosmic_rays` are stars.

    L.A.Cosmic detects stars narrower than about two pixels as hits, and a contrast limit
    that excludes such stars excludes hits too. Here the 5 x 5 pixels around the peak are
    fitted by a star at the best sub-pixel position and by a single bright pixel. The
    detection is a star if the star fits better and its residual is at most the noise plus
    three tenths of the signal: a real PSF differs from the Gaussian by less, the track of
    a particle by more.

    Parameters
    ----------
    residual, rms : numpy.ndarray
        (height, width), the background-subtracted image and the noise of the sky [ADU].
    peaks : numpy.ndarray
        int (n, 2), brightest pixels [y, x].
    templates : numpy.ndarray
        From `star_templates`.
    gain : float
        [electron/ADU].

    Returns
    -------
    numpy.ndarray
        bool (n,).
    """
    reach = np.arange(-2, 3)
    rows, columns = peaks[:, 0, None, None] + reach[:, None] + 2, peaks[:, 1, None, None] + reach + 2
    patches = np.pad(residual, 2)[rows, columns].reshape(-1, 25).astype(np.float64)
    peak = patches[:, 12]
    # One variance for the whole patch keeps the fit linear; it includes part of the photon noise of the peak.
    variance = rms[peaks[:, 0], peaks[:, 1]].astype(np.float64) ** 2 + np.maximum(peak, 0) / (4 * gain)
    total = (patches**2).sum(axis=1)
    explained = (np.maximum(patches @ templates.T, 0) ** 2).max(axis=1)
    left, left_single = (total - explained) / variance, (total - peak**2) / variance
    return (left < left_single) & (left < 24 + 3 * np.sqrt(48) + 0.3**2 * total / variance)
