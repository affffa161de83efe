"""Every figure of the paper, drawn small from its table; the numbers on the axes are checked, not the pixels."""

import numpy as np
import pandas as pd
import pytest

from otrain_core.io import write_table
from otrain_core.paper.captions import make_caption
from otrain_core.paper.data import data_files, figure_data
from otrain_core.paper.figures import draw_figure, figures_files, read_data
from otrain_core.paper.plan import FIGURES, PANELS
from tests.unit.synthetic_paper import write_paper


@pytest.fixture(scope="module")
def drawn(plan, tmp_path_factory):
    """Figures by name, each drawn from the CSV that is kept of it."""
    folder = tmp_path_factory.mktemp("paper")
    root, cache = write_paper(folder / "results", plan), {}

    def draw(name):
        if name not in cache:
            table, facts = figure_data(name, plan, root=root)
            write_table(folder / f"{name}.csv", table)
            cache[name] = draw_figure(name, read_data(folder / f"{name}.csv"), make_caption(name, plan, facts, table))
        return cache[name]

    return draw


@pytest.mark.parametrize("name", FIGURES)
def test_no_figure_is_blank(name, drawn):
    figure = drawn(name)
    assert figure.axes
    for ax in figure.axes:
        shown = ax.lines or ax.images or ax.patches or ax.texts or ax.collections
        assert shown or ax.get_label() == "<colorbar>" or not ax.axison


@pytest.mark.parametrize("name", ["fig04", "fig11", "fig12", *PANELS])
def test_axes_have_labels(name, drawn):
    """Each axis is named: by itself, by axes that share it, or by the lowest of its column and the first of its row."""
    axes = [ax for ax in drawn(name).axes if ax.axison and ax.get_label() != "<colorbar>"]
    for ax in axes:
        box = ax.get_position()
        column = [other for other in axes if abs(other.get_position().x0 - box.x0) < 0.01]
        row = [other for other in axes if abs(other.get_position().y0 - box.y0) < 0.01]
        lowest = min(column, key=lambda other: other.get_position().y0)
        first = min(row, key=lambda other: other.get_position().x0)
        assert any(other.get_xlabel() for other in [lowest, *ax.get_shared_x_axes().get_siblings(ax)])
        assert any(other.get_ylabel() for other in [first, *ax.get_shared_y_axes().get_siblings(ax)])


def test_true_scores_are_drawn_as_true(drawn):
    ax = drawn("fig10").axes[1]
    handles, labels = ax.get_legend_handles_labels()
    true = handles[labels.index("True")]
    values, edges, _ = true.get_data()
    assert np.average(edges[:-1], weights=values) > 0.5


def test_gap_and_its_limits(drawn):
    top = drawn("fig11").axes[0]
    dashed = sorted(line.get_ydata()[0] for line in top.lines if line.get_linestyle() == "--")
    assert dashed == [-2, 2]  # per cent, Sect. 7.2 of the paper
    first = top.containers[0].lines[0]
    assert list(first.get_xdata()) == [250, 500, 1000, 2000, 4000, 5500]
    assert (np.abs(first.get_ydata()[:3]) > 2).all() and (np.abs(first.get_ydata()[3:]) < 2).all()


def test_collapse_with_the_size(drawn):
    ax = drawn("fig12").axes[0]
    mcc = next(bars.lines[0] for bars in ax.containers if bars.get_label() == "MCC")
    values = dict(zip(mcc.get_xdata(), mcc.get_ydata(), strict=True))
    assert values[48] > 0.8 and values[55] < 0.1


def test_sizes_of_a_full_and_a_reduced_cube_stand_apart(plan, tmp_path):
    table, _ = figure_data("fig12", plan, root=write_paper(tmp_path, plan))
    both = pd.concat([table, table.assign(n_images=12, mcc=0.5)])
    axes = draw_figure("fig12", both, {}).axes
    assert len(axes) == 2 * table["experiment"].nunique()
    mcc = next(bars.lines[0] for bars in axes[-1].containers if bars.get_label() == "MCC")
    assert "12 images" in axes[-1].get_title() and set(mcc.get_ydata()) == {0.5}


def test_a_figure_without_data_says_so(plan, tmp_path):
    paths = {"table": tmp_path / "fig12.csv", "caption": tmp_path / "fig12.json"}
    data_files(figure="fig12", plan=plan, root=tmp_path, **paths)
    assert read_data(paths["table"]).empty
    pictures = [tmp_path / f"fig12.{end}" for end in ("png", "pdf")]
    figures_files(figure="fig12", pictures=pictures, **paths)
    assert all(picture.stat().st_size > 1000 for picture in pictures)
    figure = draw_figure("fig12", pd.DataFrame(), {"missing": "the study is not done"})
    assert figure.axes[0].texts[0].get_text() == "Not made: the study is not done."


def test_figures_of_one_cube_or_one_network(plan, tmp_path):
    root = write_paper(tmp_path, plan | {"cubes": plan["cubes"][:1], "sweeps": {}})
    small = plan | {"experiments": {"paper": plan["experiments"]["paper"]}}
    for name in ("fig05", "fig09", "fig13"):
        table, facts = figure_data(name, small, root=root)
        assert draw_figure(name, table, make_caption(name, small, facts, table)).axes
