"""Build one cube from the cutouts of many simulated telescopes, split by telescope (step `drawn`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import pandas as pd

from otrain_core.arrays import write_arrays
from otrain_core.cubes.cube import build_cube, read_stacks, real_star_cube
from otrain_core.cubes.pool import check_pool
from otrain_core.cubes.split import summarise_split
from otrain_core.io import write_json, write_table
from otrain_core.stars.kinds import REAL_KINDS

if TYPE_CHECKING:
    from otrain_core.plan.config import CubeOptions


def drawn_files(
    *,
    stacks: Sequence[str | Path],
    telescopes: Sequence[str],
    sets: Mapping[str, str],
    cube: str | Path,
    real_stars: str | Path,
    cube_record: str | Path,
    split: str | Path,
    split_record: str | Path,
    name: str,
    pipeline: str,
    seed: int,
    max_per_class: int,
    options: CubeOptions,
) -> None:
    """Write one cube from the cutouts of many telescopes, and its split by telescope.

    Parameters
    ----------
    stacks : sequence of path-like
        Cutouts of each image, or failure marks.
    telescopes : sequence of str
        Telescope of each file in `stacks`.
    sets : mapping of str to str
        train, validation or test, by telescope.
    cube, real_stars, cube_record, split, split_record : path-like
        Files to write.
    name, pipeline : str
        Telescope and pipeline of the cube.
    seed : int
    max_per_class : int
        Largest number of True, and of False, from one telescope; more are reduced at random.
    options : CubeOptions

    Raises
    ------
    CubeError
        See `otrain_core.cubes.cube.build_cube` and `otrain_core.cubes.pool.check_pool`.
    """
    loaded, failed = [], []
    for path, telescope in zip(stacks, telescopes, strict=True):
        found, marks = read_stacks([path])
        loaded += [_of_telescope(stack, telescope) for stack in found]
        failed += [mark | {"image": f"{telescope}:{mark['image']}"} for mark in marks]
    _thin(loaded, seed=seed, max_per_class=max_per_class)
    arrays, record = build_cube(
        loaded, seed=seed, options=options, failed=failed, telescope=name, pipeline=pipeline, gather=False
    )
    images = np.asarray(arrays["images"]).astype(str)
    arrays["telescopes"] = np.array([image.split(":")[0] for image in images])
    table = _split_by_telescope(arrays, sets)
    check_pool(arrays, table)
    write_arrays(cube, arrays)
    stars = real_star_cube(loaded, channels=options.channels, telescope=name, pipeline=pipeline, gather=False)
    write_arrays(real_stars, stars)
    write_table(split, table)
    record["cutouts_per_image"] = {}  # too many images; the table of the split lists them
    write_json(cube_record, record | {"telescopes": _counts_by_telescope(table)})
    write_json(split_record, {"seed": seed, "sky": "positions", "by-image": summarise_split(table)})


def _of_telescope(stack: Mapping[str, np.ndarray], telescope: str) -> dict[str, np.ndarray]:
    """A stack with the telescope in the names of image and candidates, and with a copy of the labels."""
    changed = {key: np.char.add(f"{telescope}:", np.asarray(stack[key]).astype(str)) for key in ("image", "candid")}
    changed["label"] = np.array(stack["label"])
    return dict(stack) | changed | {"image_name": np.array(f"{telescope}:{stack['image_name']}")}


def _thin(stacks: Sequence[dict[str, np.ndarray]], *, seed: int, max_per_class: int) -> None:
    """Reduce the classes of each telescope to `max_per_class`, in place: set labels to -1 at random.

    Real stars are neither counted nor changed.
    """
    by_telescope: dict[str, list[dict[str, np.ndarray]]] = {}
    for stack in stacks:
        by_telescope.setdefault(str(stack["image_name"]).split(":")[0], []).append(stack)
    for telescope, mine in by_telescope.items():
        rng = np.random.default_rng([seed, crc32(telescope.encode())])
        for label in (0, 1):
            places = [
                (number, row)
                for number, stack in enumerate(mine)
                for row in np.flatnonzero((stack["label"] == label) & ~np.isin(stack["kind"], REAL_KINDS))
            ]
            for place in rng.permutation(len(places))[max_per_class:]:
                number, row = places[place]
                mine[number]["label"][row] = -1


def _split_by_telescope(arrays: Mapping[str, np.ndarray], sets: Mapping[str, str]) -> pd.DataFrame:
    telescopes = arrays["telescopes"]
    return pd.DataFrame(
        {
            "index": np.arange(len(telescopes)),
            "candid": arrays["candids"],
            "image": arrays["images"],
            "label": np.asarray(arrays["labels"]).astype(int),
            "field": telescopes,
            "cell": 0,
            "set": [sets[name] for name in telescopes],
            "telescope": telescopes,
        }
    )


def _counts_by_telescope(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {
        str(name): {
            "set": str(part["set"].iloc[0]),
            "n_images": int(part["image"].nunique()),
            "n_true": int((part["label"] == 1).sum()),
            "n_false": int((part["label"] == 0).sum()),
        }
        for name, part in table.groupby("telescope")
    }
