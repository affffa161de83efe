"""A small real run, from raw images to the registry, and checks of its results."""

import json
import shutil
import sqlite3

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from otrain_core.arrays import read_arrays
from otrain_core.io import digest
from tests.workflow.test_dry_run import planned_jobs, snakemake

CUBE = "results/tiny/builtin"
TABLE_1 = ["cube", "labels", "mags", "errmags", "filters", "fwhms", "candids"]


@pytest.fixture(scope="module")
def clone(root, tmp_path_factory):
    """A copy of the code, which a test may edit."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("workflow", "scripts", "otrain_core", "config"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def options(root, workdir):
    """Arguments of the small run in a separate working directory."""
    return [
        "--directory",
        str(workdir),
        "--configfile",
        str(root / "tests/e2e/tiny.yaml"),
        "--config",
        f"telescope_folder={root / 'tests/e2e/telescopes'}",
    ]


@pytest.fixture(scope="module")
def small_run(root, clone, tmp_path_factory):
    """Working directory of a finished run."""
    workdir = tmp_path_factory.mktemp("run")
    snakemake(clone, "--cores", "2", *options(root, workdir), timeout=1500)
    return workdir


def test_contract_files(small_run):
    for name in ("summary.csv", "quality.csv", "mlflow.db", "report.html", "mlflow.json"):
        assert (small_run / "results" / name).stat().st_size > 0, name
    for experiment in ("paper", "otrain2"):
        for folder in ("seed1", "seed1/random"):
            for name in ("model.keras", "scores.csv", "metrics.json", "history.csv", "train.json"):
                assert (small_run / CUBE / experiment / folder / name).stat().st_size > 0, (experiment, folder, name)
        assert (small_run / CUBE / experiment / "seed1/model.onnx").stat().st_size > 0, experiment


def test_summary_and_quality(small_run):
    summary = pd.read_csv(small_run / "results/summary.csv")
    columns = (
        "telescope pipeline experiment seed protocol n_images n_true n_false threshold accuracy precision recall f1 mcc "
        "mcc_low mcc_high fpr_at_1pct_missed fpr_at_5pct_missed ece false_alarms_per_image train_seconds"
    )
    assert set(columns.split()) <= set(summary.columns)
    assert len(summary) == 8  # two trainings, fixed cuts and the shipped model, under two protocols each
    assert summary.experiment.value_counts()[["fixed-cuts", "universal"]].tolist() == [2, 2]
    assert set(summary.protocol) == {"by-image", "random"}
    quality = pd.read_csv(small_run / "results/quality.csv")
    assert len(quality) == 6
    assert (quality.status == "ok").all()
    assert quality.noise_spread.between(0.7, 1.4).all()


def test_cube(small_run):
    cube = read_arrays(small_run / CUBE / "cube.npz")
    assert list(cube)[:7] == TABLE_1
    n = len(cube["labels"])
    assert cube["cube"].shape == (n, 32, 32, 5)
    assert cube["cube"].dtype == np.float32
    assert cube["labels"].mean() == pytest.approx(0.5, abs=0.02)
    assert len(set(cube["candids"])) == n
    missing = np.isnan(cube["cube"][..., 0]).sum(axis=(1, 2))
    assert (missing == cube["n_missing"]).all()


def test_every_true_has_its_injection(small_run):
    cube = read_arrays(small_run / CUBE / "cube.npz")
    for image in np.unique(cube["images"]):
        truth = pd.read_csv(small_run / CUBE / "images" / image / "injected.csv").set_index("id")
        seeing = json.loads((small_run / CUBE / "images" / image / "psf.json").read_text())["seeing_px"]
        here = (cube["images"] == image) & (cube["labels"] == 1)
        matched = truth.loc[cube["injections"][here]]
        distance = np.hypot(cube["x"][here] - matched.x, cube["y"][here] - matched.y)
        assert (distance <= 0.75 * seeing + 1e-6).all()
        assert matched.index.is_unique
        false = (cube["images"] == image) & (cube["labels"] == 0)
        for x, y in zip(cube["x"][false], cube["y"][false], strict=True):
            assert np.hypot(truth.x - x, truth.y - y).min() > 2.0 * seeing


def test_no_image_on_two_sides(small_run):
    split = pd.read_csv(small_run / CUBE / "split.csv")
    used = split[split.set != "unused"]
    assert set(used.set) == {"train", "validation", "test"}
    assert (used.groupby("image").set.nunique() == 1).all()
    scores = pd.read_csv(small_run / CUBE / "otrain2/seed1/scores.csv")
    merged = used.merge(scores, on="index")
    assert (merged.set_x == merged.set_y).all()
    assert merged.score.between(0, 1).all()


def test_headline_numbers_come_from_test_images(small_run):
    """MCC recomputed by hand from the scores of the test images."""
    folder = small_run / CUBE / "otrain2/seed1"
    summary = (
        pd.read_csv(small_run / "results/summary.csv")
        .query("experiment == 'otrain2' and protocol == 'by-image'")
        .iloc[0]
    )
    scores = pd.read_csv(folder / "scores.csv").query("set == 'test'")
    decided, label = scores.score >= summary.threshold, scores.label == 1
    tp, fp = (decided & label).sum(), (decided & ~label).sum()
    fn, tn = (~decided & label).sum(), (~decided & ~label).sum()
    product = float(tp + fp) * float(tp + fn) * float(tn + fp) * float(tn + fn)
    expected = (tp * tn - fp * fn) / np.sqrt(product) if product else 0.0
    assert summary.mcc == pytest.approx(expected, abs=1e-6)
    assert summary.n_images == split_images(small_run, "test")
    assert summary.mcc_low <= summary.mcc <= summary.mcc_high


def split_images(workdir, name):
    split = pd.read_csv(workdir / CUBE / "split.csv")
    return split[split.set == name].image.nunique()


def test_mlflow_store(small_run):
    with sqlite3.connect(small_run / "results/mlflow.db") as store:
        names = {row[0] for row in store.execute("select name from registered_models")}
        aliases = {row[0] for row in store.execute("select alias from registered_model_aliases")}
        n_runs = store.execute("select count(*) from runs where lifecycle_stage = 'active'").fetchone()[0]
    assert names == {"otrain-tiny"}
    assert aliases == {"champion"}
    assert n_runs >= 4


def test_rerun_has_nothing_to_do(root, clone, small_run):
    assert "Nothing to be done" in snakemake(clone, "--cores", "2", "-n", *options(root, small_run)).stdout


def test_edited_module_reruns_what_uses_it_and_nothing_else(root, clone, small_run):
    module = clone / "otrain_core/cubes/split.py"
    text = module.read_text()
    try:
        module.write_text(text + "\n# edited\n")
        jobs = planned_jobs(snakemake(clone, "--cores", "2", "-n", *options(root, small_run)).stdout)
    finally:
        module.write_text(text)
    assert jobs["split"] == 1
    assert jobs["train"] == 2
    assert not {"simulate", "psf", "inject", "prepare", "subtract", "detect", "crossmatch", "cutouts", "cube"} & set(
        jobs
    )


def test_same_seed_same_bytes(root, clone, small_run, tmp_path):
    """A second run with the same seed: cube and splits byte for byte, the same metrics."""
    targets = [f"{CUBE}/otrain2/seed1/metrics.json"]
    snakemake(clone, "--cores", "2", *options(root, tmp_path), "--", *targets, timeout=1500)
    for name in ("cube.npz", "split.csv", "split_random.csv", "otrain2/seed1/scores.csv", "otrain2/seed1/curves.csv"):
        assert digest(tmp_path / CUBE / name) == digest(small_run / CUBE / name), name
    first, second = (json.loads((d / targets[0]).read_text()) for d in (small_run, tmp_path))
    assert first["headline"] | {"train_seconds": 0} == second["headline"] | {"train_seconds": 0}


def test_logs_and_benchmarks(small_run):
    assert (small_run / "results/logs/tiny/builtin/sim0001/psf.log").exists()
    benchmark = pd.read_csv(small_run / "results/benchmarks/tiny/builtin/sim0001/subtract.tsv", sep="\t")
    assert {"s", "max_rss", "cpu_time"} <= set(benchmark.columns)


def test_an_image_leaves_a_few_files_however_many_its_cutouts(small_run):
    """8 results, 7 logs and 7 benchmarks for each pipeline, 3 of its sky, and Snakemake's metadata of each output."""
    images = sorted(path.name for path in (small_run / CUBE / "images").iterdir())
    files = [path for path in (small_run / "results").rglob("*") if path.is_file()]
    for image in images:
        assert sum(image in path.parts for path in files) == 8 + 7 + 7 + 3
    noted = sum(path.is_file() for path in (small_run / ".snakemake/metadata").rglob("*"))
    others = sum(not set(images) & set(path.parts) for path in files)
    assert noted <= 14 * len(images) + others


def test_ready_made_folders_enter_the_dag(root, small_run, tmp_path):
    """True/ and False/ folders of FITS cutouts, as written for the original O'TRAIN, become a cube."""
    cube = read_arrays(small_run / CUBE / "cube.npz")
    for label, name in enumerate(("False", "True")):
        (tmp_path / "boxes" / name).mkdir(parents=True)
        for row in np.flatnonzero(cube["labels"] == label)[:20]:
            header = fits.Header([("CANDID", str(cube["candids"][row])), ("EDGE", "False")])
            if np.isfinite(cube["mags"][row]):
                header["MAG"] = float(cube["mags"][row])
            path = tmp_path / "boxes" / name / f"{row}.fits"
            fits.PrimaryHDU(cube["cube"][row, ..., 0], header=header).writeto(path)
    arguments = [*options(root, tmp_path), f"data_root={tmp_path}", "run={'cubes': ['boxes/builtin']}"]
    snakemake(root, "--cores", "1", *arguments, "--", "results/boxes/builtin/cube.npz")
    made = read_arrays(tmp_path / "results/boxes/builtin/cube.npz")
    assert made["cube"].shape == (40, 32, 32, 1)
    assert set(made["candids"]) <= set(cube["candids"])
