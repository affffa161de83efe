"""Training of the detector network on the images of a cube (step `train_finder`)."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from shutil import copyfile, rmtree
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.candidates.planes import Field, read_field
from otrain_core.classify.finder import LEAST_SCORE, Finder
from otrain_core.errors import CubeError, ImageError, UpstreamFailed
from otrain_core.evaluation.found import judge, score_at
from otrain_core.io import atomic, digest, read_table, write_json, write_table
from otrain_core.jobs.provenance import provenance
from otrain_core.networks.checkpoint import Checkpoint
from otrain_core.networks.devices import check_seed, memory_told, prepare_device
from otrain_core.networks.tiles import TileImage, draw_batch
from otrain_core.plan.finder import FinderOptions
from otrain_core.plan.pipelines import CrossmatchOptions
from otrain_core.results import image_folder

N_VALIDATION = 8  # number of batches for validation, which are the same each time
WARM_UP = 0.05  # share of the steps in which the learning rate rises
MAX_NORM = 5.0  # largest norm of the gradient

log = logging.getLogger("otrain")


def train_finder_files(
    *,
    cube: str | Path,
    split: str | Path,
    onnx: str | Path,
    history: str | Path,
    record: str | Path,
    options: FinderOptions,
    crossmatch: CrossmatchOptions,
    seed: int,
    code: str = "",
    threads: int | None = None,
    live_run: Callable[[Path], AbstractContextManager[Any]] | None = None,
) -> None:
    """Train a detector network on the images of a cube, and write the network, its history and its record.

    Parameters
    ----------
    cube : path-like
        Folder of the cube. The difference images must have been kept.
    split : path-like
        Split of the cube.
    onnx, history, record : path-like
        Files to write: ONNX, CSV, JSON. The checkpoint is a folder beside them.
    options : FinderOptions
    crossmatch : CrossmatchOptions
        Options of the matching that determines the threshold, at one false alarm per image of the validation set.
    seed : int
    code : str
        Digest of the training code.
    threads : int, optional
    live_run : callable, optional
        As for `otrain_core.networks.train.train_files`.

    Raises
    ------
    CubeError
        The training or validation set has no image, or the loss is not finite.
    ConfigError
        Another training uses the checkpoint.
    """
    check_seed(seed)
    folder = Path(onnx).parent
    checkpoint = folder / "finder.checkpoint"
    images = {name: tile_images(cube, split, name) for name in ("train", "validation")}
    for name, found in images.items():
        if not found:
            raise CubeError(
                f"{split}: no image of the set {name} has its difference image; the detector network needs at least one"
            )
    prepare_device(threads=threads)
    about = [options.model_dump(exclude={"train"}), seed, code, digest(split)]
    about += [digest(image_folder(cube, one.field.image) / "injected.csv") for one in images["train"]]
    identity = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    with live_run(folder) if live_run else nullcontext() as watch:
        model, rows, result = train_finder(
            images,
            options=options,
            seed=seed,
            checkpoint=checkpoint,
            keep_checkpoint=True,
            identity=identity,
            watch=watch,
        )
    from otrain_core.networks.export_onnx import write_metadata
    from otrain_core.networks.finder import export_finder

    telescope, pipeline = Path(cube).parts[-2:]
    probes, _ = draw_batch(
        images["validation"], options=options, side=64, n=2, rng=np.random.default_rng(seed), vary=False
    )
    named = {"telescope": telescope, "pipeline": pipeline, "seed": seed, "threshold": LEAST_SCORE}
    export_finder(model, onnx, options=options, about=named, probes=probes)
    finder = Finder(onnx)
    named["threshold"] = tuned_threshold(finder, [one.field for one in images["validation"]], options, crossmatch)
    with atomic(onnx) as temporary:
        copyfile(onnx, temporary)
        write_metadata(temporary, {**finder.about, **named})
    write_table(history, rows)
    live = {"mlflow_run": watch.run_id} if watch and watch.run_id else {}
    write_json(record, named | result | live | {"options": options.model_dump()} | provenance())
    rmtree(checkpoint, ignore_errors=True)  # only now: an export that fails must not cost the training


def images_of(split: str | Path, name: str) -> list[str]:
    """Names of the images in a set of a split, sorted."""
    table = read_table(split, columns=("image", "set"))
    return sorted(table.loc[table["set"] == name, "image"].unique())


def tile_images(cube: str | Path, split: str | Path, name: str) -> list[TileImage]:
    """Images of a set, with the pixels that may be used. Failed images, and images without difference, are ignored."""
    table, found = read_table(split, columns=("candid", "image", "set")), []
    for image in images_of(split, name):
        folder = image_folder(cube, image)
        try:
            field = read_field(folder, image=image)
        except (ImageError, UpstreamFailed) as error:
            log.warning("%s", error)
            continue
        candidates = read_table(folder / "labelled.csv", columns=("candid", "x", "y"))
        unused = _unused(field, candidates.merge(table[table["image"] == image]), name)
        found.append(TileImage(replace(field, unused=unused)))
    return found


def _unused(field: Field, candidates: pd.DataFrame, name: str) -> np.ndarray | None:
    """Pixels whose nearest candidate belongs to another set of the split; None if the whole image belongs to this set."""
    from scipy.spatial import cKDTree

    mine = candidates["set"].eq(name).to_numpy()
    if mine.all():
        return None
    height, width = field.planes.shape
    places = np.indices((height, width)).reshape(2, -1).T
    nearest = cKDTree(candidates[["y", "x"]].to_numpy(float)).query(places)[1]
    return ~mine[nearest].reshape(height, width)


def tuned_threshold(
    finder: Finder, fields: Sequence[Field], options: FinderOptions, crossmatch: CrossmatchOptions
) -> float:
    """Score above which a network gives one false alarm per image, if it has the difference image."""
    judged = [
        judge(finder.find(field.planes, threshold=0.0), field, options=crossmatch, least_snr=options.min_snr)
        for field in fields
    ]
    return float(np.clip(np.nextafter(score_at(judged, 1.0), 1.0), LEAST_SCORE, 1.0))


def train_finder(
    images: Mapping[str, Sequence[TileImage]],
    *,
    options: FinderOptions,
    seed: int,
    checkpoint: str | Path | None = None,
    keep_checkpoint: bool = False,
    identity: str = "",
    watch: Any = None,
) -> tuple[Any, pd.DataFrame, dict[str, Any]]:
    """Train a detector network.

    Two trainings with the same arguments give the same weights on the same CPU with the same number of threads. Each batch
    is drawn with its own seed, so that an interrupted training gives the same weights when it is resumed.

    Parameters
    ----------
    images : mapping
        Images of the sets ``train`` and ``validation``.
    options : FinderOptions
    seed : int
    checkpoint : path-like, optional
        Folder in which the state is saved after each validation; removed at the end.
    keep_checkpoint : bool
        Do not remove the folder at the end.
    identity : str
        Digest of the data, options and code; a checkpoint with another digest is not used.
    watch : optional
        As for `otrain_core.networks.loop.Loop`.

    Returns
    -------
    model : keras.Model
        With the weights at the lowest validation loss.
    history : pandas.DataFrame
        One row per validation: epoch, loss, validation_loss, seconds, learning_rate.
    record : dict
        n_parameters, kept_epoch, tile (side [px]), n_train_images, n_validation_images, cpu_seconds.

    Raises
    ------
    CubeError
        The loss is not finite.
    ConfigError
        Another training uses the checkpoint.
    """
    from otrain_core.networks.finder import build_finder, finder_loss, keras

    side = min(options.tile, *(length for some in images.values() for one in some for length in one.field.planes.shape))
    keras.utils.set_random_seed(seed)
    model = build_finder(options)
    model.compile(keras.optimizers.Adam(options.learning_rate, global_clipnorm=MAX_NORM), loss=finder_loss)
    model.optimizer.build(model.trainable_variables)
    variables = [*model.weights, *model.optimizer.variables]
    kept = Checkpoint(Path(checkpoint), identity) if checkpoint else None
    rows: list[dict[str, float]] = []
    best, best_loss, kept_epoch = None, np.inf, 0
    state = kept.read([tuple(variable.shape) for variable in variables]) if kept else None
    if state is not None:
        about, saved, best = state
        for variable, value in zip(variables, saved, strict=True):
            variable.assign(value)
        rows, best_loss, kept_epoch = about["history"], about["best_loss"], about["kept_epoch"]
    if watch is not None:
        watch.begin(rows)
    started = time.process_time()
    looks = -(-options.steps // options.check_every)
    try:
        for look in range(len(rows) + 1, looks + 1):
            with memory_told(
                f"batches of {options.batch_size} tiles of {side} px; lower finder.batch_size or finder.tile"
            ):
                rows.append(_until_look(model, images, options, side, look=look, seed=seed))
            if rows[-1]["validation_loss"] < best_loss:
                best, best_loss, kept_epoch = model.get_weights(), rows[-1]["validation_loss"], look
            if watch is not None:
                watch.epoch(rows[-1])
            log.info(
                "validation %d of %d: loss %.3f, validation loss %.3f",
                look,
                looks,
                rows[-1]["loss"],
                rows[-1]["validation_loss"],
            )
            if kept is not None:
                arrays = [keras.ops.convert_to_numpy(variable) for variable in variables]
                kept.write(look, {"history": rows, "best_loss": best_loss, "kept_epoch": kept_epoch}, arrays, best)
    except BaseException:
        if kept is not None:
            kept.release()
        raise
    if best is not None:
        model.set_weights(best)
    if kept is not None and keep_checkpoint:
        kept.release()
    elif kept is not None:
        kept.remove()
    counts = {f"n_{name}_images": len(some) for name, some in images.items()}
    result = {"n_parameters": int(model.count_params()), "kept_epoch": kept_epoch, "tile": side}
    return model, pd.DataFrame(rows), result | counts | {"cpu_seconds": time.process_time() - started}


def _until_look(
    model: Any, images: Mapping[str, Sequence[TileImage]], options: FinderOptions, side: int, *, look: int, seed: int
) -> dict[str, float]:
    """Train until the next validation; the row of the history."""
    started, losses = time.perf_counter(), []
    first, last = (look - 1) * options.check_every, min(look * options.check_every, options.steps)
    for step in range(first, last):
        model.optimizer.learning_rate = rate = _rate(step, options)
        rng = np.random.default_rng([seed, 1, step])
        batch = draw_batch(images["train"], options=options, side=side, n=options.batch_size, rng=rng)
        losses.append(float(model.train_on_batch(*batch)))
        if not np.isfinite(losses[-1]):
            raise CubeError(f"the loss became {losses[-1]} in step {step}: lower finder.learning_rate")
    validation = [
        draw_batch(
            images["validation"],
            options=options,
            side=side,
            n=options.batch_size,
            rng=np.random.default_rng([seed, 2, number]),
            vary=False,
        )
        for number in range(N_VALIDATION)
    ]
    validation_loss = float(np.mean([float(model.test_on_batch(*batch)) for batch in validation]))
    if not np.isfinite(validation_loss):
        raise CubeError(f"the validation loss became {validation_loss} in step {last - 1}: lower finder.learning_rate")
    row = {"epoch": look, "loss": float(np.mean(losses)), "validation_loss": validation_loss}
    return row | {"seconds": time.perf_counter() - started, "learning_rate": rate}


def _rate(step: int, options: FinderOptions) -> float:
    """Learning rate of a step: a linear rise, then a decrease to 0 along a cosine."""
    warm = max(1, round(WARM_UP * options.steps))
    if step < warm:
        return options.learning_rate * (step + 1) / warm
    return options.learning_rate * 0.5 * (1 + np.cos(np.pi * (step - warm) / max(options.steps - warm, 1)))
