"""Make a cube for training from unlabelled cutouts, as `otrain night` keeps them, and a label sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.cubes.cube_format import read_cube
from otrain_core.cubes.labels import override_labels
from otrain_core.errors import CubeError

ALONE = ("channels", "telescope", "pipeline")  # keys of a cube that do not have one value per cutout


def read_cutouts(path: str | Path) -> dict[str, np.ndarray]:
    """Read a cube, or join all cubes of a folder, as `otrain night` keeps them; one class is sufficient.

    Raises
    ------
    CubeError
        The folder has no cube, a cube cannot be read, or the cubes cannot be joined, see `join_cubes`.
    """
    parts = sorted(Path(path).glob("*.npz")) if Path(path).is_dir() else [Path(path)]
    if not parts:
        raise CubeError(
            f"{path}: no cube (.npz) in this folder; otrain convert makes a cube from folders True/ and False/"
        )
    return join_cubes([read_cube(part, both_classes=False) for part in parts], where=path)


def join_cubes(cubes: Sequence[Mapping[str, np.ndarray]], *, where: str | Path) -> dict[str, np.ndarray]:
    """Join cubes of the same telescope, pipeline and channels.

    Parameters
    ----------
    cubes : sequence of mapping
        As from `otrain_core.cubes.cube_format.read_cube`.
    where : path-like
        Folder of the cubes, for errors.

    Raises
    ------
    CubeError
        The cubes differ in telescope, pipeline, channels, size of the cutouts or keys.
    """
    for key in ALONE:
        if len({str(np.asarray(cube[key]).tolist()) if key in cube else "" for cube in cubes}) > 1:
            raise CubeError(f"{where}: the cubes in this folder differ in {key}")
    if len({cube["cube"].shape[1:] for cube in cubes}) > 1:
        raise CubeError(f"{where}: the cubes in this folder differ in the size of their cutouts")
    keys = {key for cube in cubes for key in cube if key not in ALONE}
    if some := sorted(key for key in keys if not all(key in cube for cube in cubes)):
        raise CubeError(f"{where}: only some of the cubes in this folder have the keys {', '.join(some)}")
    return {
        key: value if key in ALONE else np.concatenate([cube[key] for cube in cubes]) for key, value in cubes[0].items()
    }


def label_cutouts(
    cube: Mapping[str, np.ndarray], rows: Sequence[Mapping[str, Any]], *, where: str | Path
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Select the cutouts on whose label people agree, and give them that label.

    Parameters
    ----------
    cube : mapping
        As from `read_cutouts`.
    rows : sequence of mapping
        Rows of a label sheet (`otrain_core.plan.sheets.read_labels`). Rows of other telescopes and pipelines are
        ignored, unless the cube names no telescope.
    where : path-like
        The sheet, for errors.

    Returns
    -------
    cube : dict
        The labelled cutouts.
    record : dict
        As from `otrain_core.cubes.labels.override_labels`.

    Raises
    ------
    CubeError
        The labelled cutouts do not have both classes.
    """
    telescope, pipeline = (str(cube[key]) if key in cube else "" for key in ("telescope", "pipeline"))
    if not telescope:
        rows = [{**row, "telescope": "", "pipeline": None} for row in rows]
    n = len(cube["labels"])
    missing, none = np.full(n, np.nan), np.full(n, "")
    column = {name: cube.get(key, missing) for key, name in (("x", "x"), ("y", "y"), ("snr", "snr"))}
    column |= {"image": cube.get("images", none), "candid": cube["candids"], "edge": np.zeros(n, bool)}
    column |= {"label": np.full(n, -1), "injection": np.full(n, -1)} | dict.fromkeys(
        ("reason", "kind", "artefact"), none
    )
    found, record = override_labels(column, rows, telescope=telescope, pipeline=pipeline)
    kept = np.flatnonzero(found["label"] >= 0)
    if len(np.unique(found["label"][kept])) < 2:
        counts = f"{record['n_true']} True and {record['n_false']} False"
        raise CubeError(f"{where}: {counts} of {telescope or 'these cutouts'} are labelled; both classes are needed")
    of_row = {key: value[kept] for key, value in cube.items() if key not in ALONE}
    of_row |= {"labels": found["label"][kept].astype(np.uint8), "kinds": found["kind"][kept]}
    return dict(cube) | of_row | {"reasons": found["reason"][kept]}, record
