"""Scores of a network that knows the truth, against labels of which a tenth is flipped."""

import numpy as np

from otrain_core.studies.label_flips import flip_labels


def noisy_scores(n=4000, seed=0, *, strength=4.0, shift=0.0):
    """True labels, the same with a tenth flipped, what was flipped, scores of a network that knows the truth."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 2)
    score = 0.9 / (1 + np.exp(-rng.normal(strength * (2 * labels - 1) + shift, 2))) + 0.05
    return labels, *flip_labels(labels, rng, 0.1), score
