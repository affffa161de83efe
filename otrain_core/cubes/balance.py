"""Balance of True and False in a cube: what is drawn, and what to change where much is thrown away."""

from __future__ import annotations

import numpy as np

from otrain_core.errors import CubeError

KEEP_ALL = "cube.true_fraction: null keeps all, and class_weights of the experiment weighs them"
MIN_SLOPE = 10  # False from which the slope of their numbers with S/N is told


def advise(snr: np.ndarray, labels: np.ndarray, *, keep_true: int, keep_false: int, injected: bool = True) -> list[str]:
    """What to change where balancing throws away more than half of a class, and by how much.

    Parameters
    ----------
    snr : numpy.ndarray
        (N,) S/N of the labelled candidates, before balancing.
    labels : numpy.ndarray
        (N,) 1 True, 0 False.
    keep_true, keep_false : int
        How many of them the cube has.
    injected : bool
        Whether the candidates are those of the workflow, which injects and detects; ready-made cutouts are not.

    Returns
    -------
    list of str
        Sentences; none where the balance is good.
    """
    n_true, n_false = int((labels == 1).sum()), int((labels == 0).sum())
    if keep_true < n_true / 2 and keep_true < n_true and n_false:
        factor = n_true / n_false
        said = [f"{n_true - keep_true} of {n_true} True are thrown away to balance {n_false} False"]
        lower = _threshold_shift(snr[labels == 0], factor)
        if not injected:
            return [*said, KEEP_ALL]
        if lower < 4.5 - 3:  # below 3 sigma noise makes most of them
            said.append(f"a detect.threshold {lower:.1f} sigma lower gives about {factor:.1f} times as many False")
        said.append("detect.threshold: auto lowers it for each image, detect.both_signs: true adds the negative ones")
        said.append(f"or {factor:.1f} times as many images with 1 / {factor:.1f} of the injected sources")
        return [*said, KEEP_ALL]
    if keep_false < n_false / 2 and n_true:
        factor = n_false / n_true
        said = [f"{n_false - keep_false} of {n_false} False are thrown away to balance {n_true} True"]
        if injected:
            said.append(f"inject.n_sources may be {factor:.1f} times as large")
        return [*said, KEEP_ALL]
    return []


def _threshold_shift(snr: np.ndarray, factor: float) -> float:
    """By how much a threshold is to be lower [sigma] for `factor` times as many candidates of this S/N.

    Their number falls exponentially with S/N just above the threshold: the slope is that of those within 2 sigma of it
    (maximum likelihood). NaN with fewer than 10 of them.
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
    """Indices, in order, of a random selection with the wanted share of True (label 1).

    The larger class is thinned; with `max_cutouts` both are.
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
    """Refuse a cube with fewer than `min_per_class` of a class, or with one class only."""
    for value, name in ((1, "True"), (0, "False")):
        count = int((labels == value).sum())
        if count < max(min_per_class, 1):
            what = "the cube has one class only" if count == 0 else f"cube.min_per_class is {min_per_class}"
            more = "raise inject.n_sources" if value else "lower detect.threshold (auto lowers it by itself)"
            missing = f"{max(min_per_class, 1) - count} are missing: add images, or {more}"
            raise CubeError(f"{where}: only {count} {name} cutouts {verb}; {what}; {missing}")
