"""Stamps of the best candidates."""

import numpy as np

from otrain_core.figures.stamps import draw_stamps, strip, words

TABLE = {
    "candid": np.array(["a", "b", "c"]),
    "probability": np.array([0.99, 0.5, 0.1]),
    "mag": np.array([18.25, np.nan, 19.0]),
    "snr": np.array([12.0, 6.0, 5.0]),
    "undecided": np.array([False, True, False]),
    "reason": np.array(["", "", "seeing"]),
}


def test_the_words_on_a_candidate():
    assert words(TABLE, 0) == ("a", "p 0.990, S/N 12.0, 18.25 mag")
    assert words(TABLE, 1) == ("b", "p 0.500, S/N 6.0, undecided")
    assert words(TABLE, 2)[1].endswith("unlike training")


def test_stamps_stand_side_by_side_with_their_first_row_below():
    first = np.zeros((15, 15))
    first[0, :] = 9.0  # the first row is bright
    second = np.full((15, 15), np.nan)
    picture = np.asarray(strip([first, second]))
    times = picture.shape[0] // 15
    assert (picture[-1, : 15 * times] == 255).all() and (picture[0, : 15 * times] == 0).all()
    assert (picture[:, 16 * times :] == 128).all()  # nothing is known


def test_a_picture_has_a_place_for_each_candidate():
    stamps = np.random.default_rng(1).normal(size=(3, 15, 15, 2)).astype(np.float32)
    channels = ["difference", "science"]
    two = draw_stamps(TABLE, stamps, channels=channels, n=2)
    assert two.width > 2 * strip([stamps[0, :, :, 0]] * 2).width
    assert draw_stamps(TABLE, stamps, channels=channels, n=1).width < two.width
    assert (np.asarray(two) < 255).any()
    assert draw_stamps(TABLE, stamps[:0], channels=channels).height > 0
