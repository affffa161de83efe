"""Measure the cost per cutout in cubes of different sizes: ``python -m tools.scale [FOLDER [N ...]]`` (``make scale``).

For each number of cutouts, a cube of five channels at 32 px is assembled, split, used for one epoch of training and
evaluated. Each step calls the functions of a run in its own process. The CPU time and the peak of the anonymous memory are
measured. Pages of memory-mapped files are not counted, because the kernel frees them when memory is short.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

STEPS = ("assemble", "split", "train", "evaluate")
SIZES = (1_000, 10_000, 100_000, 1_000_000)
SIDE = 32
PER_IMAGE = 400  # cutouts
FILES = 25  # files of pixels, which the images share: separate ones would need twice the disk space
# Disk space for one cutout [bytes]: the cube, its columns, and the inputs of the training.
DISK = 5 * 4 * SIDE**2 + 1_500 + 2 * 4 * (SIDE - 1) ** 2
COLUMNS = ("step", "n", "images", "cpu_seconds", "memory_mb", "cpu_us_per_cutout", "memory_bytes_per_cutout", "commit")


def measure(
    sizes: Sequence[int] = SIZES,
    *,
    steps: Sequence[str] = STEPS,
    folder: str | Path | None = None,
    in_memory: int | None = None,
) -> pd.DataFrame:
    """CPU time and memory of the steps for cubes of several sizes.

    Parameters
    ----------
    sizes : sequence of int
        Numbers of cutouts; sizes for which the disk is too small are left out.
    steps : sequence of str
        The first steps of `STEPS`: each step uses the output of the previous ones.
    folder : path-like, optional
        Folder in which the cubes are made and deleted again (default: the folder of temporary files).
    in_memory : int, optional
        Replaces `otrain_core.networks.train.IN_MEMORY`.

    Returns
    -------
    pandas.DataFrame
        step, n (cutouts), images, cpu_seconds [s] and memory_mb [MB] of the whole process, commit.
    """
    from otrain_core.jobs.provenance import commit

    rows: list[dict[str, Any]] = []
    for n in sizes:
        with tempfile.TemporaryDirectory(dir=folder, prefix="otrain-scale.") as place:
            if 1.1 * n * DISK > shutil.disk_usage(place).free:
                print(f"{n} cutouts: left out, {place} needs {1.1 * n * DISK / 1e9:.0f} GB of disk", file=sys.stderr)
                continue
            _write_images(Path(place), n)
            for step in steps:
                cost = _in_a_process(step, place, in_memory)
                rows.append({"step": step, "n": n, "images": _images(n), **cost, "commit": commit()})
                print(json.dumps(rows[-1]), file=sys.stderr)
    return pd.DataFrame(rows)


def per_cutout(table: pd.DataFrame) -> pd.DataFrame:
    """Additional cost of each cutout beyond the smallest cube, which excludes the cost of the start.

    Parameters
    ----------
    table : pandas.DataFrame
        As from `measure`.

    Returns
    -------
    pandas.DataFrame
        `COLUMNS`, ordered by step and size; cpu_us_per_cutout [us] and memory_bytes_per_cutout are NaN in the rows
        of the smallest cube.
    """
    table = table.sort_values("n").sort_values("step", key=lambda names: names.map(STEPS.index), kind="stable")
    first = table.groupby("step")[["n", "cpu_seconds", "memory_mb"]].transform("first")
    more = (table["n"] - first["n"]).where(table["n"] > first["n"])
    table["cpu_us_per_cutout"] = 1e6 * (table["cpu_seconds"] - first["cpu_seconds"]) / more
    table["memory_bytes_per_cutout"] = 1e6 * (table["memory_mb"] - first["memory_mb"]) / more
    return table[list(COLUMNS)].reset_index(drop=True)


def _images(n: int) -> int:
    return -(-n // PER_IMAGE)


def _in_a_process(step: str, place: str, in_memory: int | None) -> dict[str, float]:
    command = [sys.executable, "-m", "tools.scale", "--step", step, place]
    if in_memory is not None:
        command.append(str(in_memory))
    one = {f"TF_NUM_{name}_THREADS": "1" for name in ("INTRAOP", "INTEROP")} | {"OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | one | {"TMPDIR": place, "PYTHONPATH": path}
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
    return json.loads(result.stdout.splitlines()[-1])


def _write_images(place: Path, n: int) -> None:
    """Write the output of the step cutouts for every image: noise, with a point source in every other cutout."""
    from otrain_core.arrays import write_arrays
    from otrain_core.candidates.cutouts import CHANNELS
    from otrain_core.candidates.cutouts import CUTOUT_COLUMNS as TABLE
    from tools.bench import _cutouts

    rng = np.random.default_rng(1)
    for number in range(min(FILES, _images(n))):
        pair, _ = _cutouts(SIDE, PER_IMAGE, rng)
        difference, psf = np.moveaxis(pair, -1, 0)
        sky = rng.normal(200, 1, difference.shape).astype(np.float32)
        planes = {"difference": difference, "science": difference + sky, "reference": sky}
        planes |= {"mask": np.zeros_like(sky), "psf": psf}
        write_arrays(place / f"pixels{number}.npz", {"stack": np.stack([planes[c] for c in CHANNELS], axis=-1)})
    words = {"filter": "R", "method": "difference", "reason": "injected source 123 at 0.4 px", "artefact": "dipole"}
    words |= {"kind": "random", "time": "2020-01-01T00:00:00.000"}
    for number in range(_images(n)):
        size = min(PER_IMAGE, n - number * PER_IMAGE)
        name = f"sim{number + 1:05d}"
        table = {key: np.full(size, words.get(key, "")) for key, kind in TABLE.items() if kind is str}
        table |= {key: rng.uniform(1, 100, size) for key, kind in TABLE.items() if kind is float}
        table |= {key: np.zeros(size, int) for key, kind in TABLE.items() if kind is int}
        ra, dec = rng.uniform(0, 360), rng.uniform(-60, 60)
        table |= {"ra": ra + rng.uniform(0, 0.2, size), "dec": dec + rng.uniform(0, 0.2, size)}
        table |= {"candid": np.array([f"telescope-{name}-{k:04d}" for k in range(size)]), "image": np.full(size, name)}
        table |= {"edge": np.zeros(size, bool), "label": (np.arange(size) % 2 == 0).astype(int)}
        table |= {"seeing": np.full(size, 3.0), "pixel_scale": np.full(size, 1.0), "n_missing": np.zeros(size, int)}
        about = {"channels": np.array(CHANNELS), "image_name": np.array(name)}
        write_arrays(place / f"{name}.npz", table | about)


def _assemble(place: Path) -> None:
    """The step cube, except that the images share files of pixels."""
    from otrain_core.arrays import read_stack, write_arrays
    from otrain_core.cubes.cube import build_cube, real_star_cube
    from otrain_core.io import write_json
    from otrain_core.plan.config import Config

    pixels = [read_stack(path, later=("stack",))["stack"] for path in sorted(place.glob("pixels*.npz"))]
    stacks = [read_stack(path) for path in sorted(place.glob("sim*.npz"))]
    stacks = [stack | {"stack": pixels[k % len(pixels)]} for k, stack in enumerate(stacks)]
    options = Config().cube
    arrays, counts = build_cube(
        stacks, seed=1, options=options, telescope="telescope", pipeline="pipeline", gather=False
    )
    real = real_star_cube(stacks, channels=options.channels, telescope="telescope", pipeline="pipeline", gather=False)
    write_arrays(place / "cube.npz", arrays)
    write_arrays(place / "real_stars.npz", real)
    write_json(place / "cube.json", counts)


def _step(step: str, place: Path) -> None:
    from otrain_core.cubes.split import split_files
    from otrain_core.plan.config import Config, Experiment

    config = Config()
    if step == "assemble":
        _assemble(place)
    elif step == "split":
        split_files(
            cube=place / "cube.npz",
            split=place / "split.csv",
            random_split=place / "split_random.csv",
            record=place / "split.json",
            seed=1,
            options=config.split,
        )
    elif step == "train":
        from otrain_core.networks.train import train_files

        train_files(
            cube=place / "cube.npz",
            split=place / "split.csv",
            model=place / "model.keras",
            history=place / "history.csv",
            record=place / "train.json",
            experiment=Experiment(epochs=1),
            seed=1,
            threads=1,
        )
    else:
        from otrain_core.evaluation.evaluate import evaluate_files
        from otrain_core.networks.architecture import load_model
        from otrain_core.networks.predict import score_cube, score_real_stars

        evaluate_files(
            cube=place / "cube.npz",
            cube_record=place / "cube.json",
            real_stars=place / "real_stars.npz",
            split=place / "split.csv",
            split_record=place / "split.json",
            model=place / "model.keras",
            train_record=place / "train.json",
            scores=place / "scores.csv",
            metrics=place / "metrics.json",
            curves=place / "curves.csv",
            load_model=load_model,
            score_cube=score_cube,
            score_real_stars=score_real_stars,
            options=config.evaluate,
            threshold_rule=Experiment().threshold,
            protocol="by-image",
            seed=1,
        )


@contextmanager
def _watched(cost: dict[str, float]) -> Iterator[None]:
    """Measure the CPU time of this process and the peak of its anonymous memory, sampled every 10 ms (Linux)."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            peak = max(peak, *(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))))
            if done.wait(0.01):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        times = os.times()
        cost |= {"cpu_seconds": times.user + times.system, "memory_mb": 1024 * peak / 1e6}


