"""Training of a network on the train part of a split, watched on the tune part."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.cubes.inputs import input_blocks, select_inputs
from otrain_core.errors import CubeError
from otrain_core.networks.devices import choose_replicas, prepare_device
from otrain_core.networks.loop import Loop
from otrain_core.networks.predict import _predict

SMALL_BATCH = 16  # with fewer cutouts the statistics of a batch are too rough
IN_MEMORY = 2**28  # bytes of cutouts trained on that are held in memory; more are read from a file batch by batch

log = logging.getLogger("otrain")


def train_model(
    cube: dict[str, np.ndarray],
    split: pd.DataFrame,
    *,
    seed: int,
    network: str = "otrain2",
    inputs: Sequence[str] = ("difference",),
    size: int | None = None,
    normalise: str = "mad-asinh",
    augment: bool = True,
    n_train: int | None = None,
    epochs: int = 24,
    batch_size: int = 128,
    min_batches: int = 32,
    learning_rate: float = 1e-3,
    schedule: str = "cosine",
    label_smoothing: float = 0.05,
    keep: str = "best",
    patience: int = 0,
    class_weights: bool = True,
    precision: str = "float32",
    jit_compile: str | bool = "auto",
    require_gpu: bool = False,
    gpus: int | None = None,
    protocol: str = "grouped",
    checkpoint: str | Path | None = None,
    threads: int | None = None,
    watch: Any = None,
):
    """Train a network.

    Two trainings with the same arguments give the same weights on the same CPU with
    the same number of threads. Several GPUs share out every batch; batch normalisation then
    takes its statistics within each share, and up to one cutout a GPU sits out an epoch, so that
    the last batch is shared out evenly too.

    Parameters
    ----------
    cube : dict of arrays
        ``cube`` (N, S, S, C), which may be mapped into memory, ``labels`` (N,) 0 or 1, ``channels`` (C
        names). More cutouts than `IN_MEMORY` go, as the network takes them, to a file in the folder of
        temporary files (TMPDIR), which is gone at the end; the weights are the same.
    split : pandas.DataFrame
        Columns index (row of the cube) and set (train, tune, test, unused).
    seed : int
        Seed of the weights, the order of the cutouts, dropout and augmentation.
    network, inputs, size, normalise
        See `otrain_core.networks.architecture.build_network` and `otrain_core.cubes.inputs.select_inputs`.
    augment : bool
        Random flips and quarter turns of the training cutouts.
    n_train : int, optional
        Train on so many cutouts, drawn at random from the set train (on all where it has fewer, with a warning); a
        smaller draw with the same seed is part of a larger one.
    epochs, batch_size, min_batches, learning_rate : int, int, int, float
        Adam's settings. Where an epoch would have fewer batches than `min_batches`, the batches are
        smaller, down to 16 cutouts.
    schedule : {'constant', 'cosine'}
        Cosine falls to 1 % of the learning rate over all epochs.
    label_smoothing : float
        Share s of the target that is spread over both classes: 1 - s / 2 for the label,
        s / 2 for the other. The losses in the history are against these targets.
    keep : {'best', 'last'}
        Keep the epoch with the lowest loss on tune, or the last one.
    patience : int
        Stop after so many epochs without a lower loss on tune; 0 never stops.
    class_weights : bool
        Weigh the classes by their inverse frequency in train.
    precision : {'float32', 'mixed_bfloat16', 'mixed_float16'}
        See `otrain_core.networks.architecture.build_network`; under mixed_float16 the loss is scaled.
    jit_compile : bool or 'auto'
        Compile with XLA. Keras' 'auto' does under JAX, not under TensorFlow, whose deterministic
        operations cannot be compiled, nor under PyTorch. With True TensorFlow no longer promises
        that two trainings give the same weights.
    require_gpu, gpus : bool, int or None
        Refuse to train without a GPU, or with fewer than `gpus`; None takes all that are seen.
    protocol : {'grouped', 'paper'}
        Under ``paper`` the set test plays the part of tune, as in Makhlouf et al. 2022.
    checkpoint : path, optional
        Folder in which every epoch is saved. A training that was killed resumes from
        it and ends as it would have; a file that cannot be read, or is of a training with other
        arguments, is deleted. The folder is removed at the end.
    threads : int, optional
        CPU threads (default: as the back end chooses).
    watch : LiveRun, optional
        Hears of every epoch, see `otrain_core.registry.live`.

    Returns
    -------
    model : keras.Model
        Takes the raw cutouts of the cube, NaN included.
    history : pandas.DataFrame
        One row for each epoch: epoch (from 1), loss, accuracy (train, with dropout and
        augmentation), tune_loss, tune_accuracy, seconds, learning_rate.
    record : dict
        Options, parameters, operations, counts, time, device; got_worse, whether the loss on
        tune of the last epoch is above the lowest by more than `otrain_core.networks.loop.WORSE`.

    Raises
    ------
    CubeError
        A channel that is not in the cube, an empty or one-class train set, an empty
        tune set, or a loss that becomes NaN or infinite.
    ConfigError
        A GPU was asked for and none is seen, a batch that does not share out evenly among the GPUs,
        inputs without a channel of pixels, or another training that writes to `checkpoint`.
    """
    tune_set = "test" if protocol == "paper" else "tune"
    rows = {name: split.loc[split["set"] == name, "index"].to_numpy(int) for name in ("train", tune_set)}
    if n_train:
        rows["train"] = _draw(rows["train"], n_train, np.random.default_rng(seed))
    labels = _check_sets(np.asarray(cube["labels"]), rows, tune_set)
    size = select_inputs(cube, inputs=inputs, size=size, rows=np.empty(0, int)).shape[1]
    read = {"inputs": inputs, "size": size}
    options = {
        **{"network": network, "inputs": list(inputs), "size": size, "normalise": normalise},
        **{"augment": augment, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate},
        **{"schedule": schedule, "label_smoothing": label_smoothing, "keep": keep, "patience": patience},
        **{"class_weights": class_weights, "precision": precision, "jit_compile": jit_compile},
    }
    device = prepare_device(require_gpu=require_gpu, threads=threads, deterministic=jit_compile is not True)
    batch_size = options["batch_size"] = _fewer(batch_size, len(rows["train"]), min_batches)
    replicas = choose_replicas(gpus, batch_size=batch_size, require_gpu=require_gpu)

    from otrain_core.networks import architecture

    architecture.keras.utils.set_random_seed(seed)
    shape = {"size": size, "channels": inputs, "normalise": normalise, "precision": precision}
    model = architecture.build_network(network, **shape)
    body = architecture.without_input_stage(model)
    stage = architecture.keras.Model(model.input, architecture.input_stage(model).output)
    data = {
        name: (_staged(stage, input_blocks(cube, rows=index, **read), len(index)), labels[index])
        for name, index in rows.items()
    }
    weights = _class_weights(data["train"][1]) if class_weights else None
    steps = -(-len(rows["train"]) // batch_size)
    loop = Loop(
        *(body, data["train"], data[tune_set]),
        **{"seed": seed, "options": options, "weights": weights, "steps": steps, "replicas": replicas},
        watch=watch,
    )
    if checkpoint is not None:
        about = [options, seed, protocol, architecture.keras.backend.backend()]
        loop.resume(Path(checkpoint), _digest(about, input_blocks(cube, **read), labels, rows))
    started, cpu = time.perf_counter(), time.process_time()
    try:
        history = loop.run()
    except BaseException:
        loop.release()
        raise
    loop.restore_kept()
    record = {
        "options": options,
        "seed": seed,
        "protocol": protocol,
        "n_parameters": int(model.count_params()),
        "flops_per_cutout": architecture.flops(model),
        "n_train": len(rows["train"]),
        "n_train_true": int(labels[rows["train"]].sum()),
        "n_tune": len(rows[tune_set]),
        "n_tune_true": int(labels[rows[tune_set]].sum()),
        "tune_set": tune_set,
        "epochs": len(history),
        "best_epoch": int(history["tune_loss"].idxmin()) + 1,
        "kept_epoch": loop.kept_epoch,
        "got_worse": loop.got_worse(),
        "resumed_at_epoch": loop.resumed_at,
        "train_seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        # The first epoch compiles the network; it counts only where there is no other.
        "cutouts_per_second": len(rows["train"]) / float(history["seconds"].iloc[min(1, len(history) - 1) :].mean()),
        "device": device,
        "n_devices": replicas.n,
        "backend": architecture.keras.backend.backend(),
    }
    loop.remove_checkpoint()
    return model, history, record


def _fewer(batch_size: int, n: int, min_batches: int) -> int:
    """Cutouts in a batch so that an epoch of `n` has the batches it needs to get anywhere."""
    few = n // min_batches // SMALL_BATCH * SMALL_BATCH  # a multiple, which GPUs can share out
    return min(batch_size, max(SMALL_BATCH, few))


def _draw(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    if n > rows.size:  # a study of many cubes need not end at the smallest
        log.warning("n_train: %d cutouts were asked for, the set train has %d: all are used", n, rows.size)
    return np.sort(rng.permutation(rows)[:n])


def _check_sets(labels: np.ndarray, rows: dict[str, np.ndarray], tune_set: str) -> np.ndarray:
    for name, index in rows.items():
        if index.size and (index.min() < 0 or index.max() >= len(labels)):
            raise CubeError(f"the split's set {name} names cutouts that the cube of {len(labels)} does not have")
    train = labels[rows["train"]]
    n_true, n_false = int(np.sum(train == 1)), int(np.sum(train == 0))
    if n_true == 0 or n_false == 0:
        raise CubeError(f"training needs both classes: the set train has {n_true} True and {n_false} False cutouts")
    if rows[tune_set].size == 0:
        raise CubeError(f"the set {tune_set} is empty: there is nothing to watch the training on")
    return labels.astype(np.int32)


def _class_weights(labels: np.ndarray) -> dict[int, float]:
    counts = np.bincount(labels, minlength=2)
    return {value: float(len(labels) / (2 * counts[value])) for value in (0, 1)}


def _staged(stage, blocks: Iterable[np.ndarray], n: int) -> np.ndarray:
    """What the input stage makes of n cutouts, in memory or, where it is too much, mapped from a file without name."""
    shape = (n, *stage.output_shape[1:])
    if 4 * np.prod(shape, dtype=np.int64) <= IN_MEMORY:
        parts = [_predict(stage, block) for block in blocks]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]
    with tempfile.TemporaryFile(prefix="otrain.") as file:
        for block in blocks:
            file.write(_predict(stage, block).data)  # not through a mapping, which ends a job when a disk is full
        file.flush()
        return np.memmap(file, np.float32, "r", shape=shape)


def _digest(about, blocks, labels, rows) -> str:
    sha = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for array in chain(blocks, (labels, *rows.values())):
        sha.update(np.ascontiguousarray(array).view(np.uint8).data)
    return sha.hexdigest()
