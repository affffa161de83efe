"""The recipe of a model: there and back through its metadata."""

import json

import pytest

from otrain_core.errors import ConfigError
from otrain_core.plan.pipelines import DetectOptions, Pipeline
from otrain_core.plan.recipe import Recipe, read_recipe
from otrain_core.plan.telescopes import Detector

RECIPE = Recipe(Pipeline(detect=DetectOptions(threshold=6.0)), Detector(gain=1.5), telescope="T", name="builtin")


def test_there_and_back():
    about = json.loads(json.dumps({"recipe": RECIPE.record()}))
    assert read_recipe(about, where="model.onnx") == RECIPE
    assert set(about["recipe"]["steps"]) == {"psf", "prepare", "subtract", "detect", "cutouts"}


def test_a_model_without_one():
    assert read_recipe({"telescope": "T"}, where="model.onnx") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": {}}, "its recipe cannot be read"),
        ({"detector": {"gain": -1}}, "model.onnx: recipe: gain"),
        ({"steps": RECIPE.record()["steps"] | {"detect": {"treshold": 3}}}, "unknown key; did you mean 'threshold'"),
    ],
)
def test_what_is_not_known_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe({"recipe": RECIPE.record() | change}, where="model.onnx")
