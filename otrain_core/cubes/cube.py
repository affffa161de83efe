"""Build a cube: all cutouts of one telescope under one pipeline, with their labels (step `cube`)."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.arrays import read_stack, write_arrays
from otrain_core.cubes.balance import advise, check_classes, draw
from otrain_core.cubes.copies import count_copies, find_copies, leave_out_copies, tell_copies
from otrain_core.cubes.cube_folders import class_folders, stacks_from_folders
from otrain_core.cubes.cube_format import CUBE_COLUMNS, no_rows
from otrain_core.cubes.gather import Gathered, in_order, joined_columns
from otrain_core.cubes.labels import override_labels
from otrain_core.errors import CubeError, ImageError
from otrain_core.io import write_json
from otrain_core.stars.kinds import REAL_KINDS

if TYPE_CHECKING:
    from otrain_core.plan.config import CubeOptions


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
    """Read the cutouts of all images, and write the cube, the cube of real stars, and the record.

    Parameters
    ----------
    stacks : sequence of path-like
        Cutouts of each image, as the step `cutouts` writes them, or failure marks.
    cube, real_stars, record : path-like
        Files to write.
    telescope, pipeline : str
    seed : int
    options : CubeOptions
    folder : path-like, optional
        Folder with ready-made cutouts in True/ and False/, instead of `stacks`. Such a cube has only the channel
        difference.
    labels : path-like, optional
        Label sheet.

    Raises
    ------
    CubeError
        See `build_cube` and `cube_from_folders`.
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
        if options.real_stars:  # a test on real stars must not include stars that are in the training data
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
    """Read the cutouts of images, and the failure marks of images without cutouts.

    Returns
    -------
    loaded : list of dict
        As from `otrain_core.arrays.read_stack`; the pixels are not read yet.
    failed : list of dict
        image, step, key and message of each image whose file is a failure mark.

    Raises
    ------
    CubeError
        A file is missing.
    """
    loaded, failed = [], []
    for path in paths:
        if not Path(path).is_file():  # under run.fused, Snakemake does not track the files of each image
            raise CubeError(
                f"{path}: no such file; to make it again under run.fused, delete the file steps.csv in the folder of "
                "the first image of its job"
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
    """Join the cutouts of all images, select those with a label, and balance the classes.

    Candidates flagged EDGE and those with label -1 are left out. Of duplicate cutouts only one is kept, or none if
    their labels disagree (see `otrain_core.cubes.copies`). Real stars are in a separate cube (see `real_star_cube`),
    unless ``options.real_stars`` includes them here. Excess cutouts of a class are dropped at random over all images.
    The cutouts are in order of image and candid, whatever the order of `stacks`.

    Parameters
    ----------
    stacks : sequence of mapping
        As from `otrain_core.candidates.cutouts.make_cutouts`; arrays may be memory-mapped.
    seed : int
    options : CubeOptions
    failed : sequence of mapping
        image, step, key and message of each image that failed.
    labels : sequence of mapping, optional
        Rows of a label sheet, which override the labels of the cutouts (see `otrain_core.cubes.labels`).
    telescope, pipeline : str
    gather : bool
        Whether to read the pixels. If False, ``cube`` is an `otrain_core.cubes.gather.Gathered`, which
        `otrain_core.arrays.write_arrays` writes block by block.

    Returns
    -------
    arrays : dict of numpy.ndarray
        ``cube`` float32 (N, H, W, C), ``labels`` uint8 (1 True, 0 False), the keys of `CUBE_COLUMNS`, ``n_missing``
        (number of NaN pixels of the difference), ``labels_before`` if there is a label sheet (int8: 1, 0, or -1 for
        no label), ``channels``, ``telescope``, ``pipeline``.
    record : dict
        Counts, duplicate cutouts (``copies``), changes by the label sheet (``labels``), and the failed images with
        the reasons.

    Raises
    ------
    CubeError
        There are no images, too many images failed, a class has too few cutouts, a candid occurs twice, the cutouts
        lack a channel or differ in size.
    """
    _check_failed(failed, n_images=len(stacks) + len(failed), limit=options.max_failed_fraction)
    stacks, column, offsets = joined_columns(stacks)
    by_hand = None
    if labels is not None:
        column, by_hand = override_labels(column, labels, telescope=telescope, pipeline=pipeline)
    edge, real = column["edge"].astype(bool), np.isin(column["kind"], REAL_KINDS)
    usable = in_order(column, ~edge & (column["label"] >= 0) & (options.real_stars | ~real))
    given = column["label"][usable].astype(np.uint8)
    where = f"cube {telescope}/{pipeline}" if telescope else "cube"
    check_classes(given, 1, where, "were labelled")
    keep, copies = _without_copies(stacks, column, offsets, usable, where=where)
    usable, given = usable[keep], given[keep]
    left = f"are left, because {tell_copies(copies, len(keep))}" if copies["n_left_out"] else "were labelled"
    check_classes(given, options.min_per_class, where, left)
    keep = draw(given, seed=seed, true_fraction=options.true_fraction, max_cutouts=options.max_cutouts)
    chosen = usable[keep]
    check_classes(given[keep], options.min_per_class, where, "are left after balancing")
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


def _without_copies(
    stacks: Sequence[Mapping[str, np.ndarray]],
    column: Mapping[str, np.ndarray],
    offsets: np.ndarray,
    usable: np.ndarray,
    *,
    where: str,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Which of the usable rows remain without duplicate cutouts, and the counts of these."""
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
    """Counts of a cube, of all candidates (`column`), and of the rows from which the cube was drawn (`usable`)."""
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
        See `otrain_core.cubes.cube_folders.stacks_from_folders`; `channels` replaces the channels in `options`.
    seed, options, labels, telescope, pipeline
        As in `build_cube`.

    Returns
    -------
    arrays, record
        As from `build_cube`.

    Raises
    ------
    CubeError
        See `stacks_from_folders` and `build_cube`.
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
    """Join the cutouts of real stars (kinds `otrain_core.stars.kinds.REAL_KINDS`) into a cube.

    Parameters
    ----------
    stacks : sequence of mapping
        As from `otrain_core.candidates.cutouts.make_cutouts`.
    channels : sequence of str
    labels : sequence of mapping, optional
        Rows of a label sheet; stars that people do not label True are left out.
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
        There are no images, a candid occurs twice, or the cutouts lack a channel or differ in size.
    """
    if len(stacks) == 0:
        raise CubeError("there are no images to build a cube from")
    stacks, column, offsets = joined_columns(stacks)
    if labels is not None:
        column, _ = override_labels(column, labels, telescope=telescope, pipeline=pipeline)
    real = ~column["edge"].astype(bool) & (column["label"] == 1) & np.isin(column["kind"], REAL_KINDS)
    about = {"telescope": telescope, "pipeline": pipeline}
    return _arrays(stacks, column, offsets, in_order(column, real), channels, gather=gather, **about)


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
        if values.dtype.kind == "U":  # the smallest width of the strings, so that equal content gives equal files
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
    """Refuse a cube without images, or if too large a fraction of the images failed."""
    if n_images == 0:
        raise CubeError("there are no images to build a cube from")
    if len(failed) < n_images and len(failed) / n_images <= limit:
        return
    listed = "; ".join(f"{item['image']}: {item['key']}: {item['message']}" for item in failed[:10])
    more = f"; and {len(failed) - 10} more" if len(failed) > 10 else ""
    raise CubeError(
        f"{len(failed)} of {n_images} images failed (cube.max_failed_fraction is {limit:g}): {listed}{more}"
    )
