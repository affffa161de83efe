"""What the report says in words."""

import numpy as np

from otrain_core.plan.config import GateOptions
from otrain_core.report.text import (
    _calibration_cautions,
    _purity_lines,
    config_lines,
    cube_lines,
    map_cautions,
    words,
    worth,
)


def test_the_configuration_is_flattened():
    assert config_lines({"a": {"b": [1, 2]}, "c": None}) == [("a.b", "1, 2"), ("c", "–")]


def test_values_in_words():
    assert (words(["a", "b"]), words(None), words(""), words(3)) == ("a, b", "–", "–", "3")
    assert words(np.nan) == "–"  # what an empty cell of a CSV is read as


GATE = GateOptions()
ROW = {"mcc": 0.9, "mcc_low": 0.85, "fp_share": 0.02, "n_images": 9, "n_true": 80, "n_false": 90}
ROW |= {"baseline_mcc": 0.8, "gain": 0.1, "gain_low": 0.05, "sky_unknown": 0.0}


def test_nothing_stands_first_where_nothing_speaks_against_the_score():
    assert worth(ROW, GATE) == []


def test_what_harms_most_stands_first():
    told = worth(ROW | {"sky_unknown": 1.0, "n_false": 12, "gain_low": -0.02, "gain": -0.01}, GATE)
    assert told[0].startswith("It is not known which images show the same sky")
    assert told[1] == "The test set is too small for a verdict (12 of 50 False)."
    assert told[2] == "MCC 0.900 does not beat fixed cuts on S/N, FWHM and shape (0.800)."
    assert told[3] == "No model becomes champion." and len(told) == 4


def test_the_shipped_model_is_named_where_it_is_the_better_one():
    better = {"shipped_mcc": 0.95, "shipped_gain": -0.05, "shipped_gain_low": -0.08}
    told = "MCC 0.900 is not shown to be above that of the shipped model (0.950)"
    assert worth(ROW | better, GATE) == [
        f"{told}; use the shipped model: otrain classify without -m.",
        "No model becomes champion.",
    ]
    assert worth(ROW | better | {"shipped_gain": 0.01}, GATE)[0] == f"{told}."


def test_copies_and_advice_of_the_cube_are_told():
    copies = {
        "n_copies": 4,
        "n_groups": 2,
        "n_across_images": 4,
        "n_both_labels": 2,
        "examples": [["a", "b"], ["c", "d"]],
    }
    record = {
        "n_labelled_true": 30,
        "n_labelled_false": 40,
        "copies": copies,
        "advice": ["611 of 663 True are discarded", "lower it"],
    }
    copied, advice = cube_lines(record)
    assert copied.startswith(
        "4 of 70 cutouts have the same pixels as another one, 2 of them with both labels (for example a = b)"
    )
    assert advice == "611 of 663 True are discarded; lower it."
    assert cube_lines({"copies": copies | {"n_copies": 0}, "advice": []}) == []
    assert cube_lines({}) == []


def test_a_map_that_looks_away_is_told():
    (line,) = map_cautions({"all": {"energy_within_fwhm": 0.0, "energy_of_flat_map": 0.017}})
    assert line.startswith(
        "0.0 % of the Grad-CAM map lies within one FWHM of the candidate, less than of a flat map (1.7 %)"
    )
    assert map_cautions({"all": {"energy_within_fwhm": 0.05, "energy_of_flat_map": 0.017}}) == []
    assert map_cautions({}) == []


def test_purity_is_not_known_without_an_accepted_false():
    (line,) = _purity_lines({"1 % real": {"value": None, "low": 0.027, "high": 1.0}})
    assert "1 % real: not known (at least 2.7 %)" in line
    (line,) = _purity_lines({"1 % real": {"value": 0.147, "low": 0.111, "high": 0.208}})
    assert "1 % real: 14.7 % [11.1, 20.8]" in line
    assert _purity_lines({}) == []


def test_a_calibration_that_is_not_used_is_told():
    record = {"refused": "platt", "ece_validation": {"none": 0.082, "platt": 0.107}}
    (line,) = _calibration_cautions(record, {"ece": 0.08})
    assert "(platt)" in line and "0.082 to 0.107" in line and line.endswith("it is not used.")
    assert _calibration_cautions({"refused": "", "ece_after": 0.03}, {"ece": 0.02}) == []
