"""Reader of sheets: CSV in any common encoding and with any common separator, and Excel workbooks."""

from __future__ import annotations

import codecs
import csv
import io
import zipfile
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from otrain_core.errors import ConfigError

SEPARATORS = ",;\t|"
MAX_BYTES = 200_000_000  # more than a sheet of a million rows
WORKBOOK = b"PK\x03\x04"  # first bytes of a ZIP archive, such as an Excel workbook
OLD_WORKBOOK = b"\xd0\xcf\x11\xe0"  # first bytes of a workbook of Excel before 2007

Row = tuple[int, dict[str, str]]


def read_rows(path: str | Path, columns: Collection[str] | None = None) -> list[Row]:
    """Read the rows of a sheet as text, with their line numbers.

    Cells are separated by commas, semicolons, tabs or vertical bars. The encoding is UTF-8, UTF-16 (with a byte order
    mark) or, if it is neither, Windows-1252. In a workbook (.xlsx) the first worksheet is read. Lines that begin with #,
    empty rows and empty cells are skipped. Decimal commas are not converted.

    Parameters
    ----------
    path : path-like
    columns : collection of str, optional
        Columns that the sheet may have (default: any).

    Returns
    -------
    list of tuple
        Line number, from 1, and the cells by column.

    Raises
    ------
    ConfigError
        The file is missing or is not a sheet, a column is unknown or a duplicate, or a row does not have as many cells
        as the header.
    """
    return read_sheet(path, columns)[1]


def read_sheet(path: str | Path, columns: Collection[str] | None = None) -> tuple[list[str], list[Row]]:
    """Read the column names of a sheet, and its rows as `read_rows` does.

    Raises
    ------
    ConfigError
        See `read_rows`.
    """
    path = Path(path)
    table = _workbook(path) if _begins_with(path, WORKBOOK) else _text_rows(path)
    table = [(line, cells) for line, cells in table if any(cells) and not cells[0].startswith("#")]
    if not table:
        raise ConfigError(f"sheet {path}: empty; the first line must have the names of the columns")
    (_, header), rows = table[0], table[1:]
    while not header[-1]:
        header = header[:-1]
    for name in header:
        if header.count(name) > 1:
            raise ConfigError(f"sheet {path}: {name or '(no name)'}: this column appears twice")
        if columns is not None and name not in columns:
            from otrain_core.plan.sections import near_name

            raise ConfigError(f"sheet {path}: {name or '(no name)'}: unknown column{near_name(name, columns)}")
    found = []
    for line, cells in rows:
        if len(cells) < len(header) or any(cells[len(header) :]):
            raise ConfigError(f"sheet {path}, row {line}: must have as many cells as the header has columns")
        found.append((line, {name: cell for name, cell in zip(header, cells, strict=False) if cell}))
    return header, found


def _begins_with(path: Path, mark: bytes) -> bool:
    if not path.exists():
        raise ConfigError(f"sheet {path}: no such file")
    if not path.is_file():  # a folder, or a named pipe that would block
        raise ConfigError(f"sheet {path}: not a file")
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"sheet {path}: larger than {MAX_BYTES // 1_000_000} MB; this is not a sheet")
    try:
        with open(path, "rb") as file:
            return file.read(len(mark)) == mark
    except OSError as error:
        raise ConfigError(f"sheet {path}: {(error.strerror or str(error)).lower()}") from None


def _text_rows(path: Path) -> list[tuple[int, list[str]]]:
    text = _decoded(path)
    first, _, rest = text.partition("\n")
    skipped = 0
    if first.lower().startswith("sep=") and len(first.strip()) == 5:  # how Excel declares the separator
        separator, text, skipped = first.strip()[-1], rest, 1
    else:
        header = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
        separator = max(SEPARATORS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        return [(reader.line_num + skipped, [cell.strip() for cell in cells]) for cells in reader if cells]
    except csv.Error as error:
        raise ConfigError(f"sheet {path}: not a sheet of cells ({error})") from None


def _decoded(path: Path) -> str:
    raw = path.read_bytes()
    if raw.startswith(OLD_WORKBOOK):
        raise ConfigError(f"sheet {path}: a workbook in the old format (.xls); save it as .xlsx or as CSV")
    utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for coding in ("utf-16",) if utf16 else ("utf-8-sig", "cp1252"):
        try:
            text = raw.decode(coding)
            break
        except UnicodeDecodeError:
            continue
    else:
        raise ConfigError(f"sheet {path}: not a text file (UTF-8, UTF-16 or Windows-1252)")
    if "\0" in text:
        raise ConfigError(f"sheet {path}: not a text file, but a binary one")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _workbook(path: Path) -> list[tuple[int, list[str]]]:
    """Line numbers and cells of the first worksheet."""
    import openpyxl

    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise ConfigError(f"sheet {path}: its content is larger than {MAX_BYTES // 1_000_000} MB")
        with closing(openpyxl.load_workbook(path, read_only=True, data_only=True)) as book:
            rows = [
                (line, [_cell(value) for value in values])
                for line, values in enumerate(book.worksheets[0].iter_rows(values_only=True), start=1)
            ]
    except ConfigError:
        raise
    except Exception as error:  # openpyxl raises many types of errors for a damaged file
        raise ConfigError(
            f"sheet {path}: not a readable workbook (.xlsx); save it as CSV ({type(error).__name__})"
        ) from None
    return [(line, cells) for line, cells in rows if cells]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():  # workbooks may store 7 as 7.0
        return str(int(value))
    return str(value).strip()
