"""Figs. 1 to 3: the layers of the networks and the loop of training, as text in the picture."""

from otrain_core.io import write_table
from otrain_core.paper.data import figure_data
from otrain_core.paper.diagrams import draw_architecture, draw_loop, draw_summary
from otrain_core.paper.figures import read_data


def words(figure):
    return " ".join(text.get_text() for ax in figure.axes for text in ax.texts)


def test_the_summary_names_every_layer_and_adds_up(plan):
    table, _ = figure_data("fig03", plan, root="nowhere")
    said = words(draw_summary(table))
    assert "2,621,826" in said and "Non-trainable params" in said
    for layer in table.loc[table["experiment"] == "paper", "layer"]:
        assert layer[:20] in said


def test_the_architecture_shows_the_shapes_of_the_layers(plan):
    table, _ = figure_data("fig01", plan, root="nowhere")
    said = words(draw_architecture(table))
    for channels in (16, 32, 64, 128, 256):
        assert str(channels) in said


def test_the_loop_quotes_the_training(plan, results, tmp_path):
    table, _ = figure_data("fig02", plan, root=results)
    write_table(tmp_path / "fig02.csv", table)
    assert "epoch" in words(draw_loop(read_data(tmp_path / "fig02.csv"))).lower()
