"""Search the images of a folder as they arrive, each once, and write a page of the night."""

from __future__ import annotations

import logging
import sqlite3
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from otrain_core.errors import OtrainError, is_full
from otrain_core.io import digest, shown
from otrain_core.night.context import Catalogues
from otrain_core.night.hand_on import HandOn, end_night, keep, report_night
from otrain_core.night.ledger import Ledger, alone
from otrain_core.night.outputs import write_cutouts, write_scores, write_stamps
from otrain_core.night.page import write_index, write_page
from otrain_core.night.references import References
from otrain_core.night.search import no_sky, search_image
from otrain_core.night.watch import watch
from otrain_core.plan.recipe import Recipe
from otrain_core.safe import safe_name

if TYPE_CHECKING:
    from otrain_core.classify import Classifier

log = logging.getLogger("otrain")
T = TypeVar("T")

LEDGER = "ledger.sqlite"
MAX_TRIES = 25  # an image is refused after its search has ended the process this often
STAMPS = 50  # number of candidates per image whose stamps and cutouts are kept
WAIT = 30.0  # time until a full disk is tried again [s]
LATE = 0.05  # share of the images that a page may lack while others wait: a page of a long night takes longer to write


@dataclass(frozen=True)
class Night:
    """A folder of images with the references, classifier and options of its search.

    Attributes
    ----------
    folder : Path
        Folder in which images arrive, also in subfolders.
    output : Path
        Gets a folder for each night, the ledger, and an index.
    references : References
    classifier : Classifier
    recipe : Recipe
    false_alarms : float
        Share of unchanged nights that the monitor may call changed.
    catalogues : Catalogues or None
        Sources of the known objects and stars near the candidates.
    hand_on : HandOn
    longitude : float or None
        Longitude of the site [deg, east positive], for images whose header lacks it. It decides when a night begins.
    """

    folder: Path
    output: Path
    references: References
    classifier: Classifier
    recipe: Recipe
    false_alarms: float = 0.01
    catalogues: Catalogues | None = None
    hand_on: HandOn = field(default_factory=HandOn)
    longitude: float | None = None
    _behind: Counter[str] = field(default_factory=Counter, init=False, repr=False)  # images that a page lacks

    def run(self, *, once: bool, stop: threading.Event, tell: Callable[[str], None]) -> dict[str, int]:
        """Search images until `stop` is set; with `once` until all images in the folder are done.

        Parameters
        ----------
        once : bool
        stop : threading.Event
        tell : callable
            Called with one line of text for each image.

        Returns
        -------
        dict of int
            Numbers of images: done, refused, left_out (types `otrain_core.night.search.NO_SKY`), and known (done,
            refused or left out before).

        Raises
        ------
        OtrainError
            There is no such folder, the output is the same folder, another process works on the output, the ledger is
            damaged, or, with `once`, the disk is full.
        """
        if not self.folder.is_dir():
            raise OtrainError(f"{self.folder}: no such folder")
        if self.output.resolve() == self.folder.resolve():
            raise OtrainError(
                f"{self.folder}: the nights cannot be written to the folder of the images; choose another one (-o)"
            )
        counts = {"done": 0, "refused": 0, "left_out": 0, "known": 0}
        with alone(self.output):
            ledger = self._with_space(lambda: Ledger(self.output / LEDGER), once=once, stop=stop)
            if ledger is None:
                return counts
            pages = partial(self._with_space, lambda: self._pages(ledger), once=once, stop=stop)
            try:
                self._behind.update(["", *ledger.open_nights()])  # an earlier run may have been killed before its pages
                pages()
                for path in watch(self.folder, once=once, stop=stop, without=self.output, idle=pages):
                    work = partial(self._one, ledger, path, tell)
                    outcome = self._with_space(work, once=once, stop=stop) or "known"
                    counts[outcome] += 1
                    if outcome == "left_out" and counts[outcome] == 1:
                        tell(f"{path}: a dark, bias or flat frame; such frames are left out and listed in index.html")
                    self._with_space(lambda: self._pages(ledger, late=LATE), once=once, stop=stop)
                self._with_space(lambda: self._end(ledger), once=once, stop=stop)
            except sqlite3.Error as error:
                raise OtrainError(
                    f"{ledger.path}: cannot be read ({error}); if it is damaged, choose a new output folder (-o)"
                ) from None
            finally:
                ledger.close()
        return counts

    def _with_space(self, work: Callable[[], T], *, once: bool, stop: threading.Event) -> T | None:
        """Do work that writes files, and try again while the disk is full; with `once` a full disk is an error.

        Returns None if the night was stopped while it waited.
        """
        while True:
            try:
                return work()
            except (OtrainError, OSError) as error:
                if not is_full(error):
                    raise
                file = getattr(error, "filename", None) or self.output
                if once:
                    raise OtrainError(
                        f"{file}: no space left; free some and run again, finished images are kept"
                    ) from None
                log.error("%s: no space left; trying again in %g s", file, WAIT)
                if stop.wait(WAIT):
                    return None

    def _end(self, ledger: Ledger) -> None:
        for night in ledger.open_nights():
            end_night(ledger, night, self.output / night, self.hand_on)
        self._pages(ledger)

    def _one(self, ledger: Ledger, path: Path, tell: Callable[[str], None]) -> str:
        """Search one image, unless it was deleted meanwhile."""
        try:
            return self._search(ledger, path, tell)
        except FileNotFoundError:
            if path.exists():  # another file is missing
                raise
            tell(f"{path}: was deleted before its search")
            return "known"

    def _search(self, ledger: Ledger, path: Path, tell: Callable[[str], None]) -> str:
        try:
            content = digest(path)
        except FileNotFoundError:
            raise
        except OSError as error:  # no permission, or a damaged disk; without a digest it cannot be in the ledger
            tell(f"refused: {shown(path)}: cannot be read ({error.strerror})")
            return "refused"
        begun = ledger.begin(content, path=str(path), name=safe_name(_stem(path), fallback="image"))
        if begun is None:
            return "known"
        number, name = begun
        if ledger.tries(number) > MAX_TRIES:
            return self._refuse(ledger, number, f"{path}: the program ended {MAX_TRIES} times during its search", tell)
        kind, why = no_sky(path, image=name)
        if kind:
            ledger.refuse(number, f"{path}: {why}", kind=kind)
            self._behind[""] += 1
            return "left_out"
        try:
            found = search_image(
                path,
                reference=self.references.of(path, image=name),
                classifier=self.classifier,
                recipe=self.recipe,
                image=name,
                catalogues=self.catalogues,
            )
        except (OSError, MemoryError):
            raise
        except Exception as error:  # the night must go on with the other images
            if is_full(error):
                raise
            if isinstance(error, OtrainError):
                return self._refuse(ledger, number, f"{path}: {error}", tell)
            log.error("%s: %s", path, traceback.format_exc())
            return self._refuse(ledger, number, f"{path}: unexpected {type(error).__name__} ({error})", tell)
        night = night_of(found.record, path, longitude=self.longitude)
        folder = self.output / night
        write_scores(folder / f"{name}.csv", found)
        write_stamps(folder / "stamps", found, n=STAMPS)
        write_cutouts(folder / "cutouts" / f"{name}.npz", found, n=STAMPS)
        keep(
            found,
            ledger,
            number,
            name=name,
            night=night,
            folder=folder,
            gallery=0,
            hand_on=self.hand_on,
            part=night,
        )
        self._behind[night] += 1
        tell(f"{path}: {found.record['n']} candidates, {found.record['real']} real ({night}/{name})")
        return "done"

    def _refuse(self, ledger: Ledger, number: int, reason: str, tell: Callable[[str], None]) -> str:
        ledger.refuse(number, reason)
        self._behind[""] += 1
        tell(f"refused: {reason}")
        return "refused"

    def _pages(self, ledger: Ledger, *, late: float = 0.0) -> None:
        """Write the page and report of each night whose page lacks more than the share `late` of its images."""
        wanted = [night for night, n in self._behind.items() if n > late * ledger.count(night)]
        for night in filter(None, wanted):
            folder = self.output / night
            write_page(folder, night, ledger, about=self.classifier.about, false_alarms=self.false_alarms)
            report_night(ledger, night, folder, self.hand_on)
        if wanted:
            write_index(self.output, ledger)
        for night in wanted:
            del self._behind[night]


def night_of(record: Mapping[str, Any], path: Path, *, longitude: float | None = None) -> str:
    """The night of an image: the date of its evening. A night lasts from noon to noon, local mean solar time.

    Parameters
    ----------
    record : mapping
        time (UTC) and longitude [deg, east positive].
    path : Path
        File of the image; its time of modification is used if the record has no time.
    longitude : float, optional
        Used if the record has no longitude; without either it is 0.

    Returns
    -------
    str
        For example ``2024-02-29``.
    """
    try:
        moment = datetime.fromisoformat(str(record.get("time")))
    except ValueError:
        moment = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    east = record.get("longitude")
    if east is None or not np.isfinite(east):
        east = longitude or 0.0
    return (moment + timedelta(hours=((east + 180) % 360 - 180) / 15 - 12)).date().isoformat()


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".fz", ".gz", ".bz2"):
        name = name.removesuffix(suffix)
    return name.rsplit(".", 1)[0]
