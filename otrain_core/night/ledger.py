"""The ledger of a night: an SQLite file that records each image once, by its content, and the detections in it."""

from __future__ import annotations

import fcntl
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.errors import OtrainError
from otrain_core.io import shown

_VERSION, _APPLICATION = 3, 0x0712A2  # in the header of the file
_SCHEMA = f"""
CREATE TABLE images (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  digest TEXT NOT NULL UNIQUE,  -- SHA-256 of the file: a copy with another name is the same image
  name TEXT NOT NULL UNIQUE, path TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('working', 'done', 'refused')),
  reason TEXT NOT NULL DEFAULT '', night TEXT NOT NULL DEFAULT '', record TEXT NOT NULL DEFAULT '{{}}',
  tries INTEGER NOT NULL DEFAULT 0, "when" TEXT NOT NULL
);
CREATE TABLE objects (number INTEGER PRIMARY KEY AUTOINCREMENT, ra REAL, dec REAL, night TEXT NOT NULL);
CREATE TABLE detections (
  image INTEGER NOT NULL REFERENCES images (number), candid TEXT NOT NULL,
  object INTEGER REFERENCES objects (number),
  x REAL NOT NULL, y REAL NOT NULL, ra REAL, dec REAL, mag REAL, magerr REAL, snr REAL, probability REAL,
  real INTEGER NOT NULL, undecided INTEGER NOT NULL, sign INTEGER NOT NULL,
  reason TEXT NOT NULL, time TEXT NOT NULL, more TEXT NOT NULL,  -- JSON: the other columns of the table
  PRIMARY KEY (image, candid)
);
CREATE INDEX of_object ON detections (object);
CREATE INDEX of_night ON objects (night);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
"""
# Added without a new version: programs that do not know these can still use the file.
_ADDED = """
CREATE INDEX IF NOT EXISTS of_place ON detections (x, y);
CREATE TABLE IF NOT EXISTS ended (night TEXT PRIMARY KEY, image INTEGER NOT NULL)  -- the last image included in its tables
"""
_AROUND = """
SELECT rowid FROM detections WHERE image = :image
UNION SELECT o.rowid FROM detections m JOIN detections o ON o.object = m.object WHERE m.image = :image
UNION SELECT o.rowid FROM detections m JOIN detections o ON o.x BETWEEN m.x - :pixels AND m.x + :pixels
  AND o.y BETWEEN m.y - :pixels AND m.y + :pixels WHERE m.image = :image
"""
COLUMNS = (
    "candid",
    "x",
    "y",
    "ra",
    "dec",
    "mag",
    "magerr",
    "snr",
    "probability",
    "real",
    "undecided",
    "sign",
    "reason",
    "time",
)


