"""The built wheel, installed outside the clone: every command of `otrain` runs."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.arrays import write_arrays
from otrain_core.cli.parser import build_parser
from tests.unit.synthetic_cube import make_cube
from tests.unit.synthetic_night import write_pair
from tests.unit.synthetic_results import write_results


def verbs(parser=None, before=()):
    """All commands with their actions, as (command,) or (command, action)."""
    for action in (parser or build_parser())._subparsers._group_actions:
        for name, made in action.choices.items():
            yield from verbs(made, (*before, name)) if made._subparsers else [(*before, name)]


@pytest.fixture(scope="module")
def otrain(root, tmp_path_factory):
    """Install the wheel in an environment that also sees the packages of this one; return a function that runs its command."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    shutil.copytree(root / "otrain_core", source / "otrain_core", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    shutil.rmtree(source)
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    site = next(venv.glob("lib/python*/site-packages"))
    # The dependencies come from this environment; a .pth file does not bring its editable O'TRAIN with it.
    (site / "packages.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    wheel = next(folder.glob("otrain-*.whl"))
    install = [*pip, "--python", str(venv / "bin/python"), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    work = folder / "work"
    work.mkdir()
    done = set()

    def run(*arguments, status=0, start=False):
        words = [str(word) for word in arguments]
        done.add(tuple(words[:2]) if words[0] in ("models", "label") else (words[0],))
        command = [str(venv / "bin/otrain"), *words]
        if start:
            return subprocess.Popen(command, cwd=work, env=env, stdout=subprocess.PIPE, text=True)
        result = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, timeout=900)
        assert result.returncode == status, f"otrain {' '.join(words)}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    run.work, run.done, run.python, run.env = work, done, venv / "bin/python", env
    return run


def test_the_library_is_that_of_the_wheel(otrain):
    code = "import otrain_core, pathlib; print(pathlib.Path(otrain_core.__file__).parent)"
    result = subprocess.run(
        [otrain.python, "-c", code], cwd=otrain.work, env=otrain.env, capture_output=True, text=True
    )
    place = Path(result.stdout.strip())
    assert place.is_relative_to(otrain.python.parents[1]), result.stdout + result.stderr
    for name in ("py.typed", "figures/otrain.mplstyle", "paper/published.csv", "report/templates/report.html"):
        assert (place / name).is_file(), name


def test_every_verb_runs(otrain):
    work = otrain.work
    write_arrays(work / "made.npz", make_cube(300))
    otrain("export", "made.npz", "-o", "folders")
    otrain("convert", "folders", "-o", "cube.npz")
    otrain("check", "cube.npz", "folders")
    otrain("train", "cube.npz", "-o", "mine", "--inputs", "difference", "--epochs", "2", "--threads", "1")
    assert json.loads(otrain("diagnose", "mine", "-o", "figures", "--json"))["headline"]["n_true"] > 0
    otrain("explain", "mine", "--cube", "cube.npz", "-o", "maps")
    assert (work / "maps/gradcam.png").stat().st_size > 0
    otrain("models", "export", "mine", "-o", "again.onnx", "--cube", "cube.npz")
    data = np.random.default_rng(1).normal(0, 5, (120, 120)).astype(np.float32)
    data[58:63, 58:63] += 200
    fits.PrimaryHDU(data).writeto(work / "diff.fits")
    otrain("classify", "diff.fits", "--detect", "--psf", "3", "-m", "again.onnx", "-o", "scores.csv")
    assert len((work / "scores.csv").read_text().splitlines()) >= 2
    assert json.loads(otrain("monitor", "cube.npz", "-m", "mine", "--json"))["n"] == 300
    _tonight(otrain)
    _project(otrain)
    _registry(otrain)
    _labels(otrain)
    assert set(verbs()) - otrain.done == set()


def _tonight(otrain):
    science, reference, model = write_pair(otrain.work)
    (otrain.work / "incoming").mkdir()
    shutil.copy(science, otrain.work / "incoming")
    otrain("search", science.name, "--reference", reference.name, "-m", model.name, "-o", "tonight")
    assert (otrain.work / "tonight/science.ecsv").stat().st_size > 0
    otrain("night", "incoming", "--references", reference.name, "-m", model.name, "-o", "nights", "--once")
    assert "science" in next((otrain.work / "nights").glob("2024-*/index.html")).read_text()


def _project(otrain):
    """Make a project from a folder and search it; the workflow needs a clone and says so."""
    otrain("example", "frames", "--frames", "1")
    otrain("init", "frames", "-o", ".")
    otrain("search", "config.yaml", "-m", "model.onnx", "-o", "found")
    assert list((otrain.work / "found").glob("*ngc9000-0001_R.ecsv"))
    otrain("solve", "none", status=1)
    for verb in ("plan", "run"):
        otrain(verb, "config.yaml", status=1)


def _registry(otrain):
    write_results(otrain.work / "results", failed=(), n_images=12, model=otrain.work / "mine/model.keras")
    otrain("models", "import", "--results", "results")
    versions = json.loads(otrain("models", "list", "--json"))
    assert {row["version"] for row in versions} - {"shipped"} == {1, 2}
    otrain("models", "promote", "tiny", "1")
    otrain("models", "promote", "tiny", "2")
    otrain("models", "roll-back", "tiny")
    otrain("models", "automatic", "tiny")


def _labels(otrain):
    process = otrain(
        "label", "serve", "cube.npz", "-m", "mine", "--telescope", "tiny", "--port", "0", "--json", start=True
    )
    try:
        address = json.loads(process.stdout.readline())["url"]
        with urllib.request.urlopen(address, timeout=60) as page:
            assert b"<html" in page.read().lower()
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert otrain("label", "sheet").startswith("telescope,")
