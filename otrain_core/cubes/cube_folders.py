"""Read ready-made cutouts from two folders, True/ and False/."""

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
    """Read ready-made cutouts from two folders of FITS files, and group them by image.

    See `otrain_core.cubes.cutout_files.read_cutout` for the header keys (Makhlouf et al. 2022, Sect. 2.3) and the
    extensions; CANDID and EDGE are mandatory in a file without extension DIFF. The image of a cutout is its IMAGE or
    else its CANDID without the running number at the end. Images of the same name in different folders
    (``night1/science.fits``, ``night2/science.fits``) are named with their folders. Where CANDIDs are running numbers
    that restart for each image or class, they are preceded by the name of the image or class.

    Parameters
    ----------
    true_dir, false_dir : path-like
    size : int, optional
        Crop to this side [px].
    channels : sequence of str or None
        Channels of the cube; None takes all channels that are in every file.

    Returns
    -------
    stacks : list of dict
        One per image, as from `otrain_core.candidates.cutouts.make_cutouts`.
    n_cut_off : int
        Number of cutouts left out because the edge of their image truncates them.

    Raises
    ------
    CubeError
        A folder is missing or empty, a file is not a two-dimensional square FITS image or has another
        size, a mandatory key is missing, or a value is unusable.
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
                raise CubeError(f"{path}: the shape {shapes[0]} differs from that of the other cutouts, {shapes[1]}")
            for name in channels or ():
                if name not in plane:
                    raise CubeError(f"{path}: no channel {name}; the file has {', '.join(plane)}")
            planes.append(plane)
            about = {"label": label, "reason": "EDGE" if row["edge"] else f"folder {folder.name}", "file": path.stem}
            rows.append(row | about)
    if not rows:
        raise CubeError(f"{true_dir}, {false_dir}: all cutouts are truncated by the edge of their image")
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
    """Make repeated candids unique, in place, with the image and, if needed, the class in front of them.

    Only candids that are running numbers or names of files are changed.
    """
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
    """The folders of True and False cutouts; capitals in their names do not matter.

    Raises
    ------
    CubeError
        One of them does not exist.
    """
    found = {path.name.lower(): path for path in sorted(Path(folder).glob("*")) if path.is_dir()}
    for name in ("true", "false"):
        if name not in found:
            raise CubeError(f"{folder}: no folder {name.capitalize()}/; the cutouts of each class need a folder")
    return found["true"], found["false"]
