"""Files at the root of the clone that must be in step: requirements, environment, numbers in the README."""

import re
import tomllib

import pytest
import yaml


def requirements(project):
    """Everything that `make setup` installs: the base, its extras, and the tools of developers."""
    extras = project["optional-dependencies"]
    assert extras["cpu"] == ["otrain[train,workflow,serve]"]
    return project["dependencies"] + [one for name in ("train", "workflow", "serve", "dev") for one in extras[name]]


def test_the_gpu_extra_is_train_with_cuda(root):
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    plain = {one for one in extras["train"] if not one.startswith(("tensorflow", "matplotlib"))}
    assert set(extras["gpu"]) - plain == {"otrain[workflow,serve]", "tensorflow[and-cuda]>=2.19"}


def test_environment_yml_has_what_pyproject_has(root):
    """conda users get the same packages, and the AstrOmatic programs besides."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    conda_names = {"matplotlib": "matplotlib-base", "snakemake": "snakemake-minimal", "tensorflow-cpu": "tensorflow"}
    conda_names["psycopg2-binary"] = "psycopg2"
    wanted = {}
    for requirement in requirements(project):
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
    for requirement in requirements(project):
        assert re.match(r"[A-Za-z0-9_-]+", requirement).group().lower() in pinned
    assert "://" not in (root / "requirements.txt").read_text()


@pytest.mark.parametrize("name", ["demo", "hatp32"])
def test_quoted_numbers_are_those_of_the_files(root, name):
    from tools.publish import published_table, quoting

    (page,) = [text for path in quoting(root) if f"<!-- {name} from here -->" in (text := path.read_text())]
    assert published_table(root / "results/published" / name) in page


def test_the_documentation_quotes_what_a_cutout_costs(root):
    from otrain_core.io import read_table
    from tools.scale import costs_text

    assert (
        costs_text(read_table(root / "results/published/scale/costs.csv"))
        in (root / "docs/explanation/costs.md").read_text()
    )
