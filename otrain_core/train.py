"""Training of a network on the train part of a split, watched on the tune part."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from otrain_core.errors import ConfigError, CubeError
from otrain_core.loop import Loop

log = logging.getLogger("otrain")


def select_inputs(cube: dict[str, np.ndarray], *, inputs: Sequence[str], size: int | None) -> np.ndarray:
    """Channels of a cube, cropped about the candidate (pixel side // 2).

    Parameters
    ----------
    cube : dict of arrays
        ``cube`` (N, S, S, C) and ``channels`` (C names).
    inputs : sequence of str
        Names of the channels wanted, in this order.
    size : int or None
        Side of the cropped cutouts; None keeps S.

    Returns
    -------
    numpy.ndarray
        float32 (N, size, size, len(inputs)); missing pixels stay NaN.

    Raises
    ------
    CubeError
        A channel that the cube does not have, or a size larger than its cutouts.
    """
    stack, names = cube["cube"], [str(name) for name in np.atleast_1d(cube["channels"])]
    if stack.ndim != 4 or stack.shape[3] != len(names):
        raise CubeError(f"the cube of shape {stack.shape} does not fit its {len(names)} channels")
    for name in inputs:
        if name not in names:
            raise CubeError(f"channel {name!r} is not in the cube (it has {', '.join(names)})")
    side = min(stack.shape[1:3])
    size = size or side
    if size > side:
        raise CubeError(f"cutouts of {size} px were asked for, those of the cube have {side} px")
    top, left = (length // 2 - size // 2 for length in stack.shape[1:3])
    index = [names.index(name) for name in inputs]
    return np.ascontiguousarray(stack[:, top : top + size, left : left + size, index], dtype=np.float32)


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
    epochs: int = 24,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    schedule: str = "cosine",
    label_smoothing: float = 0.05,
    keep: str = "best",
    patience: int = 0,
    class_weights: bool = True,
    require_gpu: bool = False,
    protocol: str = "grouped",
    checkpoint: str | Path | None = None,
    threads: int | None = None,
):
    """Train a network.

    Two trainings with the same arguments give the same weights on the same CPU with
    the same number of threads.

    Parameters
    ----------
    cube : dict of arrays
        ``cube`` (N, S, S, C), ``labels`` (N,) 0 or 1, ``channels`` (C names).
    split : pandas.DataFrame
        Columns index (row of the cube) and set (train, tune, test, unused).
    seed : int
        Seed of the weights, the order of the cutouts, dropout and augmentation.
    network, inputs, size, normalise
        See `otrain_core.networks.build_network` and `select_inputs`.
    augment : bool
        Random flips and quarter turns of the training cutouts.
    epochs, batch_size, learning_rate : int, int, float
        Adam's settings.
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
    require_gpu : bool
        Refuse to train without a GPU.
    protocol : {'grouped', 'paper'}
        Under ``paper`` the set test plays the part of tune, as in Makhlouf et al. 2022.
    checkpoint : path, optional
        Folder in which every epoch is saved. A training that was killed resumes from
        it and ends as it would have. It is removed at the end.
    threads : int, optional
        CPU threads (default: as TensorFlow chooses).

    Returns
    -------
    model : keras.Model
        Takes the raw cutouts of the cube, NaN included.
    history : pandas.DataFrame
        One row for each epoch: epoch (from 1), loss, accuracy (train, with dropout and
        augmentation), tune_loss, tune_accuracy, seconds, learning_rate.
    record : dict
        Options, parameters, operations, counts, time, device.

    Raises
    ------
    CubeError
        A channel that is not in the cube, an empty or one-class train set, an empty
        tune set, or a loss that becomes NaN or infinite.
    ConfigError
        A GPU was asked for and none is seen.
    """
    tune_set = "test" if protocol == "paper" else "tune"
    rows = {name: split.loc[split["set"] == name, "index"].to_numpy(int) for name in ("train", tune_set)}
    labels = _check_sets(np.asarray(cube["labels"]), rows, tune_set)
    cutouts = select_inputs(cube, inputs=inputs, size=size)
    options = {
        **{"network": network, "inputs": list(inputs), "size": cutouts.shape[1], "normalise": normalise},
        **{"augment": augment, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate},
        **{"schedule": schedule, "label_smoothing": label_smoothing, "keep": keep, "patience": patience},
        "class_weights": class_weights,
    }
    device = prepare_device(require_gpu=require_gpu, threads=threads)

    from otrain_core import networks

    networks.keras.utils.set_random_seed(seed)
    model = networks.build_network(network, size=cutouts.shape[1], channels=inputs, normalise=normalise)
    body = networks.without_input_stage(model)
    stage = networks.keras.Model(model.input, networks.input_stage(model).output)
    data = {name: (_predict(stage, cutouts[index]), labels[index]) for name, index in rows.items()}
    weights = _class_weights(data["train"][1]) if class_weights else None
    steps = -(-len(rows["train"]) // batch_size)
    loop = Loop(body, data["train"], data[tune_set], seed=seed, options=options, weights=weights, steps=steps)
    if checkpoint is not None:
        loop.resume(Path(checkpoint), _digest(options, seed, protocol, cutouts, labels, rows))
    started, cpu = time.perf_counter(), time.process_time()
    history = loop.run()
    loop.restore_kept()
    record = {
        "options": options,
        "seed": seed,
        "protocol": protocol,
        "n_parameters": int(model.count_params()),
        "flops_per_cutout": networks.flops(model),
        "n_train": len(rows["train"]),
        "n_train_true": int(labels[rows["train"]].sum()),
        "n_tune": len(rows[tune_set]),
        "n_tune_true": int(labels[rows[tune_set]].sum()),
        "tune_set": tune_set,
        "epochs": len(history),
        "best_epoch": int(history["tune_loss"].idxmin()) + 1,
        "kept_epoch": loop.kept_epoch,
        "resumed_at_epoch": loop.resumed_at,
        "train_seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        # The first epoch compiles the network; it counts only where there is no other.
        "cutouts_per_second": len(rows["train"]) / float(history["seconds"].iloc[min(1, len(history) - 1) :].mean()),
        "device": device,
        "backend": networks.keras.backend.backend(),
    }
    loop.remove_checkpoint()
    return model, history, record


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


def _predict(model, cutouts: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict(cutouts, batch_size=256, verbose=0), dtype=np.float32)


def score_cutouts(model, cutouts: np.ndarray) -> np.ndarray:
    """Probability of True, float32 (N,), for cutouts as `select_inputs` gives them."""
    if len(cutouts) == 0:
        return np.empty(0, dtype=np.float32)
    return _predict(model, cutouts)[:, 1]


def prepare_device(*, require_gpu: bool = False, threads: int | None = None) -> str:
    """Make the back end deterministic and say what it runs on.

    Raises
    ------
    ConfigError
        A GPU is required and the back end sees none.
    """
    from otrain_core import networks

    gpus: list[str] = []
    if networks.keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
        if threads:
            try:
                tf.config.threading.set_intra_op_parallelism_threads(threads)
                tf.config.threading.set_inter_op_parallelism_threads(threads)
            except RuntimeError:
                log.warning("threads: TensorFlow has started already; it keeps the threads it has")
        for gpu in tf.config.list_physical_devices("GPU"):
            gpus.append(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name))
    else:
        gpus = [str(name) for name in networks.keras.distribution.list_devices("gpu")]
    if require_gpu and not gpus:
        raise ConfigError("require_gpu is true, but no GPU is seen: check the driver, CUDA_VISIBLE_DEVICES and `[gpu]`")
    return ", ".join(gpus) or f"CPU ({len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1} cores)"


def _digest(options, seed, protocol, cutouts, labels, rows) -> str:
    sha = hashlib.sha256(json.dumps([options, seed, protocol], sort_keys=True).encode())
    for array in (cutouts, labels, *rows.values()):
        sha.update(np.ascontiguousarray(array).view(np.uint8).data)
    return sha.hexdigest()
