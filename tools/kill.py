"""A night killed again and again: ``python -m tools.kill [FOLDER [IMAGES [KILLS [MODEL]]]]`` (``make kill``).

`otrain night --once` works through small simulated images and gets SIGKILL at random moments of its work. In the end
each image must have been scored once, with nothing lost and nothing twice. The files stay in FOLDER; a new one is asked for.
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

SIDE = 300  # of the images [px]
TICK = 0.02  # between looks at the ledger [s]
SPREAD = 2.0  # largest time from the beginning of an image to the kill [s]
PATIENCE = 600.0  # for the next image to be begun, on a busy machine [s]


def kill_and_finish(
    command: Sequence[str], ledger: Path, *, kills: int, rng: np.random.Generator, env: dict[str, str] | None = None
) -> int:
    """Start a command so often and kill it while it works on an image; then let it end.

    Parameters
    ----------
    command : sequence of str
        `otrain night ... --once`.
    ledger : Path
        That it keeps; it tells when an image was begun.
    kills : int
    rng : numpy.random.Generator
        How long after the beginning of an image the process is killed.

    Returns
    -------
    int
        How often it was killed while it ran.

    Raises
    ------
    subprocess.CalledProcessError
        It ended with an error that was no kill.
    """
    killed = 0
    for _ in range(kills):
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before, waited = _begun(ledger), 0.0
        target = before + int(rng.integers(1, 4))  # tries and images begun since
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
    """What is wrong with a night of `n` different images that was to be done: sentences, none where all is well."""
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
            found += [f"{name}: a table and no image, or the other way round" for name in tables ^ set(mine)]
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
    """Write `n` exposures of one simulated field to folder/images, and their reference, whose path is returned."""
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
    """How often an image was begun."""
    try:
        with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=5)) as base:
            return int(base.execute("SELECT coalesce(sum(tries), 0) FROM images").fetchone()[0])
    except sqlite3.Error:  # not there yet
        return 0


def _wait(process: subprocess.Popen[Any], seconds: float) -> None:
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return


def main(folder: str = "results/kill", images: str = "100", kills: str = "20", model: str = "universal") -> None:
    """Write the images, kill, and tell what is wrong: exit status 1 where something is."""
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
    print(
        f"{images} images, killed {killed} times: {'; '.join(wrong) or 'each scored once, nothing lost, nothing twice'}"
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main(*sys.argv[1:])
