"""The estimate of a run before it starts: cost, and what the data are sufficient for."""

import json

import pandas as pd
import pytest

from otrain_core.plan.run import Run
from otrain_core.project import costs
from otrain_core.project.costs import Expected, expect, plan_record, plan_run, plan_text, verdict

CONFIG = "run: {cubes: [demo/builtin], experiments: [otrain2]}\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG)
    return Run.from_files(["config.yaml"])


def expected(images=30, true=(3000.0, 3600.0), false=(1800.0, 3300.0), test_images=8, test=(400.0, 800.0)):
    return Expected("demo/builtin", images, 1.05, true, false, test_images, test, False)


def test_the_estimate_for_the_demo_agrees_with_the_published_run(run):
    """The published run has 3632 True and 3134 False from 30 images, and 718 True in a test set of 7 images."""
    found = expect(run, "demo/builtin")
    assert found.images == 30 and found.megapixels == pytest.approx(1.0486, abs=1e-3)
    assert found.true[0] < 3632 < found.true[1] * 1.01 and found.false[0] < 3134 < found.false[1]
    assert found.test_images == 8 and found.test[0] < 718 < found.test[1] * 1.1


def test_counts_of_an_earlier_run_take_precedence(run, tmp_path):
    folder = tmp_path / "results/demo/builtin"
    folder.mkdir(parents=True)
    (folder / "cube.json").write_text(json.dumps({"n_images_used": 30, "n_true": 500, "n_false": 400}))
    found = expect(run, "demo/builtin")
    assert found.measured and found.true == (500, 500) and found.test == (100, 100)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({}, "for a model of your own that can become champion"),
        ({"test": (30.0, 80.0)}, "perhaps for a model of your own"),
        ({"test_images": 2}, "for training, but not for the gate, which needs 5 test images and 50 test cutouts"),
        ({"test": (5.0, 20.0)}, "use the shipped model, or fine-tune it"),
        ({"images": 2}, "not for training"),
        ({"false": (3.0, 10.0)}, "not for training"),
    ],
)
def test_the_verdict_says_what_a_test_set_is_sufficient_for(run, changes, words):
    assert words in verdict(expected(**changes), run)


def test_the_plan_of_a_run(run, monkeypatch):
    monkeypatch.setattr(costs, "planned_jobs", lambda *_, **__: {"psf": 30, "train": 1})
    monkeypatch.setattr(costs, "training_seconds", lambda *_, **__: {"train": 3600.0})
    found = plan_run(["config.yaml"])
    text = plan_text(found, ["config.yaml"])
    lines = text.splitlines()
    assert len(lines) <= 10
    assert "31 jobs, including 1 training" in lines[1]
    assert found["costs"].set_index("rule").loc["train", "cpu_hours"] == pytest.approx(1.0)
    assert "of CPU, about" in lines[2] and "B free" in text and lines[-1] == "start:    otrain run config.yaml"
    record = plan_record(found)
    assert record["jobs"] == {"psf": 30, "train": 1} and record["expected"][0]["verdict"] in text


def test_rules_without_a_record_are_named(run, monkeypatch):
    monkeypatch.setattr(costs, "planned_jobs", lambda *_, **__: {"psf": 30, "nowhere": 1})
    monkeypatch.setattr(costs, "training_seconds", lambda *_, **__: {})
    text = plan_text(plan_run(["config.yaml"]), ["config.yaml"])
    assert "(not included, as no run recorded their cost: rules nowhere)" in text


def test_costs_of_this_folder_take_precedence_over_published_ones(monkeypatch, tmp_path):
    own = pd.DataFrame({"mean": [9.0], "size": [3], "known_from": ["here"]}, index=["psf"])
    theirs = pd.DataFrame(
        {"mean": [1.0, 2.0], "size": [30, 30], "known_from": ["published"] * 2}, index=["psf", "detect"]
    )
    monkeypatch.setattr(costs, "recorded_costs", lambda root: own if root == tmp_path else theirs)
    found = costs._costs(tmp_path, [Expected("a/b", 10, 4.194304, (1, 1), (1, 1), 2, (1, 1), False)])
    assert found.loc["psf", "mean"] == 9.0 and found.loc["detect", "mean"] == pytest.approx(8.0)


def test_the_plan_warns_of_a_full_disk(run, monkeypatch):
    monkeypatch.setattr(costs, "planned_jobs", lambda *_, **__: {"psf": 1})
    monkeypatch.setattr(costs, "training_seconds", lambda *_, **__: {})
    found = plan_run(["config.yaml"]) | {"free_mb": 10.0}
    assert "NOT ENOUGH SPACE" in plan_text(found, ["config.yaml"])
