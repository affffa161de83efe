"""Completeness and false alarms of a detector on images with known sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.evaluation.bootstrap import draw_images, percentile_interval
from otrain_core.plan.config import EvaluateOptions
from otrain_core.plan.pipelines import CrossmatchOptions
from otrain_core.positions import match_one_to_one, nearest
from otrain_core.stars.kinds import STAMP_RADIUS

EDGE = 16  # width of the border of an image in which nothing counts [px]


@dataclass(frozen=True)
class Judged:
    """The sources and the false alarms of one image.

    Attributes
    ----------
    sources : pandas.DataFrame
        Sources that count: image, x, y, kind, snr, limit, real; and score (-inf without a match), distance [px] and
        found_snr (NaN without a match) of the matched candidate.
    false : numpy.ndarray
        (F,) scores of the false alarms.
    """

    sources: pd.DataFrame
    false: np.ndarray


def judge(found: pd.DataFrame, field: Any, *, options: CrossmatchOptions, least_snr: float = 0.0) -> Judged:
    """Match the candidates of an image with its sources, as the step crossmatch does.

    Sources that count are injected sources and moved real stars that are usable, at least `EDGE` px from the border
    and at least at `least_snr`. Candidates at unusable places or at sources that fade are not false alarms. Pixels of
    another set of the split are ignored.

    Parameters
    ----------
    found : pandas.DataFrame
        x, y [px], score, and snr where it is known.
    field : object
        The image, see `otrain_core.candidates.planes.Field`.
    options : CrossmatchOptions
        ``radius`` and ``exclusion`` are used [seeing FWHM].
    least_snr : float
        Lowest S/N of the sources that count.
    """
    truth, seeing, (height, width) = field.sources, field.planes.seeing, field.planes.shape

    def inside(table: pd.DataFrame) -> np.ndarray:
        x, y = table["x"].to_numpy(float), table["y"].to_numpy(float)
        within = (x >= EDGE) & (y >= EDGE) & (x <= width - 1 - EDGE) & (y <= height - 1 - EDGE)
        if field.unused is not None:
            rows, columns = (np.floor(value[within] + 0.5).astype(int) for value in (y, x))
            within[within] = ~field.unused[rows, columns]
        return within

    found = found.reset_index(drop=True)
    partner, distance = match_one_to_one(truth["x"], truth["y"], found["x"], found["y"], radius=options.radius * seeing)
    near, _ = nearest(found["x"], found["y"], truth["x"], truth["y"], radius=options.exclusion * seeing)
    moved = truth[truth["kind"] == "transplanted"]
    stamp, _ = nearest(found["x"], found["y"], moved["x"], moved["y"], radius=STAMP_RADIUS * seeing)
    counts = truth["usable"] & (truth["flux"] > 0) & (truth["snr"] >= least_snr) & inside(truth)
    table = truth[["x", "y", "kind", "snr", "limit", "real"]].assign(image=field.image)
    matched, score = partner >= 0, found["score"].to_numpy(float)
    found_snr = found["snr"].to_numpy(float) if "snr" in found else np.full(len(found), np.nan)
    for name, values, none in (("score", score, -np.inf), ("found_snr", found_snr, np.nan)):
        table[name] = np.where(matched, values[partner] if len(found) else none, none)
    table["distance"] = distance
    is_false = (near < 0) & (stamp < 0) & inside(found)
    return Judged(table[counts].reset_index(drop=True), score[is_false])


def score_at(judged: Sequence[Judged], per_image: float, weights: np.ndarray | None = None) -> float:
    """Score above which there are at most `per_image` false alarms per image; each image counts `weights` times."""
    weights = np.ones(len(judged)) if weights is None else weights
    false, of_image = _false_alarms(judged)
    return _score_at(false, weights[of_image], per_image * weights.sum())


def curve(judged: Sequence[Judged], *, low: float = 0.0, high: float = np.inf) -> pd.DataFrame:
    """Completeness of the sources with S/N from `low` to `high` against the number of false alarms per image.

    Returns
    -------
    pandas.DataFrame
        false_alarms (per image), completeness and score; one row for each false alarm.
    """
    false = np.sort(np.concatenate([one.false for one in judged]))[::-1]
    scores = np.sort(np.concatenate([_scores(one, low, high) for one in judged]))
    above = scores.size - np.searchsorted(scores, false, side="right")
    share = above / scores.size if scores.size else np.full(false.size, np.nan)
    return pd.DataFrame({"false_alarms": np.arange(false.size) / len(judged), "completeness": share, "score": false})


def completeness(
    judged: Mapping[str, Sequence[Judged]],
    *,
    low: float,
    high: float,
    per_image: float,
    options: EvaluateOptions,
    rng: np.random.Generator,
    kind: str | None = None,
    baseline: str | None = None,
) -> pd.DataFrame:
    """Completeness of detectors at a given number of false alarms per image, with intervals over images.

    The score that gives this number of false alarms is determined again in every draw of images.

    Parameters
    ----------
    judged : mapping
        The judged images by detector; the same images in the same order for each.
    low, high : float
        S/N of the sources.
    per_image : float
        Number of false alarms that are allowed per image.
    options : EvaluateOptions
        Draws and confidence of the intervals.
    rng : numpy.random.Generator
    kind : str, optional
        Kind of the sources that count, also one of real stars (default: all injected sources).
    baseline : str, optional
        Detector with which the others are compared, draw by draw.

    Returns
    -------
    pandas.DataFrame
        detector, n (sources), false_alarms (allowed per image), completeness, completeness_low,
        completeness_high and, with `baseline`, gain, gain_low, gain_high.
    """
    n_images = len(next(iter(judged.values())))
    weights = np.vstack([np.ones(n_images), draw_images(n_images, rng=rng, draws=options.bootstrap)])
    values = {name: _shares(found, low, high, per_image, kind, weights) for name, found in judged.items()}
    n = sum(_scores(one, low, high, kind).size for one in next(iter(judged.values())))
    rows = []
    for name, mine in values.items():
        row = {"detector": name, "n": n, "false_alarms": per_image} | _with_interval("completeness", mine, options)
        if baseline in values:
            row |= _with_interval("gain", mine - values[baseline], options)
        rows.append(row)
    return pd.DataFrame(rows)


def _with_interval(name: str, sample: np.ndarray, options: EvaluateOptions) -> dict[str, float]:
    """The first value of a sample, and the interval of the others."""
    low, high = percentile_interval(sample[1:], options.confidence)
    return {name: float(sample[0]), f"{name}_low": low, f"{name}_high": high}


def _shares(
    judged: Sequence[Judged], low: float, high: float, per_image: float, kind: str | None, weights: np.ndarray
) -> np.ndarray:
    """Completeness for each row of `weights`, the number of times that each image counts."""
    scores = [_scores(one, low, high, kind) for one in judged]
    image, every = np.repeat(np.arange(len(judged)), [one.size for one in scores]), np.concatenate(scores)
    false, of_image = _false_alarms(judged)
    found = np.full(len(weights), np.nan)
    for number, weight in enumerate(weights):
        total = weight[image].sum()
        if total > 0:
            limit = _score_at(false, weight[of_image], per_image * weight.sum())
            found[number] = weight[image][every > limit].sum() / total
    return found


def _false_alarms(judged: Sequence[Judged]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of all false alarms, highest first, and the index of the image of each."""
    false = np.concatenate([*(one.false for one in judged), np.empty(0)])
    order = np.argsort(-false, kind="stable")
    return false[order], np.repeat(np.arange(len(judged)), [one.false.size for one in judged])[order]


def _score_at(false: np.ndarray, weight: np.ndarray, allowed: float) -> float:
    """The highest score at which more than `allowed` false alarms would pass."""
    first = int(np.searchsorted(np.cumsum(weight), allowed, side="right"))
    return float(false[first]) if first < false.size else -np.inf


def _scores(one: Judged, low: float, high: float, kind: str | None = None) -> np.ndarray:
    table = one.sources
    chosen = (table["snr"] >= low) & (table["snr"] < high)
    return table.loc[chosen & (table["kind"] == kind if kind else ~table["real"]), "score"].to_numpy(float)
