"""Ten frames of a small telescope, from the folder by otrain init to a report that first says how reliable its score is."""

import json
import re
import sqlite3
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from otrain_core.arrays import read_arrays
from otrain_core.cli.main import main
from tests.e2e.ten_frames import FRAMES, GAIN, write
from tests.workflow.test_dry_run import snakemake

MORE = """
pipelines:
  builtin:
    inject: {n_sources: 40}
    detect: {threshold: auto, target_candidates: 70}
cube: {min_per_class: 5}
experiments:
  otrain2: {epochs: 4}
evaluate: {bootstrap: 200}
"""


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """Project of the finished run, at 0.4 of the size; only the options that make it short are written by hand."""
    workdir = tmp_path_factory.mktemp("project")
    frames = write(tmp_path_factory.mktemp("frames") / "ten", scale=0.4)
    assert main(["init", str(frames), "-o", str(workdir)]) == 0
    (workdir / "short.yaml").write_text(MORE)
    configs = [str(workdir / name) for name in ("config.yaml", "short.yaml")]
    snakemake(root, "--cores", "2", "--directory", str(workdir), "--configfile", *configs, timeout=1500)
    return SimpleNamespace(project=workdir, frames=frames)


def results(run):
    return run.project / "results"


def test_borders_of_zeros_are_no_data(run):
    """They contain no candidates and no injected sources."""
    for number in range(FRAMES):
        with fits.open(run.frames / f"r_light_{number:05d}.fit") as hdus:
            void = hdus[0].data == 0
        folder = results(run) / f"ten/builtin/images/r_light_{number:05d}"
        for name, columns in (("candidates.csv", "x y"), ("injected.csv", "x y")):
            table = pd.read_csv(folder / name)
            x, y = (
                np.clip(table[key].round().astype(int), 0, side - 1)
                for key, side in zip(columns.split(), void.shape[::-1], strict=True)
            )
            inside = void[y, x] if name == "candidates.csv" else void[y, x] & table["usable"]
            assert not inside.any(), (number, name)


def test_the_gain_is_that_of_siril(run):
    assert json.loads((results(run) / "ten/builtin/images/r_light_00000/psf.json").read_text())[
        "gain"
    ] == pytest.approx(GAIN)


def test_no_sky_is_in_two_sets(run):
    """All frames show one field: cutouts of different sets are apart on the common grid."""
    cube, split = (
        read_arrays(results(run) / "ten/builtin/cube.npz"),
        pd.read_csv(results(run) / "ten/builtin/split.csv"),
    )
    sets = split.set_index("index")["set"].reindex(range(len(cube["labels"]))).fillna("").to_numpy(str)
    seeing = float(np.median(cube["seeing"]))
    for first, second in (("train", "test"), ("train", "validation"), ("validation", "test")):
        a, b = (np.flatnonzero(sets == name) for name in (first, second))
        assert len(a) and len(b)
        distance = np.hypot(cube["x"][a][:, None] - cube["x"][b], cube["y"][a][:, None] - cube["y"][b])
        assert distance.min() > 2 * seeing, (first, second)


def test_the_report_says_first_what_its_score_is_worth(run):
    page = (results(run) / "report.html").read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.S))
    start = text[: text.index("MCC") if "MCC" in text[:1500] else 1500]
    assert re.search(r"too small for a verdict|No model becomes champion|no champion", text[:3000]), start


def test_no_champion_of_so_few(run):
    """The test set is smaller than required: versions are registered, but none is the champion."""
    with sqlite3.connect(results(run) / "mlflow.db") as base:
        (champions,) = base.execute("SELECT count(*) FROM registered_model_aliases WHERE alias = 'champion'").fetchone()
    assert champions == 0


def test_magnitudes_are_called_instrumental(run):
    assert "instrumental" in (results(run) / "report.html").read_text()


def test_the_fixed_cuts_stand_beside(run):
    summary = pd.read_csv(results(run) / "summary.csv")
    assert {"otrain2", "fixed-cuts"} <= set(summary["experiment"])
