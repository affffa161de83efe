"""Temporary folders that do not stay when their process is killed: a later process removes what nobody holds."""

from __future__ import annotations

import fcntl
import functools
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "otrain-work-"
TRIES = 100  # to make a folder that others remove


@contextmanager
def temporary_folder(kind: str) -> Iterator[Path]:
    """A folder of its own under TMPDIR, removed at the end.

    The process holds a lock on the folder, which the system takes back however the process ends. Folders of this
    machine without a lock were left by a killed process; the first folder of a process removes them.

    Parameters
    ----------
    kind : str
        What it is for, part of its name.

    Raises
    ------
    OSError
        It cannot be made: a full disk, or no permission.
    """
    remove_abandoned()
    for _ in range(TRIES):
        folder = Path(tempfile.mkdtemp(prefix=f"{_prefix()}{kind}-"))
        with suppress(FileNotFoundError):  # taken for abandoned before it was locked
            handle = os.open(folder, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.is_dir():
                break
            os.close(handle)
    else:
        raise OSError(f"{tempfile.gettempdir()}: each new temporary folder is removed at once")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


@functools.cache  # once a process
def remove_abandoned() -> None:
    """Remove the folders of `temporary_folder` that no process of this machine holds."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_prefix()}*"):
        try:
            handle = os.open(folder, os.O_RDONLY)
        except OSError:  # another user's, or gone
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held, or a file system without locks
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def _prefix() -> str:
    """With the name of the machine: a lock may not be seen from another one that shares the disk."""
    return f"{PREFIX}{re.sub(r'[^A-Za-z0-9]', '', platform.node())}-"
