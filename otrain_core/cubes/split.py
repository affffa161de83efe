"""Split a cube into training, validation and test sets, by image and, where images overlap, by sky (step `split`).

Two cutouts are related if they come from the same image (same PSF, noise and subtraction) or show the same position
on the sky (for example, the residual of the same star). Related cutouts must not be in different sets. If each image
shows a different field, it is sufficient to split the images. If many images show the same field, both the images
and the sky are split. The sky is divided into three sectors around the centre of the field, each of which reaches
from the centre to the border, as the PSF varies with radius. A candidate is used only if its image and its sector
belong to the same set.

With fractions p of the images and q of the sky, the fraction of candidates that are used is the sum of p * q over
the sets. The sum of the square roots of the used fractions of the three sets cannot exceed 1. With
p = q = (0.6, 0.15, 0.25), 45 % are used, but only 2 % for validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.arrays import read_stack
from otrain_core.cubes.footprints import (
    axes,
    direction,
    directions,
    field_names,
    find_fields,
    guard_distances,
    join_unplaced,
    pairs_within,
    sky_by,
)
from otrain_core.errors import CubeError
from otrain_core.io import write_json, write_table

if TYPE_CHECKING:
    from otrain_core.plan.config import SplitOptions

SETS = ("train", "validation", "test")
UNUSED = "unused"
RANDOM_FRACTION = 0.85  # fraction of the cutouts used for training in the protocol of Makhlouf et al. (2022)
SKY_POWER = 0.75  # the sky is divided by the fractions to this power, which favours the smaller sets
TRIALS = 32  # number of random splits; the best balanced one is kept
NEEDED = ("cube", "labels", "candids", "images")
READ = (*NEEDED, "ra", "dec", "seeing", "pixel_scale", "fields", "grid_x", "grid_y")  # keys of a cube that are read


def split_files(
    *,
    cube: str | Path,
    split: str | Path,
    random_split: str | Path,
    record: str | Path,
    seed: int,
    options: SplitOptions,
) -> None:
    """Read a cube, and write the split by image and sky, the random split of the paper, and their counts.

    Parameters
    ----------
    cube : path-like
        As the step `cube` writes it.
    split, random_split, record : path-like
        Tables (CSV) and record (JSON) to write.
    seed : int
    options : SplitOptions

    Raises
    ------
    CubeError
        The cube lacks a key; see also `split_cube`, `check_split` and `split_random`.
    """
    arrays = _read(cube)
    table = split_cube(arrays, seed=seed, options=options)
    check_split(table, arrays, guard=options.guard)
    random = split_random(arrays, seed=seed)
    write_table(split, table)
    write_table(random_split, random)
    counts = {"by-image": summarise_split(table), "random": summarise_split(random)}
    write_json(record, {"seed": seed, "sky": sky_by(arrays)} | counts)


def _read(path: str | Path) -> dict[str, Any]:
    """Read the columns of a cube; the pixels are not read, only their shape."""
    arrays = read_stack(path, later=("cube",), only=READ)
    for key in NEEDED:
        if key not in arrays:
            raise CubeError(f"{path}: key {key!r} is missing; the cube cannot be split without it")
    if len(arrays["cube"].shape) != 4:
        raise CubeError(f"{path}: cube: shape (N, H, W, C) is needed, found {arrays['cube'].shape}")
    for key in READ:
        if key in arrays and arrays[key].shape[:1] != arrays["cube"].shape[:1]:
            raise CubeError(f"{path}: {key} has the shape {arrays[key].shape} for {arrays['cube'].shape[0]} cutouts")
    return arrays


def split_cube(
    cube: Mapping[str, np.ndarray],
    *,
    seed: int,
    options: SplitOptions,
    fields: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Assign the candidates of a cube to the training, validation and test sets.

    Images whose footprints are closer than the guard distance form a field. Whole fields are assigned to the sets
    where this gives the wanted fractions; otherwise the fields that are larger than the smallest set are divided by
    image and by sky sector. Of `TRIALS` random splits, the one with the best balance of sets and classes is kept.

    Parameters
    ----------
    cube : mapping
        As from `otrain_core.cubes.cube_format.read_cube`: candids, labels, images, ra and dec [deg], seeing [px],
        pixel_scale [arcsec/px] and the shape of cube. For candidates without ra and dec, the key fields (name of
        the field) and grid_x and grid_y (position on the grid of the reference [arcsec]) tell which of them overlap.
    seed : int
    options : SplitOptions
        In a divided field, a candidate is at least ``guard`` [seeing FWHM] from the cutouts of other sets, so that
        no residual is in the cutouts of two sets.
    fields : mapping, optional
        Field of each image (default: found from the footprints).

    Returns
    -------
    pandas.DataFrame
        index, candid, image, label, field (name), cell (sector; 0 if the field is not divided) and
        set (train, validation, test, unused), in the order of the cube.

    Raises
    ------
    CubeError
        The cube does not name the image of each cutout, it has fewer than three images, or a set would have no
        True or no False.
    """
    images = _images(cube)
    labels = np.asarray(cube["labels"]).astype(int)
    names, image = np.unique(images, return_inverse=True)
    if len(names) < 3:
        raise CubeError(
            f"the cube has candidates of {len(names)} images; training, validation and test need at least three"
        )
    vectors = directions(cube)
    guards = guard_distances(cube, options.guard)
    if fields is None:
        field_of_image = find_fields(vectors, image, guards, n_images=len(names))
        field_of_image = join_unplaced(field_of_image, image, vectors, field_names(cube))
    else:
        field_of_image = np.unique([fields[name] for name in names], return_inverse=True)[1]
    field = field_of_image[image]
    rng = np.random.default_rng(seed)
    shares = np.asarray(options.fractions, dtype=float)

    best, cells, chosen, counts = -np.inf, np.empty(0, int), np.empty(0, int), np.zeros((3, 2))
    for divided in _choices(field, field_of_image, vectors, shares):
        if not guards[divided[field]].all():
            raise CubeError("the keys seeing and pixel_scale are needed to split images of the same field")
        for _ in range(TRIALS):
            trial_cells, owner = _deal_sky(vectors, field, guards, divided, shares, rng)
            dealt = _deal_images(image, field_of_image, labels, owner, divided, shares, rng)
            used = (owner < 0) | (owner == dealt[image])
            trial = np.zeros((3, 2))
            np.add.at(trial, (dealt[image][used], labels[used]), 1)
            value = (shares[:, None] * np.log(np.maximum(trial, 1e-3))).sum()
            if value > best:
                best, cells, chosen, counts = value, trial_cells, np.where(used, dealt[image], 3), trial
    for index, name in enumerate(SETS):
        for label, kind in ((1, "True"), (0, "False")):
            if counts[index, label] == 0:
                raise CubeError(
                    f"no {kind} candidate is left for {name} when {len(names)} images of {field_of_image.max() + 1} fields "
                    f"are split by image and sky; more images or more candidates are needed"
                )
    return pd.DataFrame(
        {
            "index": np.arange(len(labels)),
            "candid": cube["candids"],
            "image": images,
            "label": labels,
            "field": np.char.add("field", (field + 1).astype(str)),
            "cell": cells,
            "set": np.array([*SETS, UNUSED])[chosen],
        }
    )


