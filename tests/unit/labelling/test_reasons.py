"""Which candidates are worth a look, why, and in which order."""

import numpy as np

from otrain_core.labelling.reasons import describe, identity, worth_a_look
from otrain_core.labelling.sources import Source, Training

LABELS = [1, 1, 0, 0, 0, 1]


def source(*scores, undecided=(), times=None, **options):
    """Six candidates and what trainings with threshold 0.5 say of them."""
    n = len(LABELS)
    cube = {"cube": np.zeros((n, 9, 9, 1), np.float32), "labels": np.array(LABELS, np.uint8)}
    cube |= {"candids": np.array([f"c{k}" for k in range(n)]), "images": np.full(n, "a"), "x": np.arange(n) * 1.0}
    cube |= {"y": np.full(n, np.nan), "channels": np.array(["difference"]), "mags": np.full(n, np.nan)}
    cube |= {"times": np.array(times)} if times else {}
    open_ = np.isin(np.arange(n), undecided)
    made = [Training(f"net/seed{k}", np.array(score, float), 0.5, open_) for k, score in enumerate(scores, 1)]
    return Source("T", "p", cube, made, **options)


def rows(chosen, reason):
    return [row for row, reasons in chosen.items() if reason in reasons]


def test_each_reason_finds_its_candidates():
    chosen = worth_a_look(
        source(
            [0.9, 0.1, 0.1, 0.55, 0.9, 0.48],
            [0.9, 0.2, 0.1, 0.4, 0.8, 0.9],
            undecided=[3, 5],
            suspects={4: 0.9, 1: 0.95},
        )
    )
    assert rows(chosen, "uncertain") == [5, 3]  # the nearer to the threshold first
    assert set(rows(chosen, "disagreeing")) == {3, 5}
    assert set(rows(chosen, "against the label")) == {1, 4}
    assert rows(chosen, "suspected label")[0] == 1
    assert rows(chosen, "recent night") == [] and not {0, 2} & set(chosen)
    assert chosen[1]["against the label"] == "all 2 trainings say False, its label is True"
    assert chosen[3]["disagreeing"] == "1 of 2 trainings say True"
    assert chosen[4]["suspected label"] == "its label is wrong with probability 0.90"
    assert "score 0.480, threshold 0.500" in chosen[5]["uncertain"]


def test_reasons_take_turns_and_each_is_limited():
    one = source([0.9, 0.1, 0.1, 0.9, 0.9, 0.1], undecided=[2, 4])
    assert list(worth_a_look(one)) == [2, 1, 4, 3, 5]
    assert list(worth_a_look(one, most=1)) == [2, 1]
    assert worth_a_look(source()) == {}  # no trainings, no night: nothing to ask


def test_the_label_that_the_sheet_changed_is_the_one_that_is_contradicted():
    one = source([0.9, 0.1, 0.1, 0.1, 0.9, 0.9])
    assert set(worth_a_look(one)) == {1, 4}
    one.cube["labels_before"], one.cube["labels"][4] = one.cube["labels"].astype(np.int8), 1
    assert set(worth_a_look(one)) == {1}
    assert (describe(one, 4)["label"], describe(one, 4)["before"]) == ("True", "False")


def test_the_last_night_is_told_from_the_one_before():
    times = [f"2026-03-0{day}T{hour:02d}:00:00.0" for day, hour in ((1, 22), (2, 5), (2, 20), (2, 23), (3, 4), (3, 6))]
    scores = [0.1, 0.1, 0.2, 0.3, 0.05, 0.4]
    assert rows(worth_a_look(source(scores, times=times)), "recent night") == [5, 3, 2, 4]
    assert rows(worth_a_look(source(scores, times=["2026-03-01T22:00:00"] * 6)), "recent night") == []
    assert rows(worth_a_look(source(scores, times=["", "x", "", "", "", ""])), "recent night") == []
    some = worth_a_look(source(scores, times=[*times[:5], ""]))
    assert rows(some, "recent night") == [3, 2, 4]


def test_a_candidate_keeps_its_identity_until_it_is_another():
    one, same = source(), source([0.5] * 6)
    assert identity(one, 2) == identity(same, 2) and len({identity(one, k) for k in range(6)}) == 6
    same.cube["x"] = same.cube["x"] + 3
    assert identity(one, 2) != identity(same, 2)
    assert identity(one, 2) != identity(Source("T", "q", one.cube), 2)


def test_what_is_unknown_is_none():
    about = describe(source([np.nan] * 6), 1)
    assert about["mag"] is None and about["y"] is None and about["ra"] is None and about["scores"] == []
    assert about["x"] == 1.0 and about["side"] == 9 and about["set"] == ""
