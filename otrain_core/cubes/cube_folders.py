"""Ready-made cutouts in two folders, True/ and False/."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.cubes.cutout_files import EXTENSIONS, EdgeCutoutError, find_cutouts, name_images, read_cutout
from otrain_core.errors import CubeError


def stacks_from_folders(
    true_dir: str | Path,
    false_dir: str | Path,
    *,
    size: int | None = None,
    channels: Sequence[str] | None = ("difference",),
) -> tuple[list[dict[str, np.ndarray]], int]:
    """Ready-made cutouts in two folders of FITS files, image by image, as the step `cutouts` makes them.

    Header keys (Makhlouf et al. 2022, Sect. 2.3) and extensions are those of
    `otrain_core.cubes.cutout_files.read_cutout`: CANDID and EDGE are mandatory in a file without extension DIFF. The
    image of a cutout is its IMAGE or else its CANDID without the running number at its end. Images of one name in
    different folders (``night1/science.fits``, ``night2/science.fits``) are named with their folders. Where CANDIDs
    are running numbers that start anew for each image or class, the names of these are put before them.

    Parameters
    ----------
    true_dir, false_dir : path-like
    size : int, optional
        Crop to this side [px].
    channels : sequence of str or None
        Channels of the cube; None takes all that every file has.

    Returns
    -------
    stacks : list of dict
        As from `otrain_core.candidates.cutouts.make_cutouts`.
    n_cut_off : int
        Cutouts left out as the edge of their image cut them off.

    Raises
    ------
    CubeError
        A folder is missing or empty, a file is no two-dimensional square FITS image or of
        another size, a mandatory key is missing, a value is unusable.
    """
    rows: list[dict[str, Any]] = []
    planes: list[dict[str, np.ndarray]] = []
    n_cut_off = 0
    for label, folder in ((1, Path(true_dir)), (0, Path(false_dir))):
        for path in find_cutouts(folder):
            try:
                plane, row = read_cutout(path, size=size)
            except EdgeCutoutError:
                n_cut_off += 1
                continue
            if planes and plane["difference"].shape != planes[0]["difference"].shape:
                shapes = plane["difference"].shape, planes[0]["difference"].shape
                raise CubeError(f"{path}: a cutout of {shapes[0]} among cutouts of {shapes[1]}")
            for name in channels or ():
                if name not in plane:
                    raise CubeError(f"{path}: it has no channel {name} (but {', '.join(plane)})")
            planes.append(plane)
            about = {"label": label, "reason": "EDGE" if row["edge"] else f"folder {folder.name}", "file": path.stem}
            rows.append(row | about)
    if not rows:
        raise CubeError(f"{true_dir}, {false_dir}: all cutouts are cut off by the edge of their image")
    for row, name in zip(rows, name_images([row.pop("image_path") for row in rows]), strict=True):
        row["image"] = name
    _name_candidates(rows)
    columns = [key for key in rows[0] if key != "file"]
    stack: dict[str, np.ndarray] = {key: np.array([row[key] for row in rows]) for key in columns}
    channels = list(channels or [name for name in EXTENSIONS if all(name in plane for plane in planes)])
    values = np.stack([np.stack([plane[name] for name in channels], axis=-1) for plane in planes])
    n_missing = np.isnan(values[..., channels.index("difference")]).sum(axis=(1, 2))
    stack |= {"stack": values, "n_missing": n_missing, "channels": np.array(channels)}
    parts = []
    order = np.argsort(stack["image"], kind="stable")
    names, first = np.unique(stack["image"][order], return_index=True)
    for name, mine in zip(names, np.split(order, first[1:]), strict=True):
        parts.append({key: array if key == "channels" else array[mine] for key, array in stack.items()})
        parts[-1]["image_name"] = np.array(name)
    return parts, n_cut_off


def _name_candidates(rows: list[dict[str, Any]]) -> None:
    """Put image, then class before the candid of rows whose candids are running numbers, or names of files, that repeat."""
    for before in (lambda row: row["image"], lambda row: "True" if row["label"] else "False"):
        counts = Counter(row["candid"] for row in rows)
        repeated = [row for row in rows if counts[row["candid"]] > 1]
        if not repeated or not all(
            row["candid"].split("-")[-1].isdigit() or row["file"] in row["candid"] for row in repeated
        ):
            return
        for row in rows:
            row["candid"] = f"{before(row)}-{row['candid']}"


def class_folders(folder: str | Path) -> tuple[Path, Path]:
    """The folders of True and False cutouts, however their names are written.

    Raises
    ------
    CubeError
        One of them is not there.
    """
    found = {path.name.lower(): path for path in sorted(Path(folder).glob("*")) if path.is_dir()}
    for name in ("true", "false"):
        if name not in found:
            raise CubeError(f"{folder}: no such folder of cutouts: {name.capitalize()}/ (each class has its own)")
    return found["true"], found["false"]
