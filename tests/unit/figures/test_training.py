"""Figures of a training."""

import shutil
from pathlib import Path

import pytest

from otrain_core.figures.training import draw_training
from tests.unit.synthetic_results import write_results


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    return root, write_results(root, experiments=("otrain2",))


def test_figures_of_a_training_show_its_scored_set(run):
    drawn = draw_training(run[1]["runs"][0])
    assert set(drawn) == {"panels", "confusion", "calibration"}
    assert len(drawn["panels"].axes) >= 4


@pytest.mark.parametrize(
    ("removed", "left"),
    [
        ("curves.csv", {"confusion"}),
        ("history.csv", {"confusion", "calibration"}),
        ("metrics.json", set()),
    ],
)
def test_what_exists_is_drawn(run, tmp_path, removed, left):
    shutil.copytree(run[1]["runs"][0], tmp_path / "seed1")
    Path(tmp_path, "seed1", removed).unlink()
    assert set(draw_training(tmp_path / "seed1")) == left
