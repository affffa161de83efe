"""The cube: all cutouts of one telescope under one pipeline, with their labels (step `cube`)."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.arrays import read_stack, write_arrays
from otrain_core.cubes.copies import count_copies, find_copies, leave_out_copies, tell_copies
from otrain_core.cubes.cube_folders import class_folders, stacks_from_folders
from otrain_core.cubes.gather import Gathered
from otrain_core.cubes.labels import override_labels
from otrain_core.errors import CubeError, ImageError
from otrain_core.io import write_json
from otrain_core.stars.kinds import REAL_KINDS

if TYPE_CHECKING:
    from otrain_core.plan.config import CubeOptions

TABLE1 = ("cube", "labels", "mags", "errmags", "filters", "fwhms", "candids")
# Cube key: column of the cutouts. Table 1 of Makhlouf et al. (2022) first.
CUBE_COLUMNS = {
    "mags": "mag",
    "errmags": "magerr",
    "filters": "filter",
    "fwhms": "fwhm",
    "candids": "candid",
    "images": "image",
    "x": "x",
    "y": "y",
    "ra": "ra",
    "dec": "dec",
    "snr": "snr",
    "seeing": "seeing",
    "pixel_scale": "pixel_scale",
    "reasons": "reason",
    "artefacts": "artefact",
    "injections": "injection",
    "kinds": "kind",
    "times": "time",
    "fields": "field",
    "grid_x": "grid_x",
    "grid_y": "grid_y",
    "signs": "sign",
}
# Columns that stacks of earlier versions and ready-made cutouts do not have, and what stands for them.
OPTIONAL = {"field": "", "grid_x": np.nan, "grid_y": np.nan, "sign": 1}
KEEP_ALL = "cube.true_fraction: null keeps all, and class_weights of the experiment weighs them"
MIN_SLOPE = 10  # False from which the slope of their numbers with S/N is told
# Keys that hold numbers.
NUMBERS = (
    *("mags", "errmags", "fwhms", "x", "y", "ra", "dec", "snr", "seeing", "pixel_scale"),
    *("injections", "grid_x", "grid_y", "signs", "n_missing"),
)
SENTINELS = (-99.0, 99.0, 0.0)  # "no magnitude" in the cutouts and cubes of the original O'TRAIN


def cube_files(
    *,
    stacks: Sequence[str | Path],
    cube: str | Path,
    real_stars: str | Path,
    record: str | Path,
    telescope: str,
    pipeline: str,
    seed: int,
    options: CubeOptions,
    folder: str | Path | None = None,
    labels: str | Path | None = None,
) -> None:
    """Write the cube, that of the real stars, and the record, from the cutouts of every image that did not fail.

    Parameters
    ----------
    stacks : sequence of path-like
        Cutouts of the images, as the step `cutouts` writes them, or failure marks.
    cube, real_stars, record : path-like
        Files to write.
    telescope, pipeline : str
    seed : int
    options : CubeOptions
    folder : path-like, optional
        Folder with True/ and False/ of a telescope of ready-made cutouts, instead of `stacks`; its cubes have the
        difference alone.
    labels : path-like, optional
        Label sheet.

    Raises
    ------
    CubeError
        Those of `build_cube` and `cube_from_folders`.
    """
    sheet = None
    if labels:
        from otrain_core.plan.sheets import read_labels

        sheet = read_labels(labels)
    if folder:
        arrays, counts = cube_from_folders(
            *class_folders(folder), seed=seed, options=options, labels=sheet, telescope=telescope, pipeline=pipeline
        )
        real = no_rows(arrays)
    else:
        loaded, failed = read_stacks(stacks)
        arrays, counts = build_cube(
            loaded,
            seed=seed,
            options=options,
            failed=failed,
            labels=sheet,
            telescope=telescope,
            pipeline=pipeline,
            gather=False,
        )
        if options.real_stars:  # real stars check a classifier that never saw them: those that train are not here
            real = no_rows(arrays)
        else:
            real = real_star_cube(
                loaded,
                channels=options.channels,
                labels=sheet,
                telescope=telescope,
                pipeline=pipeline,
                gather=False,
            )
    write_arrays(cube, arrays)
    write_arrays(real_stars, real)
    write_json(record, counts | {"real_stars": dict(sorted(Counter(real["kinds"].tolist()).items()))})


def read_stacks(paths: Sequence[str | Path]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Cutouts of the images that have them, and why the others have none.

    Returns
    -------
    loaded : list of dict
        As from `otrain_core.arrays.read_stack`, the pixels left in their files.
    failed : list of dict
        image, step, key and message of every image whose file is a failure mark.

    Raises
    ------
    CubeError
        A file is missing.
    """
    loaded, failed = [], []
    for path in paths:
        if not Path(path).is_file():  # of a job of several images, which Snakemake does not know file by file
            raise CubeError(
                f"{path}: no such file; to have it made again under run.fused delete the steps.csv of its job, in the "
                "folder of the job's first image"
            )
        try:
            loaded.append(read_stack(path, later=("stack",)))
        except ImageError as error:
            mark = json.loads(Path(path).read_text())["otrain_failed"]
            failed.append(
                {"image": error.image, "step": mark.get("step", ""), "key": error.key, "message": error.message}
            )
            logging.getLogger("otrain").warning("%s (left out of the cube)", error)
    return loaded, failed


