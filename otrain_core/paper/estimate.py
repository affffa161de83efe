"""Estimate the cost of a run before it starts: jobs, CPU and GPU hours of every rule, from the records of earlier runs.

``python -m otrain_core.paper.estimate config/paper.yaml [more.yaml ...]`` prints the table and runs nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.cubes.split import RANDOM_FRACTION
from otrain_core.io import read_table, write_table
from otrain_core.paper.plan import SWEEPS
from otrain_core.results import STEPS, fused_costs, number, read_benchmark, read_record

if TYPE_CHECKING:
    from otrain_core.plan.run import Run

SAME_COST = {"train_random": "train", "evaluate_random": "evaluate"}
START = 15.0  # CPU time of a training before its first epoch [s]: importing libraries, reading the cube
PASSES = 3.0  # cost of a forward and a backward pass, in forward passes
PER_IMAGE = 400.0  # cutouts per image, if neither an earlier run nor a published table gives the number
SPEED = "operations per second, "  # name of a row of benchmarks.csv, followed by cpu or gpu
COLUMNS = ("rule", "jobs", "cpu_hours", "gpu_hours", "known_from")


def planned_jobs(
    config: Sequence[str | Path], *, target: str = "paper", root: str | Path = ".", here: bool = False
) -> dict[str, int]:
    """Number of jobs of every rule, from a dry run of Snakemake.

    Counts all jobs of a new run or, with `here`, only those that are not yet done in the working directory.

    Raises
    ------
    subprocess.CalledProcessError
        Snakemake refuses the configuration; its message is in ``stderr``.
    """
    import tempfile

    clone = Path(root).resolve()
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(clone / "workflow/Snakefile"),
        "-n",
        "--quiet",
        "rules",
    ]
    with tempfile.TemporaryDirectory() as empty:  # in an empty directory no job is done yet
        directory = str(Path.cwd()) if here else empty
        command += [
            "--directory",
            directory,
            "--configfile",
            *[str(Path(path).resolve()) for path in config],
            "--",
            target,
        ]
        result = subprocess.run(command, capture_output=True, text=True, cwd=empty)
    if result.returncode:
        raise subprocess.CalledProcessError(result.returncode, "snakemake -n", stderr=result.stderr or result.stdout)
    table = (result.stdout + result.stderr).partition("Job stats:")[2]  # empty if all jobs are done
    return {name: int(n) for name, n in re.findall(r"^(\w+)\s+(\d+)$", table, flags=re.M) if name != "total"}


def recorded_costs(root: str | Path) -> pd.DataFrame:
    """CPU seconds of the jobs of earlier runs, by rule: mean, size (number of jobs) and known_from.

    The times come from Snakemake's benchmark files under ``benchmarks``. For a rule without benchmarks they come from the
    published tables ``published/*/benchmarks.csv`` and, for the steps of an image, ``published/*/quality.csv``. The time
    of the rule image, which runs all steps in one process, is the sum of its steps if the rule itself was never run.
    """
    rows = [
        {"rule": _rule_of(path), "cpu": read_benchmark(path)[0]}
        for path in sorted(Path(root, "benchmarks").rglob("*.tsv"))
    ]
    for cube in sorted(path.parent for path in Path(root).glob("*/*/images")):
        fused = fused_costs(cube)
        rows += [{"rule": step, "cpu": cpu} for (_, step), (cpu, _) in fused.items() if step != "start"]
        jobs = sum(step == "start" for _, step in fused)
        if jobs:
            rows += [{"rule": "image", "cpu": sum(cpu for cpu, _ in fused.values()) / jobs}] * jobs
    table = pd.DataFrame(rows, columns=["rule", "cpu"]).dropna()
    costs = table.groupby("rule")["cpu"].agg(["mean", "size"]).assign(known_from="results/benchmarks")
    for path in sorted(Path(root, "published").glob("*/benchmarks.csv")):
        for row in read_table(path).itertuples():
            if row.rule not in costs.index:
                costs.loc[row.rule] = [row.mean, row.size, "results/published/*/benchmarks.csv"]
    published = [read_table(path) for path in sorted(Path(root, "published").glob("*/quality.csv"))]
    for step in STEPS:
        column = f"{step}_cpu_seconds"
        values = pd.concat([part[column] for part in published if column in part] or [pd.Series(dtype=float)]).dropna()
        if step not in costs.index and len(values):
            costs.loc[step] = [values.mean(), len(values), "results/published/*/quality.csv"]
    known = [step for step in STEPS if step in costs.index]
    if "image" not in costs.index and known:
        costs.loc["image"] = [costs.loc[known, "mean"].sum(), 0, "its steps, one by one"]
    return costs


def _rule_of(path: Path) -> str:
    return "sweep" if path.parent.name == "studies" else path.name.removesuffix(".tsv").split(".")[-1]


def training_speeds(root: str | Path) -> dict[str, float]:
    """Median floating-point operations per second of earlier trainings: per CPU second, and per second on a GPU.

    Returns
    -------
    dict
        cpu and gpu, each only if a training on such a device is recorded.
    """
    speeds: dict[str, list[float]] = {}
    for path in sorted(Path(root).glob("*/*/*/seed*/**/train.json")):
        record = read_record(path)
        device = "gpu" if "GPU" in str(record.get("device", "")).upper() else "cpu"
        work = PASSES * number(record, "flops_per_cutout") * number(record, "n_train") * number(record, "epochs")
        seconds = number(record, "train_seconds" if device == "gpu" else "cpu_seconds") - START
        if work > 0 and seconds > 0:
            speeds.setdefault(device, []).append(work / seconds)
    found = {device: float(np.median(values)) for device, values in speeds.items()}
    for path in sorted(Path(root, "published").glob("*/benchmarks.csv")):
        table = read_table(path).set_index("rule")["mean"]
        found |= {key: table[SPEED + key] for key in ("cpu", "gpu") if key not in found and SPEED + key in table}
    return found


def publish_costs(root: str | Path, folder: str | Path) -> None:
    """Write the cost of the jobs of a run and the speeds of its trainings to ``benchmarks.csv``: rule, mean [CPU s], size."""
    costs = recorded_costs(root)
    own = costs[costs["known_from"] == "results/benchmarks"].drop(columns="known_from").reset_index()
    speeds = [{"rule": SPEED + key, "mean": value} for key, value in training_speeds(root).items()]
    write_table(Path(folder, "benchmarks.csv"), pd.concat([own, pd.DataFrame(speeds)], ignore_index=True))


def plan_trainings(run: Run) -> list[dict[str, Any]]:
    """Trainings of a run that the paper needs: rule, cube, fraction of the cube in train, and options of the network."""
    rows = []
    for protocol in run.config.run.protocols:
        rule, share = (
            ("train_random", RANDOM_FRACTION) if protocol == "random" else ("train", run.config.split.fractions[0])
        )
        rows += [
            (rule, cube, share, run.experiments[name])
            for cube in run.config.run.cubes
            for name in run.config.run.experiments
            for _ in run.config.run.seeds
        ]
    for name in SWEEPS.values():
        if name in run.config.studies.sweeps:
            rows += [
                (
                    "train",
                    "/".join(row["folder"].split("/")[:2]),
                    run.config.split.fractions[0],
                    run.experiments[row["trained"]],
                )
                for row in run.studies.sweep(name)
                if row["trained"] not in run.config.run.experiments
            ]
    kept = ("network", "size", "inputs", "epochs", "n_train", "normalise")
    return [
        {"rule": rule, "cube": cube, "share": share} | {key: getattr(options, key) for key in kept}
        for rule, cube, share, options in rows
    ]


def training_seconds(run: Run, root: str | Path, *, speed: float) -> dict[str, float]:
    """Mean time of a training of each rule [s], from the number of operations.

    Parameters
    ----------
    run : Run
    root : path-like
        Results of an earlier run, which give the number of cutouts of the cubes.
    speed : float
        Floating-point operations per second.
    """
    from otrain_core.networks.architecture import build_network, flops
    from otrain_core.plan.config import Experiment

    known: dict[tuple, int] = {}
    seconds: dict[str, list[float]] = {}
    for row in plan_trainings(run):
        telescope, pipeline = row["cube"].split("/")
        size = row["size"] or run.options(telescope, pipeline, "cutouts")["size"]
        key = (row["network"], size, tuple(row["inputs"]), row["normalise"])
        if key not in known:
            options = {name: row[name] for name in ("network", "inputs", "normalise")}
            known[key] = flops(build_network(Experiment.model_validate(options), size=size))
        n = min(row["n_train"] or np.inf, row["share"] * _cutouts(run, row["cube"], Path(root)))
        seconds.setdefault(row["rule"], []).append(START + PASSES * known[key] * n * row["epochs"] / speed)
    return {rule: float(np.mean(values)) for rule, values in seconds.items()}


def _cutouts(run: Run, cube: str, root: Path) -> float:
    """Expected number of cutouts of a cube: images times cutouts per image of an earlier run or of the published tables."""
    n_images, record = len(run.inputs.images(cube.split("/")[0])), read_record(root / cube / "cube.json")
    if record.get("n_images_used"):
        return n_images * (record["n_true"] + record["n_false"]) / record["n_images_used"]
    tables = [read_table(path) for path in sorted(root.glob("published/*/quality.csv"))]
    names = ["telescope", "pipeline", "n_true", "n_false"]
    table = pd.concat([part[names] for part in tables] or [pd.DataFrame(columns=names)])
    same = (table["telescope"] + "/" + table["pipeline"] == cube) & table["n_true"].notna()
    each = 2 * table.loc[same, ["n_true", "n_false"]].min(axis=1).mean()  # balanced
    return n_images * (each if np.isfinite(each) else PER_IMAGE)


def estimate(
    jobs: Mapping[str, int], costs: pd.DataFrame, *, cpu: Mapping[str, float], gpu: Mapping[str, float]
) -> pd.DataFrame:
    """Jobs and hours of every rule.

    Parameters
    ----------
    jobs : mapping
        As from `planned_jobs`.
    costs : pandas.DataFrame
        As from `recorded_costs`.
    cpu, gpu : mapping
        Seconds of one training by rule on either device, as from `training_seconds`; empty if none is recorded.

    Returns
    -------
    pandas.DataFrame
        `COLUMNS`; hours are NaN if no earlier run has recorded the rule. Trainings on a GPU take their gpu_hours
        instead of their cpu_hours.
    """
    rows = []
    for rule, n in jobs.items():
        name = SAME_COST.get(rule, rule)
        known = costs.loc[name] if name in costs.index else None
        seconds, source = (known["mean"], known["known_from"]) if known is not None else (np.nan, "not recorded")
        if rule in cpu:
            seconds, source = cpu[rule], "train.json: operations per second"
        rows.append((rule, n, n * seconds / 3600, n * gpu.get(rule, np.nan) / 3600, source))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def estimate_text(table: pd.DataFrame, *, cores: Sequence[int] = (2, 64)) -> str:
    """The estimate as text: rules ordered by cost, the total, and the wall time."""
    table = table.sort_values("cpu_hours", ascending=False, na_position="last", kind="stable")
    lines = [f"{'rule':<24}{'jobs':>7}{'CPU h':>10}{'GPU h':>10}  from"]
    for row in table.itertuples():
        cells = (f"{value:.2f}" if np.isfinite(value) else "-" for value in (row.cpu_hours, row.gpu_hours))
        lines.append(f"{row.rule:<24}{row.jobs:>7}" + "".join(f"{cell:>10}" for cell in cells) + f"  {row.known_from}")
    cpu, gpu = table["cpu_hours"].sum(), table["gpu_hours"].sum()
    lines.append(f"{'total':<24}{table['jobs'].sum():>7}{cpu:>10.2f}{f'{gpu:.2f}' if gpu else '-':>10}")
    unknown = table[table["cpu_hours"].isna()]
    if len(unknown):
        lines.append(
            f"not counted, because never run before: {', '.join(unknown['rule'])} ({unknown['jobs'].sum()} jobs)"
        )
    lines.append("wall time with all cores busy: " + ", ".join(f"{cpu / n:.1f} h on {n} cores" for n in cores))
    if table["gpu_hours"].notna().any():
        lines.append("trainings on GPUs take the GPU hours instead of their CPU hours")
    else:
        lines.append("GPU hours: no training on a GPU is recorded yet")
    return "\n".join(lines)


def main(config: Sequence[str], *, root: str | Path = "results") -> str:
    """Estimate of the cost of the paper for configuration files; later files override earlier ones."""
    from otrain_core.plan.run import Run

    run = Run.from_files(config)
    seconds = {key: training_seconds(run, root, speed=speed) for key, speed in training_speeds(root).items()}
    jobs, costs = planned_jobs(config, root=Path(__file__).parents[2]), recorded_costs(root)
    return estimate_text(estimate(jobs, costs, cpu=seconds.get("cpu", {}), gpu=seconds.get("gpu", {})))


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:] or ["config/paper.yaml"]))
    except subprocess.CalledProcessError as error:
        sys.exit(error.stderr)