def costs_text(table: pd.DataFrame) -> str:
    """The table as text, as quoted in the documentation."""
    lines = [f"{'step':<10}{'cutouts':>9}{'CPU s':>9}{'memory MB':>11}{'CPU us/cutout':>15}{'bytes/cutout':>14}"]
    for row in table.itertuples():
        each = (f"{v:.0f}" if np.isfinite(v) else "-" for v in (row.cpu_us_per_cutout, row.memory_bytes_per_cutout))
        cells = "{:>15}{:>14}".format(*each)
        lines.append(f"{row.step:<10}{row.n:>9}{row.cpu_seconds:>9.1f}{row.memory_mb:>11.0f}{cells}")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Processor, cores and memory [GB] of this machine (Linux)."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"processor": model, "cores": os.cpu_count(), "memory_gb": round(memory / 1e9, 1)}


def main(folder: str = "results/scale", sizes: Sequence[int] = SIZES) -> None:
    """Measure, and write ``costs.csv`` and ``about.json`` (versions, machine); rows of other sizes in ``costs.csv`` are kept."""
    from otrain_core.io import read_table, write_json, write_table
    from otrain_core.jobs.provenance import provenance

    path, table = Path(folder, "costs.csv"), measure(sizes)
    if path.is_file():
        table = pd.concat([read_table(path), table]).drop_duplicates(["step", "n"], keep="last")
    table = per_cutout(table)
    write_table(path, table)
    write_json(path.with_name("about.json"), provenance() | {"machine": machine()})
    print(costs_text(table))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        if sys.argv[4:]:
            from otrain_core.networks import train

            train.IN_MEMORY = int(sys.argv[4])
        cost: dict[str, float] = {}
        with _watched(cost):
            _step(sys.argv[2], Path(sys.argv[3]))
        print(json.dumps(cost))
    else:
        main(*sys.argv[1:2], *([tuple(map(int, sys.argv[2:]))] if sys.argv[2:] else []))
