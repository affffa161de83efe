"""Watch a folder that fills: return each complete image once."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from otrain_core.io import shown
from otrain_core.night.references import is_fits

log = logging.getLogger("otrain")

BLOCK = 2880  # bytes of a FITS block
READ = ("opened", "closed_no_write")  # events that the watch causes itself when it reads a file
STALE = 60.0  # an incomplete file that has not changed for this long is taken as truncated [s]
MOST_VERSIONS = 3  # versions of one file that are returned with `once`


def is_whole(path: Path) -> bool:
    """Whether a FITS file has all the data that its headers announce; for a .gz file, whether the compressed data end.

    A file that is not FITS, is damaged or cannot be read counts as complete: the search refuses it and says why.
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
            warnings.simplefilter("ignore")  # astropy warns each time that it reads a file which is still being written
            with fits.open(path, memmap=True, lazy_load_hdus=False) as hdus:
                return path.stat().st_size >= hdus[-1]._data_offset + hdus[-1]._data_size
    except Exception:  # astropy raises many kinds of errors for damaged cards
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
    """Complete FITS files of a folder and its subfolders, sorted by time of modification and name.

    Parameters
    ----------
    folder : Path
    known : set of (Path, int, float), optional
        Complete files (path, size, time of modification), which are not read again. Those found are added to it.
        An incomplete file is read at every call: its content may change while its size and time do not.
    without : Path, optional
        Folder to leave out.
    """
    found, known = [], set() if known is None else known
    for path in _fits_files(folder, without):
        try:
            if path.is_file():
                state = path, path.stat().st_size, path.stat().st_mtime
                if state in known or is_whole(path):
                    known.add(state)
                    found.append((state[2], path))
        except OSError:  # the file was deleted meanwhile
            continue
    return [path for _, path in sorted(found)]


def _fits_files(folder: Path, without: Path | None) -> Iterator[Path]:
    """FITS files of a folder and its subfolders except `without`."""
    left_out = without.resolve() if without is not None else None
    for place, folders, names in os.walk(folder):  # unlike Path.rglob, it goes on when a subfolder is deleted meanwhile
        folders[:] = [name for name in folders if Path(place, name).resolve() != left_out]
        yield from filter(is_fits, (Path(place, name) for name in names))


def stale_images(folder: Path, *, without: Path | None = None) -> list[Path]:
    """FITS files that are incomplete and have not changed for `STALE` seconds, so truncated; a warning names younger ones."""
    found = []
    for path in sorted(_fits_files(folder, without)):
        try:
            if not path.is_file() or is_whole(path):
                continue
            if time.time() - path.stat().st_mtime > STALE:
                found.append(path)
            else:
                log.warning("%s: is still being written and is put off; run again when it is complete", shown(path))
        except OSError:  # the file was deleted meanwhile
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
    """Yield the images of a folder as they arrive; with `once`, those that are there.

    Parameters
    ----------
    folder : Path
    once : bool
        End when every image has been returned; truncated files come last. At most `MOST_VERSIONS` versions of a file
        that keeps changing are returned, then a warning names it.
    stop : threading.Event
        Ends the watch.
    without : Path, optional
        Subfolder whose files are not images of the night.
    idle : callable
        Called each time when all complete images have been returned, before waiting for new ones.
    settle : float
        An image is returned when its size and time have not changed for this long [s].
    look : float
        Longest time between two looks at the folder [s]: network file systems do not report new files.
    """
    seen: dict[Path, tuple[int, float]] = {}
    given: set[tuple[Path, int, float]] = set()
    known: set[tuple[Path, int, float]] = set()
    versions: Counter[Path] = Counter()
    with _changes(folder) as changed:
        while not stop.is_set():
            fresh, before, seen = False, seen, {}
            for path in whole_images(folder, known, without=without):
                try:
                    state = path.stat().st_size, path.stat().st_mtime
                except OSError:
                    continue
                if (path, *state) in given:
                    continue
                # With `once`, at once; otherwise when it is old enough or has not changed since the last look.
                if once or time.time() - state[1] > settle or before.get(path) == state:
                    given.add((path, *state))
                    versions[path] += 1
                    if once and versions[path] > MOST_VERSIONS:
                        if versions[path] == MOST_VERSIONS + 1:
                            log.warning(
                                "%s: changed %d times during the search and is put off; run again when it is complete",
                                shown(path),
                                MOST_VERSIONS,
                            )
                        continue
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
def _changes(folder: Path) -> Iterator[threading.Event]:
    """An event that is set when something changes in a folder, if the system reports changes."""
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
        log.warning("%s: the system does not report changes (%s); the folder is read at intervals", folder, error)
        yield changed
        return
    try:
        yield changed
    finally:
        # Its own end would be logged as an error.
        logging.getLogger("watchdog.observers.inotify").setLevel(logging.CRITICAL)
        observer.stop()
        observer.join()