def split_random(cube: Mapping[str, np.ndarray], *, seed: int, train_fraction: float = RANDOM_FRACTION) -> pd.DataFrame:
    """Random split of the cutouts, as in Makhlouf et al. (2022): 85 % for training and 15 % for the test.

    Parameters
    ----------
    cube : mapping
        labels, candids and, optionally, images.
    seed : int
    train_fraction : float

    Returns
    -------
    pandas.DataFrame
        index, candid, image, label, set (train, test).

    Raises
    ------
    CubeError
        A set would have no True or no False.
    """
    labels = np.asarray(cube["labels"]).astype(int)
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = np.full(len(labels), "test", dtype="U5")
    chosen[order[: round(train_fraction * len(labels))]] = "train"
    for name in ("train", "test"):
        if len(np.unique(labels[chosen == name])) < 2:
            raise CubeError(f"{len(labels)} cutouts are too few: {name} would not have both classes")
    images = np.asarray(cube["images"]) if "images" in cube else np.full(len(labels), "")
    return pd.DataFrame(
        {
            "index": np.arange(len(labels)),
            "candid": cube["candids"],
            "image": images,
            "label": labels,
            "set": chosen,
        }
    )


def check_split(table: pd.DataFrame, cube: Mapping[str, np.ndarray], *, guard: float) -> None:
    """Check that the sets of a split are independent.

    Parameters
    ----------
    table : pandas.DataFrame
        As from `split_cube`, in the order of the cube.
    cube : mapping
        As for `split_cube`.
    guard : float
        Guard distance, as in `split_cube` [seeing FWHM].

    Raises
    ------
    CubeError
        The table does not belong to the cube, an image is in two sets, a set lacks a class, or two
        candidates of different sets are closer on the sky than the guard distance.
    """
    if not np.array_equal(table["candid"].to_numpy(str), np.asarray(cube["candids"]).astype(str)):
        raise CubeError("the split and the cube do not list the same candidates")
    used = table[table["set"] != UNUSED]
    for name in SETS:
        if used.loc[used["set"] == name, "label"].nunique() < 2:
            raise CubeError(f"set {name} does not have both classes")
    sets_of_image = used.groupby("image")["set"].agg(lambda values: sorted(set(values)))
    shared = sets_of_image[sets_of_image.map(len) > 1]
    if len(shared):
        raise CubeError(f"image {shared.index[0]} is in {' and '.join(shared.iloc[0])}, which must be independent")

    vectors, guards = directions(cube), guard_distances(cube, guard)
    chosen = table["set"].to_numpy(str)
    for number, one in enumerate(SETS):
        for other in SETS[number + 1 :]:
            i, j = np.flatnonzero(chosen == one), np.flatnonzero(chosen == other)
            first, second, distance, needed = pairs_within(vectors[i], guards[i], vectors[j], guards[j])
            if len(first):
                closest, candids = distance.argmin(), table["candid"].to_numpy(str)
                raise CubeError(
                    f"candidates {candids[i[first[closest]]]} ({one}) and {candids[j[second[closest]]]} ({other}) are "
                    f"{np.rad2deg(distance[closest]) * 3600:.2f} arcsec apart; independent sets need "
                    f"{np.rad2deg(needed[closest]) * 3600:.2f} arcsec"
                )


