"""The saved state of a training: written after every epoch, read by a training that goes on."""

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

TRIES = 100  # to lock a folder that others remove
LOCK = "lock"  # held while a training runs; the system frees it when the process ends, killed or not

log = logging.getLogger("otrain")


class Checkpoint:
    """A folder that one training writes to at a time.

    Parameters
    ----------
    folder : pathlib.Path
    digest : str
        Of the arguments of the training; a state with another one is none of its own.

    Raises
    ------
    ConfigError
        Another training holds the folder.
    """

    def __init__(self, folder: Path, digest: str):
        self.folder, self.digest = folder, digest
        self._lock: int | None = self._take()

    def _take(self) -> int | None:
        for _ in range(TRIES):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:  # removed since by a training that ended
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                raise ConfigError(f"{self.folder}: another training writes its checkpoint here; let it end") from None
            except OSError as error:  # some network file systems have no locks
                log.info("%s: cannot be locked against a second training (%s)", self.folder, error)
                os.close(lock)
                return None
            with suppress(FileNotFoundError):
                if os.fstat(lock).st_ino == os.stat(self.folder / LOCK).st_ino:
                    return lock
            os.close(lock)  # of a folder that was removed since
        raise ConfigError(f"{self.folder / LOCK}: cannot be locked: the file is replaced again and again")

    def read(
        self, shapes: Sequence[tuple[int, ...]]
    ) -> tuple[dict[str, Any], list[np.ndarray], list[np.ndarray] | None] | None:
        """State, variables and best weights; None, and an empty folder, where there are none to go on from.

        Parameters
        ----------
        shapes : sequence of tuple
            Of the variables.
        """
        found = None
        if (self.folder / "state.json").exists():
            try:
                found = self._read(shapes)
            except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
                log.warning("%s: the checkpoint cannot be read (%s): trained from the start", self.folder, error)
        if found is None:
            self._clear(kept=(LOCK,))
        return found

    def _read(self, shapes):
        state = json.loads((self.folder / "state.json").read_text())
        if state["digest"] != self.digest:
            log.info("%s: the checkpoint is of a training with other arguments: trained from the start", self.folder)
            return None
        saved = _read_list(self.folder / state["file"])
        best = _read_list(self.folder / state["best_file"]) if state["best_file"] else None
        if [value.shape for value in saved] != list(shapes):
            raise ValueError("its variables are not those of the network")
        return {key: state[key] for key in ("history", "best_loss", "kept_epoch")}, saved, best

    def write(
        self, epoch: int, state: Mapping[str, Any], arrays: Sequence[np.ndarray], best: Sequence[np.ndarray] | None
    ) -> None:
        """Save an epoch; until the last file is whole, the one before stays what is read.

        Parameters
        ----------
        epoch : int
        state : mapping
            history, best_loss, kept_epoch.
        arrays, best : sequence of numpy.ndarray
            Variables, and weights of the kept epoch (None where that is the last).
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
        """Let another training have the folder, with what it holds."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remove(self) -> None:
        """Delete the folder."""
        self._clear()
        with suppress(OSError):  # another training has come for it
            self.folder.rmdir()
        self.release()


def _read_list(path: Path) -> list[np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return [arrays[f"arr_{number}"] for number in range(len(arrays.files))]
