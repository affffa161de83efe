"""A night: each image of a folder searched once, as it comes, and a page of what was found."""

from __future__ import annotations

import logging
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
MAX_TRIES = 25  # an image whose search ended the process so often is refused
STAMPS = 50  # candidates of an image whose stamps and cutouts are kept
WAIT = 30.0  # before a full disk is tried again [s]
LATE = 0.05  # of its images that a page may lack while more wait: what a page costs grows with the night


@dataclass(frozen=True)
class Night:
    """What a night works with.

    Attributes
    ----------
    folder : Path
        Images come here, also into folders in it.
    output : Path
        One folder for each night in it, the ledger, and an index.
    references : References
    classifier : Classifier
    recipe : Recipe
    false_alarms : float
        Nights without a change that the monitor calls changed.
    catalogues : Catalogues or None
        Where known objects and stars near the candidates are looked up.
    hand_on : HandOn
    longitude : float or None
        Of the site [deg, east positive], for images whose header does not tell it: where a night begins.
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
        """Search images until `stop`, or with `once` until all that is there is done.

        Returns
        -------
        dict of int
            done, refused, left_out (`otrain_core.night.search.NO_SKY`), known (done, refused or left out before).

        Raises
        ------
        OtrainError
            No such folder, the output is the same, another process works on it, or with `once` a full disk.
        """
        if not self.folder.is_dir():
            raise OtrainError(f"{self.folder}: no such folder")
        if self.output.resolve() == self.folder.resolve():
            raise OtrainError(
                f"{self.folder}: the folder of the images cannot be that of the nights; name another (-o)"
            )
        counts = {"done": 0, "refused": 0, "left_out": 0, "known": 0}
        with alone(self.output):
            ledger = self._with_space(lambda: Ledger(self.output / LEDGER), once=once, stop=stop)
            if ledger is None:
                return counts
            self._behind.update(["", *ledger.open_nights()])  # of a night that was killed
            pages = partial(self._with_space, lambda: self._pages(ledger), once=once, stop=stop)
            try:
                pages()
                for path in watch(self.folder, once=once, stop=stop, without=self.output, idle=pages):
                    work = partial(self._one, ledger, path, tell)
                    outcome = self._with_space(work, once=once, stop=stop) or "known"
                    counts[outcome] += 1
                    if outcome == "left_out" and counts[outcome] == 1:
                        tell(f"{path}: a dark, bias or flat frame; such frames are left out, index.html lists them")
                    self._with_space(lambda: self._pages(ledger, late=LATE), once=once, stop=stop)
                self._with_space(lambda: self._end(ledger), once=once, stop=stop)
            finally:
                ledger.close()
        return counts

    def _with_space(self, work: Callable[[], T], *, once: bool, stop: threading.Event) -> T | None:
        """Do work that writes; a full disk is waited for, or with `once` ends the night. None where it was stopped."""
        while True:
            try:
                return work()
            except (OtrainError, OSError) as error:
                if not is_full(error):
                    raise
                file = getattr(error, "filename", None) or self.output
                if once:
                    raise OtrainError(f"{file}: no space left; run again when there is, nothing is lost") from None
                log.error("%s: no space left; tried again in %g s", file, WAIT)
                if stop.wait(WAIT):
                    return None

    def _end(self, ledger: Ledger) -> None:
        for night in ledger.open_nights():
            end_night(ledger, night, self.output / night, self.hand_on)
        self._pages(ledger)

    def _one(self, ledger: Ledger, path: Path, tell: Callable[[str], None]) -> str:
        """Search one image, if it is still there."""
        try:
            return self._search(ledger, path, tell)
        except FileNotFoundError:
            if path.exists():  # another file is missing
                raise
            tell(f"{path}: gone")
            return "known"

    def _search(self, ledger: Ledger, path: Path, tell: Callable[[str], None]) -> str:
        try:
            content = digest(path)
        except FileNotFoundError:
            raise
        except OSError as error:  # no right to read it, or a damaged disk: without content it is not in the ledger
            tell(f"refused: {shown(path)}: cannot be read ({error.strerror})")
            return "refused"
        begun = ledger.begin(content, path=str(path), name=safe_name(_stem(path), fallback="image"))
        if begun is None:
            return "known"
        number, name = begun
        if ledger.tries(number) > MAX_TRIES:
            return self._refuse(ledger, number, f"{path}: its search ended the process {MAX_TRIES} times", tell)
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
        except Exception as error:  # one image must not end the night
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
        """Write the pages, and reports, that lack images: more than the share `late` of those of their night."""
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
    """The evening's date of an image: a night lasts from noon to noon of the mean sun.

    Parameters
    ----------
    record : mapping
        time (UTC; that of the file where there is none) and longitude [deg, east positive; none: of Greenwich].
    path : Path
    longitude : float, optional
        Of an image whose header does not tell it.

    Returns
    -------
    str
        As in ``2024-02-29``.
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
