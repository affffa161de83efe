"""Scores of two classes that overlap, with ties, for tests."""

import numpy as np


def noisy(n=2000, images=20, seed=0):
    """Labels, scores and images of `n` cutouts."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    scores = np.round(np.clip(rng.normal(0.3 + 0.4 * labels, 0.2), 0, 1), 2)  # with ties
    return labels, scores, rng.integers(0, images, n)


def calibrated(n, seed, *, n_images=40, strength=4.0):
    """Probabilities that are calibrated by construction, labels drawn from them, images."""
    rng = np.random.default_rng(seed)
    probability = 1 / (1 + np.exp(-rng.normal(0, strength, n)))
    return (rng.random(n) < probability).astype(int), probability, rng.integers(0, n_images, n).astype(str)
