"""Progress bar for the batches of an epoch, shown on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any, TextIO

SHOWN = ("loss", "accuracy", "validation_loss", "validation_accuracy")


def progress_on_terminal() -> Progress | None:
    """Progress bar, or None if stderr is not a terminal."""
    return Progress() if sys.stderr.isatty() else None


class Progress:
    """Shows a line with the number of the epoch and the remaining time of the training, and below it the bar of Keras.

    Parameters
    ----------
    stream : file, optional
        Output (default: stderr).
    """

    def __init__(self, *, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.steps = 0
        self.began: float | None = None
        self.done = 0

    def begin(self, epoch: int, epochs: int, steps: int) -> list[Any]:
        """Start the bar of an epoch (from 1) with `steps` batches; returns the callbacks that advance it."""
        import keras

        self.steps = steps
        left = ""
        if self.began is None:
            self.began = time.perf_counter()
        else:
            mean = (time.perf_counter() - self.began) / self.done
            left = f", {_duration(mean * (epochs - epoch + 1))} left"
        print(f"epoch {epoch}/{epochs}{left}", file=self.stream, flush=True)
        with redirect_stdout(self.stream):  # Keras writes only to stdout
            self.bar = keras.utils.Progbar(self.steps, stateful_metrics=SHOWN)
        return [keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: self._move(batch + 1))]

    def _move(self, step: int) -> None:
        with redirect_stdout(self.stream):
            self.bar.update(step, finalize=False)

    def end(self, row: Mapping[str, float]) -> None:
        """Finish the bar of an epoch, with the values of its row."""
        self.done += 1
        with redirect_stdout(self.stream):
            self.bar.update(self.steps, values=[(name, row[name]) for name in SHOWN], finalize=True)
        self.stream.flush()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
