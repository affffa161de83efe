"""Kill `otrain night` repeatedly: ``python -m tools.kill [FOLDER [IMAGES [KILLS [MODEL]]]]`` (``make kill``).

`otrain night --once` searches small simulated images and gets SIGKILL at random moments. In the end
each image must have been scored exactly once. The files stay in FOLDER, which must not exist before.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 300  # side of the images [px]
TICK = 0.02  # time between two readings of the ledger [s]
SPREAD = 2.0  # largest time from the start of an image to the kill [s]
PATIENCE = 600.0  # time limit for the start of the next image, on a busy machine [s]


def kill_and_finish(
    command: Sequence[str], ledger: Path, *, kills: int, rng: np.random.Generator, env: dict[str, str] | None = None
) -> int:
    """Start a command `kills` times and kill it while it works on an image; then let it finish.

    Parameters
    ----------
    command : sequence of str
        `otrain night ... --once`.
    ledger : Path
        Ledger of the command, which records when an image is started.
    kills : int
    rng : numpy.random.Generator
        Draws the time from the start of an image to the kill.

    Returns
    -------
    int
        How often the command was killed while it ran.

    Raises
    ------
    subprocess.CalledProcessError
        The command ended with an error other than the kill.
    """
    killed = 0
    for _ in range(kills):
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before, waited = _begun(ledger), 0.0
        target = before + int(rng.integers(1, 4))  # kill after one to three further starts of an image
        while process.poll() is None and _begun(ledger) < target and waited < PATIENCE:
            waited += TICK
            _wait(process, TICK)
        _wait(process, rng.uniform(0, SPREAD))
        if process.poll() is None:
            process.kill()
            killed += 1
        elif process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        process.wait()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    return killed


def problems(output: Path, n: int) -> list[str]:
    """Check a finished night of `n` different images: a list of faults, empty if there are none."""
    from astropy.table import Table

    from otrain_core.night.ledger import Ledger

    ledger = Ledger(output / "ledger.sqlite")
    try:
        images = ledger.images()
        found: list[str] = []
        if len(images) != n:
            found.append(f"{len(images)} images in the ledger, not {n}")
        found += [
            f"{image['name']}: {image['status']} ({image['reason']})" for image in images if image["status"] != "done"
        ]
        found += [f"{key}: {count} times" for key, count in Counter(i["digest"] for i in images).items() if count > 1]
        for night in {image["night"] for image in images if image["status"] == "done"}:
            tables = {path.stem for path in (output / night).glob("*.ecsv")}
            mine = {image["name"]: image for image in images if image["night"] == night}
            found += [f"{name}: a table without an image, or an image without a table" for name in tables ^ set(mine)]
            noted = ledger.detections(night)
            for name in tables & set(mine):
                candidates = sorted(Table.read(output / night / f"{name}.ecsv")["candid"])
                rows = sorted(item["candid"] for item in noted if item["image"] == mine[name]["number"])
                if candidates != rows or len(rows) != mine[name]["record"]["n"]:
                    found.append(f"{name}: {len(candidates)} candidates in its table, {len(rows)} in the ledger")
        return found
    finally:
        ledger.close()


def write_images(folder: Path, n: int) -> Path:
    """Write `n` exposures of one simulated field to folder/images, and their reference; return the path of the reference."""
    from astropy.io import fits

    from otrain_core.plan.telescopes import SimulatedSky, Telescope
    from otrain_core.sky.simulate import simulate_pair

    sky = SimulatedSky(width=SIDE, height=SIDE, star_density=3000)
    telescope = Telescope.model_validate(
        {
            "name": "kill",
            "source": "simulated",
            "detector": {"pixel_scale": 1.0, "gain": 1.5, "read_noise": 8, "saturation": 60000, "filter": "r"},
            "sky": sky.model_dump(),
        }
    )
    (folder / "images").mkdir(parents=True)
    for number in range(n):
        pair = simulate_pair(telescope, index=1, seed=1, noise_seed=number + 1)
        fits.PrimaryHDU(pair.science, pair.science_header).writeto(folder / "images" / f"im{number:03d}.fits")
        if number == 0:
            fits.PrimaryHDU(pair.reference, pair.reference_header).writeto(folder / "reference.fits")
    return folder / "reference.fits"


def _begun(ledger: Path) -> int:
    """How often the search of an image was started, according to the ledger."""
    try:
        with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=5)) as base:
            return int(base.execute("SELECT coalesce(sum(tries), 0) FROM images").fetchone()[0])
    except sqlite3.Error:  # the ledger does not exist yet
        return 0


def _wait(process: subprocess.Popen[Any], seconds: float) -> None:
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return


def main(folder: str = "results/kill", images: str = "100", kills: str = "20", model: str = "universal") -> None:
    """Write the images, kill the search repeatedly, and report faults: exit status 1 if there are any."""
    place = Path(folder)
    reference = write_images(place, int(images))
    command = [
        sys.executable,
        "-m",
        "otrain_core.cli.main",
        "night",
        str(place / "images"),
        "--references",
        str(reference),
    ]
    command += ["-m", model, "-o", str(place / "nights"), "--once"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    ledger = place / "nights/ledger.sqlite"
    killed = kill_and_finish(command, ledger, kills=int(kills), rng=np.random.default_rng(1), env=env)
    wrong = problems(place / "nights", int(images))
    print(f"{images} images, killed {killed} times: {'; '.join(wrong) or 'each image was scored exactly once'}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main(*sys.argv[1:])
