"""What cutouts are like, in a few numbers: for a classifier to say when it is given what it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# Name: (unit, whether it is compared as a ratio, how far beyond the training set counts as known in any case).
DESCRIPTORS = {
    "seeing": ("px", True, 0.0),
    "psf_width": ("px", True, 0.0),
    "noise": ("ADU", True, 0.0),
    "background": ("ADU", False, 0.0),
    "level": ("of the noise", False, 0.5),
    "missing": ("of the pixels", False, 0.05),
}
WORDS = {"psf_width": "width of the PSF", "level": "level of the difference"}  # of names that are none
PROBABILITIES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
MARGIN = 0.25  # of the range of the training set: how far beyond its ends a value counts as known
MAD_OF_NOISE = 1.4826
_MAX_IMAGES = 400  # medians of images kept at most


def describe(
    cutouts: np.ndarray,
    channels: Sequence[str],
    *,
    seeing: np.ndarray | float | None = None,
    science: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Numbers that describe each cutout.

    Parameters
    ----------
    cutouts : numpy.ndarray
        (N, S, S, C), NaN or infinite where missing.
    channels : sequence of str
        Names of the C channels; ``difference`` (or the first), ``science`` and ``psf`` are looked at.
    seeing : array or float, optional
        FWHM of the PSF [px], where it is known.
    science : numpy.ndarray, optional
        (N, S, S), where it is not among the channels.

    Returns
    -------
    dict of numpy.ndarray
        float64 (N,) for each of `DESCRIPTORS`, NaN where it cannot be known. ``psf_width``: of the
        channel psf, FWHM of the Gaussian with its noise-equivalent area (King 1983), which wings make larger
        than the seeing. ``noise``: 1.4826 MAD of the difference.
        ``background``: median of the science channel. ``level``: median of the difference in units of
        its noise. ``missing``: share of the pixels of the difference that have no value.
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
    """As numpy.median for an even number of values, without its mean: the lower of the two in the middle."""
    return np.partition(values, (values.shape[axis] - 1) // 2, axis=axis).take((values.shape[axis] - 1) // 2, axis=axis)


def image_noise(plane: np.ndarray) -> np.ndarray:
    """1.4826 MAD of each cutout (N, S, S), NaN where no pixel is known."""
    return _spread(plane)[1]


def psf_width(plane: np.ndarray) -> np.ndarray:
    """FWHM [px] of the Gaussians with the noise-equivalent area of point sources (N, S, S), NaN where there is none."""
    psf = np.where(np.isfinite(plane), plane, 0.0).astype(np.float64)
    total, square = psf.sum(axis=(1, 2)), (psf**2).sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        width = np.sqrt(8 * np.log(2) * total**2 / square / (4 * np.pi))
    return np.where((total > 0) & (square > 0), width, np.nan)


def training_statistics(
    described: Mapping[str, np.ndarray], images: np.ndarray | None = None, labels: np.ndarray | None = None
) -> dict[str, Any]:
    """Quantiles of every descriptor over the cutouts, and its medians over the images.

    Parameters
    ----------
    described : mapping of arrays
        As from `describe`, of the training set.
    images : array, optional
        (N,) names.
    labels : array, optional
        (N,) 1 for True, 0 for False.

    Returns
    -------
    dict
        n, probabilities, quantiles (by descriptor; only those that are known), images (by class, "true" and "false",
        or "all" without labels, and by descriptor: sorted medians of the images, some 400 at most).
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
    """Chance that the likelier of the two classes is the wrong one: 0 to 0.5 for each candidate."""
    return np.minimum(probability, 1 - np.asarray(probability))


def image_values(
    values: np.ndarray, images: np.ndarray, combine: Callable[..., Any], members: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Names of the images of the members, and one number for each: their values combined."""
    names, of = np.unique(np.asarray(images)[members].astype(str), return_inverse=True)
    if not len(names):
        return names, np.empty(0)
    order = np.argsort(of, kind="stable")
    parts = np.split(values[members][order], np.cumsum(np.bincount(of))[:-1])
    return names, np.array([combine(part) for part in parts], dtype=float)


def thin(values: np.ndarray) -> list[float]:
    """Sorted, every so-manieth of them where there are too many to keep."""
    return [float(value) for value in np.sort(values)[:: -(-len(values) // _MAX_IMAGES)]]


def _length(described: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(described.values()))) if described else 0


def unlike(described: Mapping[str, np.ndarray], statistics: Mapping[str, Any]) -> np.ndarray:
    """Why each cutout is unlike the training set: text (N,), empty where it is not.

    A value counts as known from the 0.1 to the 99.9 percentile of the training set and a quarter of that
    range beyond (of its logarithm, for widths and noise).

    Parameters
    ----------
    described : mapping of arrays
        As from `describe`.
    statistics : mapping
        As from `training_statistics`.
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
    """Lowest and highest value of a descriptor that counts as known."""
    _, ratio, slack = DESCRIPTORS[name]
    low, high = float(quantiles[0]), float(quantiles[-1])
    if ratio and low > 0:
        reach = (high / low) ** MARGIN
        return low / reach, high * reach
    reach = max(MARGIN * (high - low), slack)
    return low - reach, high + reach
