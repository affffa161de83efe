"""A folder that fills: each whole image once, until told to stop."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from otrain_core.night.references import is_fits

log = logging.getLogger("otrain")

BLOCK = 2880  # bytes of a FITS block
READ = ("opened", "closed_no_write")  # events of the looks themselves, which must not call for the next look
STALE = 60.0  # a file that is not whole and has not changed for so long stays as it is [s]


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(path: Path) -> bool:
    """Whether a FITS file holds all that its headers promise; of compressed ones, whether they end as they should.

    A file that is no FITS file, is damaged or must not be read counts as whole: it is refused with the words of a step.
    """
    from astropy.io import fits

    if path.stat().st_size == 0:
        return False
    if path.suffix.lower() == ".gz":
        import gzip

        try:
            with gzip.open(path) as file:
                while file.read(2**20):
                    pass
        except EOFError:
            return False
        except (OSError, zlib.error):  # damaged
            return True
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at each look at a file that is being written
            with fits.open(path, memmap=True, lazy_load_hdus=False) as hdus:
                return path.stat().st_size >= hdus[-1]._data_offset + hdus[-1]._data_size
    except Exception:  # of many kinds, for damaged cards
        try:
            with open(path, "rb") as file:
                start = file.read(20 * BLOCK)
        except PermissionError:
            return True
        cards = (start[k : k + 8] for k in range(0, len(start), 80))
        return not start.startswith(b"SIMPLE") or (len(start) >= BLOCK and b"END     " in cards)


def whole_images(
    folder: Path, known: set[tuple[Path, int, float]] | None = None, *, without: Path | None = None
) -> list[Path]:
    """FITS files of a folder and the folders in it, but for those in `without`, that are whole; by time of change, then name.

    A file of `known` (path, size, time of change) is not read again; those found whole are added. One that is not whole
    is read at every look: it may fill without a change of its size and of the seconds of its time.
    """
    found, known = [], set() if known is None else known
    for path in folder.rglob("*"):
        try:
            if is_fits(path) and not _within(path, without) and path.is_file():
                state = path, path.stat().st_size, path.stat().st_mtime
                if state in known or is_whole(path):
                    known.add(state)
                    found.append((state[2], path))
        except OSError:  # gone since
            continue
    return [path for _, path in sorted(found)]


def _within(path: Path, folder: Path | None) -> bool:
    return folder is not None and folder.absolute() in path.absolute().parents


def stale_images(folder: Path, *, without: Path | None = None) -> list[Path]:
    """FITS files that are not whole and have not changed for `STALE`: truncated, and not still being written."""
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            if not is_fits(path) or _within(path, without) or not path.is_file():
                continue
            if not is_whole(path) and time.time() - path.stat().st_mtime > STALE:
                found.append(path)
        except OSError:  # gone since
            continue
    return found


def watch(
    folder: Path,
    *,
    once: bool,
    stop: threading.Event,
    without: Path | None = None,
    idle: Callable[[], object] = lambda: None,
    settle: float = 1.0,
    look: float = 15.0,
) -> Iterator[Path]:
    """Images of a folder as they come; with `once`, those that are there.

    Parameters
    ----------
    folder : Path
    once : bool
        End when all that is there has been given out; at last those that are not whole and no longer change.
    stop : threading.Event
        Ends the watch.
    without : Path, optional
        A folder in it whose files are no images of the night.
    idle : callable
        Called each time that all whole images have been given out, before others are waited for.
    settle : float
        An image is given out when its size and time have not changed for so long [s].
    look : float
        The folder is looked through at least this often: on network file systems nothing tells of a new file [s].
    """
    seen: dict[Path, tuple[int, float]] = {}
    given: set[tuple[Path, int, float]] = set()
    known: set[tuple[Path, int, float]] = set()
    with _told_of_changes(folder) as changed:
        while not stop.is_set():
            fresh = False
            for path in whole_images(folder, known, without=without):
                try:
                    state = path.stat().st_size, path.stat().st_mtime
                except OSError:
                    continue
                if (path, *state) in given:
                    continue
                # Old enough, or unchanged since the last look.
                if once or time.time() - state[1] > settle or seen.get(path) == state:
                    given.add((path, *state))
                    fresh = True
                    yield path
                    if stop.is_set():
                        return
                seen[path] = state
            if once and not fresh:
                yield from stale_images(folder, without=without)
                return
            if not once:
                idle()
                waiting = any((path, *state) not in given for path, state in seen.items())
                changed.wait(settle if waiting else look)
                changed.clear()


@contextmanager
def _told_of_changes(folder: Path) -> Iterator[threading.Event]:
    """An event that is set when something changes in a folder, where the system tells of it."""
    changed = threading.Event()
    from watchdog.events import FileSystemEventHandler
    from watchdog.observers import Observer

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event) -> None:
            if event.event_type not in READ:
                changed.set()

    observer = Observer()
    observer.schedule(Handler(), str(folder), recursive=True)
    try:
        observer.start()
    except OSError as error:
        log.warning("%s: changes are not told of (%s); the folder is looked through from time to time", folder, error)
        yield changed
        return
    try:
        yield changed
    finally:
        logging.getLogger("watchdog.observers.inotify").setLevel(
            logging.CRITICAL
        )  # it tells of its own end as an error
        observer.stop()
        observer.join()
