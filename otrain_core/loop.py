"""The loop over the epochs of a training, with its checkpoint."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.errors import CubeError
from otrain_core.io import atomic

log = logging.getLogger("otrain")

HISTORY = ("epoch", "loss", "accuracy", "tune_loss", "tune_accuracy", "seconds", "learning_rate")


def augment_batch(cutouts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn each cutout by a random one of the eight symmetries of the square."""
    symmetry = rng.integers(0, 8, len(cutouts))
    turned = np.empty_like(cutouts)
    for number in range(8):
        chosen = symmetry == number
        some = np.rot90(cutouts[chosen], number % 4, axes=(1, 2))
        turned[chosen] = some[:, :, ::-1] if number >= 4 else some
    return turned


class Loop:
    """Epochs with a saved state after each, so that a killed training goes on where it was.

    Parameters
    ----------
    model : keras.Model
        Behind the input stage.
    train, tune : tuple of array
        Cutouts as the model takes them, and labels 0 or 1.
    seed : int
    options : dict
        epochs, batch_size, learning_rate, schedule, label_smoothing, keep, patience, augment; see
        `otrain_core.train.train_model`.
    weights : dict or None
        Weight of each class.
    steps : int
        Batches in an epoch.
    """

    def __init__(self, model, train, tune, *, seed, options, weights, steps):
        from otrain_core.networks import keras

        self.keras = keras
        self.model = model
        (self.train, self.tune) = ((cutouts, np.eye(2, dtype=np.float32)[labels]) for cutouts, labels in (train, tune))
        self.seed, self.options, self.weights = seed, options, weights
        rate = options["learning_rate"]
        if options["schedule"] == "cosine":
            rate = keras.optimizers.schedules.CosineDecay(rate, options["epochs"] * steps, alpha=0.01)
        self.rate = rate
        model.compile(
            optimizer=keras.optimizers.Adam(rate),
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=options["label_smoothing"]),
            metrics=["accuracy"],
        )
        self.history: list[dict[str, float]] = []
        self.best_loss, self.kept_epoch, self.best_weights = np.inf, 0, None
        self.folder: Path | None = None
        self.resumed_at = 0
        self.interactive = sys.stderr.isatty()

    def run(self) -> pd.DataFrame:
        """Train to the last epoch, or until patience ends; one row for each epoch.

        Raises
        ------
        CubeError
            The loss became NaN or infinite.
        """
        for epoch in range(len(self.history) + 1, self.options["epochs"] + 1):
            if self._out_of_patience():
                log.info("no lower loss on tune for %d epochs: stopped", self.options["patience"])
                break
            self._epoch(epoch)
            if self.folder is not None:
                self._save(epoch)
        return pd.DataFrame(self.history, columns=HISTORY)

    def _out_of_patience(self) -> bool:
        patience = self.options["patience"]
        if not patience or not self.history:
            return False
        losses = [row["tune_loss"] for row in self.history]
        return len(losses) - 1 - int(np.argmin(losses)) >= patience

    def _epoch(self, epoch: int) -> None:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.train[1]))
        cutouts, labels = self.train[0][order], self.train[1][order]
        if self.options["augment"]:
            cutouts = augment_batch(cutouts, rng)
        rate = float(self.model.optimizer.learning_rate)
        started = time.perf_counter()
        fitted = self.model.fit(
            cutouts,
            labels,
            batch_size=self.options["batch_size"],
            epochs=1,
            shuffle=False,
            class_weight=self.weights,
            verbose=0,
        ).history
        seconds = time.perf_counter() - started
        watched = self.model.evaluate(*self.tune, batch_size=256, verbose=0, return_dict=True)
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
        self._tell(row)

    def _tell(self, row: dict[str, float]) -> None:
        line = (
            f"epoch {row['epoch']:3d}/{self.options['epochs']}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}"
            f"  tune loss {row['tune_loss']:.4f}  tune accuracy {row['tune_accuracy']:.4f}  {row['seconds']:.1f} s"
        )
        log.info(line)
        if self.interactive:
            print(f"\r{line}", end="\n" if row["epoch"] == self.options["epochs"] else "", file=sys.stderr, flush=True)

    def restore_kept(self) -> None:
        """Give the model the weights of the epoch that is kept."""
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)

    def resume(self, folder: Path, digest: str) -> None:
        """Save every epoch in a folder, and go on from what it holds if that has the same digest."""
        self.folder, self.digest = folder, digest
        folder.mkdir(parents=True, exist_ok=True)
        try:
            state = json.loads((folder / "state.json").read_text())
            if state["digest"] != digest:
                return
            saved = _read_list(folder / state["file"])
            best = _read_list(folder / state["best_file"]) if state["best_file"] else None
        except (OSError, ValueError, KeyError):
            return
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
        file = f"epoch{epoch}.npz"
        best_file = f"best{self.kept_epoch}.npz" if self.best_weights is not None else ""
        lists = {file: [self.keras.ops.convert_to_numpy(variable) for variable in self._variables()]}
        if best_file and not (self.folder / best_file).exists():
            lists[best_file] = self.best_weights
        for name, arrays in lists.items():
            with atomic(self.folder / name) as temporary:
                np.savez(temporary, *arrays)
        state = {
            "digest": self.digest,
            "file": file,
            "best_file": best_file,
            "history": self.history,
            "best_loss": self.best_loss,
            "kept_epoch": self.kept_epoch,
        }
        with atomic(self.folder / "state.json") as temporary:
            temporary.write_text(json.dumps(state))
        for old in self.folder.glob("*.npz"):
            if old.name not in (file, best_file):
                old.unlink()

    def remove_checkpoint(self) -> None:
        """Delete the folder of `resume`."""
        if self.folder is None:
            return
        for path in sorted(self.folder.iterdir()):
            path.unlink()
        self.folder.rmdir()


def _read_list(path: Path) -> list[np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return [arrays[f"arr_{number}"] for number in range(len(arrays.files))]