def summarise_split(table: pd.DataFrame) -> dict[str, Any]:
    """Counts of a split: candidates and images of each set, fields, and unused candidates."""
    by_set = {}
    for name in [*SETS, UNUSED]:
        mine = table[table["set"] == name]
        by_set[name] = {
            "n_images": int(mine["image"].nunique()),
            "n_true": int((mine["label"] == 1).sum()),
            "n_false": int((mine["label"] == 0).sum()),
            "images": sorted(mine["image"].unique().tolist()) if name != UNUSED else [],
        }
    cells = table["cell"] if "cell" in table else pd.Series(0, index=table.index)
    return {
        "n_candidates": len(table),
        "n_used": int((table["set"] != UNUSED).sum()),
        "n_fields": int(table["field"].nunique()) if "field" in table else None,
        "n_fields_divided": int(table.loc[cells > 0, "field"].nunique()) if "field" in table else 0,
        "sets": by_set,
    }


def _images(cube: Mapping[str, np.ndarray]) -> np.ndarray:
    """Image of each cutout, (N,) str."""
    images = np.asarray(cube["images"]).astype(str) if "images" in cube else np.array([""])
    if (images == "").any():
        raise CubeError("the cube does not name the image of each cutout (key images), so it cannot be split by image")
    return images


def _choices(
    field: np.ndarray, field_of_image: np.ndarray, vectors: np.ndarray, shares: np.ndarray
) -> list[np.ndarray]:
    """Choices of the fields to divide: none (if there are three fields), or the large fields with several images."""
    n_fields = field_of_image.max() + 1
    candidates = np.bincount(field, minlength=n_fields)
    n_images = np.bincount(field_of_image, minlength=n_fields)
    placed = np.ones(n_fields, dtype=bool)
    np.logical_and.at(placed, field, np.isfinite(vectors[:, 0]))
    large = (candidates > shares.min() * len(field)) & (n_images >= 3)
    lost = large & ~placed
    if lost.any() and n_fields < 3:
        raise CubeError(
            "the sky positions of the candidates are needed to split images of the same field; provide a WCS"
        )
    large &= placed
    choices = [np.zeros(n_fields, dtype=bool)] if n_fields >= 3 else []
    if large.any():
        choices.append(large)
    if not choices:
        raise CubeError(
            f"the {len(field_of_image)} images show {n_fields} fields, none of which has three images; training, "
            "validation and test need three fields, or three images of one field"
        )
    return choices


