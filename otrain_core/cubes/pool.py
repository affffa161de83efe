"""Pools: the cutouts of several telescopes under one pipeline, as one cube and one split (step `pool`).

A pool has the same files as a telescope, so the same rules train on it. The pool named ``pool`` has all telescopes
of the run; ``pool-without-T`` has the training and validation sets of all telescopes except T.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.arrays import write_arrays
from otrain_core.cubes.cube_format import CUBE_COLUMNS, kept_false_share, read_cube
from otrain_core.cubes.footprints import sky_by
from otrain_core.cubes.gather import OPTIONAL
from otrain_core.cubes.inputs import select_inputs
from otrain_core.cubes.split import SETS, UNUSED, summarise_split
from otrain_core.errors import CubeError
from otrain_core.io import read_json, read_table, write_json, write_table
from otrain_core.plan.pools import left_out

if TYPE_CHECKING:
    import pandas as pd

TRAINED = ("train", "validation")  # sets that determine the weights, the epoch that is kept and the threshold
CHUNK = 4096  # number of cutouts that are copied at a time


def pool_files(
    *,
    cubes: Sequence[str | Path],
    splits: Sequence[str | Path],
    records: Sequence[str | Path],
    real_stars: Sequence[str | Path],
    telescopes: Sequence[str],
    cube: str | Path,
    split: str | Path,
    cube_record: str | Path,
    split_record: str | Path,
    pooled_stars: str | Path,
    name: str,
    pipeline: str,
    seed: int,
    channels: Sequence[str] | None = None,
) -> None:
    """Read the cubes and splits of several telescopes, and write those of the pool.

    Parameters
    ----------
    cubes, splits, records, real_stars : sequence of path-like
        ``cube.npz``, ``split.csv``, ``cube.json`` and ``real_stars.npz`` of each telescope.
    telescopes : sequence of str
        Names of the telescopes, in the order of the files.
    cube, split, cube_record, split_record, pooled_stars : path-like
        Files of the pool to write.
    name : str
        pool, or pool-without-{telescope}. The latter has no test set: the model is tested on the telescope left out.
    pipeline : str
    seed : int
        Seed of the run, for the records.
    channels : sequence of str, optional
        See `pool_cubes`.

    Raises
    ------
    CubeError
        See `pool_cubes` and `check_pool`.
    """
    without = left_out(name)
    sets = SETS if without is None else TRAINED
    opened = {key: read_cube(path, mmap=True) for key, path in zip(telescopes, cubes, strict=True)}
    tables = {key: read_table(path) for key, path in zip(telescopes, splits, strict=True)}
    stars = {
        key: read_cube(path, mmap=True, both_classes=False) for key, path in zip(telescopes, real_stars, strict=True)
    }
    about: dict[str, Any] = {"telescope": name, "pipeline": pipeline}
    Path(cube).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=Path(cube).parent, prefix=".pool") as folder:
        arrays, table = pool_cubes(opened, tables, sets=sets, channels=channels, file=Path(folder) / "pixels.npy")
        check_pool(arrays, table, without=without)
        write_arrays(cube, arrays | about)
        counts = summarise_pool(arrays, table, dict(zip(telescopes, map(read_json, records), strict=True)))
    write_arrays(pooled_stars, join_rows(stars, channels=arrays["channels"].tolist()) | about)
    write_table(split, table)
    write_json(cube_record, about | {"seed": seed, "sets": list(sets)} | counts)
    skies = {sky_by(members) for members in opened.values()}
    sky = next(name for name in ("unknown", "reference", "positions") if name in skies)  # the least certain one
    write_json(split_record, {"seed": seed, "sky": sky, "by-image": summarise_split(table)})


def pool_cubes(
    cubes: Mapping[str, Mapping[str, np.ndarray]],
    splits: Mapping[str, pd.DataFrame],
    *,
    sets: Sequence[str] = SETS,
    channels: Sequence[str] | None = None,
    file: str | Path | None = None,
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Join the cubes and splits of several telescopes.

    Parameters
    ----------
    cubes : mapping of str to mapping
        By telescope, as from `otrain_core.cubes.cube_format.read_cube`; the pixels may be memory-mapped.
    splits : mapping of str to pandas.DataFrame
        By telescope, as from `otrain_core.cubes.split.split_cube`.
    sets : sequence of str
        Sets to include; cutouts of other sets are left out.
    channels : sequence of str, optional
        Channels to include (default: those that all cubes have).
    file : path-like, optional
        File for the joined pixels, which is mapped into memory (default: keep the pixels in memory).

    Returns
    -------
    arrays : dict of numpy.ndarray
        A cube as from `otrain_core.cubes.cube.build_cube`, with the telescopes in order of their names and the
        additional key ``telescopes`` (N,). The cutouts are cropped about the candidates to the smallest side of all
        cubes. Images and candids are renamed telescope:name. Columns that a telescope lacks are NaN, '' or -1 there.
    split : pandas.DataFrame
        index, candid, image, label, field, cell, set, telescope.

    Raises
    ------
    CubeError
        Fewer than two telescopes, a cube without a requested channel or without image names, or a split that does
        not belong to its cube.
    """
    import pandas as pd

    names = sorted(cubes)
    if len(names) < 2:
        raise CubeError(f"a pool needs at least two telescopes, found {len(names)}")
    for name in names:
        if not np.array_equal(splits[name]["candid"].to_numpy(str), np.asarray(cubes[name]["candids"]).astype(str)):
            raise CubeError(f"telescope {name}: the split and the cube do not list the same candidates")
    rows = {name: np.flatnonzero(splits[name]["set"].isin(list(sets))) for name in names}
    arrays = join_rows(cubes, rows, channels=channels, file=file)
    parts = []
    for name in names:
        part = splits[name].iloc[rows[name]].copy()
        part["telescope"] = name
        part["field"] = [f"{name}:{field}" for field in part["field"]] if "field" in part else part["image"]
        part["cell"] = part.get("cell", 0)
        parts.append(part)
    split = pd.concat(parts, ignore_index=True)
    split = split.assign(index=np.arange(len(split)), candid=arrays["candids"], image=arrays["images"])
    return arrays, split[["index", "candid", "image", "label", "field", "cell", "set", "telescope"]]


