"""Telescopes drawn at random."""

import numpy as np
import pytest
from pydantic import ValidationError

from otrain_core.errors import ConfigError
from otrain_core.plan.prior import Distribution, DrawOptions, draw_telescopes
from otrain_core.plan.run import Run

PRIOR = {
    "detector.pixel_scale": {"log": [0.3, 5]},
    "detector.gain": {"uniform": [0.5, 4]},
    "detector.read_noise": 8,
    "detector.saturation": 50000,
    "detector.type": {"choice": ["ccd", "cmos"]},
    "sky.fwhm": {"log": [1.2, 8]},
    "sky.n_images": 2,
    "sky.variables": {"integer": [0, 3]},
    "sky.crosstalk": {"uniform": [0.001, 0.002], "share": 0.5},
}


def options(**changes) -> DrawOptions:
    values = {"telescopes": 40, "validation": 4, "test": 6, "prior": PRIOR, "pipelines": {"a": 3, "b": 1}}
    return DrawOptions.model_validate(values | changes)


def test_values_stay_within_their_distribution_and_vary():
    drawn = draw_telescopes(options())
    scale = np.array([item.telescope.detector.pixel_scale for item in drawn])
    fwhm = np.array([item.telescope.sky.seeing for item in drawn]) / scale
    assert 0.3 <= scale.min() < 0.6 and 2.5 < scale.max() <= 5
    assert 1.2 <= fwhm.min() < 1.8 and 5 < fwhm.max() <= 8
    assert {item.telescope.sky.variables for item in drawn} == {0, 1, 2, 3}
    crosstalk = np.array([item.telescope.sky.crosstalk for item in drawn])
    assert 10 <= (crosstalk == 0).sum() <= 30 and (crosstalk[crosstalk > 0] >= 0.001).all()
    assert {item.pipeline for item in drawn} == {"a", "b"}


def test_sets_go_to_whole_telescopes_test_first():
    drawn = draw_telescopes(options())
    assert [item.set for item in drawn] == ["test"] * 6 + ["validation"] * 4 + ["train"] * 30


def test_more_telescopes_and_more_keys_leave_the_others_as_they_are():
    few, many = draw_telescopes(options()), draw_telescopes(options(telescopes=60))
    assert many[:40] == few
    other = draw_telescopes(options(prior=PRIOR | {"sky.trails": {"uniform": [0, 2]}}))
    assert [item.telescope.detector for item in other] == [item.telescope.detector for item in few]
    assert draw_telescopes(options(seed=2))[0] != few[0]


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        ({"sky.gain": 1}, "gain: unknown key"),
        ({"gain": 1}, "must be a key of detector or sky"),
        ({"sky.seeing": 2}, "excludes sky.seeing"),
        ({"sky.width": {"integer": [1, 2]}}, "greater than or equal to 64"),
    ],
)
def test_a_key_or_value_that_no_telescope_can_have_is_named(prior, said):
    with pytest.raises(ConfigError, match=said):
        draw_telescopes(options(prior=PRIOR | prior))
    with pytest.raises(ConfigError, match="sky.fwhm requires detector.pixel_scale"):
        draw_telescopes(options(prior={"sky.fwhm": 3}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prior": {}}, "prior: 40 random telescopes are asked for .*config/universal.yaml"),
        ({"test": 0}, "each needs at least one telescope"),
        ({"test": 36}, "leave at least one telescope for training"),
        ({"pipelines": {"a": 0}}, "pipelines: at least one value must be positive"),
        ({"pipelines": {"a": 3, "b": -1}}, "greater than or equal to 0"),
    ],
)
def test_a_draw_that_cannot_be_made_is_refused(changes, said):
    with pytest.raises(ValidationError, match=said):
        options(**changes)


def test_the_quick_size_alone_names_the_file_that_it_belongs_to():
    with pytest.raises(ConfigError, match="^config/universal_quick.yaml: draw: prior: .*config/universal.yaml"):
        Run.from_files(["config/universal_quick.yaml"])


@pytest.mark.parametrize("wrong", [{}, {"uniform": [2, 1]}, {"log": [0, 1]}, {"uniform": [0, 1], "log": [1, 2]}])
def test_a_distribution_is_of_one_kind(wrong):
    with pytest.raises(ValidationError):
        Distribution.model_validate(wrong)


def test_a_run_trains_on_the_drawn_telescopes_under_a_cube_of_their_own():
    values = {
        "telescope_folder": "config/telescopes",
        "run": {"cubes": [], "experiments": ["otrain2"], "seeds": [1, 2]},
        "draw": {"telescopes": 5, "validation": 1, "test": 1, "prior": PRIOR},
    }
    run = Run.from_config(values)
    assert list(run.drawn) == [f"random{number:04d}" for number in range(5)]
    assert run.inputs.images("random0003") == ["sim0001", "sim0002"]
    assert run.drawn_trainings() == ["results/pool-drawn/all/otrain2/seed1", "results/pool-drawn/all/otrain2/seed2"]
    assert run.recipe("pool-drawn", "all")["pipeline"] == "all"
    values["draw"]["pipelines"] = {"nothing": 1}
    with pytest.raises(ConfigError, match="draw.pipelines: unknown pipeline 'nothing'"):
        Run.from_config(values)
