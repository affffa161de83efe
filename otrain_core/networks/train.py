"""Training of a network on the training set of a split, with evaluation on the validation set."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.arrays import read_stack
from otrain_core.classify.shipped import shipped_file
from otrain_core.cubes.inputs import SAMPLING, column, input_blocks, select_inputs
from otrain_core.errors import CubeError
from otrain_core.io import digest, read_table, write_json, write_table
from otrain_core.jobs.provenance import provenance
from otrain_core.networks.devices import check_seed, memory_told, prepare_device
from otrain_core.networks.loop import Loop, Watch
from otrain_core.networks.predict import model_inputs, predict
from otrain_core.networks.progress import progress_on_terminal
from otrain_core.networks.vary import vary_inputs

if TYPE_CHECKING:
    from otrain_core.plan.config import Experiment, FinetuneOptions

MOST_LABELS = 20_000  # largest number of labels for fine-tuning, all held in memory; of more labels a part is drawn
SMALL_BATCH = 16  # least batch size; the statistics of smaller batches are too uncertain
IN_MEMORY = 2**28  # largest size of training inputs held in memory [bytes]; more are read from a file batch by batch

log = logging.getLogger("otrain")


def train_files(
    *,
    cube: str | Path,
    split: str | Path,
    model: str | Path,
    history: str | Path,
    record: str | Path,
    experiment: Experiment,
    seed: int,
    protocol: str = "by-image",
    code: str = "",
    threads: int | None = None,
    live_run: Callable[[Path], AbstractContextManager[Any]] | None = None,
    finetune: FinetuneOptions | None = None,
) -> None:
    """Train a network on the files of a cube, and write the model, its history and its record.

    Parameters
    ----------
    cube, split : path-like
        ``cube.npz`` and the CSV of the split.
    model, history, record : path-like
        Files to write: ``.keras``, CSV and JSON. The checkpoint is a folder beside the model.
    experiment : Experiment
    seed : int
    protocol : {'by-image', 'random'}
        See `train_model`.
    code : str
        Digest of the training code; a checkpoint written by other code is not used.
    threads : int, optional
        CPU threads.
    live_run : callable, optional
        `otrain_core.registry.live.live_run`: returns, for the folder of the model, a context manager whose value is the
        `watch` of the training.
    finetune : FinetuneOptions, optional
        Options of an experiment that starts from the shipped model, see `finetune_model`.

    Raises
    ------
    CubeError, ConfigError, OtrainError
        As `check_enough`, `train_model` and `finetune_model`, or there is not enough memory.
    """
    check_seed(seed)
    arrays = read_stack(cube, mmap=("cube",), only=("cube", "labels", "images", "channels", *SAMPLING))
    table = read_table(split, columns=("index", "set"))
    least = 0 if experiment.start else experiment.min_train  # without labels the shipped model is not changed
    check_enough(arrays["labels"], table, validation_set="test" if protocol == "random" else "validation", least=least)
    folder = Path(model).parent
    checkpoint = folder / f"{Path(model).stem}.checkpoint"
    digests = {"cube_digest": digest(cube), "split_digest": digest(split)}
    with live_run(folder) if live_run and not experiment.start else nullcontext() as watch:
        trained, epochs, result = (
            finetune_model(
                arrays, table, experiment=experiment, options=finetune, seed=seed, protocol=protocol, threads=threads
            )
            if experiment.start
            else train_model(
                arrays,
                table,
                experiment=experiment,
                seed=seed,
                protocol=protocol,
                checkpoint=checkpoint,
                keep_checkpoint=True,
                identity=[*digests.values(), code],
                threads=threads,
                watch=watch,
                progress=progress_on_terminal(),
            )
        )

    from otrain_core.networks.architecture import save_model

    save_model(trained, model)
    write_table(history, epochs)
    run = {"mlflow_run": watch.run_id} if watch and watch.run_id else {}
    write_json(record, result | run | digests | provenance())
    shutil.rmtree(checkpoint, ignore_errors=True)  # only now: a full disk must not cost the training


def check_enough(labels: np.ndarray, split: pd.DataFrame, *, validation_set: str, least: int) -> None:
    """Refuse a split that has too few cutouts for a training or for a threshold.

    Parameters
    ----------
    labels : numpy.ndarray
        (N,) labels of the cube.
    split : pandas.DataFrame
        Columns index and set.
    validation_set : str
        The set that determines the threshold; it needs one cutout of each class.
    least : int
        Number of cutouts of each class that the training set needs.

    Raises
    ------
    CubeError
        The message gives the number of missing cutouts for each class and set.
    """
    lacking = []
    for name, needed in (("train", least), (validation_set, 1)):
        rows = split.loc[split["set"] == name, "index"].to_numpy(int)
        mine = np.asarray(labels)[rows[(rows >= 0) & (rows < len(labels))]]
        for kind, value in (("True", 1), ("False", 0)):
            missing = needed - int(np.sum(mine == value))
            if missing > 0:
                lacking.append(f"{missing} {kind} in {name}")
    if lacking:
        raise CubeError(
            f"too few cutouts for a training: {', '.join(lacking)} are missing ({least} of each class are needed in train, 1"
            f" in {validation_set}); use more images or a lower detect.threshold, or fine-tune a model of other telescopes"
        )


def train_model(
    cube: Mapping[str, np.ndarray],
    split: pd.DataFrame,
    *,
    experiment: Experiment,
    seed: int,
    protocol: str = "by-image",
    checkpoint: str | Path | None = None,
    keep_checkpoint: bool = False,
    identity: Sequence[str] = (),
    threads: int | None = None,
    watch: Watch | None = None,
    progress: Any = None,
) -> tuple[Any, pd.DataFrame, dict[str, Any]]:
    """Train a network.

    Two trainings with the same arguments give the same weights on the same CPU with the same number of threads. TensorFlow
    does not guarantee this with ``jit_compile: true``.

    Parameters
    ----------
    cube : mapping of arrays
        ``cube`` (N, S, S, C), which may be memory-mapped, ``labels`` (N,) 0 or 1, ``channels`` (C names). If the outputs
        of the input stage exceed `IN_MEMORY`, they are written to a temporary file (in TMPDIR), which is deleted at the
        end. The weights do not depend on this.
    split : pandas.DataFrame
        Columns index (row of the cube) and set (train, validation, test, unused).
    experiment : Experiment
        Network and options of the training; ``threshold`` is not used here. With the same seed, the cutouts drawn for a
        smaller ``n_train`` are a subset of those for a larger one.
    seed : int
        Seed of the weights, the order of the cutouts, dropout and augmentation.
    protocol : {'by-image', 'random'}
        With ``random`` the test set is also the validation set, as in Makhlouf et al. 2022.
    checkpoint : path-like, optional
        Folder in which each epoch is saved. An interrupted training resumes from it and gives the same weights as
        without the interruption. Files that cannot be read, or belong to a training with other arguments, are deleted.
        The folder is removed at the end.
    keep_checkpoint : bool
        Do not remove the folder at the end; a further training with the same arguments then returns the same network.
    identity : sequence of str
        Digests of the data and code of the training; a checkpoint with other digests is not used.
    threads : int, optional
        CPU threads (default: chosen by the back end).
    watch, progress : optional
        See `otrain_core.networks.loop.Loop`.

    Returns
    -------
    model : keras.Model
        Its input are the raw cutouts of the cube, with NaN for missing pixels.
    history : pandas.DataFrame
        One row per epoch: epoch (from 1), loss, accuracy (on train, with dropout and augmentation), validation_loss,
        validation_accuracy, seconds, learning_rate.
    record : dict
        Options, numbers of parameters, operations and cutouts, times, device; got_worse, whether the validation loss of
        the last epoch exceeds the lowest by more than `otrain_core.networks.loop.WORSE`.

    Raises
    ------
    CubeError
        A channel is not in the cube, the training set lacks a class, the validation set is empty, or the loss becomes NaN
        or infinite.
    ConfigError
        A GPU is required but not available, the cutouts are too small for a network, or another training uses
        `checkpoint`.
    """
    check_seed(seed)
    validation_set = "test" if protocol == "random" else "validation"
    rows = _rows(split, experiment, seed, validation_set)
    labels = _check_sets(np.asarray(cube["labels"]), rows, validation_set)
    size = select_inputs(cube, inputs=experiment.inputs, size=experiment.size, rows=np.empty(0, int)).shape[1]
    batch_size = _fewer(experiment.batch_size, len(rows["train"]), experiment.min_batches)
    used = experiment.model_copy(update={"size": size, "batch_size": batch_size})
    device = prepare_device(
        require_gpu=used.require_gpu, threads=threads, deterministic=experiment.jit_compile is not True
    )

    from otrain_core.networks import architecture

    architecture.keras.utils.set_random_seed(seed)
    model = architecture.build_network(used, size=size)
    stage = architecture.keras.Model(model.input, architecture.input_stage(model).output)
    with memory_told(f"{len(labels)} cutouts of {size} px; train on fewer (n_train) or smaller ones (size)"):
        # Variations of the inputs are drawn once for validation, and in each epoch for train.
        validation = _staged(stage, cube, used, rows[validation_set], labels=labels, seed=[seed, 0])
        train = validation[:0] if used.varied else _staged(stage, cube, used, rows["train"], labels=labels, seed=[seed])

    def drawn_anew(epoch: int) -> Any:
        return _staged(stage, cube, used, rows["train"], labels=labels, seed=[seed, epoch])

    loop = Loop(
        architecture.without_input_stage(model),
        (train, labels[rows["train"]]),
        (validation, labels[rows[validation_set]]),
        experiment=used,
        seed=seed,
        weights=_class_weights(labels[rows["train"]]) if used.class_weights else None,
        renew=drawn_anew if used.varied else None,
        watch=watch,
        progress=progress,
    )
    backend = architecture.keras.backend.backend()
    if checkpoint is not None:
        about = [used.model_dump(exclude={"threshold", "min_train"}), seed, protocol, backend, *identity]
        loop.resume(Path(checkpoint), _digest(about, labels, *rows.values()))
    history, took = _run(loop, f"batches of {batch_size} cutouts of {size} px; lower batch_size of the experiment")
    record = _about(used, model, seed=seed, protocol=protocol, validation_set=validation_set)
    record |= {"device": device, "backend": backend}
    record |= _counts(labels, rows, validation_set) | _epochs(loop, history) | took
    if keep_checkpoint:
        loop.release()
    else:
        loop.remove_checkpoint()
    return model, history, record


def _about(used: Experiment, model: Any, *, seed: int, protocol: str, validation_set: str) -> dict[str, Any]:
    """Entries of the record about the network and the options of the training."""
    from otrain_core.networks.architecture import flops

    return {
        "options": used.model_dump(exclude={"threshold", "require_gpu", "n_train", "min_batches", "min_train"}),
        "seed": seed,
        "protocol": protocol,
        "n_parameters": int(model.count_params()),
        "flops_per_cutout": flops(model),
        "validation_set": validation_set,
    }


def _run(loop: Loop, held: str) -> tuple[pd.DataFrame, dict[str, float]]:
    """Run all epochs and restore the kept weights; returns the history and the times [s]. `held` is what needs memory."""
    started, cpu = time.perf_counter(), time.process_time()
    try:
        with memory_told(held):
            history = loop.run()
    except BaseException:
        loop.release()
        raise
    loop.restore_kept()
    return history, {"train_seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}


def finetune_model(
    cube: Mapping[str, np.ndarray],
    split: pd.DataFrame,
    *,
    experiment: Experiment,
    options: FinetuneOptions | None,
    seed: int,
    protocol: str = "by-image",
    threads: int | None = None,
) -> tuple[Any, pd.DataFrame, dict[str, Any]]:
    """Fine-tune the shipped model on the set train, see `otrain_core.networks.adapt.adapt`.

    Parameters
    ----------
    cube, split, seed, protocol, threads
        As for `train_model`. At most `MOST_LABELS` cutouts of the training set are used; of more, a part is drawn.
    experiment : Experiment
        ``n_train``, ``augment`` and ``require_gpu`` are used; network, inputs and size are those of the shipped model.
    options : FinetuneOptions or None
        None means the defaults.

    Returns
    -------
    model, history, record
        As from `train_model`; the record also has ``adapted`` (the record of `adapt`). If the shipped weights are kept, the
        history has one row with their loss and learning_rate 0.

    Raises
    ------
    OtrainError
        There is no shipped model, or the cube has no channel that it requires.
    """
    from otrain_core.networks import adapt, architecture
    from otrain_core.plan.config import FinetuneOptions

    validation_set, options = "test" if protocol == "random" else "validation", options or FinetuneOptions()
    device = prepare_device(require_gpu=experiment.require_gpu, threads=threads, deterministic=True)
    model, classifier, trained_with = adapt.load_shipped()
    used = experiment.model_copy(update={key: trained_with[key] for key in ("network", "inputs", "size", "normalise")})
    most = min(experiment.n_train or MOST_LABELS, MOST_LABELS)
    rows = {name: split.loc[split["set"] == name, "index"].to_numpy(int) for name in ("train", validation_set)}
    if len(rows["train"]) > most:
        rows["train"] = _draw(rows["train"], most, np.random.default_rng(seed))
    labels = np.asarray(cube["labels"]).astype(np.int32)
    started, cpu = time.perf_counter(), time.process_time()
    cutouts, validation = (model_inputs(model, cube, index) for index in rows.values())
    watched = validation, labels[rows[validation_set]]
    history, adapted = adapt.adapt(
        model,
        cutouts,
        labels[rows["train"]],
        column(cube, "images", "")[rows["train"]],
        start=adapt.even_odds(float(classifier.threshold or np.nan)),
        seed=seed,
        options=options,
        experiment=used,
        validation=watched if len(validation) else None,
    )
    if history.empty:
        history = adapt.standing(model, (cutouts, labels[rows["train"]]), watched)
    record = {
        "options": trained_with | options.model_dump(include={"learning_rate", "epochs", "batch_size"}),
        "seed": seed,
        "protocol": protocol,
        "n_parameters": int(model.count_params()),
        "flops_per_cutout": architecture.flops(model),
        "validation_set": validation_set,
        "device": device,
        "backend": architecture.keras.backend.backend(),
        "adapted": {"from": experiment.start, "shipped": digest(shipped_file()), **adapted},
        "epochs": len(history),
        "best_epoch": len(history),
        "kept_epoch": len(history),
        "got_worse": False,
        "resumed_at_epoch": 0,
        "cutouts_per_second": len(cutouts) / max(float(history["seconds"].mean()), 1e-9),
        "train_seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
    }
    return model, history, record | _counts(labels, rows, validation_set)


def _counts(labels: np.ndarray, rows: Mapping[str, np.ndarray], validation_set: str) -> dict[str, int]:
    return {
        "n_train": len(rows["train"]),
        "n_train_true": int(labels[rows["train"]].sum()),
        "n_validation": len(rows[validation_set]),
        "n_validation_true": int(labels[rows[validation_set]].sum()),
    }


def _epochs(loop: Loop, history: pd.DataFrame) -> dict[str, Any]:
    # The first epoch includes the compilation of the network; its time is used only if it is the only epoch.
    timed = history["seconds"].iloc[min(1, len(history) - 1) :]
    return {
        "epochs": len(history),
        "best_epoch": int(history["validation_loss"].idxmin()) + 1,
        "kept_epoch": loop.kept_epoch,
        "got_worse": loop.got_worse(),
        "resumed_at_epoch": loop.resumed_at,
        "cutouts_per_second": loop.passes * len(loop.train[1]) / float(timed.mean()),
    }


def _fewer(batch_size: int, n: int, min_batches: int) -> int:
    """Batch size for which an epoch of `n` cutouts has at least `min_batches` batches, if possible."""
    few = n // min_batches // SMALL_BATCH * SMALL_BATCH
    return min(batch_size, max(SMALL_BATCH, few))


def _rows(split: pd.DataFrame, experiment: Experiment, seed: int, validation_set: str) -> dict[str, np.ndarray]:
    """Rows of the cube for training and validation."""
    rows = {name: split.loc[split["set"] == name, "index"].to_numpy(int) for name in ("train", validation_set)}
    if experiment.n_train:
        rows["train"] = _draw(rows["train"], experiment.n_train, np.random.default_rng(seed))
    return rows


def _draw(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    if n > rows.size:  # not an error, because a study may use many cubes of different sizes
        log.warning("n_train: %d cutouts are requested, but the training set has only %d: all are used", n, rows.size)
    return np.sort(rng.permutation(rows)[:n])


def _check_sets(labels: np.ndarray, rows: dict[str, np.ndarray], validation_set: str) -> np.ndarray:
    for name, index in rows.items():
        if index.size and (index.min() < 0 or index.max() >= len(labels)):
            raise CubeError(f"split: the set {name} has indices that are not in the cube of {len(labels)} cutouts")
    train = labels[rows["train"]]
    n_true, n_false = int(np.sum(train == 1)), int(np.sum(train == 0))
    if n_true == 0 or n_false == 0:
        raise CubeError(f"training needs both classes: the set train has {n_true} True and {n_false} False cutouts")
    if rows[validation_set].size == 0:
        raise CubeError(f"split: the set {validation_set} is empty, but a training needs it for validation")
    return labels.astype(np.int32)


def _class_weights(labels: np.ndarray) -> dict[int, float]:
    counts = np.bincount(labels, minlength=2)
    return {value: float(len(labels) / (2 * counts[value])) for value in (0, 1)}


def _staged(
    stage,
    cube: Mapping[str, np.ndarray],
    experiment: Experiment,
    rows: np.ndarray,
    *,
    labels: np.ndarray,
    seed: Sequence[int],
) -> np.ndarray:
    """Output of the input stage for rows of a cube, in memory or, if it is too large, mapped from a nameless file."""
    blocks = input_blocks(cube, inputs=experiment.inputs, size=experiment.size, rows=rows)
    if experiment.varied:
        blocks = _varied(blocks, experiment, labels[rows], np.random.default_rng(seed))
    shape = (len(rows), *stage.output_shape[1:])
    if 4 * np.prod(shape, dtype=np.int64) <= IN_MEMORY:
        parts = [predict(stage, block) for block in blocks]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]
    with tempfile.TemporaryFile(prefix="otrain.") as file:
        for block in blocks:
            file.write(
                predict(stage, block).data
            )  # not through a memory map, which kills the process if the disk is full
        file.flush()
        return np.memmap(file, np.float32, "r", shape=shape)


def _varied(
    blocks: Iterable[np.ndarray], experiment: Experiment, labels: np.ndarray, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Blocks of cutouts with random variations; `labels` (N,) are those of all cutouts, in order."""
    start = 0
    for block in blocks:
        own = labels[start : start + len(block)]
        yield vary_inputs(block, experiment.inputs, options=experiment.vary_inputs, rng=rng, labels=own)
        start += len(block)


def _digest(about: Sequence[Any], *arrays: np.ndarray) -> str:
    sha = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for array in arrays:
        sha.update(np.ascontiguousarray(array).view(np.uint8).data)
    return sha.hexdigest()
