"""Confidence intervals of the metrics of a classifier, from a bootstrap over images and from the counts."""

from __future__ import annotations

import numpy as np

from otrain_core.evaluation.metrics import ECE_BINS, MISSED, check_scores, confusion, fpr_at_recall, rates, score_bin

FEW_IMAGES = 5  # the least number of images for a bootstrap over images
_QUANTILES = (np.arange(400) + 0.5) / 400
BOOTSTRAPPED = (
    "accuracy",
    "precision",
    "recall",
    "fpr",
    "f1",
    "mcc",
    "fp_share",
    "auc",
    "fpr_at_1pct_missed",
    "fpr_at_5pct_missed",
    "fpr_at_stated_recall",
    "ece",
    "false_alarms_per_image",
)


def draw_images(n_images: int, *, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Number of times that each image is in each bootstrap draw, int (draws, n_images).

    There are no draws if there are fewer than `FEW_IMAGES` images: their spread is not known well enough.
    """
    draws = draws if n_images >= FEW_IMAGES else 0
    return rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=draws)


def percentile_interval(sample: np.ndarray, confidence: float) -> tuple[float, float]:
    """Interval between the percentiles of a sample; (NaN, NaN) if it is empty or more than half of it is not finite."""
    sample = np.asarray(sample, dtype=float)
    finite = sample[np.isfinite(sample)]
    if not finite.size or 2 * finite.size < sample.size:
        return np.nan, np.nan
    low, high = np.percentile(finite, [50 * (1 - confidence), 50 * (1 + confidence)])
    return float(low), float(high)


def proportion_interval(k: int, n: int, confidence: float) -> tuple[float, float]:
    """Exact binomial interval of a fraction k of n (Clopper & Pearson 1934); (NaN, NaN) if n is 0.

    For 0 of 12 and a confidence of 0.95 it is 0 to 0.265.
    """
    from scipy.special import betaincinv

    if n < 1:
        return np.nan, np.nan
    tail = 0.5 * (1 - confidence)
    low = float(betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
    return low, high


def wilson_interval(k: int, n: int, confidence: float) -> tuple[float, float]:
    """Approximate binomial interval of a fraction k of n (Wilson 1927, JASA 22, 209); (NaN, NaN) if n is 0."""
    from scipy.special import ndtri

    if n < 1:
        return np.nan, np.nan
    z = ndtri(0.5 + 0.5 * confidence)
    middle, half = (2 * k + z**2) / (2 * (n + z**2)), z * np.sqrt(4 * k * (n - k) / n + z**2) / (2 * (n + z**2))
    return float(middle - half) if k > 0 else 0.0, float(middle + half) if k < n else 1.0


def counts_intervals(tp: int, fp: int, fn: int, tn: int, confidence: float) -> dict[str, tuple[float, float]]:
    """Intervals of the metrics from the four counts, as if all cutouts were independent.

    Recall, FPR, precision, accuracy and the share of false positives have the exact interval of `proportion_interval`.
    F1 and MCC rise with recall and fall with FPR. Their lower end is a quantile over two beta distributions, whose
    quantiles are the lower ends of recall and the upper ends of FPR; for the upper end it is the reverse. The sizes of
    the classes are taken as given.

    Parameters
    ----------
    tp, fp, fn, tn : int
        Numbers of true positives, false positives, false negatives and true negatives.
    confidence : float
        Between 0 and 1.

    Returns
    -------
    dict
        ``{metric: (low, high)}`` for accuracy, precision, recall, fpr, f1, mcc and fp_share; (NaN, NaN) if a
        class that the metric needs is empty.
    """
    n_true, n_false = tp + fn, fp + tn
    n = n_true + n_false
    found = {
        "accuracy": proportion_interval(tp + tn, n, confidence),
        "precision": proportion_interval(tp, tp + fp, confidence),
        "recall": proportion_interval(tp, n_true, confidence),
        "fpr": proportion_interval(fp, n_false, confidence),
        "fp_share": proportion_interval(fp, n, confidence),
        "f1": (np.nan, np.nan),
        "mcc": (np.nan, np.nan),
    }
    if n_true and n_false:
        tail = 0.5 * (1 - confidence)
        worst = _rates_over(_quantiles(tp, n_true, upper=False), _quantiles(fp, n_false, upper=True), n_true, n_false)
        best = _rates_over(_quantiles(tp, n_true, upper=True), _quantiles(fp, n_false, upper=False), n_true, n_false)
        for name in ("f1", "mcc"):
            found[name] = float(np.quantile(worst[name], tail)), float(np.quantile(best[name], 1 - tail))
    return found


def _quantiles(k: int, n: int, *, upper: bool) -> np.ndarray:
    """Quantiles of the beta distribution of the lower (upper) ends of the exact intervals of k of n."""
    from scipy.special import betaincinv

    if upper:
        return betaincinv(k + 1, n - k, _QUANTILES) if k < n else np.ones_like(_QUANTILES)
    return betaincinv(k, n - k + 1, _QUANTILES) if k > 0 else np.zeros_like(_QUANTILES)


def _rates_over(recall: np.ndarray, fpr: np.ndarray, n_true: int, n_false: int) -> dict[str, np.ndarray]:
    """Metrics for every pair of a recall and an FPR."""
    tp, fp = np.meshgrid(recall * n_true, fpr * n_false)
    return rates(tp, fp, n_true - tp, n_false - fp)


def hull(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """The smallest interval that contains both; if one is not known, the other."""
    if np.isnan(one).any():
        return other
    if np.isnan(other).any():
        return one
    return min(one[0], other[0]), max(one[1], other[1])


def bootstrap_intervals(
    labels: np.ndarray,
    scores: np.ndarray,
    images: np.ndarray,
    threshold: float,
    *,
    rng: np.random.Generator,
    draws: int,
    confidence: float,
    stated_recall: float,
    kept_false: float = 1.0,
) -> dict[str, tuple[float, float]]:
    """Intervals of the metrics at a fixed threshold.

    Candidates of one image share its seeing, PSF and subtraction, so whole images are drawn. The draws cannot show
    events that no image contains: without a false alarm among 12 False, the FPR may still be up to 26 %. Each
    interval therefore contains both that of the draws and that of the counts (`counts_intervals`). With
    fewer than `FEW_IMAGES` images it is that of the counts alone, which ignores the spread between images. ECE is a
    sum of absolute values, which resampling tends to raise, so its interval is biased to high values. AUC and ECE have
    no interval from counts: theirs is (NaN, NaN) with too few images, or if more than half of the draws leave them
    undefined.

    Parameters
    ----------
    labels, scores, images : array
        (N,) labels, scores, and the image name of each candidate.
    threshold : float
    rng : numpy.random.Generator
    draws, confidence : int, float
        Number of draws, and confidence of the intervals.
    stated_recall, kept_false : float
        As in `otrain_core.evaluation.metrics.headline`.

    Returns
    -------
    dict
        ``{metric: (low, high)}`` for the metrics in `BOOTSTRAPPED`.
    """
    labels, scores = check_scores(labels, scores)
    names, image = np.unique(np.asarray(images), return_inverse=True)
    order = np.argsort(-scores, kind="stable")
    labels, scores, image = labels[order], scores[order], image[order]
    samples: dict[str, list[np.ndarray]] = {}
    chunk = max(1, min(draws, 4_000_000 // scores.size))
    done = 0
    while done < draws and len(names) >= FEW_IMAGES:
        size = min(chunk, draws - done)
        weights = draw_images(len(names), rng=rng, draws=size)
        drawn = _weighted_metrics(labels, scores, image, weights, threshold, stated_recall)
        drawn["false_alarms_per_image"] = drawn.pop("fp") / kept_false / len(names)
        for name, values in drawn.items():
            samples.setdefault(name, []).append(values)
        done += size
    counted = _counted(labels, scores, threshold, confidence, stated_recall)
    alarms = int((~labels).sum()) / kept_false / len(names)
    counted["false_alarms_per_image"] = (alarms * counted["fpr"][0], alarms * counted["fpr"][1])
    intervals = {}
    for name in BOOTSTRAPPED:
        sample = np.concatenate(samples[name]) if name in samples else np.empty(0)
        intervals[name] = hull(percentile_interval(sample, confidence), counted.get(name, (np.nan, np.nan)))
    return intervals


def _counted(
    labels: np.ndarray, scores: np.ndarray, threshold: float, confidence: float, stated_recall: float
) -> dict[str, tuple[float, float]]:
    """Intervals from counts, at the threshold and at the thresholds that give the stated recalls."""
    counts = confusion(labels, scores, threshold)
    found = counts_intervals(**counts, confidence=confidence)
    n_false = counts["fp"] + counts["tn"]
    for name, recall in _recalls(stated_recall).items():
        fpr = fpr_at_recall(labels, scores, recall)
        found[name] = proportion_interval(round(fpr * n_false), n_false, confidence) if fpr >= 0 else (np.nan, np.nan)
    return found


def _recalls(stated_recall: float) -> dict[str, float]:
    """Recall at which each FPR is given, by the name of the FPR."""
    return {"fpr_at_stated_recall": stated_recall} | {
        f"fpr_at_{round(100 * missed)}pct_missed": 1 - missed for missed in MISSED
    }


def _weighted_metrics(labels, scores, image, weights, threshold, stated_recall) -> dict[str, np.ndarray]:
    """Metrics for rows of image weights (draws, images); labels and scores must be sorted by decreasing score."""
    weight = weights.astype(np.float32)[:, image]
    true, false = np.cumsum(weight * labels, axis=1), np.cumsum(weight * ~labels, axis=1)
    n_true, n_false = true[:, -1].astype(float), false[:, -1].astype(float)
    n_accepted = int(np.searchsorted(-scores, -threshold, side="right"))
    nothing = np.zeros(len(weight))
    tp, fp = (counts[:, n_accepted - 1] if n_accepted else nothing for counts in (true, false))
    values = rates(tp, fp, n_true - tp, n_false - fp)
    values.pop("gmean")
    values["fp"] = fp.astype(float)
    last = np.append(np.nonzero(np.diff(scores))[0], scores.size - 1)  # a threshold cannot separate equal scores
    true = np.concatenate([nothing[:, None], true[:, last]], axis=1)
    false = np.concatenate([nothing[:, None], false[:, last]], axis=1)
    one_class = (n_true == 0) | (n_false == 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        area = np.sum(np.diff(false, axis=1) * 0.5 * (true[:, 1:] + true[:, :-1]), axis=1) / (n_true * n_false)
        values["auc"] = np.where(one_class, np.nan, area)
        for name, recall in _recalls(stated_recall).items():
            first = np.argmax(true >= (recall * n_true - 1e-6)[:, None], axis=1)
            fpr = np.take_along_axis(false, first[:, None], axis=1)[:, 0] / n_false
            values[name] = np.where(one_class, np.nan, fpr)
    excess = np.zeros((weights.shape[1], ECE_BINS))
    np.add.at(excess, (image, score_bin(scores, ECE_BINS)), labels - scores)
    values["ece"] = np.abs(weights @ excess).sum(axis=1) / np.maximum(n_true + n_false, 1)
    return values