def _deal_sky(
    vectors: np.ndarray,
    field: np.ndarray,
    guards: np.ndarray,
    divided: np.ndarray,
    shares: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Sector of each candidate, and set of that part of the sky.

    Returns
    -------
    cells : numpy.ndarray
        (N,) sector, 1 to 3 in divided fields, 0 elsewhere.
    owner : numpy.ndarray
        (N,) index of the set to which the sky at the candidate belongs; 3 within half a guard distance of a border
        between sectors, -1 in fields that are not divided.
    """
    cells, owner = np.zeros(len(field), dtype=int), np.full(len(field), -1)
    sky = shares**SKY_POWER / (shares**SKY_POWER).sum()
    for number in np.flatnonzero(divided):
        mine = np.flatnonzero(field == number)
        points = vectors[mine]
        centre = direction(points)
        east, north = axes(centre)
        order = rng.permutation(3)
        start = rng.uniform(0, 2 * np.pi)
        angle = np.mod(np.arctan2(points @ east, points @ north) - start, 2 * np.pi)
        borders = np.concatenate([[0.0], np.quantile(angle, np.cumsum(sky[order])[:2])])
        cells[mine] = np.searchsorted(borders, angle, side="right")
        owner[mine] = order[cells[mine] - 1]
        away = np.full(len(mine), np.inf)
        for border in borders:
            along = np.cos(border + start) * north + np.sin(border + start) * east
            ahead = points @ along > 0
            to_line = np.abs(points @ np.cross(centre, along))
            to_centre = np.linalg.norm(points - centre, axis=1)
            away = np.minimum(away, np.where(ahead, to_line, to_centre))
        owner[mine[away < guards[mine] / 2]] = 3
    return cells, owner


def _deal_images(
    image: np.ndarray,
    field_of_image: np.ndarray,
    labels: np.ndarray,
    owner: np.ndarray,
    divided: np.ndarray,
    shares: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Set of each image: the units are assigned one by one, in random order, to the set with the largest gain.

    A unit is an image of a divided field, or a whole field. The gain of set s is
    ``shares[s] * log(1 + new / had)``, summed over the classes. With this gain, the sets approach `shares`.
    """
    n_images = len(field_of_image)
    unit = np.where(divided[field_of_image], n_images + np.arange(n_images), field_of_image)
    unit = np.unique(unit, return_inverse=True)[1]
    n_units = unit.max() + 1
    offers = np.zeros((n_units, 3, 2))
    for index in range(3):
        fits = (owner < 0) | (owner == index)
        np.add.at(offers, (unit[image[fits]], index, labels[fits]), 1)
    dealt, had = np.full(n_units, -1), np.zeros((3, 2))
    for done, number in enumerate(rng.permutation(n_units)):
        gain = (shares[:, None] * np.log1p(offers[number] / (had + 1))).sum(axis=1)
        empty = np.array([index not in dealt for index in range(3)])
        if empty.any() and n_units - done <= empty.sum():
            gain = np.where(empty, gain, -1)
        dealt[number] = gain.argmax()
        had[dealt[number]] += offers[number, dealt[number]]
    return dealt[unit]
