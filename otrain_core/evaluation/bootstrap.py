"""Bootstrap intervals of the metrics of a classifier, drawing whole images."""

from __future__ import annotations

import numpy as np

from otrain_core.evaluation.metrics import ECE_BINS, MISSED, check_scores, rates, score_bin

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
    """How often each image is in each draw, int (draws, n_images); no draws of a single image, which tell nothing."""
    draws = draws if n_images > 1 else 0
    return rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=draws)


def percentile_interval(sample: np.ndarray, confidence: float) -> tuple[float, float]:
    """Interval between the percentiles of a sample; (NaN, NaN) for none, or where more than half of it is not finite."""
    sample = np.asarray(sample, dtype=float)
    finite = sample[np.isfinite(sample)]
    if not finite.size or 2 * finite.size < sample.size:
        return np.nan, np.nan
    low, high = np.percentile(finite, [50 * (1 - confidence), 50 * (1 + confidence)])
    return float(low), float(high)


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
    """Percentile intervals from bootstrap draws of whole images, threshold fixed.

    Candidates of one image share its seeing, PSF and subtraction, so the image is the
    unit that is drawn. ECE is a sum of absolute values, which resampling can only raise:
    its interval leans to high values. With fewer than two images, or where more than
    half of the draws leave a metric undefined, its interval is (NaN, NaN).

    Parameters
    ----------
    labels, scores, images : array
        (N,) labels, scores and the name of the image each candidate comes from.
    threshold : float
    rng : numpy.random.Generator
    draws, confidence, stated_recall, kept_false
        Number of draws, confidence of the intervals, and as in
        `otrain_core.evaluation.metrics.headline`.

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
    while done < draws and len(names) > 1:
        size = min(chunk, draws - done)
        weights = draw_images(len(names), rng=rng, draws=size)
        drawn = _weighted_metrics(labels, scores, image, weights, threshold, stated_recall)
        drawn["false_alarms_per_image"] = drawn.pop("fp") / kept_false / len(names)
        for name, values in drawn.items():
            samples.setdefault(name, []).append(values)
        done += size
    return {
        name: percentile_interval(np.concatenate(samples[name]) if name in samples else np.empty(0), confidence)
        for name in BOOTSTRAPPED
    }


def _weighted_metrics(labels, scores, image, weights, threshold, stated_recall) -> dict[str, np.ndarray]:
    """Metrics for rows of image weights (draws, images); labels and scores sorted by falling score."""
    weight = weights.astype(np.float32)[:, image]
    true, false = np.cumsum(weight * labels, axis=1), np.cumsum(weight * ~labels, axis=1)
    n_true, n_false = true[:, -1].astype(float), false[:, -1].astype(float)
    n_accepted = int(np.searchsorted(-scores, -threshold, side="right"))
    nothing = np.zeros(len(weight))
    tp, fp = (counts[:, n_accepted - 1] if n_accepted else nothing for counts in (true, false))
    values = rates(tp, fp, n_true - tp, n_false - fp)
    values.pop("gmean")
    values["fp"] = fp.astype(float)
    last = np.append(np.nonzero(np.diff(scores))[0], scores.size - 1)  # thresholds cannot part equal scores
    true = np.concatenate([nothing[:, None], true[:, last]], axis=1)
    false = np.concatenate([nothing[:, None], false[:, last]], axis=1)
    one_class = (n_true == 0) | (n_false == 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        area = np.sum(np.diff(false, axis=1) * 0.5 * (true[:, 1:] + true[:, :-1]), axis=1) / (n_true * n_false)
        values["auc"] = np.where(one_class, np.nan, area)
        wanted = {"fpr_at_stated_recall": stated_recall}
        wanted.update({f"fpr_at_{round(100 * missed)}pct_missed": 1 - missed for missed in MISSED})
        for name, recall in wanted.items():
            first = np.argmax(true >= (recall * n_true - 1e-6)[:, None], axis=1)
            fpr = np.take_along_axis(false, first[:, None], axis=1)[:, 0] / n_false
            values[name] = np.where(one_class, np.nan, fpr)
    excess = np.zeros((weights.shape[1], ECE_BINS))
    np.add.at(excess, (image, score_bin(scores, ECE_BINS)), labels - scores)
    values["ece"] = np.abs(weights @ excess).sum(axis=1) / np.maximum(n_true + n_false, 1)
    return values
