"""The small tables behind the figures of the paper, from whole and from half-finished results."""

import numpy as np
import pandas as pd
import pytest

from otrain_core import io
from otrain_core.paper.captions import caption_text, make_caption
from otrain_core.paper.data import figure_data, full_gaps, image_of, pixels
from otrain_core.paper.plan import FIGURES, figure_sources, shown_protocol, training_folder


@pytest.mark.parametrize("figure", [name for name in FIGURES if name not in ("fig01", "fig03")])
def test_every_figure_has_its_table_and_caption(figure, plan, results):
    table, facts = figure_data(figure, plan, root=results)
    caption = make_caption(figure, plan, facts, table)
    assert len(table) and caption["made"] and caption["same"] and caption["differs"]
    assert "simulated" in caption["data"]
    assert not [text for text in ("nan", "None", "{") if text in caption_text(caption)]


@pytest.mark.parametrize("figure", [name for name in FIGURES if name not in ("fig01", "fig03")])
def test_a_figure_without_data_says_what_is_missing(figure, plan, tmp_path):
    table, facts = figure_data(figure, plan, root=tmp_path)
    caption = make_caption(figure, plan, facts, table)
    assert table.empty and not caption["made"] and caption["missing"]
    assert "Not made" in caption_text(caption)


def test_a_figure_of_no_cube_of_the_run(plan, tmp_path):
    assert "none of its cubes" in figure_data("figA3", plan | {"cubes": []}, root=tmp_path)[1]["missing"]
    assert figure_sources(plan | {"cubes": []}, "figA3") == []


def test_layers_are_those_of_the_model(plan):
    table, facts = figure_data("fig03", plan, root="nowhere")
    assert facts["parameters"]["paper"] == 2621826  # Makhlouf et al. 2022
    paper = table[table["experiment"] == "paper"]
    assert paper["parameters"].sum() == paper["trainable"].sum() == 2621826
    shapes = paper[paper["type"] == "Conv2D"][["height", "width", "channels"]].to_numpy().tolist()
    assert shapes == [[32, 32, 16], [32, 32, 32], [16, 16, 64], [8, 8, 128], [8, 8, 256]]
    assert set(figure_data("fig01", plan, root="nowhere")[0]["experiment"]) == {"paper"}
    assert make_caption("fig03", plan, facts)["data"].startswith("none")


def test_pixels_come_back():
    image = np.array([[1.5, np.nan], [-2e-5, 12345.6]], dtype=np.float32)
    np.testing.assert_allclose(image_of({"side": 2, "pixels": pixels(image)}), image, rtol=1e-3)


def test_panels_hold_what_the_evaluation_says(plan, results):
    table, facts = figure_data("fig10", plan, root=results)
    assert facts["protocol"] == "random"  # the paper's own protocol first
    scores = table[table["panel"] == "scores"]
    means = {name: np.average(part["x"], weights=part["y"]) for name, part in scores.groupby("series")}
    assert means["True"] > 0.5 > means["False"]
    assert scores["y"].sum() == pytest.approx(1)
    by_image = figure_data("fig10", plan | {"protocols": ["by-image"]}, root=results)[1]
    assert by_image["protocol"] == "by-image"


def test_a_missing_first_seed_gives_way_to_the_next(plan, results):
    _, facts = figure_data("fig10", plan | {"seeds": [9, 2]}, root=results)
    assert facts["seed"] == 2


def test_a_right_decision_is_no_fallback_and_a_wrong_one_the_most_swayed(plan, results):
    right, _ = figure_data("fig09", plan, root=results)
    assert set(right["score"].round(3)) == {0.2}  # the first right False has a fallback map
    wrong, facts = figure_data("fig13", plan, root=results)
    assert set(wrong["score_without"].round(3)) == {0.7}
    assert set(wrong["panel"]) == {"cutout", "map", "resized"} and set(facts["shown"]) == {"paper", "otrain2"}


def test_a_study_half_done_leaves_out_points(plan, results, tmp_path):
    full, facts = figure_data("fig11", plan, root=results)
    assert facts["done"] == facts["planned"] == len(full)
    row = plan["sweeps"]["data-size"][0]
    for name in ("metrics.json", "train.json"):
        io.write_json(tmp_path / row["folder"] / name, io.read_json(results / row["folder"] / name))
    half, facts = figure_data("fig11", plan, root=tmp_path)
    assert len(half) == facts["done"] == 1 and facts["planned"] == len(full)
    text = caption_text(make_caption("fig11", plan, facts, half))
    assert f"1 of {len(full)} trainings are done" in text


def test_magnitudes_count_all_images(plan, results):
    table, facts = figure_data("fig04", plan, root=results)
    assert facts["injected"] == table["injected"].sum() == 8 * 120
    assert (table["found"] <= table["injected"]).all() and isinstance(table, pd.DataFrame)


def test_full_trainings_have_gaps_too(plan, results):
    table = full_gaps(plan, results)
    assert len(table) == len(plan["cubes"]) * len(plan["experiments"]) * len(plan["seeds"])
    folder = results / training_folder(plan, "JAST/gmadet", "paper", shown_protocol(plan), 1)
    last = io.read_table(folder / "history.csv").iloc[-1]
    row = table[(table["telescope"] == "JAST") & (table["experiment"] == "paper") & (table["seed"] == 1)].iloc[0]
    assert row["fit_minus_validation"] == pytest.approx(last["accuracy"] - last["validation_accuracy"])
    assert full_gaps(plan, results / "none").empty
