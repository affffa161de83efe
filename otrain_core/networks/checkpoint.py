"""Saved state of a training: written after each epoch, read when a training is resumed."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.errors import ConfigError
from otrain_core.io import atomic

TRIES = 100  # attempts to lock a folder that other processes remove
LOCK = "lock"  # locked while a training runs; the system releases the lock when the process ends

log = logging.getLogger("otrain")


class Checkpoint:
    """A folder that one training writes to at a time.

    Parameters
    ----------
    folder : pathlib.Path
    digest : str
        Digest of the arguments of the training; a state with another digest belongs to another training.

    Raises
    ------
    ConfigError
        Another training uses the folder.
    """

    def __init__(self, folder: Path, digest: str):
        self.folder, self.digest = folder, digest
        self._lock: int | None = self._take()

    def _take(self) -> int | None:
        for _ in range(TRIES):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:  # a training that has ended removed the folder
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                raise ConfigError(
                    f"{self.folder}: another training writes its checkpoint here; wait until it ends"
                ) from None
            except OSError as error:  # some network file systems have no locks
                log.info("%s: cannot be locked, so a second training would not be noticed (%s)", self.folder, error)
                os.close(lock)
                return None
            with suppress(FileNotFoundError):
                if os.fstat(lock).st_ino == os.stat(self.folder / LOCK).st_ino:
                    return lock
            os.close(lock)  # this lock file has been removed in the meantime
        raise ConfigError(f"{self.folder / LOCK}: cannot be locked, because other trainings keep replacing it")

    def read(
        self, shapes: Sequence[tuple[int, ...]]
    ) -> tuple[dict[str, Any], list[np.ndarray], list[np.ndarray] | None] | None:
        """Read the state, the variables and the best weights.

        Parameters
        ----------
        shapes : sequence of tuple
            Shapes of the variables.

        Returns
        -------
        tuple or None
            None if there is no state from which this training can be resumed; the folder is then empty.
        """
        found = None
        if (self.folder / "state.json").exists():
            try:
                found = self._read(shapes)
            except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
                log.warning("%s: the checkpoint cannot be read (%s); the training starts again", self.folder, error)
        if found is None:
            self._clear(kept=(LOCK,))
        return found

    def _read(self, shapes):
        state = json.loads((self.folder / "state.json").read_text())
        if state["digest"] != self.digest:
            log.info(
                "%s: the checkpoint belongs to a training with other arguments; the training starts again", self.folder
            )
            return None
        saved = _read_list(self.folder / state["file"])
        best = _read_list(self.folder / state["best_file"]) if state["best_file"] else None
        if [value.shape for value in saved] != list(shapes):
            raise ValueError("the variables do not fit the network")
        return {key: state[key] for key in ("history", "best_loss", "kept_epoch")}, saved, best

    def write(
        self, epoch: int, state: Mapping[str, Any], arrays: Sequence[np.ndarray], best: Sequence[np.ndarray] | None
    ) -> None:
        """Save an epoch. The previous epoch remains valid until all files are complete.

        Parameters
        ----------
        epoch : int
        state : mapping
            history, best_loss, kept_epoch.
        arrays, best : sequence of numpy.ndarray
            Variables, and weights of the kept epoch (None if that is the last epoch).
        """
        file, best_file = f"epoch{epoch}.npz", ""
        lists = {file: arrays}
        if best is not None:
            best_file = f"best{state['kept_epoch']}.npz"
            if not (self.folder / best_file).exists():
                lists[best_file] = best
        for name, values in lists.items():
            with atomic(self.folder / name) as temporary:
                np.savez(temporary, *values)
        with atomic(self.folder / "state.json") as temporary:
            temporary.write_text(json.dumps({"digest": self.digest, "file": file, "best_file": best_file, **state}))
        self._clear(kept=(LOCK, "state.json", file, best_file))

    def _clear(self, *, kept: Sequence[str] = ()) -> None:
        for path in sorted(self.folder.iterdir()):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def release(self) -> None:
        """Release the folder, with its files, to another training."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remove(self) -> None:
        """Delete the folder."""
        self._clear()
        with suppress(OSError):  # another training is using it
            self.folder.rmdir()
        self.release()


def _read_list(path: Path) -> list[np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return [arrays[f"arr_{number}"] for number in range(len(arrays.files))]
