import pytest

from otrain_core.errors import ConfigError
from otrain_core.plan.config import Config, load_config
from otrain_core.plan.finder import FinderOptions
from otrain_core.plan.run import Run
from otrain_core.plan.studies import Studies


def test_no_network_is_trained_unless_it_is_asked_for():
    assert not FinderOptions().train
    assert not any("finder" in path for path in Studies(load_config({})).tables())


def test_a_run_with_the_network_ends_in_its_table():
    config = load_config({"finder": {"train": True}, "run": {"cubes": ["demo/builtin"], "experiments": ["paper"]}})
    studies = Studies(config)
    assert "results/demo/builtin/finder/completeness.csv" in studies.tables()
    assert studies.beside_finder() == "paper"


@pytest.mark.parametrize(
    ("detect", "words"),
    [
        ({"method": "finder"}, "needs the file of a detector network"),
        (
            {"method": "finder", "finder": "a.onnx", "search": ["catalogue"]},
            "only 'difference' is possible with method: finder",
        ),
        ({"finder_score": 2}, "finder_score"),
        ({"finder": "a.onnx"}, "finder: only used by method: finder, but the method is sep"),
        ({"method": "stdpipe", "finder_score": 0.5}, "finder_score: only used by method: finder"),
    ],
)
def test_what_the_method_finder_needs(detect, words):
    with pytest.raises(ConfigError, match=words):
        load_config({"pipelines": {"builtin": {"detect": detect}}})


def test_a_detector_network_that_is_not_there_is_told_before_any_work(tmp_path):
    there = tmp_path / "finder.onnx"
    there.touch()
    with pytest.raises(ConfigError, match=r"pipelines.other.detect.finder: nowhere.onnx: no such file"):
        run_with("nowhere.onnx")
    assert run_with(str(there)).options("demo", "other", "detect")["finder"] == str(there)
    made = "results/demo/builtin/finder/seed1/finder.onnx"  # by another cube of the run
    assert made.removesuffix("/finder.onnx") in run_with(made, train=True).finders()


def run_with(finder, *, train=False):
    pipelines = {"other": {"detect": {"method": "finder", "finder": finder}}, "builtin": {}}
    values = Config().model_dump(mode="json") | {"pipelines": pipelines, "finder": {"train": train}}
    values["run"]["cubes"] = ["demo/builtin", "demo/other"]
    return Run.from_config(values, root=".")
