"""A results folder as a run leaves it, small and made up, for tests of summary, track and report."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from otrain_core import io
from otrain_core.arrays import write_arrays
from otrain_core.evaluation.evaluate import evaluate_scores
from otrain_core.evaluation.summary import summary_files
from otrain_core.plan.config import EvaluateOptions
from otrain_core.results import TABLES
from tests.unit.synthetic_cube import make_cube, make_split

STEPS = ("psf", "inject", "prepare", "subtract", "detect", "crossmatch", "cutouts")
BENCHMARK = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def write_results(
    root: Path,
    *,
    telescope: str = "tiny",
    pipeline: str = "builtin",
    experiments: tuple[str, ...] = ("paper", "otrain2"),
    seeds: tuple[int, ...] = (1,),
    protocols: tuple[str, ...] = ("by-image",),
    n_images: int = 8,
    failed: tuple[str, ...] = ("I03",),
    quality: float = 3.0,
    model: Path | None = None,
    passing: bool = False,
    shipped: float | None = None,
) -> dict[str, list[str]]:
    """Write the records of one cube and its trainings; `quality` is how well scores part the classes.

    With `passing` the test set is large enough for the gate, and no FWHM is known, so that there are no fixed cuts.
    `shipped` is how well the scores of the shipped model part them (None: it does not fit the cube).

    Returns
    -------
    dict
        images (names) and runs (folders of the trainings).
    """
    rng = np.random.default_rng(5)
    folder = root / telescope / pipeline
    n_images = max(n_images, 24) if passing else n_images
    images = [f"I{k:02d}" for k in range(n_images)]
    for name in images:
        write_image(root, telescope, pipeline, name, rng, failed=name in failed)
    cube = make_cube(50 * n_images, n_images=n_images, seed=3)
    good = ~np.isin(cube["images"], failed)
    cube = {key: value[good] if value.shape[:1] == good.shape else value for key, value in cube.items()}
    if passing:
        cube["fwhms"][:] = np.nan
    cube |= {"telescope": np.array(telescope), "pipeline": np.array(pipeline)}
    cube["reasons"] = np.where(cube["labels"] == 1, "injection 3 at 0.20 FWHM", "no injection within 2.0 FWHM")
    cube["injections"] = np.where(cube["labels"] == 1, np.arange(len(good[good])) % 120, -1)
    write_arrays(folder / "cube.npz", cube)
    n_true, n_false = int((cube["labels"] == 1).sum()), int((cube["labels"] == 0).sum())
    counts = {"n_images": n_images, "n_images_used": n_images - len(failed), "n_images_failed": len(failed)}
    counts |= {"n_candidates": 900, "n_edge": 40, "n_left_out": 100, "n_labelled_true": n_true}
    counts |= {"n_labelled_false": n_false + 300, "n_true": n_true, "n_false": n_false}
    io.write_json(folder / "cube.json", {"telescope": telescope, "pipeline": pipeline, "size": 32, **counts})
    split = make_split(cube)
    io.write_table(folder / "split.csv", split)
    io.write_json(folder / "split.json", {})
    runs = []
    for experiment in experiments:
        for seed in seeds:
            for protocol in protocols:
                run = folder / experiment / f"seed{seed}"
                run = run / "random" if protocol == "random" else run
                write_training(
                    run, cube, split, protocol=protocol, seed=seed, quality=quality, model=model, shipped=shipped
                )
                runs.append(str(run))
    return {"images": images, "runs": runs}


def write_image(root: Path, telescope: str, pipeline: str, name: str, rng, *, failed: bool) -> None:
    """Records, benchmark files and, for a failed one, failure marks of one image."""
    folder = root / telescope / pipeline / "images" / name
    for step in STEPS[: 2 if failed else None]:
        path = root / "benchmarks" / telescope / pipeline / name / f"{step}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        cpu, rss = rng.uniform(0.5, 4), rng.uniform(150, 400)
        path.write_text(f"{BENCHMARK}{cpu * 1.1:.4f}\t0:00:03\t{rss:.2f}\t900\t100\t100\t1\t2\t80.0\t{cpu:.2f}\n")
    limit = rng.normal(20.4, 0.1)
    psf = {
        "limit_mag": limit,
        "zero_point_source": "header",
        "seeing_arcsec": rng.normal(3, 0.2),
        "seeing_px": 2.5,
        "pixel_scale": 1.2,
    }
    io.write_json(folder / "psf.json", psf | {"width": 1024, "height": 1024})
    if failed:
        reason = {"image": name, "key": "SATURATE", "message": "61 % of the pixels are saturated", "step": "prepare"}
        io.write_json(root / "failures" / telescope / pipeline / name / "prepare.json", reason)
        for file in ("subtract.json", "candidates.csv", "labelled.csv", "crossmatch.json", "cutouts.npz"):
            io.write_json(folder / file, {"otrain_failed": reason})
        return
    spread = rng.normal(1.02, 0.02)
    io.write_json(folder / "subtract.json", {"method": "alard-lupton", "noise_spread": spread, "cpu_seconds": 4.0})
    mags = np.arange(16, 21, 0.5)
    injected = np.full(len(mags), 12)
    recovered = rng.binomial(12, 0.96 / (1 + np.exp((mags + 0.25 - limit + 0.4) / 0.25)))
    bins = [
        {"mag_low": m, "mag_high": m + 0.5, "injected": int(i), "recovered": int(r), "completeness": r / i}
        for m, i, r in zip(mags, injected, recovered, strict=True)
    ]
    record = {"image": name, "n_candidates": 110, "n_true": 60, "n_false": 35, "n_left_out": 15}
    record |= {"left_out": {"edge": 5, "not_the_match": 10}, "artefacts": {"cosmic": 15, "dipole": 20}}
    record |= {"n_injected": int(injected.sum()), "n_recovered": int(recovered.sum()), "completeness": bins}
    record |= {"bright_injected": 70, "bright_recovered": 66, "near_injection_false": 0}
    record |= {"completeness_50_mag": limit - 0.4, "flux_bias": rng.normal(-0.004, 0.004), "flux_scatter": 0.02}
    io.write_json(folder / "crossmatch.json", record)
    truth = pd.DataFrame({"id": np.arange(120), "mag": np.repeat(mags + 0.25, 12)})
    io.write_table(folder / "injected.csv", truth)
    (folder / "cutouts.npz").write_bytes(b"PK")


def write_training(
    folder: Path,
    cube,
    split,
    *,
    protocol: str,
    seed: int,
    quality: float,
    model: Path | None,
    shipped: float | None = None,
) -> None:
    """Draw scores from the labels, evaluate them, and write the files of a training."""
    name = "/".join((str(cube["telescope"]), *folder.parts[-3:]))  # the scores must not depend on the temporary folder
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    table = split.drop(columns=["field", "cell"])
    logit = rng.normal(quality * (2 * table["label"].astype(int) - 1), 1.7)
    table["score"] = 1 / (1 + np.exp(-logit))
    table["sign"] = np.where(np.arange(len(table)) % 5 == 0, -1, 1)
    other = None
    if shipped is not None:
        logit = np.random.default_rng(9).normal(shipped * (2 * table["label"].astype(int) - 1), 1.7)
        other = table[["index"]].assign(score=1 / (1 + np.exp(-logit)), threshold=0.5)
    true = table[(table["set"] == "test") & (table["label"].astype(int) == 1)]
    real = true[["image", "score"]].assign(kind="removed", mag=np.asarray(cube["mags"])[true["index"]])
    metrics, curves = evaluate_scores(
        table,
        cube,
        rng=rng,
        options=EvaluateOptions(bootstrap=200),
        protocol=protocol,
        real_stars=real if protocol == "by-image" else None,
        shipped=other,
    )
    metrics["headline"]["train_seconds"] = 12.5
    metrics |= {"telescope": str(cube["telescope"]), "pipeline": str(cube["pipeline"]), "seed": seed}
    io.write_json(folder / "metrics.json", metrics)
    io.write_table(folder / "curves.csv", curves)
    io.write_table(folder / "scores.csv", table[["index", "candid", "image", "label", "score", "set"]])
    epoch = np.arange(1, 9)
    history = pd.DataFrame({"epoch": epoch, "loss": np.exp(-epoch / 3), "accuracy": 1 - 0.4 * np.exp(-epoch / 2)})
    history["validation_loss"] = history["loss"] + 0.05
    history["validation_accuracy"] = history["accuracy"] - 0.02
    history["seconds"], history["learning_rate"] = 1.5, 1e-3
    io.write_table(folder / "history.csv", history)
    options = {"network": "otrain2", "inputs": ["difference"], "size": 32, "normalise": "mad-asinh", "augment": True}
    options |= {"batch_size": 128, "keep": "best"}
    record = {"options": options, "seed": seed, "protocol": protocol, "n_parameters": 123456, "n_train": 240}
    record |= {
        "seconds": 12.5,
        "best_epoch": 8,
        "kept_epoch": 8,
        "epochs": 8,
        "device": "CPU (2 cores)",
        "cube_digest": "ab" * 32,
    }
    record |= {"commit": "0123456789ab", "time": "2026-01-02T03:04:05Z", "versions": {"keras": "3.15.0"}}
    io.write_json(folder / "train.json", record)
    if model is not None:
        shutil.copy(model, folder / "model.keras")


def summary_tables(
    root: Path, made: dict[str, list[str]], *, cubes: tuple[str, ...] = ("tiny/builtin",)
) -> dict[str, pd.DataFrame]:
    """All tables of the run that `write_results` made."""
    paths = {name: root / f"{name}.csv" for name in TABLES}
    summary_files(
        cubes=cubes,
        images={"tiny": made["images"]},
        runs=made["runs"],
        tables=paths,
        options=EvaluateOptions(bootstrap=200),
        seed=1,
        root=root,
    )
    return {name: io.read_table(path) for name, path in paths.items()}
