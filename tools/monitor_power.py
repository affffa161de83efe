"""Measure how often `otrain monitor` raises an alarm, with and without a change: ``python -m tools.monitor_power CUBE...``

In each trial the images of a cube are divided at random into a training set and a night. A night has 200 candidates from a
given number of images; in every other night all of them are False. Each night is tested as it is, and with its seeing scaled.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.classify.descriptors import DESCRIPTORS, describe, image_values
from otrain_core.classify.monitor import FALSE_ALARMS, compare_night

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("telescope", "pipeline", "images", "seeing_spread", "night_images", "candidates", "trials")
COLUMNS += ("false_alarms", "found_wider", "found_narrower", "change", "detectable")
NIGHTS, CANDIDATES, TRIALS, CHANGE = (1, 4, 7, 10), 200, 300, 1.3
LEAST = 10  # smallest number of images left for the training set


def measure(
    described: Mapping[str, np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    *,
    n_images: int,
    trials: int = TRIALS,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Fractions of nights with an alarm.

    Parameters
    ----------
    described : mapping of arrays
        As from `otrain_core.classify.descriptors.describe`, of a cube.
    images, labels : numpy.ndarray
        (N,)
    n_images : int
        Number of images of a night.
    trials : int
    rng : numpy.random.Generator

    Returns
    -------
    dict
        ``false_alarms`` (an alarm for any quantity, without a change), ``found_wider`` and ``found_narrower`` (an alarm for
        the seeing, multiplied or divided by `CHANGE`), ``detectable`` (median of the detectable change that the nights report).
    """
    names, of = np.unique(images, return_inverse=True)
    # Medians of each image, as stored by training_statistics. They do not depend on the choice of images.
    medians = {}
    for key, label in (("true", 1), ("false", 0)):
        for name in DESCRIPTORS:
            members = (labels == label) & np.isfinite(described[name])
            medians[key, name] = np.full(len(names), np.nan)
            found, values = image_values(described[name], images, np.median, members)
            medians[key, name][np.searchsorted(names, found)] = values
    counts, stated = np.zeros(3), []
    for trial in range(trials):
        night = rng.permutation(len(names))[:n_images]
        mine, kept = np.isin(of, night), np.delete(np.arange(len(names)), night)
        statistics: dict[str, Any] = {"images": {"true": {}, "false": {}}}
        for (key, name), values in medians.items():
            known = values[kept][np.isfinite(values[kept])]
            if len(known):
                statistics["images"][key][name] = known
        rows = np.flatnonzero(mine & (labels == 0)) if trial % 2 else np.flatnonzero(mine)
        rows = rng.choice(rows, min(CANDIDATES, len(rows)), replace=False)
        known = {name: described[name][rows] for name in DESCRIPTORS}
        known |= {"score": np.zeros(len(rows)), "probability": np.zeros(len(rows))}
        for k, factor in enumerate((1.0, CHANGE, 1 / CHANGE)):
            changed = known | {name: known[name] * factor for name in ("seeing", "psf_width")}
            compared = compare_night(changed, statistics, images=images[rows])
            counts[k] += compared[0].alarm if k else any(item.alarm for item in compared)
            if k == 0:
                stated.append(compared[0].detectable)
    shares = dict(zip(("false_alarms", "found_wider", "found_narrower"), counts / trials, strict=True))
    return shares | {"detectable": float(np.median(stated))}


def main(cubes: Sequence[str], output: str, *, trials: int = TRIALS, seed: int = 1) -> None:
    """Measure on cubes and write a table."""
    import pandas as pd

    from otrain_core.cubes.cube_format import read_cube
    from otrain_core.io import write_json, write_table
    from otrain_core.jobs.provenance import provenance

    rows = []
    for path in cubes:
        cube = read_cube(path)
        images, labels = np.asarray(cube["images"]).astype(str), np.asarray(cube["labels"])
        described = describe(cube["cube"], list(cube["channels"]), seeing=cube["seeing"])
        seeing = [np.median(cube["seeing"][images == name]) for name in np.unique(images)]
        for n_images in NIGHTS:
            if len(seeing) - n_images < LEAST:
                continue
            found = measure(
                described, images, labels, n_images=n_images, trials=trials, rng=np.random.default_rng(seed)
            )
            about = {"telescope": str(cube["telescope"]), "pipeline": str(cube["pipeline"]), "images": len(seeing)}
            about |= {"seeing_spread": np.std(np.log(seeing)), "night_images": n_images, "candidates": CANDIDATES}
            rows.append(about | {"trials": trials, "change": CHANGE, **found})
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    write_table(Path(output, "monitor.csv"), table)
    about = provenance()
    write_json(Path(output, "about.json"), {key: about.get(key) for key in ("commit", "time", "cpus", "versions")})


def as_markdown(table: pd.DataFrame) -> str:
    """The table as quoted in the documentation: one row for each cube."""
    lines = [
        "| cube | images | their seeing varies by | night of | any false alarm | seeing +30 % found | seeing -23 % found |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for (telescope, pipeline), rows in table.groupby(["telescope", "pipeline"], sort=False):
        cells = [", ".join(f"{value:.2f}" for value in rows[name]) for name in COLUMNS[7:10]]
        nights = ", ".join(str(number) for number in rows["night_images"])
        first = rows.iloc[0]
        lines.append(
            f"| {telescope}/{pipeline} | {first.images} | {100 * first.seeing_spread:.0f} % | {nights} | "
            + " | ".join(cells)
            + " |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=f"Measure the alarm rates of otrain monitor on cubes, for --false-alarms {FALSE_ALARMS:g}."
    )
    parser.add_argument("cubes", nargs="+")
    parser.add_argument("-o", "--output", default="results/published/monitor", metavar="FOLDER")
    parser.add_argument("--trials", type=int, default=TRIALS)
    options = parser.parse_args()
    main(options.cubes, options.output, trials=options.trials)