def join_rows(
    cubes: Mapping[str, Mapping[str, np.ndarray]],
    rows: Mapping[str, np.ndarray] | None = None,
    *,
    channels: Sequence[str] | None = None,
    file: str | Path | None = None,
) -> dict[str, np.ndarray]:
    """Join some rows (default: all) of several cubes, see `pool_cubes`."""
    names = sorted(cubes)
    if rows is None:
        rows = {name: np.arange(len(cubes[name]["labels"])) for name in names}
    if channels is None:
        first = [str(channel) for channel in cubes[names[0]]["channels"]]
        channels = [channel for channel in first if all(channel in cubes[name]["channels"] for name in names)]
    arrays = {"cube": _pixels(cubes, rows, channels, file)}
    counts = [len(rows[name]) for name in names]
    arrays["labels"] = np.concatenate([np.asarray(cubes[name]["labels"])[rows[name]] for name in names])
    arrays["telescopes"] = np.repeat(names, counts)
    for key in CUBE_COLUMNS:
        having = [np.asarray(cubes[name][key]) for name in names if key in cubes[name]]
        if having:
            missing = OPTIONAL.get(CUBE_COLUMNS[key], {"U": "", "i": -1}.get(having[0].dtype.kind, np.nan))
            arrays[key] = np.concatenate(
                [
                    np.asarray(cubes[name][key])[rows[name]] if key in cubes[name] else np.full(count, missing)
                    for name, count in zip(names, counts, strict=True)
                ]
            )
    for key in ("images", "candids"):
        if key not in arrays or not all(key in cubes[name] for name in names):
            raise CubeError(f"a pool needs the key {key} in every cube, to identify its images")
        prefix = np.char.add(arrays["telescopes"], ":") if len(arrays["telescopes"]) else arrays["telescopes"]
        arrays[key] = np.char.add(prefix.astype(str), arrays[key].astype(str))
    if "difference" in channels:
        difference = arrays["cube"][..., list(channels).index("difference")]
        missing = [np.isnan(difference[start : start + CHUNK]).sum(axis=(1, 2)) for start in _starts(len(difference))]
        arrays["n_missing"] = np.concatenate([*missing, np.empty(0)]).astype(np.int32)
    return arrays | {"channels": np.array(list(channels))}


