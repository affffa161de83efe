"""Before a run: what will run, how long and how large, how many cutouts to expect, and what they are enough for."""

from __future__ import annotations

import os
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
RECOVERED = (0.65, 0.8)  # share of the injected sources that become True: hatp32 and demo of results/published
FALSE_PER_IMAGE = (60.0, 110.0)  # at the default threshold, per million pixels: the same
MEGAPIXEL = 1024**2  # images of the published runs
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
PLANES = 12  # float32 planes of an image that lie on the disk while it is worked on
TRAINING_MB = 40.0  # model, ONNX file, scores and figures of one training
CUTOUT_BYTES = 20.0  # per pixel of a cutout in stack and cube: five float32 channels


@dataclass(frozen=True)
class Expected:
    """What a cube will hold: a low and a high guess.

    Attributes
    ----------
    cube : str
    images : int
    megapixels : float
        Of one image.
    true, false : tuple of float
        Cutouts of either class.
    test_images : int
    test : tuple of float
        Cutouts of the smaller class in the test set.
    measured : bool
        Whether an earlier run of the cube says it.
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
    """Images and cutouts to expect of a cube."""
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
    one_sky = len(set(fields)) < len(fields)  # then images and sky are both dealt to the sets
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
    """Size of an image [Mpx], of the first one that can be read."""
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
    """Jobs, time, disk and cutouts of a run that is not started yet, in the working directory.

    Parameters
    ----------
    config : sequence of path-like
        Configuration files, laid over each other.
    results : path-like
        Results of earlier runs in this folder, whose costs and counts are taken before the published ones.

    Returns
    -------
    dict
        run, expected (list of Expected), jobs, costs (table of `otrain_core.paper.estimate.estimate`), threads,
        disk_mb, free_mb, sources (where the costs come from).

    Raises
    ------
    ConfigError
        The configuration is wrong.
    """
    run = Run.from_files(config)
    expected = [expect(run, cube, results=results) for cube in run.config.run.cubes]
    try:
        jobs = planned_jobs(config, target="all", root=CLONE, here=True)
    except subprocess.CalledProcessError as error:
        said = [line for line in (error.stderr or "").splitlines() if line.strip()]
        raise ConfigError(f"Snakemake refuses the run: {said[-1].strip() if said else error}") from None
    jobs.pop("all", None)  # it does nothing
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
    """CPU seconds of a job by rule: of this folder, else the published ones, which grow with the pixels of an image."""
    published, own = recorded_costs(CLONE / "results"), recorded_costs(results)
    images = sum(item.images for item in expected)
    size = sum(item.images * item.megapixels for item in expected) / max(images, 1)
    scaled = published.copy()
    rules = [rule for rule in IMAGE_RULES if rule in scaled.index]
    scaled.loc[rules, "mean"] *= max(size / (MEGAPIXEL / 1e6), 0.3)  # imports and files cost small images as much
    return own.combine_first(scaled)


def _disk(run: Run, expected: Sequence[Expected]) -> float:
    """Results that stay, and the largest temporary files [MB]."""
    total, largest = 0.0, 0.0
    for item in expected:
        telescope, pipeline = item.cube.split("/")
        side = run.options(telescope, pipeline, "cutouts")["size"]
        cutouts = item.true[1] + item.false[1]
        total += 2 * cutouts * side**2 * CUTOUT_BYTES / 1e6
        largest = max(largest, item.megapixels * 4 * PLANES)
    return total + TRAINING_MB * len(run.trainings()) + largest * (os.cpu_count() or 1)


def plan_text(found: Mapping[str, Any], config: Sequence[str]) -> str:
    """The plan in about ten lines."""
    run, jobs, costs = found["run"], found["jobs"], found["costs"]
    about = run.config.run
    trainings = sum(n for rule, n in jobs.items() if rule.startswith("train"))
    lines = [
        f"{', '.join(map(str, config))}: {_many(len(about.cubes), 'cube')}, experiments {', '.join(about.experiments)}, "
        f"{_many(len(about.seeds), 'seed')}",
        f"runs:     {_many(sum(jobs.values()), 'job')}, of them {_many(trainings, 'training')}"
        + (" (nothing is left to do)" if not jobs else ""),
    ]
    hours, threads = float(costs["cpu_hours"].sum()), found["threads"]
    unknown = costs.loc[costs["cpu_hours"].isna(), "rule"]
    known = sorted(set(costs.loc[costs["cpu_hours"].notna(), "known_from"]))
    lines.append(
        f"time:     {_time(hours)} of CPU, about {_time(1.15 * hours / threads)} on the {threads} cores of this machine"
        + (f" (not counted, as no run recorded them: rules {', '.join(unknown)})" if len(unknown) else "")
    )
    lines.append(f"          from the costs of earlier runs ({', '.join(known) or 'none'})")
    room = "" if found["free_mb"] > 1.5 * found["disk_mb"] else "  NOT ENOUGH ROOM"
    lines.append(f"disk:     {_size(found['disk_mb'])} in results, {_size(found['free_mb'])} are free{room}")
    for item in found["expected"][:6]:
        known_by = "of an earlier run" if item.measured else "a guess from published runs"
        lines.append(
            f"expected: {item.cube}: {_many(item.images, 'image')} of {item.megapixels:.1f} Mpx, {_range(item.true)} True "
            f"and {_range(item.false)} False ({known_by}); test set {_many(item.test_images, 'image')}, {_range(item.test)} of a class"
        )
        lines.append(f"enough:   {verdict(item, run)}")
    if len(found["expected"]) > 6:
        lines.append(f"          and {len(found['expected']) - 6} more cubes")
    lines.append(f"start:    otrain run {' '.join(map(str, config))}")
    return "\n".join(lines)


def verdict(item: Expected, run: Run) -> str:
    """For which claim the test set of a cube will be enough, in one sentence."""
    gate, least = run.config.gate, run.config.cube.min_per_class
    smaller = min(item.true[0], item.false[0]), min(item.true[1], item.false[1])
    if item.images < 3 or smaller[1] < least:
        return "not for a training; use the shipped model (otrain search), or lower detect.threshold and add images"
    if item.test_images < gate.min_images or item.test[1] < gate.min_per_class:
        return (
            f"for a training, not for a verdict: the gate asks for a test set of {gate.min_images} images and "
            f"{gate.min_per_class} of each class; use the shipped model, and fine-tune it (experiment with from: universal)"
        )
    limit = 3 / item.test[0] if item.test[0] > 0 else 1.0
    sure = "" if item.test[0] >= gate.min_per_class else "perhaps "
    return (
        f"{sure}for a model of your own that can become champion; none wrong of so many still leaves a false-positive "
        f"rate of {100 * limit:.2g} % open"
    )


def plan_record(found: Mapping[str, Any]) -> dict[str, Any]:
    """The same for --json."""
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
    """Two digits: a guess has no more."""
    return int(float(f"{value:.2g}"))
