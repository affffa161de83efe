"""Balance True and False in a cube, and advise what to change if many cutouts are discarded."""

from __future__ import annotations

import numpy as np

from otrain_core.errors import CubeError

KEEP_ALL = "cube.true_fraction: null keeps all, and class_weights of the experiment balances their weights"
MIN_SLOPE = 10  # smallest number of False from which the slope of their S/N distribution is measured


def advise(snr: np.ndarray, labels: np.ndarray, *, keep_true: int, keep_false: int, injected: bool = True) -> list[str]:
    """Advise what to change, and by how much, if balancing discards more than half of a class.

    Parameters
    ----------
    snr : numpy.ndarray
        (N,) S/N of the labelled candidates, before balancing.
    labels : numpy.ndarray
        (N,) 1 for True, 0 for False.
    keep_true, keep_false : int
        Number of True and False after balancing.
    injected : bool
        Whether sources were injected by the workflow, which is not the case for ready-made cutouts.

    Returns
    -------
    list of str
        Sentences; empty if the balance is good.
    """
    n_true, n_false = int((labels == 1).sum()), int((labels == 0).sum())
    if keep_true < n_true / 2 and keep_true < n_true and n_false:
        factor = n_true / n_false
        advice = [f"{n_true - keep_true} of {n_true} True are discarded to balance {n_false} False"]
        lower = _threshold_shift(snr[labels == 0], factor)
        if not injected:
            return [*advice, KEEP_ALL]
        if lower < 4.5 - 3:  # from the default threshold down to 3 sigma; most candidates below that are noise
            advice.append(f"a detect.threshold {lower:.1f} sigma lower gives about {factor:.1f} times as many False")
        advice.append(
            "detect.threshold: auto lowers the threshold for each image, detect.both_signs: true adds negative candidates"
        )
        advice.append(f"{factor:.1f} times as many images with 1 / {factor:.1f} of the injected sources also help")
        return [*advice, KEEP_ALL]
    if keep_false < n_false / 2 and n_true:
        factor = n_false / n_true
        advice = [f"{n_false - keep_false} of {n_false} False are discarded to balance {n_true} True"]
        if injected:
            advice.append(f"inject.n_sources may be {factor:.1f} times as large")
        return [*advice, KEEP_ALL]
    return []


def _threshold_shift(snr: np.ndarray, factor: float) -> float:
    """By how much the threshold must be lowered for `factor` times as many candidates [sigma].

    Just above the threshold, the number of candidates falls exponentially with S/N. The slope is the
    maximum-likelihood estimate from the candidates within 2 sigma of the threshold; NaN for fewer than `MIN_SLOPE`.
    """
    snr = snr[np.isfinite(snr)]
    if len(snr) < MIN_SLOPE:
        return float("nan")
    lowest = np.quantile(snr, 0.02)
    excess = snr[(snr >= lowest) & (snr < lowest + 2)] - lowest
    if len(excess) < MIN_SLOPE or excess.mean() <= 0:
        return float("nan")
    return float(np.log(factor) * excess.mean())


def draw(labels: np.ndarray, *, seed: int, true_fraction: float | None, max_cutouts: int | None) -> np.ndarray:
    """Draw a random selection of cutouts with a given fraction of True.

    Cutouts of the larger class are dropped; with `max_cutouts`, cutouts of both classes.

    Parameters
    ----------
    labels : numpy.ndarray
        (N,) 1 for True, 0 for False.
    seed : int
    true_fraction : float or None
        Fraction of True in the selection; None keeps all.
    max_cutouts : int or None
        Largest number of cutouts in the selection.

    Returns
    -------
    numpy.ndarray
        Sorted indices.
    """
    rng = np.random.default_rng(seed)
    true, false = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    n_true, n_false = len(true), len(false)
    if true_fraction is not None:
        n_true = min(n_true, round(len(false) * true_fraction / (1 - true_fraction)))
        n_false = min(n_false, round(len(true) * (1 - true_fraction) / true_fraction))
    if max_cutouts is not None and n_true + n_false > max_cutouts:
        n_true = round(max_cutouts * n_true / (n_true + n_false))
        n_false = max_cutouts - n_true
    chosen = [rng.choice(group, n, replace=False, shuffle=False) for group, n in ((true, n_true), (false, n_false))]
    return np.sort(np.concatenate(chosen))


def check_classes(labels: np.ndarray, min_per_class: int, where: str, verb: str) -> None:
    """Refuse a cube with fewer than `min_per_class` cutouts of a class, or without a class.

    Parameters
    ----------
    labels : numpy.ndarray
        (N,) 1 for True, 0 for False.
    min_per_class : int
    where, verb : str
        Beginning of the error message, and its words after "only n True cutouts".

    Raises
    ------
    CubeError
    """
    least = max(min_per_class, 1)
    for value, name in ((1, "True"), (0, "False")):
        count = int((labels == value).sum())
        if count < least:
            needed = "both classes are needed" if count == 0 else f"cube.min_per_class is {min_per_class}"
            remedy = "raise inject.n_sources" if value else "lower detect.threshold (or set it to auto)"
            raise CubeError(
                f"{where}: only {count} {name} cutouts {verb}; {needed}; to get {least - count} more, add images or {remedy}"
            )
