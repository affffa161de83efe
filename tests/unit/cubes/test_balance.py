"""Balance of True and False: the selection, and the advice if many cutouts are discarded."""

import numpy as np
import pytest

from otrain_core.cubes.balance import advise, draw
from tests.unit.cubes.test_cube_folders import folders as folders


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("limit", [None, 40])
def test_fraction_of_true(fraction, limit):
    labels = np.repeat([1, 0], [300, 500])
    index = draw(labels, seed=3, true_fraction=fraction, max_cutouts=limit)
    assert labels[index].mean() == pytest.approx(fraction, abs=0.02)
    assert len(set(index)) == len(index) and (np.diff(index) > 0).all()
    if limit:
        assert len(index) == limit
    else:
        assert (labels[index] == 1).sum() == 300 or (labels[index] == 0).sum() == 500


def test_draw_is_uniform():
    labels = np.repeat([1, 0], [20, 100])
    hits = np.zeros(120)
    for seed in range(400):
        hits[draw(labels, seed=seed, true_fraction=0.5, max_cutouts=None)] += 1
    assert (hits[:20] == 400).all() and hits[20:].min() > 40 and hits[20:].max() < 130  # 80 +- 8


def test_advice_if_many_cutouts_are_discarded():
    rng = np.random.default_rng(1)
    labels = np.repeat([1, 0], [663, 52])
    snr = np.where(labels == 1, 40.0, 4.5 + rng.exponential(0.3, 715))
    advice = advise(snr, labels, keep_true=52, keep_false=52)
    assert advice[0] == "611 of 663 True are discarded to balance 52 False"
    # 12.75 times as many of an exponential of 0.3 sigma: ln(12.75) x 0.3 = 0.76 sigma lower.
    assert advice[1] in [
        f"a detect.threshold 0.{k} sigma lower gives about 12.8 times as many False" for k in (6, 7, 8, 9)
    ]
    assert "detect.both_signs: true" in advice[2] and advice[3].startswith("12.8 times as many images")
    assert advice[4].startswith("cube.true_fraction: null keeps all")
    assert advise(snr, labels, keep_true=663, keep_false=52) == []
    assert advise(snr, 1 - labels, keep_true=52, keep_false=52)[1] == "inject.n_sources may be 12.8 times as large"
    ready_made = advise(snr, labels, keep_true=52, keep_false=52, injected=False)
    assert ready_made == [advice[0], advice[4]]
    assert len(advise(np.full(715, np.nan), labels, keep_true=52, keep_false=52)) == 4  # the slope is unknown
