"""Estimate a run before it starts: jobs, time, disk space, number of cutouts, and what these are sufficient for."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.errors import ConfigError, OtrainError
from otrain_core.images.hdus import read_header
from otrain_core.paper.estimate import estimate, planned_jobs, recorded_costs, training_seconds, training_speeds
from otrain_core.plan.run import Run
from otrain_core.results import read_record

CLONE = Path(__file__).parents[2]
RECOVERED = (0.65, 0.8)  # fraction of injected sources that become True, in the published runs hatp32 and demo
FALSE_PER_IMAGE = (60.0, 110.0)  # False per million pixels at the default threshold, in the same runs
MEGAPIXEL = 1024**2  # pixels of an image of the published runs
IMAGE_RULES = (
    "simulate",
    "catalogue",
    "psf",
    "inject",
    "prepare",
    "subtract",
    "detect",
    "crossmatch",
    "cutouts",
    "image",
)
PLANES = 12  # float32 planes of an image in temporary files while the image is processed
TRAINING_MB = 40.0  # model, ONNX file, scores and figures of one training [MB]
CUTOUT_BYTES = 20.0  # bytes per pixel of a cutout: five float32 channels


@dataclass(frozen=True)
class Expected:
    """Expected content of a cube, with a low and a high estimate.

    Attributes
    ----------
    cube : str
    images : int
    megapixels : float
        Size of one image [Mpx].
    true, false : tuple of float
        Number of cutouts of each class (low, high).
    test_images : int
        Number of images in the test set.
    test : tuple of float
        Number of cutouts of the smaller class in the test set (low, high).
    measured : bool
        Whether the numbers come from an earlier run of the cube.
    """

    cube: str
    images: int
    megapixels: float
    true: tuple[float, float]
    false: tuple[float, float]
    test_images: int
    test: tuple[float, float]
    measured: bool


def expect(run: Run, cube: str, *, results: str | Path = "results") -> Expected:
    """Estimate the images and cutouts of a cube.

    Parameters
    ----------
    run : Run
    cube : str
        telescope/pipeline.
    results : path-like
        Folder of results, where the record of an earlier run of the cube may be.
    """
    telescope, pipeline = cube.split("/")
    images = run.inputs.images(telescope)
    n, size = len(images), _megapixels(run, telescope, images)
    record = read_record(Path(results, cube, "cube.json"))
    measured = bool(record.get("n_images_used"))
    if measured:
        low = high = np.array([record["n_true"], record["n_false"]], float)
    else:
        injected = n * run.options(telescope, pipeline, "inject")["n_sources"]
        low, high = (
            np.array([injected * share, n * size * false])
            for share, false in zip(RECOVERED, FALSE_PER_IMAGE, strict=True)
        )
    share = run.config.split.fractions[2]
    fields = [run.inputs.field(telescope, image) or image for image in images]
    one_sky = len(set(fields)) < len(fields)  # then images and sky are both split
    part = share**2 if one_sky else share
    return Expected(
        cube,
        images=n,
        megapixels=size,
        true=(float(low[0]), float(high[0])),
        false=(float(low[1]), float(high[1])),
        test_images=round(share * n),
        test=(float(low.min()) * part, float(high.min()) * part),
        measured=measured,
    )


def _megapixels(run: Run, telescope: str, images: Sequence[str]) -> float:
    """Size of the first image that can be read [Mpx]; 1 where none can."""
    sky = run.telescopes[telescope].sky
    if sky is not None:
        return sky.width * sky.height / 1e6
    for image in images[:5]:
        try:
            header = read_header(run.inputs.science(telescope, image), image=image)
            return header["NAXIS1"] * header["NAXIS2"] / 1e6
        except (OtrainError, KeyError, OSError):
            continue
    return 1.0


def plan_run(config: Sequence[str | Path], *, results: str | Path = "results") -> dict[str, Any]:
    """Estimate the jobs, time, disk space and cutouts of a run in the working directory.

    Parameters
    ----------
    config : sequence of path-like
        Configuration files; later ones override earlier ones.
    results : path-like
        Folder of results. Costs and counts of earlier runs in it take precedence over the published ones.

    Returns
    -------
    dict
        run, expected (list of Expected), jobs (number by rule), costs (table of
        `otrain_core.paper.estimate.estimate`), threads, disk_mb, free_mb.

    Raises
    ------
    ConfigError
        The configuration is wrong, or Snakemake refuses the run.
    """
    run = Run.from_files(config)
    expected = [expect(run, cube, results=results) for cube in run.config.run.cubes]
    try:
        jobs = planned_jobs(config, target="all", root=CLONE, here=True)
    except subprocess.CalledProcessError as error:
        lines = [line for line in (error.stderr or "").splitlines() if line.strip()]
        raise ConfigError(f"Snakemake refuses the run: {lines[-1].strip() if lines else error}") from None
    jobs.pop("all", None)  # the rule all does no work
    costs = _costs(Path(results), expected)
    speeds = training_speeds(results) or training_speeds(CLONE / "results")
    cpu = training_seconds(run, CLONE / "results", speed=speeds["cpu"]) if "cpu" in speeds else {}
    return {
        "run": run,
        "expected": expected,
        "jobs": jobs,
        "costs": estimate(jobs, costs, cpu=cpu, gpu={}),
        "threads": os.cpu_count() or 1,
        "disk_mb": _disk(run, expected),
        "free_mb": shutil.disk_usage(".").free / 1e6,
    }


def _costs(results: Path, expected: Sequence[Expected]) -> pd.DataFrame:
    """CPU seconds per job by rule: from this folder, or else the published ones, scaled to the size of the images."""
    published, own = recorded_costs(CLONE / "results"), recorded_costs(results)
    images = sum(item.images for item in expected)
    size = sum(item.images * item.megapixels for item in expected) / max(images, 1)
    scaled = published.copy()
    rules = [rule for rule in IMAGE_RULES if rule in scaled.index]
    scaled.loc[rules, "mean"] *= max(size / (MEGAPIXEL / 1e6), 0.3)  # imports take the same time for small images
    return own.combine_first(scaled)


def _disk(run: Run, expected: Sequence[Expected]) -> float:
    """Disk space of the results and the largest temporary files [MB]."""
    total, largest = 0.0, 0.0
    for item in expected:
        telescope, pipeline = item.cube.split("/")
        side = run.options(telescope, pipeline, "cutouts")["size"]
        cutouts = item.true[1] + item.false[1]
        total += 2 * cutouts * side**2 * CUTOUT_BYTES / 1e6
        largest = max(largest, item.megapixels * 4 * PLANES)
    return total + TRAINING_MB * len(run.trainings()) + largest * (os.cpu_count() or 1)


def plan_text(found: Mapping[str, Any], config: Sequence[str]) -> str:
    """The estimate of `plan_run` in about ten lines."""
    run, jobs, costs = found["run"], found["jobs"], found["costs"]
    about = run.config.run
    trainings = sum(n for rule, n in jobs.items() if rule.startswith("train"))
    lines = [
        f"{', '.join(map(str, config))}: {_many(len(about.cubes), 'cube')}, experiments {', '.join(about.experiments)}, "
        f"{_many(len(about.seeds), 'seed')}",
        f"runs:     {_many(sum(jobs.values()), 'job')}, including {_many(trainings, 'training')}"
        + (" (nothing to do)" if not jobs else ""),
    ]
    hours, threads = float(costs["cpu_hours"].sum()), found["threads"]
    unknown = costs.loc[costs["cpu_hours"].isna(), "rule"]
    known = sorted(set(costs.loc[costs["cpu_hours"].notna(), "known_from"]))
    lines.append(
        f"time:     {_time(hours)} of CPU, about {_time(1.15 * hours / threads)} on the {threads} cores of this machine"
        + (f" (not included, as no run recorded their cost: rules {', '.join(unknown)})" if len(unknown) else "")
    )
    lines.append(f"          from the costs of earlier runs ({', '.join(known) or 'none'})")
    room = "" if found["free_mb"] > 1.5 * found["disk_mb"] else "  NOT ENOUGH SPACE"
    lines.append(f"disk:     {_size(found['disk_mb'])} for the results, {_size(found['free_mb'])} free{room}")
    for item in found["expected"][:6]:
        source = "from an earlier run" if item.measured else "estimated from published runs"
        lines.append(
            f"expected: {item.cube}: {_many(item.images, 'image')} of {item.megapixels:.1f} Mpx, {_range(item.true)} True "
            f"and {_range(item.false)} False ({source}); test set: {_many(item.test_images, 'image')}, {_range(item.test)} "
            "of the smaller class"
        )
        lines.append(f"enough:   {verdict(item, run)}")
    if len(found["expected"]) > 6:
        lines.append(f"          and {len(found['expected']) - 6} more cubes")
    lines.append(f"start:    otrain run {shlex.join(map(str, config))}")
    return "\n".join(lines)


def verdict(item: Expected, run: Run) -> str:
    """What the test set of a cube will be sufficient for, in one sentence."""
    gate, least = run.config.gate, run.config.cube.min_per_class
    smaller = min(item.true[0], item.false[0]), min(item.true[1], item.false[1])
    if item.images < 3 or smaller[1] < least:
        return "not for training; use the shipped model (otrain search), or lower detect.threshold and add images"
    if item.test_images < gate.min_images or item.test[1] < gate.min_per_class:
        return (
            f"for training, but not for the gate, which needs {gate.min_images} test images and {gate.min_per_class} "
            "test cutouts of each class; use the shipped model, or fine-tune it (experiment with from: universal)"
        )
    limit = 3 / item.test[0] if item.test[0] > 0 else 1.0  # upper limit at 95 % confidence without a single error
    sure = "" if item.test[0] >= gate.min_per_class else "perhaps "
    return (
        f"{sure}for a model of your own that can become champion; even without a wrong test cutout the false-positive "
        f"rate is only known to be below {100 * limit:.2g} %"
    )


def plan_record(found: Mapping[str, Any]) -> dict[str, Any]:
    """The estimate of `plan_run` as a dictionary, for --json."""
    costs = found["costs"]
    return {
        "jobs": found["jobs"],
        "cpu_hours": float(costs["cpu_hours"].sum()),
        "threads": found["threads"],
        "disk_mb": found["disk_mb"],
        "free_mb": found["free_mb"],
        "expected": [item.__dict__ | {"verdict": verdict(item, found["run"])} for item in found["expected"]],
    }


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _time(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 2 else f"{max(60 * hours, 1):.0f} min"


def _size(megabytes: float) -> str:
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{max(megabytes, 1):.0f} MB"


def _range(values: tuple[float, float]) -> str:
    low, high = (_round(value) for value in values)
    return f"{low}" if low == high else f"{low} to {high}"


def _round(value: float) -> int:
    """A number rounded to two digits."""
    return int(float(f"{value:.2g}"))