def _starts(count: int) -> range:
    return range(0, count, CHUNK)


def _pixels(
    cubes: Mapping[str, Mapping[str, np.ndarray]],
    rows: Mapping[str, np.ndarray],
    channels: Sequence[str],
    file: str | Path | None,
) -> np.ndarray:
    """Pixels of the chosen rows, cropped to the smallest side."""
    if not channels:
        raise CubeError("the cubes of the pool have no channel in common")
    size = min(min(cubes[name]["cube"].shape[1:3]) for name in cubes)
    shape = (sum(len(index) for index in rows.values()), size, size, len(channels))
    if file is None or 0 in shape:
        pixels = np.empty(shape, np.float32)
    else:
        pixels = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
    at = 0
    for name in sorted(cubes):
        for start in _starts(len(rows[name])):
            index = rows[name][start : start + CHUNK]
            pixels[at : at + len(index)] = select_inputs(cubes[name], inputs=channels, size=size, rows=index)
            at += len(index)
    return pixels


def check_pool(arrays: Mapping[str, np.ndarray], split: pd.DataFrame, *, without: str | None = None) -> None:
    """Check that the sets of a pool are separate and can be used for training.

    Parameters
    ----------
    arrays : mapping of arrays
        Cube of the pool.
    split : pandas.DataFrame
        Split of the pool, in the order of the cube.
    without : str, optional
        Telescope that must not be in the pool.

    Raises
    ------
    CubeError
        A cutout of the telescope that must not be in the pool, an image in two sets, a training or validation set
        with one class only, or a split that does not belong to the cube.
    """
    if not np.array_equal(split["candid"].to_numpy(str), arrays["candids"]):
        raise CubeError("the split and the pool do not list the same candidates")
    if len(np.unique(arrays["candids"])) < len(split):
        raise CubeError("a candid occurs twice in the pool")
    if without is not None:
        owners = np.char.partition(arrays["images"].astype(str), ":")[:, 0]
        if (arrays["telescopes"] == without).any() or (owners == without).any():
            raise CubeError(f"the pool without {without} has cutouts of {without}")
    used = split[split["set"] != UNUSED]
    n_sets = used.groupby("image")["set"].nunique()
    if (n_sets > 1).any():
        raise CubeError(f"image {n_sets.idxmax()} is in two sets of the pool, which must be independent")
    for name in TRAINED:
        if used.loc[used["set"] == name, "label"].nunique() < 2:
            raise CubeError(f"set {name} of the pool does not have both classes")


def summarise_pool(
    arrays: Mapping[str, np.ndarray], split: pd.DataFrame, records: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Counts of a pool by telescope and set, with the keys of the record of a cube.

    Parameters
    ----------
    arrays, split
        As from `pool_cubes`.
    records : mapping of str to mapping
        ``cube.json`` of each telescope.

    Returns
    -------
    dict
        ``n_labelled_false`` is the number of False that the pool would have without the balancing of its cubes.
    """
    by_telescope, labelled_false = {}, 0.0
    for name, part in split.groupby("telescope"):
        counts = {kind: int((part["label"] == value).sum()) for value, kind in ((1, "n_true"), (0, "n_false"))}
        sets = part["set"].value_counts().reindex([*SETS], fill_value=0)
        by_telescope[name] = {**counts, "n_images": int(part["image"].nunique()), **sets.astype(int).to_dict()}
        labelled_false += counts["n_false"] / kept_false_share(dict(records.get(name, {})))
    return {
        "size": int(arrays["cube"].shape[1]),
        "channels": [str(name) for name in arrays["channels"]],
        "n_images": int(split["image"].nunique()),
        "n_true": int((split["label"] == 1).sum()),
        "n_false": int((split["label"] == 0).sum()),
        "n_labelled_false": round(labelled_false),
        "telescopes": by_telescope,
    }
