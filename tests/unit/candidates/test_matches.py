"""Matching of candidates and sources."""

from tests.unit.candidates.test_crossmatch import candidates, injections, label


def test_match_is_one_to_one_and_the_closest_wins():
    # The closest of three must win, not the brightest, and the second must not match any other source.
    found = candidates((100, 100), (100.9, 100), (101.3, 100))
    found["flux"] = [900.0, 1000.0, 2900.0]
    table, record = label(found, injections((100.8, 100)))
    assert table["label"].tolist() == [-1, 1, -1]
    assert record["n_recovered"] == 1


def test_radii_scale_with_the_seeing():
    found, truth = candidates((100, 100)), injections((102, 100))
    assert label(found, truth, seeing=2.0)[0]["label"].tolist() == [-1]
    assert label(found, truth, seeing=3.0)[0]["label"].tolist() == [1]
    assert label(found, truth, seeing=0.9)[0]["label"].tolist() == [0]


def test_match_that_is_mostly_something_else_is_left_out():
    table, record = label(candidates((100, 100), flux=9000.0), injections((100, 100), flux=1000.0))
    assert table["label"].tolist() == [-1] and table["reason"][0].endswith("9.0 times its flux")
    assert record["left_out"]["foreign_flux"] == 1


def test_a_source_that_faded_is_true_with_its_own_sign():
    truth = injections((100, 100), (200, 200), (300, 300))
    truth["flux"] = -1000.0
    found = candidates((100.2, 100), (200.2, 200), (300.2, 300))
    found["flux"] = [-990.0, 990.0, -1010.0]
    table, record = label(found, truth, removed=[11, 12])
    assert table["label"].tolist() == [1, -1, -1]
    assert table["injection"].tolist()[0] == 11
    assert table["reason"][1] == "not the match of injection 12 at 0.10 FWHM"  # it has the other sign
    assert table["sign"].tolist() == [-1, 1, -1]
    assert (record["n_injected"], record["n_recovered"]) == (2, 1)  # the third was not added to the reference
    assert record["left_out"]["not_removed"] == 1


def test_the_nearer_candidate_of_the_other_sign_takes_no_match():
    """A source beside the negative side of a dipole keeps its own candidate."""
    found = candidates((100.1, 100), (101.0, 100))
    found["flux"] = [-500.0, 1000.0]
    table, record = label(found, injections((100, 100)))
    assert table["label"].tolist() == [-1, 1] and table["injection"].tolist() == [-1, 11]
    assert record["n_recovered"] == 1
