"""Captions: what is shown, on which data, how it differs from the paper."""

import pandas as pd
import pytest

from otrain_core.paper.captions import caption_text, make_caption, number_of
from otrain_core.paper.data import figure_data
from otrain_core.paper.plan import FIGURES, TABLES


@pytest.mark.parametrize(
    ("name", "number"), [("fig01", "Fig. 1"), ("fig13", "Fig. 13"), ("figA2", "Fig. A.2"), ("table5", "Table 5")]
)
def test_numbers_are_those_of_the_paper(name, number):
    assert number_of(name) == number


def test_every_figure_and_table_has_a_number_of_its_own():
    numbers = [number_of(name) for name in (*FIGURES, *TABLES)]
    assert len(set(numbers)) == len(numbers)


def test_a_caption_says_on_which_data_it_stands(plan, results):
    table, facts = figure_data("fig04", plan, root=results)
    caption = make_caption("fig04", plan, facts, table)
    assert "simulated" in caption["data"] and str(facts["injected"]) in caption_text(caption).replace(",", "")


def test_what_is_missing_is_the_caption(plan):
    caption = make_caption("fig10", plan, {"missing": "no evaluated training of paper yet"}, pd.DataFrame())
    assert not caption["made"] and caption["missing"] == "no evaluated training of paper yet"
    assert "Not made: no evaluated training of paper yet" in caption_text(caption)
