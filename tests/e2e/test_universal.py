"""A tiny shipped model, made with the configuration of the real one, installed with its card, and used."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml

from otrain_core.arrays import read_stack
from otrain_core.classify import Classifier
from otrain_core.io import read_json
from tests.workflow.test_dry_run import snakemake

TRAINING = "results/pool-drawn/all/any-telescope/seed1"
TINY = {
    "draw": {"telescopes": 6, "validation": 2, "test": 2, "pipelines": {"random": 1.0}, "max_failed_fraction": 0.9},
    "experiments": {"any-telescope": {"epochs": 2}},
    "evaluate": {"bootstrap": 100},
}


@pytest.fixture(scope="module")
def drawn(root, tmp_path_factory):
    """Working directory of a run of the target universal."""
    work = tmp_path_factory.mktemp("universal")
    prior = {"sky.n_images": 2, "sky.width": 320, "sky.height": 320, "sky.star_density": 2000, "sky.fwhm": 3.0}
    tiny = TINY | {"draw": TINY["draw"] | {"prior": prior}}
    (work / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    configs = [str(root / "config/universal.yaml"), str(work / "tiny.yaml")]
    arguments = ["--directory", str(work), "--configfile", *configs, "--keep-going", "--", "universal"]
    snakemake(root, "--cores", "2", *arguments, timeout=1500)
    return work


def test_it_is_installed_and_used(root, drawn):
    """In a copy of the library, so that the model of this clone is not changed."""
    for name in ("otrain_core", "tools"):
        shutil.copytree(root / name, drawn / name, ignore=shutil.ignore_patterns("__pycache__"))
    models = drawn / "otrain_core/classify/models"
    config = ["--config", str(root / "config/universal.yaml"), "tiny.yaml"]
    subprocess.run(
        [sys.executable, "-m", "tools.ship", TRAINING, *config, "-o", str(models)], cwd=drawn, check=True, timeout=300
    )
    card = read_json(models / "universal.json")
    assert card["data"]["n_telescopes"] <= 2 < card["data"]["n_true"] and card["prior"]["sky.fwhm"] == 3.0
    assert card["scores"][0]["set"] == "simulated telescopes, held out"
    stored = read_stack(models / card["check"]["file"])
    found = Classifier.load(models / "universal.onnx").score(stored)
    assert found == pytest.approx(card["check"]["scores"], abs=1e-4)
    cube = str(drawn / "results/pool-drawn/all/cube.npz")
    otrain = [sys.executable, "-m", "otrain_core.cli.main"]
    said = subprocess.run(
        [*otrain, "classify", cube, "--json"], cwd=drawn, check=True, capture_output=True, timeout=300
    )
    assert json.loads(said.stdout)["model"]["telescope"] == "universal"
    listed = subprocess.run([*otrain, "models", "list"], cwd=drawn, check=True, capture_output=True, timeout=300)
    assert listed.stdout.decode().startswith("universal (shipped; the default of -m)")
    tuned = [*otrain, "train", cube, "-o", "mine", "--from", "universal", "--epochs", "2", "--threads", "1"]
    subprocess.run(tuned, cwd=drawn, check=True, timeout=900)
    assert read_json(drawn / "mine/train.json")["adapted"]["from"] == "universal"
    assert read_json(drawn / "mine/metrics.json")["headline"]["shipped_mcc"] is not None


def test_the_model_that_is_shipped_scores_as_its_card_says(root):
    folder = root / "otrain_core/classify/models"
    card = read_json(folder / "universal.json")
    stored = read_stack(folder / card["check"]["file"])
    found = Classifier.load(folder / "universal.onnx").score(stored)
    assert found == pytest.approx(card["check"]["scores"], abs=1e-4)
    right = (found >= card["threshold"]) == (stored["labels"] == 1)
    assert right.mean() >= 0.75
