"""Fixed cuts on S/N, FWHM and shape: the baseline that a classifier must beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.cubes.inputs import column
from otrain_core.evaluation import metrics
from otrain_core.evaluation.bootstrap import bootstrap_intervals, draw_images, percentile_interval
from otrain_core.plan.config import EvaluateOptions

APERTURE = 1.5  # radius in which the shape is measured [seeing FWHM]
UNKNOWN_SEEING = 3.0  # FWHM assumed if the seeing of a cube is not known [px]
EDGES, SHAPE_EDGES = 61, 9  # numbers of quantiles that are tried as limits
BLOCK = 4096  # cutouts that are processed at a time


@dataclass(frozen=True)
class Properties:
    """Properties that the cuts use, one value per candidate.

    Attributes
    ----------
    snr, fwhm, negative : numpy.ndarray
        (N,) S/N; FWHM in units of `fwhm_unit`; negative fraction of the signal near the candidate, which is large for
        a dipole and due to noise alone for a point source. NaN where unknown.
    fwhm_unit : {'seeing', 'px'}
    """

    snr: np.ndarray
    fwhm: np.ndarray
    negative: np.ndarray
    fwhm_unit: str

    @property
    def usable(self) -> np.ndarray:
        """(N,) whether S/N and FWHM are known."""
        return np.isfinite(self.snr) & np.isfinite(self.fwhm)


@dataclass(frozen=True)
class FixedCuts:
    """S/N >= snr_min, fwhm_low <= FWHM < fwhm_high, negative fraction <= negative_max; NaN if S/N and FWHM are unknown."""

    snr_min: float = np.nan
    fwhm_low: float = np.nan
    fwhm_high: float = np.nan
    negative_max: float = np.inf

    def accept(self, of: Properties) -> np.ndarray:
        """Whether each candidate is accepted, bool (N,); candidates without S/N or FWHM are not."""
        with np.errstate(invalid="ignore"):
            inside = of.usable & (of.snr >= self.snr_min) & (of.fwhm >= self.fwhm_low) & (of.fwhm < self.fwhm_high)
            return inside & ((of.negative <= self.negative_max) | np.isposinf(self.negative_max))


def properties_of(cube: Mapping[str, np.ndarray]) -> Properties:
    """S/N, FWHM and shape of the candidates of a cube, as far as the cube contains them."""
    snr, fwhm, seeing = (column(cube, name).astype(float) for name in ("snr", "fwhms", "seeing"))
    in_seeing = bool(np.isfinite(seeing).any())
    return Properties(snr, fwhm / seeing if in_seeing else fwhm, negative_share(cube), "seeing" if in_seeing else "px")


def negative_share(cube: Mapping[str, np.ndarray]) -> np.ndarray:
    """Negative fraction of the signal of the difference within `APERTURE` of the centre, (N,); NaN without a difference."""
    channels = [str(name) for name in np.atleast_1d(cube.get("channels", ()))]
    share = np.full(len(cube["labels"]), np.nan)
    if "difference" not in channels or "cube" not in cube:
        return share
    pixels, k = cube["cube"], channels.index("difference")
    seeing = column(cube, "seeing").astype(float)
    known = seeing[np.isfinite(seeing)]
    radius = APERTURE * (float(np.median(known)) if known.size else UNKNOWN_SEEING)
    side = pixels.shape[1]
    y, x = np.mgrid[:side, :side] - side // 2
    near = np.hypot(x, y) <= max(radius, 1.5)
    for start in range(0, len(share), BLOCK):
        block = np.asarray(pixels[start : start + BLOCK, :, :, k], dtype=float).reshape(-1, side * side)
        block[~np.isfinite(block)] = np.nan
        known_rows = np.isfinite(block[:, near.ravel()]).any(axis=1)
        background = np.full((len(block), 1), np.nan)
        background[known_rows] = np.nanmedian(block[known_rows], axis=1, keepdims=True)
        signal = (block - background)[:, near.ravel()]
        with np.errstate(invalid="ignore", divide="ignore"):
            part = np.nansum(np.clip(-signal, 0, None), axis=1) / np.nansum(np.abs(signal), axis=1)
        share[start : start + BLOCK] = np.where(known_rows, part, np.nan)
    return share


def fit_cuts(of: Properties, labels: np.ndarray, fit: np.ndarray) -> FixedCuts:
    """The cuts with the highest MCC on the candidates `fit`, over a grid of quantiles.

    Parameters
    ----------
    of : Properties
    labels, fit : array of bool
        (N,) label of each candidate; whether it is used in the fit.

    Returns
    -------
    FixedCuts
        All NaN if S/N and FWHM are not known.
    """
    best, found = -np.inf, FixedCuts()
    if not (fit & of.usable).any():
        return found
    edges_snr = np.unique(np.quantile(of.snr[fit & of.usable], np.linspace(0, 1, EDGES)))
    edges_fwhm = np.unique(np.quantile(of.fwhm[fit & of.usable], np.linspace(0, 1, EDGES)))
    shape = of.negative[fit & of.usable & np.isfinite(of.negative)]
    limits = np.unique(np.quantile(shape, np.linspace(0.1, 0.9, SHAPE_EDGES))) if shape.size else np.empty(0)
    for limit in (np.inf, *limits):  # inf first: a cut on shape is used only if it raises the MCC
        with np.errstate(invalid="ignore"):
            kept = fit & of.usable & ((of.negative <= limit) | np.isposinf(limit))
        tp, fp = (_accepted(of, kept & (labels == value), edges_snr, edges_fwhm) for value in (True, False))
        n_true, n_false = np.sum(fit & labels), np.sum(fit & ~labels)
        mcc = np.where(tp + fp > 0, metrics.rates(tp, fp, n_true - tp, n_false - fp)["mcc"], -2)
        place = np.unravel_index(np.nanargmax(mcc), mcc.shape) if np.isfinite(mcc).any() else None
        if place is not None and mcc[place] > best + 1e-12:
            best, high = mcc[place], np.inf
            if place[2] + 1 < edges_fwhm.size:
                high = edges_fwhm[place[2] + 1]
            found = FixedCuts(float(edges_snr[place[0]]), float(edges_fwhm[place[1]]), float(high), float(limit))
    return found


def _accepted(of: Properties, chosen: np.ndarray, edges_snr: np.ndarray, edges_fwhm: np.ndarray) -> np.ndarray:
    """Number of candidates that each (snr_min, low, high) accepts, low <= FWHM < high; the last high is infinite."""
    cells = np.zeros((edges_snr.size, edges_fwhm.size + 1))
    place_snr = np.searchsorted(edges_snr, of.snr[chosen], side="right") - 1
    place_fwhm = np.searchsorted(edges_fwhm, of.fwhm[chosen], side="right")
    inside = place_snr >= 0
    np.add.at(cells, (place_snr[inside], place_fwhm[inside]), 1)
    below = np.cumsum(np.cumsum(cells[::-1], axis=0)[::-1], axis=1)  # S/N >= edge, FWHM < edge
    return below[:, None, 1:] - below[:, :-1, None]


def evaluate_cuts(
    cube: Mapping[str, np.ndarray],
    table: pd.DataFrame,
    *,
    threshold: float,
    rng: np.random.Generator,
    options: EvaluateOptions,
    kept_false: float = 1.0,
) -> dict[str, Any]:
    """Metrics of the best fixed cuts on the test set, and the gain of a network over them.

    The cuts maximise the MCC on train and validation (on train alone if there is no validation set).

    Parameters
    ----------
    cube : mapping
        Arrays of the cube, with S/N and FWHM if it has them.
    table : pandas.DataFrame
        As from `otrain_core.networks.predict.score_cube`.
    threshold : float
        Decision threshold of the network.
    rng : numpy.random.Generator
        For bootstrap draws of whole images.
    options : EvaluateOptions
    kept_false : float
        As in `otrain_core.evaluation.metrics.headline`.

    Returns
    -------
    dict
        The cuts, fwhm_unit, n_images, n_true, n_false, the metrics of `otrain_core.evaluation.metrics.rates` and
        false_alarms_per_image with _low and _high, and gain: MCC of the network minus that of the cuts, with
        gain_low and gain_high from the same draws of whole images for both. NaN if the cube has no S/N and FWHM.
    """
    of, labels = properties_of(cube), np.asarray(cube["labels"]) == 1
    sets = np.full(len(labels), "unused", dtype=object)
    sets[table["index"].to_numpy()] = table["set"].to_numpy()
    cuts = fit_cuts(of, labels, np.isin(sets, ("train", "validation")))
    record: dict[str, Any] = {**asdict(cuts), "fwhm_unit": of.fwhm_unit}
    test = table[table["set"] == "test"]
    if not np.isfinite(cuts.snr_min) or test.empty:
        return record | dict.fromkeys(("accuracy", "mcc", "gain", "gain_low", "gain_high"), np.nan)
    accepted = cuts.accept(of)[test["index"].to_numpy()]
    true, image = test["label"].to_numpy() == 1, test["image"].to_numpy()
    counts = metrics.confusion(true, accepted.astype(float), 0.5)
    n_images = test["image"].nunique()
    record |= {"n_images": n_images, "n_true": int(true.sum()), "n_false": int((~true).sum())}
    record |= metrics.rates(**counts)
    record["false_alarms_per_image"] = metrics.false_alarms_per_image(counts["fp"], n_images, kept_false=kept_false)
    intervals = bootstrap_intervals(
        true,
        accepted.astype(float),
        image,
        0.5,
        rng=rng,
        draws=options.bootstrap,
        confidence=options.confidence,
        stated_recall=options.stated_recall,
        kept_false=kept_false,
    )
    for name in intervals.keys() & record.keys():
        record[f"{name}_low"], record[f"{name}_high"] = intervals[name]
    called = test["score"].to_numpy(float) >= threshold
    return record | paired_gain(true, called, accepted, image, rng=rng, options=options)


def paired_gain(
    true: np.ndarray,
    called: np.ndarray,
    accepted: np.ndarray,
    image: np.ndarray,
    *,
    rng: np.random.Generator,
    options: EvaluateOptions,
) -> dict[str, float]:
    """Difference between the MCC of two sets of decisions, with its interval over images.

    Parameters
    ----------
    true, called, accepted : numpy.ndarray
        bool (N,), the labels, and the decisions of the classifier and of its rival.
    image : numpy.ndarray
        (N,) image names; whole images are drawn, the same for both.
    rng : numpy.random.Generator
    options : EvaluateOptions
        Draws and confidence.

    Returns
    -------
    dict
        gain (MCC of `called` minus MCC of `accepted`), gain_low, gain_high; the interval is NaN with too few images.
    """
    names, place = np.unique(image.astype(str), return_inverse=True)
    counts = np.zeros((2, len(names), 4))  # tp, fp, fn, tn of each image for the two decisions
    for k, decision in enumerate((called, accepted)):
        np.add.at(counts[k], (place, 2 * (~decision).astype(int) + (~true).astype(int)), 1)
    ours, theirs = (metrics.rates(*of.sum(axis=0))["mcc"] for of in counts)
    weights = draw_images(len(names), rng=rng, draws=options.bootstrap)
    drawn = [metrics.rates(*(weights @ of).T)["mcc"] for of in counts]
    low, high = percentile_interval(drawn[0] - drawn[1], options.confidence)
    return {"gain": ours - theirs, "gain_low": low, "gain_high": high}
