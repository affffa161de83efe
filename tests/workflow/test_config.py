"""Configuration and sheets: defaults in step with the models, bad keys told by name."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from otrain_core.errors import ConfigError, ImageError
from otrain_core.plan.config import Config, load_config
from otrain_core.plan.config_docs import generate
from otrain_core.plan.run import Run
from otrain_core.plan.sheets import read_images


def test_generated_files_are_in_step(root):
    for path, text in generate(root / "config").items():
        assert path.read_text() == text, (
            f"{path.name} is out of step with otrain_core/plan/config.py: run `make config`"
        )


def test_default_yaml_is_the_default(root):
    assert load_config(yaml.safe_load((root / "config/config.yaml").read_text())) == Config()


@pytest.mark.parametrize("name", ["demo.yaml", "hatp32.yaml"])
def test_shipped_configs_are_valid(root, name):
    values = yaml.safe_load((root / "config/config.yaml").read_text())
    for key, value in yaml.safe_load((root / "config" / name).read_text()).items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    values["pipelines"] = {"builtin": {}} | values["pipelines"]
    run = Run.from_config(values, root=root)
    assert all(run.inputs.images(name) for name in run.used_telescopes())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sed": 1}, "config: sed: unknown key; did you mean 'seed'"),
        (
            {"pipelines": {"x": {"detect": {"treshold": 3}}}},
            "pipelines.x.detect.treshold: unknown key; did you mean 'threshold'",
        ),
        ({"pipelines": {"x": {"detect": {"threshold": -3}}}}, "pipelines.x.detect.threshold: .*greater than 0.*-3"),
        ({"pipelines": {"x": {"subtract": {"method": "magic"}}}}, "subtract.method: .*'alard-lupton'.*'magic'"),
        ({"split": {"fractions": [1, 2, 3]}}, "split.fractions: three positive shares"),
        ({"run": {"cubes": ["demo"]}}, "run.cubes: 'demo' is not of the form telescope/pipeline"),
        ({"run": {"cubes": ["demo/nopipe"]}}, "run.cubes names pipeline 'nopipe'"),
        ({"run": {"experiments": ["nothing"]}}, "run.experiments names 'nothing'"),
        ({"seed": "many"}, "config: seed: .*integer.*'many'"),
    ],
)
def test_bad_config_names_key_value_and_what_is_allowed(values, message):
    with pytest.raises(ConfigError, match=message):
        load_config(values)


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
            "run.cubes: telescope 't1' is neither in config/telescopes nor under telescopes; there are .*'demo'",
        ),
        (TELESCOPE, "", "telescope t1: no science image"),
        (
            TELESCOPE,
            IMAGE_HEAD + "t1,a,a.fits,science,,r.fits\nt1,a,b.fits,science,,r.fits\n",
            "image: 'a' stands twice",
        ),
        (TELESCOPE, IMAGE_HEAD + "t1,a,a.fits,science,,\n", "needs either field or reference"),
        (TELESCOPE, IMAGE_HEAD + "t1,a,a.fits,science,f,\n", "image a: field: 'f' has no row with role reference"),
        (TELESCOPE, IMAGE_HEAD + "t2,a,a.fits,science,,r.fits\n", "telescope: 't2' is no telescope"),
        (TELESCOPE, IMAGE_HEAD + "t1,a/b,a.fits,science,,r.fits\n", "row 2: image: "),
        (TELESCOPE, IMAGE_HEAD + "t1,a\n", "not as many cells"),
    ],
)
def test_bad_sheets(root, tmp_path, telescope, images, message):
    with pytest.raises(ConfigError, match=message):
        Run.from_config(_sheets(tmp_path, telescope, images), root=root)


def test_missing_file_is_told_before_any_work(root, tmp_path):
    values = _sheets(tmp_path, TELESCOPE, IMAGE_HEAD + "t1,a,a.fits,science,,r.fits\n")
    run = Run.from_config(values, root=root)
    assert run.inputs.images("t1") == ["a"]
    with pytest.raises(ImageError, match=r"image a: path: .*a\.fits: no such file"):
        run.inputs.check_files()


def test_missing_sheet():
    with pytest.raises(ConfigError, match="no such file"):
        read_images("nowhere.csv")


def test_environment_yml_has_what_pyproject_has(root):
    """conda users get the same packages, and the AstrOmatic programs besides."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    conda_names = {"matplotlib": "matplotlib-base", "snakemake": "snakemake-minimal", "tensorflow-cpu": "tensorflow"}
    conda_names["psycopg2-binary"] = "psycopg2"
    extras = project["optional-dependencies"]
    wanted = {}
    for requirement in project["dependencies"] + extras["cpu"] + extras["dev"]:
        name, version = re.match(r"([A-Za-z0-9_-]+)\s*(>=[\d.]+)", requirement).groups()
        wanted[conda_names.get(name, name)] = version
    environment = yaml.safe_load((root / "environment.yml").read_text())
    found = {}
    for entry in environment["dependencies"]:
        for item in entry["pip"] if isinstance(entry, dict) else [entry]:
            name, _, version = item.partition(" ")
            found[name] = version
    assert f"{project['requires-python']}" == found.pop("python")
    programs = {f"astromatic-{name}" for name in ("source-extractor", "psfex", "scamp", "swarp")}
    assert programs <= set(found)
    assert {name: version for name, version in found.items() if name not in programs | {"pip"}} == wanted


def test_requirements_pin_every_dependency(root):
    pinned = {re.split(r"[=\[; ]", line)[0].lower() for line in (root / "requirements.txt").read_text().splitlines()}
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in project["dependencies"] + extras["cpu"] + extras["dev"]:
        assert re.match(r"[A-Za-z0-9_-]+", requirement).group().lower() in pinned
    assert "://" not in (root / "requirements.txt").read_text()


@pytest.mark.parametrize("name", ["demo", "hatp32"])
def test_readme_numbers_are_those_of_the_files(root, name):
    from tools.publish import published_table

    assert published_table(root / "results/published" / name) in (root / "README.md").read_text()


def test_studies_are_of_the_experiments_that_they_name(root):
    values = {
        "run": {"cubes": ["TCA/builtin", "TACA/builtin", "JAST/builtin"], "experiments": ["paper", "otrain2"]},
        "studies": {"experiments": ["otrain2"], "label_noise": ["otrain2"], "transfer": True, "leave_one_out": True},
    }
    tables = Run.from_config(load_config(values).model_dump(), root=root).studies.tables()
    assert "results/pool-without-TCA/builtin/otrain2/seed1/transfer.csv" in tables
    assert "results/JAST/builtin/otrain2/label_noise/suspects.csv" in tables
    assert len(tables) == 9 and not any("/paper/" in table for table in tables)
    values["studies"]["label_noise"] = ["mine"]
    with pytest.raises(ConfigError, match="studies.label_noise names 'mine'"):
        load_config(values)


def test_readme_quotes_what_a_cutout_costs(root):
    from otrain_core.io import read_table
    from tools.scale import costs_text

    assert costs_text(read_table(root / "results/published/scale/costs.csv")) in (root / "README.md").read_text()