def build_cube(
    stacks: Sequence[Mapping[str, np.ndarray]],
    *,
    seed: int,
    options: CubeOptions,
    failed: Sequence[Mapping[str, str]] = (),
    labels: Sequence[Mapping[str, Any]] | None = None,
    telescope: str = "",
    pipeline: str = "",
    gather: bool = True,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Join the cutouts of all images, leave out what has no label, and balance the classes.

    Candidates flagged EDGE and those with label -1 are left out, and so are copies of a cutout (all of them where
    their labels disagree, see `otrain_core.cubes.copies`), and real stars: they
    stand in a cube of their own (see `real_star_cube`), unless ``options.real_stars`` has them join.
    What is too much of a class is dropped at random over all images. The order is that of
    image, then candid, whatever the order of `stacks`.

    Parameters
    ----------
    stacks : sequence of mapping
        As from `otrain_core.candidates.cutouts.make_cutouts`; memory-mapped arrays will do.
    seed : int
    options : CubeOptions
    failed : sequence of mapping
        image, step, key and message of every image that failed before.
    labels : sequence of mapping, optional
        Rows of a label sheet, whose labels override those of the cutouts (see `otrain_core.cubes.labels`).
    telescope, pipeline : str
    gather : bool
        False leaves the pixels where they are: ``cube`` is an `otrain_core.cubes.gather.Gathered`, which
        `otrain_core.arrays.write_arrays` writes without ever holding it in memory.

    Returns
    -------
    arrays : dict of numpy.ndarray
        ``cube`` float32 (N, H, W, C), ``labels`` uint8 (1 True, 0 False), the other keys of
        Table 1, then `CUBE_COLUMNS`, ``n_missing`` (NaN pixels of the difference), ``labels_before`` where there is
        a label sheet (int8: 1, 0, -1 for none), ``channels``, ``telescope``, ``pipeline``.
    record : dict
        Counts, the copied cutouts (``copies``), what the label sheet changed (``labels``), and the failed images with their reasons.

    Raises
    ------
    CubeError
        No images, too many failed ones, no True or no False, too few of a class, a
        candid that stands twice, a channel that the cutouts lack, cutouts of different sizes.
    """
    _check_failed(failed, n_images=len(stacks) + len(failed), limit=options.max_failed_fraction)
    stacks, column, offsets = _table(stacks)
    by_hand = None
    if labels is not None:
        column, by_hand = override_labels(column, labels, telescope=telescope, pipeline=pipeline)
    edge, real = column["edge"].astype(bool), np.isin(column["kind"], REAL_KINDS)
    usable = _in_order(column, ~edge & (column["label"] >= 0) & (options.real_stars | ~real))
    given = column["label"][usable].astype(np.uint8)
    where = f"cube {telescope}/{pipeline}" if telescope else "cube"
    _check_classes(given, 1, where, "were labelled")
    keep, copies = _without_copies(stacks, column, offsets, usable, where=where)
    usable, given = usable[keep], given[keep]
    left = f"are left, as {tell_copies(copies, len(keep))}" if copies["n_left_out"] else "were labelled"
    _check_classes(given, options.min_per_class, where, left)
    keep = draw(given, seed=seed, true_fraction=options.true_fraction, max_cutouts=options.max_cutouts)
    chosen = usable[keep]
    _check_classes(given[keep], options.min_per_class, where, "are left after balancing")
    arrays = _arrays(
        stacks, column, offsets, chosen, options.channels, telescope=telescope, pipeline=pipeline, gather=gather
    )
    record: dict[str, Any] = {
        "telescope": telescope,
        "pipeline": pipeline,
        "seed": seed,
        "size": int(arrays["cube"].shape[1]),
    }
    record |= {"channels": list(options.channels), "n_images": len(stacks) + len(failed)}
    record |= _counts(arrays, column, usable) | {"n_images_failed": len(failed)}
    record["copies"] = copies
    record["advice"] = advise(
        column["snr"][usable],
        given,
        keep_false=record["n_false"],
        keep_true=record["n_true"],
        injected=bool((column["injection"][usable] >= 0).any()),
    )
    for sentence in record["advice"]:
        logging.getLogger("otrain").warning("%s: %s", where, sentence)
    if by_hand is not None:
        record["labels"] = by_hand
    return arrays, record | {"failed": [dict(item) for item in failed]}


def advise(snr: np.ndarray, labels: np.ndarray, *, keep_true: int, keep_false: int, injected: bool = True) -> list[str]:
    """What to change where balancing throws away more than half of a class, and by how much.

    Parameters
    ----------
    snr : numpy.ndarray
        (N,) S/N of the labelled candidates, before balancing.
    labels : numpy.ndarray
        (N,) 1 True, 0 False.
    keep_true, keep_false : int
        How many of them the cube has.
    injected : bool
        Whether the candidates are those of the workflow, which injects and detects; ready-made cutouts are not.

    Returns
    -------
    list of str
        Sentences; none where the balance is good.
    """
    n_true, n_false = int((labels == 1).sum()), int((labels == 0).sum())
    if keep_true < n_true / 2 and keep_true < n_true and n_false:
        factor = n_true / n_false
        said = [f"{n_true - keep_true} of {n_true} True are thrown away to balance {n_false} False"]
        lower = _threshold_shift(snr[labels == 0], factor)
        if not injected:
            return [*said, KEEP_ALL]
        if lower < 4.5 - 3:  # below 3 sigma noise makes most of them
            said.append(f"a detect.threshold {lower:.1f} sigma lower gives about {factor:.1f} times as many False")
        said.append("detect.threshold: auto lowers it for each image, detect.both_signs: true adds the negative ones")
        said.append(f"or {factor:.1f} times as many images with 1 / {factor:.1f} of the injected sources")
        return [*said, KEEP_ALL]
    if keep_false < n_false / 2 and n_true:
        factor = n_false / n_true
        said = [f"{n_false - keep_false} of {n_false} False are thrown away to balance {n_true} True"]
        if injected:
            said.append(f"inject.n_sources may be {factor:.1f} times as large")
        return [*said, KEEP_ALL]
    return []


def _threshold_shift(snr: np.ndarray, factor: float) -> float:
    """By how much a threshold is to be lower [sigma] for `factor` times as many candidates of this S/N.

    Their number falls exponentially with S/N just above the threshold: the slope is that of those within 2 sigma of it
    (maximum likelihood). NaN with fewer than 10 of them.
    """
    snr = snr[np.isfinite(snr)]
    if len(snr) < MIN_SLOPE:
        return float("nan")
    lowest = np.quantile(snr, 0.02)
    excess = snr[(snr >= lowest) & (snr < lowest + 2)] - lowest
    if len(excess) < MIN_SLOPE or excess.mean() <= 0:
        return float("nan")
    return float(np.log(factor) * excess.mean())


def _without_copies(
    stacks: Sequence[Mapping[str, np.ndarray]],
    column: Mapping[str, np.ndarray],
    offsets: np.ndarray,
    usable: np.ndarray,
    *,
    where: str,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Which of the usable rows stay when copied cutouts go, and their counts, see `otrain_core.cubes.copies`."""
    known = [str(name) for name in stacks[0]["channels"]]
    pixels = Gathered(stacks, offsets, usable, ["difference" if "difference" in known else known[0]])
    images, labels = column["image"][usable], column["label"][usable]
    groups = find_copies(lambda rows: pixels.take(rows)[..., 0], images)
    keep = leave_out_copies(groups, labels)
    counts = count_copies(groups, labels=labels, images=images, candids=column["candid"][usable])
    counts["n_left_out"] = int((~keep).sum())
    if counts["n_copies"]:
        sentence = tell_copies(counts, len(usable))
        logging.getLogger("otrain").warning("%s: %s; %d are left out", where, sentence, counts["n_left_out"])
    return keep, counts


def _counts(arrays: Mapping[str, np.ndarray], column: Mapping[str, np.ndarray], usable: np.ndarray) -> dict[str, Any]:
    """Counts of a cube and of the candidates (`column`) from which its rows were drawn (`usable`)."""
    label, edge = column["label"], column["edge"].astype(bool)
    real, given = np.isin(column["kind"], REAL_KINDS), arrays["labels"]
    kept_images, kept_counts = np.unique(arrays["images"], return_counts=True)
    return {
        "n_images_used": len(kept_images),
        "n_candidates": len(label),
        "n_edge": int(edge.sum()),
        "n_left_out": int((~edge & (label < 0)).sum()),
        "n_labelled_true": int((label[usable] == 1).sum()),
        "n_labelled_false": int((label[usable] == 0).sum()),
        "n_labelled_real_stars": int((~edge & (label == 1) & real).sum()),
        "n_true": int((given == 1).sum()),
        "n_false": int((given == 0).sum()),
        "n_with_missing_pixels": int((arrays["n_missing"] > 0).sum()),
        "n_missing_pixels": int(arrays["n_missing"].sum()),
        "artefacts": dict(sorted(Counter(arrays["artefacts"][given == 0].tolist()).items())),
        "kinds": dict(sorted(Counter(arrays["kinds"][given == 1].tolist()).items())),
        "cutouts_per_image": dict(zip(kept_images.tolist(), kept_counts.tolist(), strict=True)),
    }


def cube_from_folders(
    true_dir: str | Path,
    false_dir: str | Path,
    *,
    seed: int,
    options: CubeOptions,
    size: int | None = None,
    channels: Sequence[str] | None = ("difference",),
    labels: Sequence[Mapping[str, Any]] | None = None,
    telescope: str = "",
    pipeline: str = "",
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Build a cube from ready-made cutouts in two folders of FITS files.

    Parameters
    ----------
    true_dir, false_dir, size, channels
        See `otrain_core.cubes.cube_folders.stacks_from_folders`; `channels` stand in the place of those of `options`.
    seed, options, labels, telescope, pipeline
        As in `build_cube`.

    Returns
    -------
    arrays, record
        As from `build_cube`.

    Raises
    ------
    CubeError
        Those of `stacks_from_folders` and of `build_cube`.
    """
    stacks, n_cut_off = stacks_from_folders(true_dir, false_dir, size=size, channels=channels)
    found = [str(name) for name in stacks[0]["channels"]]
    arrays, record = build_cube(
        stacks,
        seed=seed,
        options=options.model_copy(update={"channels": found, "real_stars": False}),
        labels=labels,
        telescope=telescope,
        pipeline=pipeline,
    )
    return arrays, record | {"n_edge": record["n_edge"] + n_cut_off, "n_candidates": record["n_candidates"] + n_cut_off}


def real_star_cube(
    stacks: Sequence[Mapping[str, np.ndarray]],
    *,
    channels: Sequence[str],
    labels: Sequence[Mapping[str, Any]] | None = None,
    telescope: str = "",
    pipeline: str = "",
    gather: bool = True,
) -> dict[str, Any]:
    """The cutouts of real stars (kinds `otrain_core.stars.kinds.REAL_KINDS`), in the format of the cube.

    Parameters
    ----------
    stacks : sequence of mapping
        As from `otrain_core.candidates.cutouts.make_cutouts`.
    channels : sequence of str
    labels : sequence of mapping, optional
        Rows of a label sheet: a star that people do not see as True is left out.
    telescope, pipeline : str
    gather : bool
        As in `build_cube`.

    Returns
    -------
    dict of numpy.ndarray
        As from `build_cube`; all labels are 1, and there may be no rows.

    Raises
    ------
    CubeError
        Those of `build_cube` but for the number of cutouts.
    """
    if len(stacks) == 0:
        raise CubeError("there are no images to build a cube from")
    stacks, column, offsets = _table(stacks)
    if labels is not None:
        column, _ = override_labels(column, labels, telescope=telescope, pipeline=pipeline)
    real = ~column["edge"].astype(bool) & (column["label"] == 1) & np.isin(column["kind"], REAL_KINDS)
    about = {"telescope": telescope, "pipeline": pipeline}
    return _arrays(stacks, column, offsets, _in_order(column, real), channels, gather=gather, **about)


def no_rows(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A cube of the same format without cutouts."""
    n, cube = len(arrays["labels"]), arrays["cube"]
    none = {
        key: array[:0] for key, array in arrays.items() if key not in ("cube", "channels") and array.shape[:1] == (n,)
    }
    return dict(arrays) | none | {"cube": np.empty((0, *cube.shape[1:]), cube.dtype)}


def _table(
    stacks: Sequence[Mapping[str, np.ndarray]],
) -> tuple[list[Mapping[str, np.ndarray]], dict[str, np.ndarray], np.ndarray]:
    """Stacks in the order of their images, their columns joined, and the first row of each."""
    stacks = sorted(stacks, key=lambda stack: str(stack["image_name"]))
    names = [str(stack["image_name"]) for stack in stacks]
    if len(set(names)) < len(names):
        raise CubeError(f"image {next(name for name, n in Counter(names).items() if n > 1)} was given twice")
    offsets = np.cumsum([0] + [len(stack["label"]) for stack in stacks])
    column = {key: _join(stacks, key) for key in (*CUBE_COLUMNS.values(), "label", "edge", "n_missing")}
    _check_unique(column["candid"])
    return stacks, column, offsets


def _in_order(column: Mapping[str, np.ndarray], wanted: np.ndarray) -> np.ndarray:
    """Rows that are wanted, by image, then candid."""
    rows = np.flatnonzero(wanted)
    return rows[np.lexsort((column["candid"][rows], column["image"][rows]))]


def _arrays(
    stacks: Sequence[Mapping[str, np.ndarray]],
    column: Mapping[str, np.ndarray],
    offsets: np.ndarray,
    chosen: np.ndarray,
    channels: Sequence[str],
    *,
    telescope: str,
    pipeline: str,
    gather: bool,
) -> dict[str, Any]:
    """All arrays of a cube for the chosen rows."""
    pixels = Gathered(stacks, offsets, chosen, channels)
    arrays = {"cube": pixels.read() if gather else pixels, "labels": column["label"][chosen].astype(np.uint8)}
    for key, source in CUBE_COLUMNS.items():
        values = column[source][chosen]
        if values.dtype.kind == "U":  # the narrowest width that holds the strings: same bytes for the same content
            values = values.astype(f"U{max(1, np.strings.str_len(values).max(initial=0))}")
        arrays[key] = values
    arrays["n_missing"] = column["n_missing"][chosen].astype(np.int32)
    if "label_before" in column:
        arrays["labels_before"] = column["label_before"][chosen]
    return arrays | {
        "channels": np.array(list(channels)),
        "telescope": np.array(telescope),
        "pipeline": np.array(pipeline),
    }


def _check_failed(failed: Sequence[Mapping[str, str]], *, n_images: int, limit: float) -> None:
    if n_images == 0:
        raise CubeError("there are no images to build a cube from")
    if len(failed) < n_images and len(failed) / n_images <= limit:
        return
    listed = "; ".join(f"{item['image']}: {item['key']}: {item['message']}" for item in failed[:10])
    more = f"; and {len(failed) - 10} more" if len(failed) > 10 else ""
    raise CubeError(
        f"{len(failed)} of {n_images} images failed (cube.max_failed_fraction is {limit:g}): {listed}{more}"
    )


def _check_unique(candids: np.ndarray) -> None:
    values, counts = np.unique(candids, return_counts=True)
    if (counts > 1).any():
        raise CubeError(f"candid {values[counts.argmax()]} stands {counts.max()} times")


def _check_classes(labels: np.ndarray, min_per_class: int, where: str, verb: str) -> None:
    for value, name in ((1, "True"), (0, "False")):
        count = int((labels == value).sum())
        if count < max(min_per_class, 1):
            what = "the cube has one class only" if count == 0 else f"cube.min_per_class is {min_per_class}"
            more = "raise inject.n_sources" if value else "lower detect.threshold (auto lowers it by itself)"
            missing = f"{max(min_per_class, 1) - count} are missing: add images, or {more}"
            raise CubeError(f"{where}: only {count} {name} cutouts {verb}; {what}; {missing}")


def _join(stacks: Sequence[Mapping[str, np.ndarray]], key: str) -> np.ndarray:
    # Empty stacks are left out so that a void column does not decide the type.
    some = [stack for stack in stacks if len(stack["label"])] or stacks[:1]
    return np.concatenate(
        [np.asarray(stack[key]) if key in stack else np.full(len(stack["label"]), OPTIONAL[key]) for stack in some]
    )


def draw(labels: np.ndarray, *, seed: int, true_fraction: float | None, max_cutouts: int | None) -> np.ndarray:
    """Indices, in order, of a random selection with the wanted share of True (label 1).

    The larger class is thinned; with `max_cutouts` both are.
    """
    rng = np.random.default_rng(seed)
    true, false = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    n_true, n_false = len(true), len(false)
    if true_fraction is not None:
        n_true = min(n_true, round(len(false) * true_fraction / (1 - true_fraction)))
        n_false = min(n_false, round(len(true) * (1 - true_fraction) / true_fraction))
    if max_cutouts is not None and n_true + n_false > max_cutouts:
        n_true = round(max_cutouts * n_true / (n_true + n_false))
        n_false = max_cutouts - n_true
    chosen = [rng.choice(group, n, replace=False, shuffle=False) for group, n in ((true, n_true), (false, n_false))]
    return np.sort(np.concatenate(chosen))


def read_cube(path: str | Path, *, mmap: bool = False, both_classes: bool = True) -> dict[str, np.ndarray]:
    """Read and check a cube.

    Cubes of the original O'TRAIN, which have the keys of Table 1 only, are accepted:
    labels may be one-hot (False, True), the cube without channel axis, and their magnitude
    sentinels are read as missing.

    Parameters
    ----------
    path : path-like
    mmap : bool
        Map ``cube`` into memory instead of reading it.
    both_classes : bool
        Refuse a cube of one class only; a cube of real stars has one, or no rows at all.

    Returns
    -------
    dict of numpy.ndarray
        ``cube`` float32 (N, H, W, C), ``labels`` uint8, and the other keys of the file;
        ``channels`` and ``kinds`` always.

    Raises
    ------
    CubeError
        Not readable, a key of Table 1 is missing, shapes that do not agree, text where numbers are needed, labels
        other than 0 and 1, one class only.
    """
    arrays = read_stack(path, mmap=("cube",) if mmap else ())
    for key in TABLE1:
        if key not in arrays:
            raise CubeError(f"{path}: key {key!r} is missing; a cube has {', '.join(TABLE1)}")
    if arrays["cube"].ndim == 3:
        arrays["cube"] = arrays["cube"][..., None]
    cube = arrays["cube"]
    if cube.ndim != 4 or cube.dtype.kind not in "fiu" or 0 in cube.shape[1:]:
        raise CubeError(f"{path}: cube: numbers of shape (N, H, W, C) are needed, found {cube.dtype} {cube.shape}")
    arrays["cube"] = cube.astype(np.float32, copy=False)
    arrays["labels"] = _plain_labels(arrays["labels"], path)
    _check_columns(arrays, path)
    arrays.setdefault("kinds", np.full(len(cube), ""))
    if both_classes and len(np.unique(arrays["labels"])) < 2:
        raise CubeError(f"{path}: the cube has one class only")
    if "channels" not in arrays:
        for key in ("mags", "errmags"):
            values = arrays[key].astype(np.float64)
            arrays[key] = np.where(np.isin(values, SENTINELS if key == "mags" else SENTINELS[:2]), np.nan, values)
        arrays["channels"] = np.array(["difference", *(f"channel{n}" for n in range(2, cube.shape[3] + 1))])
    channels = np.atleast_1d(arrays["channels"])
    if channels.ndim != 1 or len(channels) != cube.shape[3]:
        raise CubeError(f"{path}: channels names {channels.size} channels, the cube has {cube.shape[3]}")
    if channels.dtype.kind != "U" or len(set(channels.tolist())) < len(channels):
        raise CubeError(f"{path}: channels: a name of its own for each channel is needed, found {channels.tolist()}")
    arrays["channels"] = channels
    return arrays


def _plain_labels(labels: np.ndarray, path: str | Path) -> np.ndarray:
    """Labels (N,) as uint8; one-hot ones (False, True) are accepted."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    known = labels.dtype.kind in "biuf" and np.isin(labels, (0, 1)).all()
    if known and labels.ndim == 2 and labels.shape[1] == 2 and (labels.sum(axis=1) == 1).all():
        return labels.argmax(axis=1).astype(np.uint8)
    if not known or labels.ndim != 1:
        raise CubeError(f"{path}: labels: 0 (False) or 1 (True) for every cutout is needed")
    return labels.astype(np.uint8)


def _check_columns(arrays: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Refuse columns that are not one value, of the right kind, for every cutout."""
    n = len(arrays["cube"])
    for key in dict.fromkeys((*TABLE1[1:], *CUBE_COLUMNS, "n_missing")):
        if key not in arrays:
            continue
        column = arrays[key]
        if column.ndim != 1 or len(column) != n:
            found = f"{len(column)} entries" if column.ndim == 1 else f"the shape {column.shape}"
            raise CubeError(f"{path}: {key} has {found} for {n} cutouts")
        if key in NUMBERS and column.dtype.kind not in "biuf":
            raise CubeError(f"{path}: {key}: numbers are needed, found {column.dtype}")


def kept_false_share(cube_record: dict[str, Any]) -> float:
    """Share of the labelled False candidates that balancing left in the cube (1 where unknown)."""
    kept, found = cube_record.get("n_false"), cube_record.get("n_labelled_false")
    return kept / found if kept and found and kept <= found else 1.0
