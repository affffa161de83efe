"""The figure of a sweep."""

import numpy as np
import pandas as pd
import pytest

from otrain_core.figures.sweep import axis_label, draw_sweep


def table(values, *, mcc=(0.8, 0.9, 0.7, 0.6), option="size"):
    rows = {"telescope": "A", "pipeline": "one", "experiment": "otrain2", "option": option, "value": values}
    return pd.DataFrame(rows | {"mcc": mcc})


def test_lines_go_through_the_means_over_seeds():
    figure = draw_sweep(table(["31", "31", "15", "15"]))
    (line, *_), *_ = figure.axes[0].containers
    assert line.get_xdata().tolist() == [15, 31] and np.allclose(line.get_ydata(), [0.65, 0.85])
    assert figure.axes[0].get_legend_handles_labels()[1] == ["otrain2"]


def test_names_stand_in_their_order_and_missing_trainings_are_left_out():
    figure = draw_sweep(table(["none", "mad-asinh"], mcc=(0.8, np.nan), option="normalise"))
    (line, *_), *_ = figure.axes[0].containers
    assert line.get_xdata().tolist() == [0]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["none", "mad-asinh"]


def test_a_wide_range_is_logarithmic():
    assert draw_sweep(table(["50", "500", "5000", "5000"])).axes[0].get_xscale() == "log"
    assert draw_sweep(table(["15", "15", "31", "31"])).axes[0].get_xscale() == "linear"


@pytest.mark.parametrize(
    ("option", "label"),
    [("size", "Side of the cutouts [px]"), ("n_train", "Training cutouts"), ("label_smoothing", "Label smoothing")],
)
def test_axes_have_a_name(option, label):
    assert axis_label(option) == label
