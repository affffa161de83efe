"""Reading and writing images and tables, with errors that name the file and the key."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.errors import FileError, UpstreamFailed, first_line, is_full

if TYPE_CHECKING:  # steps that read no table start without pandas
    import pandas as pd


# What a spreadsheet takes for a formula, also behind quotes that keep it from doing so.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
FAILED_MARK = b'{\n "otrain_failed"'  # as `write_json` begins the file


def raise_if_failed(path: str | Path) -> None:
    """Raise if an earlier step left a failure mark in place of this file.

    Raises
    ------
    UpstreamFailed
        With the image, key and message of the first failure.
    FileError
        Not a regular file: a named pipe, of which reading would wait for ever, a device or a folder.
    FileNotFoundError
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise FileError(f"{shown(path)}: not a regular file")
    with open(path, "rb") as file:
        if file.read(len(FAILED_MARK)) != FAILED_MARK:
            return
    try:
        record = json.loads(Path(path).read_text())["otrain_failed"]
        failed = UpstreamFailed(record["image"], record["key"], record["message"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise FileError(f"{shown(path)}: the mark of a failed image, and damaged") from None
    raise failed


@contextmanager
def truncation_told() -> Iterator[None]:
    """For readers of FITS files that tell of a truncated one themselves: astropy's own warning of it is silent within."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="File may have been truncated")
        yield


def shown(path: str | Path) -> str:
    """A path as text that can be printed and stored: bytes of its name that are not UTF-8 are written as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block ends without error.

    A link stays, and what it points to is written. What is there and no regular file (a device such as /dev/null, a
    named pipe) is never replaced: the content is written into it.

    Raises
    ------
    FileError
        `path` is a folder.
    OSError
        Of a read-only folder or a full disk, with `path` as its file, whatever the block met it as.
    """
    path = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    if path.is_dir():
        raise FileError(f"{shown(path)}: a folder, where a file is to be written")
    special = path.exists() and not path.is_file()
    folder = Path(tempfile.gettempdir()) if special else path.parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(dir=folder, prefix=f".{path.stem[:40]}.", suffix=path.suffix)
    except OSError as error:  # a read-only folder: a user knows the file by its own name
        raise OSError(error.errno, error.strerror, shown(path)) from error
    os.close(handle)
    try:
        yield Path(name)
        if special:
            with open(name, "rb") as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target)
            return
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except Exception as error:
        if is_full(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), shown(path)) from error
        raise
    finally:
        Path(name).unlink(missing_ok=True)


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table as CSV (missing values empty, floats with nine digits)."""
    table = table.copy()
    for name in table.columns[table.dtypes.map(lambda kind: kind.kind == "f")]:  # float_format takes ten times as long
        table[name] = ["" if x != x else f"{x:.9g}" for x in table[name].tolist()]
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def read_table(path: str | Path, *, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a table written by `write_table`, or some of its columns; text columns keep empty strings.

    Raises
    ------
    UpstreamFailed
        The file marks the failure of an earlier step of its image.
    FileError
        Not a table, or a column is missing.
    """
    import pandas as pd

    raise_if_failed(path)
    try:
        table = pd.read_csv(
            path,
            usecols=columns,
            dtype={"candid": str, "image": str, "filter": str, "time": str, "reason": str, "kind": str},
        )
    except (ValueError, OverflowError) as error:  # pandas' own errors and those of the encoding are ValueErrors
        raise FileError(f"{shown(path)}: not a readable table ({first_line(error)})") from None
    for column in table.columns[table.dtypes.map(pd.api.types.is_string_dtype)]:
        table[column] = table[column].fillna("")
    return table


def write_json(path: str | Path, record: dict[str, Any] | list[Any]) -> None:
    """Write a record as JSON; NaN and infinities become null."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(plain_values(record), indent=1, allow_nan=False) + "\n")


def plain_values(value: Any) -> Any:
    """A record as JSON can hold it: NumPy values as Python's, NaN and infinities as None."""
    if isinstance(value, dict):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain_values(value.tolist())
    if isinstance(value, np.generic):
        return plain_values(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def read_json(path: str | Path) -> Any:
    """Read a JSON record.

    Raises
    ------
    UpstreamFailed
        The file marks the failure of an earlier step of its image.
    FileError
        Not JSON, or nested too deeply.
    """
    raise_if_failed(path)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileError(f"{shown(path)}: not readable JSON ({first_line(error)})") from None
    except RecursionError:
        raise FileError(f"{shown(path)}: JSON that is nested too deeply") from None


def digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def guarded(text: str) -> str:
    """A text for a cell of a table: a quote is put before what a spreadsheet would take for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(text: str) -> str:
    """The text that `guarded` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
