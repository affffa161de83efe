"""Descriptors of cutouts, by which a classifier recognises cutouts that are unlike its training set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# Name: (unit, whether values are compared as ratios, least margin around the range of the training set).
DESCRIPTORS = {
    "seeing": ("px", True, 0.0),
    "psf_width": ("px", True, 0.0),
    "noise": ("ADU", True, 0.0),
    "background": ("ADU", False, 0.0),
    "level": ("of the noise", False, 0.5),
    "missing": ("of the pixels", False, 0.05),
}
WORDS = {"psf_width": "width of the PSF", "level": "level of the difference"}  # for names that are not words
PROBABILITIES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
MARGIN = 0.25  # values this far beyond the range of the training set still count as known [share of the range]
MAD_OF_NOISE = 1.4826
_MAX_IMAGES = 400  # largest number of values of images that are kept


def describe(
    cutouts: np.ndarray,
    channels: Sequence[str],
    *,
    seeing: np.ndarray | float | None = None,
    science: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Compute the descriptors of each cutout.

    Parameters
    ----------
    cutouts : numpy.ndarray
        (N, S, S, C); missing pixels are NaN or infinite.
    channels : sequence of str
        Names of the C channels; ``difference`` (or the first channel), ``science`` and ``psf`` are used.
    seeing : array or float, optional
        FWHM of the PSF [px], if it is known.
    science : numpy.ndarray, optional
        (N, S, S), if it is not one of the channels.

    Returns
    -------
    dict of numpy.ndarray
        float64 (N,) for each of `DESCRIPTORS`, NaN if unknown. ``psf_width``: FWHM of the Gaussian that has the
        noise-equivalent area of the channel psf (King 1983); the wings of the PSF make it larger than the seeing.
        ``noise``: 1.4826 MAD of the difference. ``background``: median of the science channel. ``level``: median of the
        difference in units of its noise. ``missing``: share of missing pixels in the difference.
    """
    names = [str(name) for name in channels]
    n = len(cutouts)
    unknown = np.full(n, np.nan)
    k = names.index("difference") if "difference" in names else 0
    median, noise, missing = _spread(cutouts[..., k])
    described = {"seeing": unknown, "psf_width": unknown, "noise": noise, "background": unknown, "missing": missing}
    with np.errstate(divide="ignore", invalid="ignore"):
        described["level"] = np.where(noise > 0, median / noise, np.nan)
    if "science" in names:
        science = cutouts[..., names.index("science")]
    if science is not None:
        described["background"] = _spread(science)[0]
    if seeing is not None:
        described["seeing"] = np.broadcast_to(np.asarray(seeing, dtype=float), (n,))
    if "psf" in names:
        described["psf_width"] = psf_width(cutouts[..., names.index("psf")])
    return {name: described[name] for name in DESCRIPTORS}


