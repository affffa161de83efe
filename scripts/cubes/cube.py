"""Join the cutouts of all images of a telescope into one cube."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from otrain_core.arrays import read_stack, write_arrays
from otrain_core.cubes.cube import build_cube, no_rows, real_star_cube
from otrain_core.cubes.cube_folders import class_folders, cube_from_folders
from otrain_core.errors import ImageError
from otrain_core.io import write_json
from otrain_core.plan.sheets import read_labels


def main(
    *,
    stacks: list[str],
    cube: str,
    real_stars: str,
    record: str,
    telescope: str,
    pipeline: str,
    seed: int,
    options: dict[str, Any],
    folder: str | None = None,
    labels: str | None = None,
) -> None:
    """Write the cube, that of the real stars, and the record, from the cutouts of every image that did not fail.

    A telescope of ready-made cutouts has a `folder` with True/ and False/ instead. `labels` is a label sheet.
    """
    names = {"telescope": telescope, "pipeline": pipeline, "labels": read_labels(labels) if labels else None}
    if folder:
        options = {key: value for key, value in options.items() if key not in ("channels", "real_stars")}
        arrays, counts = cube_from_folders(*class_folders(folder), seed=seed, **names, **options)
        real = no_rows(arrays)
    else:
        loaded, failed = read_stacks(stacks)
        arrays, counts = build_cube(loaded, seed=seed, failed=failed, gather=False, **names, **options)
        # Real stars check a classifier that never saw them: those that train are not here.
        real = no_rows(arrays) if options.get("real_stars") else _real(loaded, options, names)
    write_arrays(cube, arrays)
    write_arrays(real_stars, real)
    write_json(record, counts | {"real_stars": dict(sorted(Counter(real["kinds"].tolist()).items()))})


def _real(stacks: list[dict[str, Any]], options: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    return real_star_cube(
        stacks, gather=False, **{key: options[key] for key in ("channels",) if key in options}, **names
    )


def read_stacks(paths: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Cutouts of the images that have them, and why the others have none."""
    loaded, failed = [], []
    for path in paths:
        try:
            loaded.append(read_stack(path, later=("stack",)))
        except ImageError as error:
            mark = json.loads(Path(path).read_text())["otrain_failed"]
            failed.append(
                {"image": error.image, "step": mark.get("step", ""), "key": error.key, "message": error.message}
            )
            logging.getLogger("otrain").warning("%s (left out of the cube)", error)
    return loaded, failed


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            stacks=list(snakemake.input.stacks),
            cube=snakemake.output.cube,
            real_stars=snakemake.output.real_stars,
            record=snakemake.output.record,
            telescope=snakemake.wildcards.telescope,
            pipeline=snakemake.wildcards.pipeline,
            folder=snakemake.params.folder,
            labels=snakemake.input.get("labels"),
            seed=snakemake.params.seed,
            options=snakemake.params.options,
        )
