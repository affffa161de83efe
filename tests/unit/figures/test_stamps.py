"""Stamps of the best candidates."""

import numpy as np

from otrain_core.figures.stamps import draw_stamps


def test_three_stamps_a_candidate_and_their_numbers():
    rng = np.random.default_rng(1)
    table = {
        "candid": np.array(["a", "b", "c"]),
        "probability": np.array([0.99, 0.5, 0.1]),
        "mag": np.array([18.25, np.nan, 19.0]),
        "snr": np.array([12.0, 6.0, 5.0]),
        "undecided": np.array([False, True, False]),
        "reason": np.array(["", "", "seeing"]),
    }
    stamps = rng.normal(size=(3, 15, 15, 2)).astype(np.float32)
    figure = draw_stamps(table, stamps, channels=["difference", "science"], n=2)
    images = [image for part in figure.subfigs for ax in part.axes for image in ax.images]
    assert len(images) == 4  # two candidates, and no reference
    words = " ".join(part._suptitle.get_text() for part in figure.subfigs if part._suptitle)
    assert "p 0.990, S/N 12.0, 18.25 mag" in words and "undecided" in words and "nan" not in words
    assert np.array_equal(images[0].get_array(), stamps[0, :, :, 1])
