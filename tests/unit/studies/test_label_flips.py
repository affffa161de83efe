import numpy as np
import pytest

from otrain_core.studies import label_flips


def test_flips_are_a_share_of_each_class():
    labels = np.r_[np.zeros(300), np.ones(100)].astype(np.uint8)
    given, flipped = label_flips.flip_labels(labels, np.random.default_rng(0), 0.1)
    assert flipped[:300].sum() == 30 and flipped[300:].sum() == 10 and given.dtype == np.uint8
    assert np.array_equal(given != labels, flipped) and labels.sum() == 100
    assert not label_flips.flip_labels(labels, np.random.default_rng(0), 0)[1].any()
    with pytest.raises(ValueError, match="below 0.5"):
        label_flips.flip_labels(labels, np.random.default_rng(0), 0.5)


def test_flips_found_counted_by_hand():
    flipped = np.array([1, 1, 1, 0, 1, 0, 0, 0, 1, 0], dtype=bool)  # most suspect first
    found = label_flips.measure_flips(flipped, np.arange(10.0), np.arange(10) < 4)
    assert found["recall_at_precision_80"] == 0.8  # five names, four flips
    assert (found["n_suspected"], found["precision"], found["recall"]) == (4, 0.75, 0.6)
    assert found["average_precision"] == pytest.approx((1 + 1 + 1 + 4 / 5 + 5 / 9) / 5)
    tied = label_flips.measure_flips(flipped, np.zeros(10))
    assert tied["recall_at_precision_80"] == 0, "a cut cannot part equal values"
    none = label_flips.measure_flips(np.zeros(4, bool), np.arange(4), np.zeros(4, bool))
    assert np.isnan(none["recall"]) and none["recall_at_precision_80"] == 0
