"""The loop over the epochs of a training, with its checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from otrain_core.errors import CubeError
from otrain_core.networks.checkpoint import Checkpoint

if TYPE_CHECKING:
    from otrain_core.plan.config import Experiment

log = logging.getLogger("otrain")

HISTORY = ("epoch", "loss", "accuracy", "validation_loss", "validation_accuracy", "seconds", "learning_rate")
Change = Callable[[np.ndarray, slice], np.ndarray]  # what is done to cutouts, given their places in the order
WORSE = 0.1  # a loss on validation above the lowest by more than this share of it: the model got worse


def _unchanged(cutouts: np.ndarray, part: slice) -> np.ndarray:
    return cutouts


def turn_cutouts(cutouts: np.ndarray, symmetry: np.ndarray) -> np.ndarray:
    """Turn each cutout (N, S, S, C) by one of the eight symmetries of the square, numbered 0 to 7 (N,)."""
    turned = np.empty_like(cutouts)
    for number in range(8):
        chosen = symmetry == number
        some = np.rot90(cutouts[chosen], number % 4, axes=(1, 2))
        turned[chosen] = some[:, :, ::-1] if number >= 4 else some
    return turned


def _batches(data, order: np.ndarray, change: Change, batch_size: int):
    """Cutouts and labels in some order and turned, read batch by batch: for cutouts mapped from a file."""
    from otrain_core.networks.architecture import keras

    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return -(-len(order) // batch_size)

        def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
            part = slice(number * batch_size, (number + 1) * batch_size)
            return change(np.asarray(data[0][order[part]]), part), data[1][order[part]]

    return Batches()


def passes(n: int, experiment: Experiment) -> int:
    """Passes over n cutouts in an epoch: of few there are several, so that it has about ``min_batches`` batches."""
    return max(1, round(experiment.min_batches * experiment.batch_size / n)) if n else 1


class Watch(Protocol):
    """What hears of every epoch of a training, such as `otrain_core.registry.live.LiveRun`."""

    def begin(self, history: Sequence[dict[str, float]]) -> None:
        """Hear of the epochs before, where a training goes on."""

    def epoch(self, row: dict[str, float]) -> None:
        """Hear of an epoch that has ended: a row of `HISTORY`."""


class Loop:
    """Epochs with a saved state after each, so that a killed training goes on where it was.

    Parameters
    ----------
    model : keras.Model
        Behind the input stage. It ends with the weights that are kept.
    train, validation : tuple of array
        Cutouts as the model takes them, and labels 0 or 1. Cutouts that are a `numpy.memmap` are read
        batch by batch, to the same weights.
    experiment : Experiment
        epochs, batch_size, min_batches, learning_rate, schedule, label_smoothing, keep, patience, augment
        and jit_compile count.
    seed : int
    weights : dict or None
        Weight of each class.
    renew : callable, optional
        Gives the cutouts of train for an epoch (from 1), in place of those of `train`.
    watch : Watch, optional
    progress : otrain_core.networks.progress.Progress, optional
        Draws the batches of every epoch.
    """

    def __init__(
        self,
        model: Any,
        train: tuple[np.ndarray, np.ndarray],
        validation: tuple[np.ndarray, np.ndarray],
        *,
        experiment: Experiment,
        seed: int,
        weights: dict[int, float] | None,
        renew: Callable[[int], np.ndarray] | None = None,
        watch: Watch | None = None,
        progress: Any = None,
    ):
        from otrain_core.networks.architecture import keras

        self.keras = keras
        self.model, self.experiment, self.seed, self.weights = model, experiment, seed, weights
        self.renew = renew
        self.train = train[0], np.eye(2, dtype=np.float32)[train[1]]
        self.validation = validation[0], np.eye(2, dtype=np.float32)[validation[1]]
        self.passes = passes(len(train[1]), experiment)
        self.steps = -(-self.passes * len(train[1]) // experiment.batch_size)
        rate = experiment.learning_rate
        if experiment.schedule == "cosine":
            rate = keras.optimizers.schedules.CosineDecay(rate, experiment.epochs * self.steps, alpha=0.01)
        model.compile(
            optimizer=keras.optimizers.Adam(rate),
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=experiment.label_smoothing),
            metrics=["accuracy"],
            jit_compile=experiment.jit_compile,
        )
        self.history: list[dict[str, float]] = []
        self.best_loss, self.kept_epoch = np.inf, 0
        self.best_weights: list[np.ndarray] | None = None
        self.checkpoint: Checkpoint | None = None
        self.resumed_at = 0
        self.watch, self.progress = watch, progress

    def run(self) -> pd.DataFrame:
        """Train to the last epoch, or until patience ends; one row for each epoch.

        Raises
        ------
        CubeError
            The loss became NaN or infinite.
        """
        if self.watch:
            self.watch.begin(self.history)
        for epoch in range(len(self.history) + 1, self.experiment.epochs + 1):
            if self._out_of_patience():
                log.info("no lower loss on validation for %d epochs: stopped", self.experiment.patience)
                break
            self.epoch(epoch)
            if self.checkpoint is not None:
                self._save(epoch)
        return pd.DataFrame(self.history, columns=HISTORY)

    def _out_of_patience(self) -> bool:
        patience = self.experiment.patience
        if not patience or not self.history:
            return False
        losses = [row["validation_loss"] for row in self.history]
        return len(losses) - 1 - int(np.argmin(losses)) >= patience

    def epoch(self, epoch: int) -> None:
        """Train one epoch (from 1) and watch it on validation."""
        if self.renew:
            labels = self.train[1]
            del self.train  # which may fill a file of the size of the new one
            self.train = self.renew(epoch), labels
        rng = np.random.default_rng([self.seed, epoch])
        order = np.concatenate([rng.permutation(len(self.train[1])) for _ in range(self.passes)])
        symmetry = rng.integers(0, 8, len(order)) if self.experiment.augment else None

        def change(cutouts: np.ndarray, part: slice) -> np.ndarray:
            return cutouts if symmetry is None else turn_cutouts(cutouts, symmetry[part])

        rate = float(self.model.optimizer.learning_rate)
        started = time.perf_counter()
        fitted = self.model.fit(
            **self._fed(self.train, order, change, batch_size=self.experiment.batch_size),
            epochs=1,
            shuffle=False,
            class_weight=self.weights,
            callbacks=self.progress.begin(epoch, self.experiment.epochs, self.steps) if self.progress else None,
            verbose=0,
        ).history
        seconds = time.perf_counter() - started
        watched = self.model.evaluate(**self._fed(self.validation, batch_size=256), verbose=0, return_dict=True)
        row = {
            "epoch": epoch,
            "loss": fitted["loss"][0],
            "accuracy": fitted["accuracy"][0],
            "validation_loss": watched["loss"],
            "validation_accuracy": watched["accuracy"],
            "seconds": seconds,
            "learning_rate": rate,
        }
        _check_losses(row)
        self._keep(row)
        log.info(
            f"epoch {epoch:3d}/{self.experiment.epochs}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}"
            f"  validation loss {row['validation_loss']:.4f}  validation accuracy {row['validation_accuracy']:.4f}  {seconds:.1f} s"
        )
        if self.progress:
            self.progress.end(row)
        if self.watch:
            self.watch.epoch(row)

    def _keep(self, row: dict[str, float]) -> None:
        """Note an epoch, and its weights where they are the ones to keep."""
        self.history.append(row)
        epoch = len(self.history)
        if row["validation_loss"] < self.best_loss:
            self.best_loss = row["validation_loss"]
            if self.experiment.keep == "best":
                self.kept_epoch, self.best_weights = epoch, self.model.get_weights()
        if self.experiment.keep == "last":
            self.kept_epoch = epoch

    @staticmethod
    def _fed(
        data: tuple[np.ndarray, np.ndarray],
        order: np.ndarray | None = None,
        change: Change = _unchanged,
        *,
        batch_size: int,
    ) -> dict[str, Any]:
        """Arguments of Keras' fit and evaluate: arrays, or batches of what is mapped from a file."""
        if isinstance(data[0], np.memmap):
            return {"x": _batches(data, np.arange(len(data[1])) if order is None else order, change, batch_size)}
        cutouts, labels = data if order is None else (data[0][order], data[1][order])
        return {"x": change(cutouts, slice(None)), "y": labels, "batch_size": batch_size}

    def got_worse(self) -> bool:
        """Whether the loss on validation of the last epoch is above the lowest by more than `WORSE`; told in the log."""
        losses = [row["validation_loss"] for row in self.history]
        if losses[-1] <= (1 + WORSE) * min(losses):
            return False
        best = int(np.argmin(losses)) + 1
        text = f"validation loss rose from {min(losses):.2f} (epoch {best}) to {losses[-1]:.2f}: "
        if self.experiment.keep == "best":
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
        self.history, self.best_weights = state["history"], best
        self.best_loss, self.kept_epoch = state["best_loss"], state["kept_epoch"]
        self.resumed_at = len(self.history) + 1
        log.info("resumed at epoch %d", self.resumed_at)

    def _variables(self) -> list[Any]:
        """All that one epoch hands to the next: weights, the optimizer's moments, the state of dropout."""
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        dropout = [layer.seed_generator.state for layer in self.model.layers if hasattr(layer, "seed_generator")]
        return [*self.model.weights, *optimizer.variables, *dropout]

    def _save(self, epoch: int) -> None:
        assert self.checkpoint is not None
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


def _check_losses(row: dict[str, float]) -> None:
    for name in ("loss", "validation_loss"):
        if not np.isfinite(row[name]):
            raise CubeError(
                f"the {name.replace('_', ' ')} became {row[name]} in epoch {row['epoch']}: lower the learning rate"
                " or normalise the inputs (normalise: mad-asinh)"
            )
