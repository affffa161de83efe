"""Loop over the epochs of a training, with its checkpoint."""

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
Change = Callable[[np.ndarray, slice], np.ndarray]  # augmentation of cutouts, given their positions in the epoch
WORSE = 0.1  # the model got worse if its validation loss exceeds the lowest one by more than this share


def _unchanged(cutouts: np.ndarray, part: slice) -> np.ndarray:
    return cutouts


def turn_cutouts(cutouts: np.ndarray, symmetry: np.ndarray) -> np.ndarray:
    """Apply one of the eight symmetries of the square, numbered 0 to 7 (N,), to each cutout (N, S, S, C)."""
    turned = np.empty_like(cutouts)
    for number in range(8):
        chosen = symmetry == number
        some = np.rot90(cutouts[chosen], number % 4, axes=(1, 2))
        turned[chosen] = some[:, :, ::-1] if number >= 4 else some
    return turned


def _batches(data, order: np.ndarray, change: Change, batch_size: int):
    """Cutouts and labels in a given order, augmented and read batch by batch, for memory-mapped cutouts."""
    from otrain_core.networks.architecture import keras

    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return -(-len(order) // batch_size)

        def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
            part = slice(number * batch_size, (number + 1) * batch_size)
            return change(np.asarray(data[0][order[part]]), part), data[1][order[part]]

    return Batches()


def passes(n: int, experiment: Experiment) -> int:
    """Passes over n cutouts per epoch; few cutouts get several, so that an epoch has about ``min_batches`` batches."""
    return max(1, round(experiment.min_batches * experiment.batch_size / n)) if n else 1


class Watch(Protocol):
    """Observer of the epochs of a training, such as `otrain_core.registry.live.LiveRun`."""

    def begin(self, history: Sequence[dict[str, float]]) -> None:
        """Start; `history` has the earlier epochs if the training is resumed."""

    def epoch(self, row: dict[str, float]) -> None:
        """Receive the row of `HISTORY` of an epoch that has ended."""


class Loop:
    """Epochs of a training. The state is saved after each, so that an interrupted training can be resumed.

    Parameters
    ----------
    model : keras.Model
        The layers after the input stage. `restore_kept` gives it the weights that are kept.
    train, validation : tuple of array
        Inputs of the model, and labels 0 or 1. Inputs in a `numpy.memmap` are read batch by batch and give the same
        weights.
    experiment : Experiment
        epochs, batch_size, min_batches, learning_rate, schedule, label_smoothing, keep, patience, augment
        and jit_compile are used.
    seed : int
        Seed of the order and augmentation of the cutouts.
    weights : dict or None
        Weight of each class.
    renew : callable, optional
        Returns the training inputs for an epoch (from 1), which are used instead of those in `train`.
    watch : Watch, optional
    progress : otrain_core.networks.progress.Progress, optional
        Progress bar for the batches of each epoch.
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
        """Train until the last epoch or until the patience is exhausted.

        Returns
        -------
        pandas.DataFrame
            `HISTORY`, one row per epoch.

        Raises
        ------
        CubeError
            The loss became NaN or infinite.
        """
        if self.watch:
            self.watch.begin(self.history)
        for epoch in range(len(self.history) + 1, self.experiment.epochs + 1):
            if self._out_of_patience():
                log.info("stopped: the validation loss has not decreased for %d epochs", self.experiment.patience)
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
        """Train one epoch (from 1) and evaluate it on validation."""
        if self.renew:
            labels = self.train[1]
            del self.train  # it may occupy a file as large as the new one
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
        evaluated = self.model.evaluate(**self._fed(self.validation, batch_size=256), verbose=0, return_dict=True)
        row = {
            "epoch": epoch,
            "loss": fitted["loss"][0],
            "accuracy": fitted["accuracy"][0],
            "validation_loss": evaluated["loss"],
            "validation_accuracy": evaluated["accuracy"],
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
        """Add an epoch to the history, and store its weights if they are to be kept."""
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
        """Arguments for fit and evaluate of Keras: arrays, or batches of memory-mapped cutouts."""
        if isinstance(data[0], np.memmap):
            return {"x": _batches(data, np.arange(len(data[1])) if order is None else order, change, batch_size)}
        cutouts, labels = data if order is None else (data[0][order], data[1][order])
        return {"x": change(cutouts, slice(None)), "y": labels, "batch_size": batch_size}

    def got_worse(self) -> bool:
        """Whether the validation loss of the last epoch exceeds the lowest by more than `WORSE`; it is then logged."""
        losses = [row["validation_loss"] for row in self.history]
        if losses[-1] <= (1 + WORSE) * min(losses):
            return False
        best = int(np.argmin(losses)) + 1
        text = f"validation loss rose from {min(losses):.2f} (epoch {best}) to {losses[-1]:.2f}: "
        if self.experiment.keep == "best":
            log.info("%sthe kept epoch is %d", text, self.kept_epoch)
        else:
            log.warning("%sthe last epoch is kept nevertheless (keep: last)", text)
        return True

    def restore_kept(self) -> None:
        """Set the weights of the model to those of the kept epoch."""
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)

    def resume(self, folder: Path, digest: str) -> None:
        """Save each epoch in a folder, and resume from the state in it if that has the same digest.

        Raises
        ------
        ConfigError
            Another training uses the folder.
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
        """State that one epoch passes to the next: weights, moments of the optimizer, state of dropout."""
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
        """Release the folder of `resume` to another training."""
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
                f"the {name.replace('_', ' ')} became {row[name]} in epoch {row['epoch']}: lower learning_rate"
                " or normalise the inputs (normalise: mad-asinh)"
            )
