"""Search a real night frame by frame: ``python -m tools.real_night FOLDER``.

The night consists of the raw frames of HAT-P-32 (``../shared/data/hatp32``). The first ones are stacked as the reference. The
others are written one by one to a folder that `otrain night` watches with the shipped model. The same sources are added at the
same positions on the sky in each frame. No other change of the field is known except a transit of 2 %, so all other objects
that are called real count as false. After an interruption the same command continues.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from tools.night_purity import NEAR, add_sources, hatp32_frames, stack_first, with_wcs

REFERENCE = 20  # frames of the stack
PATIENCE = 3600.0  # time limit for one frame [s]


def arrive(
    frames: Path, folder: Path, command: Sequence[str], ledger: Path, *, places: np.ndarray, recipe: Any
) -> None:
    """Run `otrain night` and write the frames of hatp32 to `folder`, each when the previous one has been searched."""
    from otrain_core.night.ledger import Ledger

    with closing(Ledger(ledger)):  # create the ledger, so that it can be read
        pass
    process = subprocess.Popen(command)
    try:
        for number, (frame, wcs) in enumerate(zip(*hatp32_frames(frames), strict=True)):
            if number < REFERENCE:
                continue
            if not (folder / frame.name.removesuffix(".gz")).exists():
                path = with_wcs(frame, wcs, folder.parent)
                add_sources(path, places, recipe=recipe, rng=np.random.default_rng([1, number]))
                path.rename(folder / path.name)
            _wait_until(lambda n=number: _searched(ledger) > n - REFERENCE, process)
    finally:
        process.terminate()  # otrain night first finishes the current image
        process.wait()


def _searched(path: Path) -> int:
    """Number of images that are done or refused."""
    from otrain_core.night.ledger import Ledger

    with closing(Ledger(path)) as ledger:
        return sum(image["status"] != "working" for image in ledger.images())


def _wait_until(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    waited = 0.0
    while not condition():
        if process.poll() is not None or waited > PATIENCE:
            raise SystemExit(f"otrain night ended early, or a frame took longer than {PATIENCE:g} s")
        try:
            process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            waited += 2.0


def count(objects: Sequence[Mapping[str, Any]], places: np.ndarray, *, pixel_scale: float) -> list[dict[str, Any]]:
    """Count the objects of a night by kind: added sources, objects fixed on the detector, and all others.

    Parameters
    ----------
    objects : sequence of mapping
        As from `otrain_core.night.page.night_objects`.
    places : numpy.ndarray
        (N, 3) ra, dec [deg], mag of the added sources.
    pixel_scale : float
        [arcsec/px]

    Returns
    -------
    list of dict
        kind, objects, detections, real (detections called real), real_in_one and real_in_two (objects called real in at
        least one image, in at least two).
    """
    rows = {kind: Counter() for kind in ("added", "fixed", "other")}
    for entry in objects:
        best, items = entry["best"], entry["detections"]
        east = (places[:, 0] - best["object_ra"]) * np.cos(np.deg2rad(best["object_dec"]))
        added = np.hypot(east, places[:, 1] - best["object_dec"]).min() * 3600 < NEAR * pixel_scale
        real = [item["image"] for item in items if item["real"] and not item["undecided"]]
        row = rows["added" if added else "fixed" if entry["fixed"] else "other"]
        row.update(objects=1, detections=len(items), real=len(real))
        row.update(real_in_one=len(set(real)) > 0, real_in_two=len(set(real)) > 1)
    names = ("objects", "detections", "real", "real_in_one", "real_in_two")
    return [{"kind": kind} | {name: int(row[name]) for name in names} for kind, row in rows.items()]


def main(folder: str, data: str, output: str, *, model: str = "universal") -> None:
    """Search the night, or continue with it, and write ``hatp32.csv``."""
    import pandas as pd

    from otrain_core.io import read_json, write_json, write_table
    from otrain_core.jobs.provenance import provenance
    from otrain_core.night.context import detections_of
    from otrain_core.night.ledger import Ledger
    from otrain_core.night.night import LEDGER
    from otrain_core.night.page import night_objects
    from otrain_core.plan.pipelines import Pipeline
    from otrain_core.plan.recipe import Recipe
    from otrain_core.plan.telescopes import read_telescopes

    place, frames = Path(folder), Path(data)
    (place / "incoming").mkdir(parents=True, exist_ok=True)
    detector = read_telescopes("config/telescopes")["cecilia"].detector
    recipe, reference = Recipe(Pipeline(), detector, telescope="", name="builtin"), place / "reference.fits"
    if not (place / "places.json").is_file():
        stack_first(frames, reference, n=REFERENCE, recipe=recipe)
        paths, wcs = hatp32_frames(frames)
        first = with_wcs(paths[REFERENCE], wcs[REFERENCE], place)
        places, _ = add_sources(first, None, recipe=recipe, rng=np.random.default_rng(1))
        write_json(place / "places.json", places.tolist())
    places, nights = np.array(read_json(place / "places.json")), place / "nights"
    command = [sys.executable, "-m", "otrain_core.cli.main", "night", str(place / "incoming"), "-m", model]
    command += ["--references", str(reference), "-o", str(nights)]
    command += ["--gain", str(detector.gain), "--saturation", str(detector.saturation)]
    arrive(frames, place / "incoming", command, nights / LEDGER, places=places, recipe=recipe)
    with closing(Ledger(nights / LEDGER)) as ledger:
        (night,) = ledger.nights()
        images = ledger.images()
        objects = night_objects(detections_of(ledger, night["night"]))
    table = pd.DataFrame(count(objects, places, pixel_scale=detector.pixel_scale))
    write_table(Path(output, "hatp32.csv"), table)
    spent = [sum(image["record"]["cpu_seconds"].values()) for image in images if image["status"] == "done"]
    record = {key: value for key, value in provenance().items() if key in ("commit", "time", "cpus", "versions")}
    record |= {"model": model, "reference_frames": REFERENCE, "sources": len(places), "images": night["images"]}
    record |= {"refused": [image["reason"] for image in images if image["status"] == "refused"]}
    write_json(Path(output, "hatp32.json"), record | {"cpu_seconds_of_an_image": round(float(np.median(spent)), 2)})
    print(table.to_string(index=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", help="folder of the night; an interrupted night is continued")
    parser.add_argument("--data", default="../shared/data/hatp32", help="frames and wcs of HAT-P-32")
    parser.add_argument("-o", "--output", default="results/published/night")
    parser.add_argument("-m", "--model", default="universal")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.data, arguments.output, model=arguments.model)
