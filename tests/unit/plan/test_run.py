"""A run: configuration, telescopes and sheets that fit together, or one sentence."""

from pathlib import Path

import pytest
import yaml

from otrain_core.errors import ConfigError
from otrain_core.plan.recipe import read_recipe
from otrain_core.plan.run import Run


@pytest.mark.parametrize("name", ["demo.yaml", "hatp32.yaml"])
def test_shipped_configs_are_valid(root, name):
    values = yaml.safe_load((root / "config/config.yaml").read_text())
    for key, value in yaml.safe_load((root / "config" / name).read_text()).items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    values["pipelines"] = {"builtin": {}} | values["pipelines"]
    run = Run.from_config(values, root=root)
    assert all(run.inputs.images(name) for name in run.used_telescopes())


def _sheets(tmp_path: Path, telescope: dict | None, images: str = "") -> dict:
    (tmp_path / "images.csv").write_text(images)
    return {
        "telescopes": {} if telescope is None else {"t1": telescope},
        "images": str(tmp_path / "images.csv") if images else None,
        "data_root": str(tmp_path),
        "run": {"cubes": ["t1/builtin"]},
    }


TELESCOPE = {"detector": {"pixel_scale": 1.0, "gain": 2.0}}
IMAGE_HEAD = "telescope,image,path,role,field,reference\n"


@pytest.mark.parametrize(
    ("telescope", "images", "message"),
    [
        (
            None,
            "",
            "run.cubes: telescope 't1' is neither in config/telescopes nor under telescopes; choose one of .*demo",
        ),
        (TELESCOPE, "", "telescope t1: no science image"),
        (
            TELESCOPE,
            IMAGE_HEAD + "t1,a,a.fits,science,,r.fits\nt1,a,b.fits,science,,r.fits\n",
            "image: 'a' appears twice",
        ),
        (TELESCOPE, IMAGE_HEAD + "t1,a,a.fits,science,,\n", "a science image needs exactly one of them"),
        (TELESCOPE, IMAGE_HEAD + "t1,a,a.fits,science,f,\n", "image a: field: 'f' has no row with role reference"),
        (TELESCOPE, IMAGE_HEAD + "t2,a,a.fits,science,,r.fits\n", "telescope: 't2' is not a telescope"),
        (TELESCOPE, IMAGE_HEAD + "t1,a/b,a.fits,science,,r.fits\n", "row 2: image: "),
        (TELESCOPE, IMAGE_HEAD + "t1,a\n", "must have as many cells"),
    ],
)
def test_bad_sheets(root, tmp_path, telescope, images, message):
    with pytest.raises(ConfigError, match=message):
        Run.from_config(_sheets(tmp_path, telescope, images), root=root)


def made(root, **values):
    return Run.from_config(values, root=root)


def test_trainings_by_cube_experiment_seed_and_protocol(root):
    run = made(root, run={"experiments": ["otrain2"], "seeds": [1, 2], "protocols": ["by-image", "random"]})
    folder = "results/demo/builtin/otrain2"
    assert run.trainings("by-image") == [f"{folder}/seed1", f"{folder}/seed2"]
    assert run.trainings("random") == [f"{folder}/seed1/random", f"{folder}/seed2/random"]
    assert sorted(run.trainings()) == sorted(run.trainings("by-image") + run.trainings("random"))
    assert run.used_telescopes() == ["demo"]


def test_what_a_pipeline_needs(root):
    pipelines = {
        "plain": {},
        "solved": {"psf": {"photometry": "catalogue"}},
        "searched": {"detect": {"search": ["catalogue"]}},
        "turned": {"subtract": {"align": "wcs"}},
    }
    run = made(root, pipelines=pipelines, run={"cubes": [f"demo/{name}" for name in pipelines]})
    needs = {name: (run.needs_wcs("demo", name), run.needs_catalogue("demo", name)) for name in pipelines}
    assert needs == {
        "plain": (False, False),
        "solved": (True, True),
        "searched": (True, True),
        "turned": (True, False),
    }
    assert run.needs_catalogue("demo", "solved", "psf") and not run.needs_catalogue("demo", "solved", "detect")
    assert run.needs_catalogue("demo", "searched", "detect") and not run.needs_catalogue("demo", "searched", "psf")


def test_a_real_telescope_without_a_catalogue_is_told(root, tmp_path):
    values = _sheets(tmp_path, TELESCOPE, IMAGE_HEAD + "t1,a,a.fits,science,,r.fits\n")
    values["pipelines"] = {"builtin": {"detect": {"search": ["catalogue"]}}}
    with pytest.raises(ConfigError, match="telescopes.t1.catalogue: pipelines.builtin needs a star catalogue"):
        Run.from_config(values, root=root)


def test_cutouts_smaller_than_an_experiment_asks_are_told(root):
    values = {"experiments": {"paper": {"size": 48}, "otrain2": {}}}
    with pytest.raises(ConfigError, match="experiments.paper.size: 48 px is larger than the cutouts of demo/builtin"):
        made(root, **values)


def test_the_recipe_of_a_model_is_what_its_cutouts_were_made_with(tmp_path):
    """With the options of the telescope, and what differs for it; a pool has none."""
    images = IMAGE_HEAD + "t1,a,a.fits,science,,ref.fits\n"
    values = _sheets(tmp_path, TELESCOPE, images)
    changed = {"detect": {"threshold": 6.0}}
    values["pipelines"] = {"builtin": {"detect": {"min_area": 2}, "telescopes": {"t1": changed}}}
    run = Run.from_config(values)
    recipe = read_recipe({"recipe": run.recipe("t1", "builtin")}, where="model")
    assert recipe.pipeline.detect.threshold == 6.0 and recipe.pipeline.detect.min_area == 2
    assert recipe.detector.gain == 2.0 and (recipe.telescope, recipe.name) == ("t1", "builtin")
    assert run.recipe("pool", "builtin") is None
