"""People's answers about candidates, in an SQLite file to which answers are only ever added."""

from __future__ import annotations

import csv
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from otrain_core.cubes.labels import ANSWERS
from otrain_core.errors import OtrainError
from otrain_core.io import guarded

WITHDRAWN = "withdrawn"
PERSON = re.compile(r"\w[\w .'@-]{0,39}")
SHEET = ("telescope", "pipeline", "image", "candid", "x", "y", "label", "before", "who", "when")
_VERSION, _APPLICATION = 1, 0x0712A1  # of the file, in its header
_SCHEMA = f"""
CREATE TABLE answers (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  key TEXT NOT NULL UNIQUE,  -- made by the page: the same answer sent twice is one
  candidate TEXT NOT NULL,
  telescope TEXT NOT NULL, pipeline TEXT NOT NULL, image TEXT NOT NULL, candid TEXT NOT NULL, x REAL, y REAL,
  before TEXT NOT NULL,
  label TEXT NOT NULL CHECK (label IN ('True', 'False', 'unsure', '{WITHDRAWN}')),
  who TEXT NOT NULL,
  "when" TEXT NOT NULL
);
CREATE INDEX of_candidate ON answers (candidate, who, number);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
"""
# A damaged schema shows in an error message that is no text.
_BROKEN = (sqlite3.Error, UnicodeDecodeError)
_LATEST = f"""
SELECT * FROM answers WHERE number IN (SELECT max(number) FROM answers GROUP BY candidate, who)
  AND label <> '{WITHDRAWN}'
"""


class StoreError(OtrainError):
    """The file of answers cannot be read or written now (full, locked, gone): to be tried again."""


def check_person(name: Any) -> str:
    """A person's name, trimmed.

    Raises
    ------
    OtrainError
        Empty, longer than 40 characters, or with signs other than letters, digits, spaces and ``. ' @ - _``.
    """
    name = " ".join(str(name).split())
    if not PERSON.fullmatch(name):
        raise OtrainError("a name of 1 to 40 letters, digits or spaces is needed")
    return name


class LabelStore:
    """Answers in an SQLite file.

    An answer is on the disk when `add` returns. Nothing is ever changed or deleted: a later answer of the same person
    about the same candidate counts in place of the earlier one, and a withdrawn one is an answer too.

    Parameters
    ----------
    path : path-like
        Made where it is missing.

    Raises
    ------
    OtrainError
        Not such a file, a damaged one, or one of a later version.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError, IsADirectoryError):  # the names of people are not for all users of the machine
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            with self._open() as database:
                # Two programs may start at once: the one that comes second finds the table made.
                database.execute("BEGIN IMMEDIATE")
                (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
                if tables == 0:
                    for statement in _SCHEMA.split(";")[:-1]:
                        database.execute(statement)
                (application,) = database.execute("PRAGMA application_id").fetchone()
                (version,) = database.execute("PRAGMA user_version").fetchone()
                database.execute("COMMIT")
                (state,) = database.execute("PRAGMA quick_check(1)").fetchone()
        except _BROKEN as error:
            raise OtrainError(f"{path}: not a database of labels that can be used ({error})") from None
        if application != _APPLICATION:
            raise OtrainError(f"{path}: a database, but not one of labels")
        if state != "ok":
            raise OtrainError(f"{path}: this database of labels is damaged ({state}); put a copy of it in its place")
        if version > _VERSION:
            raise OtrainError(f"{path}: written by a later version of otrain (format {version})")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as database:
            database.row_factory = sqlite3.Row
            # A rollback journal also works on network file systems; EXTRA: a commit is on the disk, the journal gone.
            database.execute("PRAGMA synchronous = EXTRA")
            yield database

    def add(self, candidate: Mapping[str, Any], *, label: str, who: str, key: str) -> bool:
        """Keep one answer.

        Parameters
        ----------
        candidate : mapping
            ``id``, telescope, pipeline, image, candid, x, y [px, None where unknown] and ``before``, the label it
            has without the sheet.
        label : str
            True, False, unsure or withdrawn.
        who : str
            See `check_person`.
        key : str
            Of this answer: another one with the same key is not kept.

        Returns
        -------
        bool
            Whether it was new.

        Raises
        ------
        OtrainError
            An unknown label, or an unusable name or key.
        StoreError
            The file cannot be written.
        """
        if label not in (*ANSWERS, WITHDRAWN):
            raise OtrainError(f"label: one of {', '.join((*ANSWERS, WITHDRAWN))} is needed, not {label!r}")
        if not re.fullmatch(r"[\w-]{8,64}", str(key)):
            raise OtrainError("key: 8 to 64 letters or digits are needed")
        row = {name: candidate[name] for name in ("telescope", "pipeline", "image", "candid", "x", "y", "before")}
        row |= {"candidate": candidate["id"], "label": label, "who": check_person(who), "key": key}
        row["when"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        columns, places = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
        try:
            with self._open() as database:
                added = database.execute(
                    f"INSERT INTO answers ({columns}) VALUES ({places}) ON CONFLICT (key) DO NOTHING",
                    tuple(row.values()),
                )
                return added.rowcount == 1
        except _BROKEN as error:
            raise StoreError(f"{self.path}: the answer cannot be kept ({error})") from None

    def answers(self) -> list[dict[str, Any]]:
        """The answer of every person about every candidate that holds now, in the order they were given.

        Raises
        ------
        StoreError
            The file cannot be read.
        """
        try:
            with self._open() as database:
                return [dict(row) for row in database.execute(f"{_LATEST} ORDER BY number")]
        except _BROKEN as error:
            raise StoreError(f"{self.path}: the answers cannot be read ({error})") from None

    def sheet_rows(self) -> list[dict[str, Any]]:
        """Rows of the label sheet, see `otrain_core.plan.sheets.LabelRow`: every answer that holds now."""
        order = ("telescope", "pipeline", "image", "candid", "who")
        rows = sorted(self.answers(), key=lambda row: [row[name] for name in order])
        return [{name: _cell(row[name]) for name in SHEET} for row in rows]

    def write_sheet(self, file) -> int:
        """Write the label sheet to an open text file; the number of its rows."""
        rows = self.sheet_rows()
        writer = csv.DictWriter(file, SHEET, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return len(rows)


def _cell(value: Any) -> Any:
    """A value of the sheet: empty where unknown, and never a formula of a spreadsheet."""
    if isinstance(value, str):
        return guarded(value)
    return "" if value is None else value