def _spread(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median, noise and share of missing pixels of (N, S, S)."""
    if not len(plane):
        return np.empty(0), np.empty(0), np.empty(0)
    pixels = np.array(plane, dtype=np.float32).reshape(len(plane), -1)
    finite = np.isfinite(pixels)
    missing = 1.0 - finite.mean(axis=1)
    median, noise = np.full(len(pixels), np.nan), np.full(len(pixels), np.nan)
    for rows, some in ((missing == 0, False), ((missing > 0) & (missing < 1), True)):
        if not rows.any():
            continue
        part = pixels[rows]
        if some:
            part[~finite[rows]] = np.nan
        middle = np.nanmedian if some else _median
        median[rows] = middle(part, axis=1)
        noise[rows] = MAD_OF_NOISE * middle(np.abs(part - median[rows, None].astype(np.float32)), axis=1)
    return median, noise, missing


def _median(values: np.ndarray, axis: int) -> np.ndarray:
    """Median; the lower of the two middle values if their number is even (numpy.median takes their mean)."""
    return np.partition(values, (values.shape[axis] - 1) // 2, axis=axis).take((values.shape[axis] - 1) // 2, axis=axis)


def image_noise(plane: np.ndarray) -> np.ndarray:
    """1.4826 MAD of each cutout (N, S, S), NaN if all its pixels are missing."""
    return _spread(plane)[1]


def psf_width(plane: np.ndarray) -> np.ndarray:
    """FWHM [px] of the Gaussians that have the noise-equivalent area of PSFs (N, S, S), NaN if there is no PSF."""
    psf = np.where(np.isfinite(plane), plane, 0.0).astype(np.float64)
    total, square = psf.sum(axis=(1, 2)), (psf**2).sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        width = np.sqrt(8 * np.log(2) * total**2 / square / (4 * np.pi))
    return np.where((total > 0) & (square > 0), width, np.nan)


def training_statistics(
    described: Mapping[str, np.ndarray], images: np.ndarray | None = None, labels: np.ndarray | None = None
) -> dict[str, Any]:
    """Quantiles of each descriptor over all cutouts, and its median in each image.

    Parameters
    ----------
    described : mapping of arrays
        Descriptors of the training set, from `describe`.
    images : array, optional
        (N,) names of the images.
    labels : array, optional
        (N,) 1 for True, 0 for False.

    Returns
    -------
    dict
        n, probabilities, quantiles (by descriptor, if it is known), images (by class "true" and "false", or "all"
        without labels, and by descriptor: sorted medians of at most 400 images).
    """
    classes = {"all": np.ones(_length(described), bool)}
    if labels is not None:
        classes = {"true": np.asarray(labels) == 1, "false": np.asarray(labels) == 0}
    quantiles = {}
    medians: dict[str, dict[str, list[float]]] = {}
    for name, values in described.items():
        known = np.isfinite(values)
        if not known.any():
            continue
        quantiles[name] = [float(value) for value in np.quantile(values[known], PROBABILITIES)]
        for key, members in classes.items():
            if images is not None and (known & members).any():
                by_image = image_values(values, images, np.median, known & members)[1]
                medians.setdefault(key, {})[name] = thin(by_image)
    n = _length(described)
    return {"n": n, "probabilities": list(PROBABILITIES), "quantiles": quantiles, "images": medians}


def at_edge(row: Mapping[str, str]) -> bool:
    """Whether a row of a table of scores is a candidate at the edge of its image; training sets leave these out."""
    return (row.get("edge") or "").strip().lower() in ("1", "true")


def doubt(probability: np.ndarray) -> np.ndarray:
    """Probability that the likelier of the two classes is wrong: 0 to 0.5 per candidate."""
    return np.minimum(probability, 1 - np.asarray(probability))


def image_values(
    values: np.ndarray, images: np.ndarray, combine: Callable[..., Any], members: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Combine the values of the members (bool mask) image by image: names of the images, and one number for each."""
    names, number = np.unique(np.asarray(images)[members].astype(str), return_inverse=True)
    if not len(names):
        return names, np.empty(0)
    order = np.argsort(number, kind="stable")
    parts = np.split(values[members][order], np.cumsum(np.bincount(number))[:-1])
    return names, np.array([combine(part) for part in parts], dtype=float)


def thin(values: np.ndarray) -> list[float]:
    """Sorted values, thinned evenly to at most `_MAX_IMAGES`."""
    return [float(value) for value in np.sort(values)[:: -(-len(values) // _MAX_IMAGES)]]


def _length(described: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(described.values()))) if described else 0


def unlike(described: Mapping[str, np.ndarray], statistics: Mapping[str, Any]) -> np.ndarray:
    """Reasons why cutouts are unlike the training set: text (N,), empty for those that are like it.

    A value counts as known if it lies between the 0.1 and 99.9 percentiles of the training set, or beyond them by at
    most a quarter of that range (of the logarithms, for widths and noise).

    Parameters
    ----------
    described : mapping of arrays
        From `describe`.
    statistics : mapping
        From `training_statistics`.
    """
    n = len(next(iter(described.values())))
    reasons = np.full(n, "", dtype=object)
    for name, quantiles in (statistics.get("quantiles") or {}).items():
        if name not in DESCRIPTORS or name not in described:
            continue
        low, high = limits(name, quantiles)
        unit = DESCRIPTORS[name][0]
        values = described[name]
        with np.errstate(invalid="ignore"):
            out = (values < low) | (values > high)
        for k in np.flatnonzero(out):
            text = (
                f"{WORDS.get(name, name)} {values[k]:.3g} {unit} (training {quantiles[0]:.3g} to {quantiles[-1]:.3g})"
            )
            reasons[k] = f"{reasons[k]}; {text}" if reasons[k] else text
    return reasons.astype(str)


def limits(name: str, quantiles: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value of a descriptor that count as known."""
    _, ratio, slack = DESCRIPTORS[name]
    low, high = float(quantiles[0]), float(quantiles[-1])
    if ratio and low > 0:
        reach = (high / low) ** MARGIN
        return low / reach, high * reach
    reach = max(MARGIN * (high - low), slack)
    return low - reach, high + reach