class Ledger:
    """The ledger of a folder of nights.

    Call `begin` before the files of an image are written and `finish` when all of them exist. One transaction records
    the image and its detections. An image that was begun but never finished (kill -9, a full disk) is begun again.

    Parameters
    ----------
    path : path-like
        Created if it does not exist.

    Raises
    ------
    OtrainError
        The file is not a ledger, has another version, or cannot be written.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._begun: set[str] = set()  # digests begun by this process: waiting for a full disk is not another try
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._base = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._base.close()
                raise
        except sqlite3.Error as error:
            raise OtrainError(f"{self.path}: not a ledger of nights, or it cannot be written ({error})") from None

    def _open(self) -> None:
        self._base.row_factory = sqlite3.Row
        self._base.execute("PRAGMA journal_mode = WAL")
        self._base.execute("PRAGMA synchronous = FULL")
        (application,) = self._base.execute("PRAGMA application_id").fetchone()
        (version,) = self._base.execute("PRAGMA user_version").fetchone()
        (tables,) = self._base.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables:
            with self._transaction():
                for statement in _SCHEMA.split(";\n"):
                    self._base.execute(statement)
        elif application != _APPLICATION:
            raise OtrainError(f"{self.path}: not a ledger of nights")
        elif version != _VERSION:
            raise OtrainError(
                f"{self.path}: a ledger of version {version}, but this O'TRAIN reads version {_VERSION}; "
                "choose a new output folder (-o)"
            )
        for statement in _ADDED.split(";\n"):
            self._base.execute(statement)

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._base.execute("COMMIT")
        except BaseException:
            if self._base.in_transaction:  # SQLite ends it itself when the disk is full
                self._base.execute("ROLLBACK")
            raise

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise OtrainError(f"{self.path}: cannot be written ({error})") from None

    def status(self, digest: str) -> str | None:
        """``working``, ``done`` or ``refused``; None for an image that was never begun."""
        row = self._base.execute("SELECT status FROM images WHERE digest = ?", (digest,)).fetchone()
        return row["status"] if row else None

    def begin(self, digest: str, *, path: str, name: str) -> tuple[int, str] | None:
        """Record that work on an image begins.

        Parameters
        ----------
        digest : str
            SHA-256 of the file.
        path : str
        name : str
            A number is appended if another image has this name.

        Returns
        -------
        tuple of int and str, or None
            Number and name of the image; None if the image is done or was refused.
        """
        now = _now()
        with self._named_errors(), self._transaction():
            row = self._base.execute("SELECT * FROM images WHERE digest = ?", (digest,)).fetchone()
            if row is not None and row["status"] != "working":
                return None
            if row is not None:
                tries = row["tries"] + (digest not in self._begun)
                self._base.execute(
                    'UPDATE images SET tries = ?, "when" = ? WHERE number = ?', (tries, now, row["number"])
                )
                self._begun.add(digest)
                return int(row["number"]), str(row["name"])
            free, count = name, 1
            while self._base.execute("SELECT 1 FROM images WHERE name = ?", (free,)).fetchone():
                count += 1
                free = f"{name}_{count}"
            cursor = self._base.execute(
                "INSERT INTO images (digest, name, path, status, tries, \"when\") VALUES (?, ?, ?, 'working', 1, ?)",
                (digest, free, shown(path), now),
            )
            self._begun.add(digest)
            return int(cursor.lastrowid or 0), free

    def tries(self, number: int) -> int:
        """Number of processes that have begun an image."""
        return int(self._base.execute("SELECT tries FROM images WHERE number = ?", (number,)).fetchone()["tries"])

    def refuse(self, number: int, reason: str, *, kind: str = "") -> None:
        """Record that an image cannot be used, and why; `kind` is the type of a frame without sky (dark, bias, flat)."""
        record = json.dumps({"kind": kind} if kind else {})
        with self._named_errors(), self._transaction():
            self._base.execute(
                "UPDATE images SET status = 'refused', reason = ?, record = ?, \"when\" = ? WHERE number = ?",
                (shown(reason), record, _now(), number),
            )

    @contextmanager
    def finish(
        self, number: int, *, night: str, record: Mapping[str, Any], table: Mapping[str, np.ndarray], radius: float
    ) -> Iterator[None]:
        """Record that an image is done, with its detections; after an error inside the context it is still unfinished.

        A detection is assigned to the nearest object of the same night within `radius`, at most one detection per
        object. Every other detection with a sky position becomes a new object.

        Parameters
        ----------
        number : int
            As returned by `begin`.
        night : str
            YYYY-MM-DD.
        record : mapping
            Values that JSON can hold.
        table : mapping of arrays
            `COLUMNS`, (N,); other columns are kept as well. A missing number is stored as NULL.
        radius : float
            [arcsec]; with NaN no object is made.
        """
        more = [name for name in table if name not in COLUMNS]
        with self._named_errors(), self._transaction():
            self._base.execute(
                "UPDATE images SET status = 'done', night = ?, record = ?, \"when\" = ? WHERE number = ?",
                (night, json.dumps(record), _now(), number),
            )
            objects = self._associate(night, np.asarray(table["ra"], float), np.asarray(table["dec"], float), radius)
            marks = ", ".join("?" * (len(COLUMNS) + 3))
            for k, found in enumerate(objects):
                values = [_plain(table[name][k]) for name in COLUMNS]
                other = json.dumps({name: _plain(table[name][k]) for name in more})
                self._base.execute(
                    f"INSERT INTO detections (image, object, {', '.join(COLUMNS)}, more) VALUES ({marks})",
                    (number, found, *values, other),
                )
            yield

    def _associate(self, night: str, ra: np.ndarray, dec: np.ndarray, radius: float) -> list[int | None]:
        from otrain_core.cubes.footprints import axes, unit_vectors
        from otrain_core.positions import match_one_to_one

        rows = self._base.execute("SELECT number, ra, dec FROM objects WHERE night = ?", (night,)).fetchall()
        known = np.isfinite(ra) & np.isfinite(dec) & np.isfinite(radius)
        objects: list[int | None] = [None] * len(ra)
        if known.any() and rows:
            # The tangent plane at the first position is accurate enough for the field of one image.
            here = unit_vectors(ra[known], dec[known])
            there = unit_vectors(np.array([row["ra"] for row in rows]), np.array([row["dec"] for row in rows]))
            east, north = axes(here[0])
            near = there @ here[0] > 0.9
            flat = [vectors @ axis for vectors in (here, there[near]) for axis in (east, north)]
            partner, _ = match_one_to_one(*flat, radius=np.radians(radius / 3600))
            numbers = np.array([row["number"] for row in rows])[near]
            for k, index in zip(np.flatnonzero(known), partner, strict=True):
                objects[k] = int(numbers[index]) if index >= 0 else None
        for k in np.flatnonzero(known):
            if objects[k] is None:
                cursor = self._base.execute(
                    "INSERT INTO objects (ra, dec, night) VALUES (?, ?, ?)", (float(ra[k]), float(dec[k]), night)
                )
                objects[k] = cursor.lastrowid
        return objects

    def nights(self) -> list[dict[str, Any]]:
        """Each night with its numbers of images, of candidates and of those called real; latest night first."""
        rows = self._base.execute(
            "SELECT i.night, count(DISTINCT i.number) AS images, count(d.candid) AS candidates, "
            "coalesce(sum(d.real AND NOT d.undecided), 0) AS real FROM images i LEFT JOIN detections d ON d.image = i.number "
            "WHERE i.status = 'done' GROUP BY i.night ORDER BY i.night DESC"
        )
        return [dict(row) for row in rows]

    def open_nights(self) -> list[str]:
        """Nights with an image that was added after their last `end`."""
        rows = self._base.execute(
            "SELECT i.night FROM images i LEFT JOIN ended e ON e.night = i.night WHERE i.status = 'done' "
            "GROUP BY i.night HAVING max(i.number) > coalesce(max(e.image), 0) ORDER BY i.night"
        )
        return [row["night"] for row in rows]

    def end(self, night: str) -> None:
        """Record that the tables of a night include all of its images."""
        with self._named_errors(), self._transaction():
            self._base.execute(
                "INSERT OR REPLACE INTO ended SELECT night, max(number) FROM images WHERE night = ? GROUP BY night",
                (night,),
            )

    def count(self, night: str) -> int:
        """Number of images of a night; the empty name counts the images that were refused."""
        status = "done" if night else "refused"
        row = self._base.execute("SELECT count(*) AS n FROM images WHERE night = ? AND status = ?", (night, status))
        return int(row.fetchone()["n"])

    def images(self, night: str | None = None) -> list[dict[str, Any]]:
        """Images of a night, or all images, in the order of arrival, with their records."""
        rows = self._base.execute(
            "SELECT * FROM images WHERE ? IS NULL OR night = ? ORDER BY number", (night, night)
        ).fetchall()
        return [dict(row) | {"record": json.loads(row["record"])} for row in rows]

    def detections(
        self, night: str, *, around: int | None = None, pixels: float = 0.0, plain: bool = False
    ) -> list[dict[str, Any]]:
        """Detections of a night with their image and the first position of their object, sorted by object and time.

        Parameters
        ----------
        night : str
        around : int, optional
            Number of an image. Only its detections are returned, the other detections of their objects, and those at
            most `pixels` away in x and in y on the detector.
        pixels : float
            [px]
        plain : bool
            Leave the columns beyond `COLUMNS` as JSON in ``more`` (see `with_more`): parsing it takes most of the time.

        Returns
        -------
        list of dict
            snr and probability are NaN where unknown, other missing values None.
        """
        chosen = "" if around is None else f"AND d.rowid IN ({_AROUND})"
        rows = self._base.execute(
            "SELECT d.*, i.name AS image_name, o.ra AS object_ra, o.dec AS object_dec FROM detections d "
            "JOIN images i ON i.number = d.image LEFT JOIN objects o ON o.number = d.object "
            f"WHERE i.night = :night AND i.status = 'done' {chosen} ORDER BY d.object, d.time, d.image",
            {"night": night, "image": around, "pixels": pixels},
        )
        items = [dict(row) if plain else with_more(dict(row)) for row in rows]
        for item in items:
            item |= {name: np.nan for name in ("snr", "probability") if item[name] is None}
        return items


def with_more(item: Mapping[str, Any]) -> dict[str, Any]:
    """A detection read with `plain`, with the columns beyond `COLUMNS` added."""
    return json.loads(item["more"]) | dict(item)


@contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Lock a folder of nights for this process.

    Raises
    ------
    OtrainError
        Another process holds the lock, or the file system has no locks.
    """
    path = Path(folder, ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OtrainError(f"{folder}: another otrain night works on this folder") from None
        except OSError as error:  # SQLite needs locks, too
            raise OtrainError(
                f"{folder}: cannot be locked ({error.strerror}); choose an output folder (-o) on a file system with locks"
            ) from None
        yield


def _plain(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return str(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
