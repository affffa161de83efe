"""What the paper needs of a run, and which files its figures and tables are made from."""

from __future__ import annotations

from otrain_core.paper.plan import CUBES, FIGURES, figure_sources, plan_paper, table_sources
from otrain_core.plan.run import Run
from tests.unit.synthetic_paper import ROOT


def test_the_plan_is_that_of_the_paper(plan):
    assert plan["cubes"] == list(CUBES) and list(plan["experiments"]) == ["paper", "otrain2"]
    assert set(plan["protocols"]) == {"by-image", "random"} and plan["seeds"] == [1, 2]
    data_size = plan["sweeps"]["data-size"]
    assert {row["experiment"] for row in data_size} == {"paper", "otrain2"}
    assert {"/".join(row["folder"].split("/")[:2]) for row in data_size} == set(CUBES)
    assert {row["folder"].rsplit("/", 2)[0] for row in plan["sweeps"]["size"]} == {"JAST/stdpipe"}


def test_the_reduced_size_is_that_of_the_published_tables():
    """12 images a cube; Fig. 11 with four sizes of both networks, Fig. 12 with all of its sizes, one seed."""
    plan = plan_paper(Run.from_files([ROOT / "config/paper.yaml", ROOT / "config/paper_reduced.yaml"]))
    assert {name: len(images) for name, images in plan["images"].items()} == dict.fromkeys(plan["telescopes"], 12)
    assert {row["width"] for row in (entry["sky"] for entry in plan["telescopes"].values())} == {1024}
    assert {name: len(rows) for name, rows in plan["sweeps"].items()} == {"data-size": 5 * 2 * 4, "size": 7 * 3}


def test_what_a_figure_reads_is_an_input_of_its_rule(plan, results):
    sources = {figure: figure_sources(plan, figure) for figure in FIGURES}
    assert [figure for figure, paths in sources.items() if not paths] == ["fig01", "fig03"]
    for figure, paths in sources.items():
        for path in paths:
            study = path.removeprefix("studies/").removesuffix(".csv")  # written by rule sweep
            assert (results / path).is_file() or study in plan["sweeps"], (figure, path)


def test_inputs_of_the_rule_exist(plan, results):
    for name in ("table1", "table3", "table4"):
        assert all((results / path).is_file() for path in table_sources(plan, name))
