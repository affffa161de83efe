"""The loop over the epochs of a training, with its checkpoint."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.errors import CubeError
from otrain_core.networks.checkpoint import Checkpoint
from otrain_core.networks.devices import Replicas
from otrain_core.networks.progress import Progress

log = logging.getLogger("otrain")

HISTORY = ("epoch", "loss", "accuracy", "tune_loss", "tune_accuracy", "seconds", "learning_rate")
WORSE = 0.1  # a loss on tune above the lowest by more than this share of it: the model got worse


def turn_cutouts(cutouts: np.ndarray, symmetry: np.ndarray) -> np.ndarray:
    """Turn each cutout (N, S, S, C) by one of the eight symmetries of the square, numbered 0 to 7 (N,)."""
    turned = np.empty_like(cutouts)
    for number in range(8):
        chosen = symmetry == number
        some = np.rot90(cutouts[chosen], number % 4, axes=(1, 2))
        turned[chosen] = some[:, :, ::-1] if number >= 4 else some
    return turned


def _batches(data, order: np.ndarray, symmetry: np.ndarray | None, batch_size: int):
    """Cutouts and labels in some order and turned, read batch by batch: for cutouts mapped from a file."""
    from otrain_core.networks.architecture import keras

    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return -(-len(order) // batch_size)

        def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
            part = slice(number * batch_size, (number + 1) * batch_size)
            cutouts = np.asarray(data[0][order[part]])
            return cutouts if symmetry is None else turn_cutouts(cutouts, symmetry[part]), data[1][order[part]]

    return Batches()


class Loop:
    """Epochs with a saved state after each, so that a killed training goes on where it was.

    Parameters
    ----------
    model : keras.Model
        Behind the input stage. It ends with the weights that are kept.
    train, tune : tuple of array
        Cutouts as the model takes them, and labels 0 or 1. Cutouts that are a `numpy.memmap` are read
        batch by batch, to the same weights.
    seed : int
    options : dict
        epochs, batch_size, learning_rate, schedule, label_smoothing, keep, patience, augment and,
        where it is not 'auto', jit_compile; see `otrain_core.networks.train.train_model`.
    weights : dict or None
        Weight of each class.
    steps : int
        Batches in an epoch.
    replicas : Replicas, optional
        Devices that train together; a copy of the model is trained on them.
    watch : LiveRun, optional
        Hears of every epoch, see `otrain_core.registry.live`.
    """

    def __init__(self, model, train, tune, *, seed, options, weights, steps, replicas=None, watch=None):
        from otrain_core.networks.architecture import keras, precision_of

        self.keras = keras
        self.replicas = replicas or Replicas([])
        self.model = self.trained = model
        (self.train, self.tune) = ((cutouts, np.eye(2, dtype=np.float32)[labels]) for cutouts, labels in (train, tune))
        self.seed, self.options, self.weights = seed, options, weights
        rate = options["learning_rate"]
        if options["schedule"] == "cosine":
            rate = keras.optimizers.schedules.CosineDecay(rate, options["epochs"] * steps, alpha=0.01)
        loss = {"loss": keras.losses.CategoricalCrossentropy(label_smoothing=options["label_smoothing"])}
        loss |= {"metrics": ["accuracy"], "jit_compile": options.get("jit_compile", "auto")}
        with self.replicas.scope():
            if self.replicas.n > 1:
                self.trained = keras.models.clone_model(model)
                self.trained.set_weights(model.get_weights())
            optimizer = keras.optimizers.Adam(rate)
            if precision_of(model) == "mixed_float16":
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
            self.trained.compile(optimizer=optimizer, **loss)
        if self.trained is not model:
            model.compile(**loss)
        self.history: list[dict[str, float]] = []
        self.best_loss, self.kept_epoch, self.best_weights = np.inf, 0, None
        self.checkpoint: Checkpoint | None = None
        self.resumed_at = 0
        self.watch = watch
        self.progress = Progress(epochs=options["epochs"], steps=steps) if sys.stderr.isatty() else None

    def run(self) -> pd.DataFrame:
        """Train to the last epoch, or until patience ends; one row for each epoch.

        Raises
        ------
        CubeError
            The loss became NaN or infinite.
        """
        if self.watch:
            self.watch.begin(self.history)
        for epoch in range(len(self.history) + 1, self.options["epochs"] + 1):
            if self._out_of_patience():
                log.info("no lower loss on tune for %d epochs: stopped", self.options["patience"])
                break
            self.epoch(epoch)
            if self.checkpoint is not None:
                self._save(epoch)
        return pd.DataFrame(self.history, columns=HISTORY)

    def _out_of_patience(self) -> bool:
        patience = self.options["patience"]
        if not patience or not self.history:
            return False
        losses = [row["tune_loss"] for row in self.history]
        return len(losses) - 1 - int(np.argmin(losses)) >= patience

    def epoch(self, epoch: int) -> None:
        """Train one epoch (from 1) and watch it on tune."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.train[1]))
        order = order[: len(order) - len(order) % self.replicas.n]
        symmetry = rng.integers(0, 8, len(order)) if self.options["augment"] else None
        data = self._fed(self.train, order, symmetry, batch_size=self.options["batch_size"])
        rate = float(self.trained.optimizer.learning_rate)
        callbacks = self.progress.begin(epoch) if self.progress else None
        started = time.perf_counter()
        with self.replicas.scope():
            fitted = self.trained.fit(
                **data,
                epochs=1,
                shuffle=False,
                class_weight=self.weights,
                callbacks=callbacks,
                verbose=0,
            ).history
        seconds = time.perf_counter() - started
        self._take_over()
        watched = self.model.evaluate(**self._fed(self.tune, batch_size=256), verbose=0, return_dict=True)
        row = {
            "epoch": epoch,
            "loss": fitted["loss"][0],
            "accuracy": fitted["accuracy"][0],
            "tune_loss": watched["loss"],
            "tune_accuracy": watched["accuracy"],
            "seconds": seconds,
            "learning_rate": rate,
        }
        for name in ("loss", "tune_loss"):
            if not np.isfinite(row[name]):
                raise CubeError(
                    f"the {name.replace('_', ' ')} became {row[name]} in epoch {epoch}: lower the learning rate"
                    " or normalise the inputs (normalise: mad-asinh)"
                )
        self.history.append(row)
        if row["tune_loss"] < self.best_loss:
            self.best_loss = row["tune_loss"]
            if self.options["keep"] == "best":
                self.kept_epoch, self.best_weights = epoch, self.model.get_weights()
        if self.options["keep"] == "last":
            self.kept_epoch = epoch
        log.info(
            f"epoch {row['epoch']:3d}/{self.options['epochs']}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}"
            f"  tune loss {row['tune_loss']:.4f}  tune accuracy {row['tune_accuracy']:.4f}  {row['seconds']:.1f} s"
        )
        if self.progress:
            self.progress.end(row)
        if self.watch:
            self.watch.epoch(row)

    @staticmethod
    def _fed(data, order=None, symmetry=None, *, batch_size: int) -> dict[str, Any]:
        """Arguments of Keras' fit and evaluate: arrays, or batches of what is mapped from a file."""
        if isinstance(data[0], np.memmap):
            return {"x": _batches(data, np.arange(len(data[1])) if order is None else order, symmetry, batch_size)}
        cutouts, labels = data if order is None else (data[0][order], data[1][order])
        return {
            "x": cutouts if symmetry is None else turn_cutouts(cutouts, symmetry),
            "y": labels,
            "batch_size": batch_size,
        }

    def _take_over(self) -> None:
        """Give the model the weights of its copy on several devices."""
        if self.trained is not self.model:
            self.model.set_weights(self.trained.get_weights())

    def got_worse(self) -> bool:
        """Whether the loss on tune of the last epoch is above the lowest by more than `WORSE`; told in the log."""
        losses = [row["tune_loss"] for row in self.history]
        if losses[-1] <= (1 + WORSE) * min(losses):
            return False
        best = int(np.argmin(losses)) + 1
        text = f"tune loss rose from {min(losses):.2f} (epoch {best}) to {losses[-1]:.2f}: "
        if self.options["keep"] == "best":
            log.info("%sthe kept epoch is %d", text, self.kept_epoch)
        else:
            log.warning("%sthe last epoch is kept all the same (keep: last)", text)
        return True

    def restore_kept(self) -> None:
        """Give the model the weights of the epoch that is kept."""
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)

    def resume(self, folder: Path, digest: str) -> None:
        """Save every epoch in a folder, and go on from what it holds if that has the same digest.

        Raises
        ------
        ConfigError
            Another training writes there.
        """
        self.checkpoint = Checkpoint(folder, digest)
        found = self.checkpoint.read([tuple(variable.shape) for variable in self._variables()])
        if found is None:
            return
        state, saved, best = found
        for variable, value in zip(self._variables(), saved, strict=True):
            variable.assign(value)
        self._take_over()
        self.history, self.best_weights = state["history"], best
        self.best_loss, self.kept_epoch = state["best_loss"], state["kept_epoch"]
        self.resumed_at = len(self.history) + 1
        log.info("resumed at epoch %d", self.resumed_at)

    def _variables(self) -> list[Any]:
        """All that one epoch hands to the next: weights, the optimizer's moments, the state of dropout."""
        optimizer = self.trained.optimizer
        if not optimizer.built:
            with self.replicas.scope():
                optimizer.build(self.trained.trainable_variables)
        dropout = [layer.seed_generator.state for layer in self.trained.layers if hasattr(layer, "seed_generator")]
        return [*self.trained.weights, *optimizer.variables, *dropout]

    def _save(self, epoch: int) -> None:
        arrays = [self.keras.ops.convert_to_numpy(variable) for variable in self._variables()]
        state = {"history": self.history, "best_loss": self.best_loss, "kept_epoch": self.kept_epoch}
        self.checkpoint.write(epoch, state, arrays, self.best_weights)

    def release(self) -> None:
        """Let another training write to the folder of `resume`."""
        if self.checkpoint is not None:
            self.checkpoint.release()

    def remove_checkpoint(self) -> None:
        """Delete the folder of `resume`."""
        if self.checkpoint is not None:
            self.checkpoint.remove()
