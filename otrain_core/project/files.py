"""The files of a project: configuration, telescopes and the sheet of images.

Existing files are never overwritten; new rows are appended to the sheet.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from otrain_core.errors import ConfigError
from otrain_core.io import atomic, shown
from otrain_core.plan.sections import read_yaml
from otrain_core.plan.sheets import ImageRow
from otrain_core.plan.spreadsheets import SEPARATORS, read_sheet
from otrain_core.project.settle import UNITS, Camera

CONFIG, SHEET, TELESCOPES = "config.yaml", "images.csv", "telescopes"
COLUMNS = ("telescope", "image", "path", "role", "field", "reference", "wcs")
DETECTOR = ("pixel_scale", "gain", "read_noise", "saturation", "filter")  # keys that a telescope file may have

Row = dict[str, str]


@contextmanager
def alone(project: Path) -> Iterator[None]:
    """Lock a project, so that two runs cannot change it at the same time.

    Raises
    ------
    ConfigError
        Another run has the lock.
    """
    project.mkdir(parents=True, exist_ok=True)
    handle = os.open(project, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{shown(project)}: another otrain init is working on this project") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def data_root(project: Path, folder: Path) -> Path:
    """Folder to which paths in the sheet are relative: `data_root` of the configuration, or else the given folder."""
    if (project / CONFIG).is_file():
        return project / str(read_yaml(project / CONFIG).get("data_root", "."))
    return folder


def read_sheet_rows(project: Path) -> list[Row]:
    """Rows of the sheet of a project; empty where it has no sheet yet.

    Raises
    ------
    ConfigError
        The sheet cannot be read.
    """
    if not (project / SHEET).is_file():
        return []
    _, rows = read_sheet(project / SHEET, ImageRow.model_fields)
    return [cells for _, cells in rows]


def write_sheet(project: Path, old: Sequence[Row], new: Sequence[Row]) -> None:
    """Write the sheet, or append rows to it; comments and the format of an existing sheet are kept.

    Parameters
    ----------
    project : pathlib.Path
    old : sequence of dict
        Rows of the existing sheet, as from `read_sheet_rows`, possibly with changed cells.
    new : sequence of dict
        Rows to append.

    Raises
    ------
    ConfigError
        The sheet is not a CSV file in UTF-8, or lacks a column that the rows need.
    """
    path = project / SHEET
    if not path.is_file():
        text = _csv([dict(zip(COLUMNS, COLUMNS, strict=True)), *new], COLUMNS, ",")
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return
    columns, lines = read_sheet(path, ImageRow.model_fields)
    lacking = {key for row in new for key, value in row.items() if value} - set(columns)
    if lacking:
        raise ConfigError(
            f"{shown(path)}: rows cannot be added because the sheet has no column {', '.join(sorted(lacking))}; add it"
        )
    try:
        kept = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ConfigError(f"{shown(path)}: rows can be added only to a CSV file in UTF-8; convert the sheet") from None
    first = next(line for line in kept if line.strip() and not line.startswith("#"))
    separator = max(SEPARATORS, key=first.count)
    for (number, before), after in zip(lines, old, strict=True):
        if before != after:
            kept[number - 1] = _csv([after], columns, separator).rstrip("\n")
    with atomic(path) as temporary:
        temporary.write_text("\n".join(kept) + "\n" + _csv(new, columns, separator), encoding="utf-8")


def _csv(rows: Sequence[Row], columns: Sequence[str], separator: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerows([row.get(column, "") for column in columns] for row in rows)
    return text.getvalue()


def write_telescope(project: Path, camera: Camera) -> Path | None:
    """Write the file of a telescope, with the reason for each value; None if the file exists."""
    path = project / TELESCOPES / f"{camera.name}.yaml"
    if path.exists():
        return None
    lines = [
        f"# {camera.name}: written by otrain init, which never overwrites this file. Check the assumed values.",
        "detector:",
    ]
    for value in camera.values:
        if value.key not in DETECTOR or value.value is None or (value.key == "filter" and "," in str(value.value)):
            continue
        shown_value = json.dumps(value.value, ensure_ascii=False)
        unit = f" [{UNITS[value.key]}]" if value.key in UNITS else ""
        if value.state == "assumed":
            reason = json.dumps(value.because, ensure_ascii=False)
            lines.append(
                f"  {value.key}: {{assumed: {shown_value}, because: {reason}}}{f' # {unit.strip()}' * bool(unit)}"
            )
        else:
            lines.append(f"  {value.key}: {shown_value} #{unit} {value.because}")
    with atomic(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_config(project: Path, folder: Path, telescopes: Sequence[str]) -> Path | None:
    """Write the configuration of a run over all telescopes; None if the file exists."""
    path = project / CONFIG
    if path.exists():
        return None
    root = os.path.relpath(folder.resolve(), project.resolve())
    cubes = ", ".join(json.dumps(f"{name}/builtin") for name in telescopes)
    text = f"""# Written by otrain init, which never overwrites this file. Paths are relative to this folder.
telescope_folder: {TELESCOPES}
images: {SHEET}
data_root: {json.dumps(root, ensure_ascii=False)}
run:
  cubes: [{cubes}]
  experiments: [otrain2]
pipelines:
  builtin:
    detect: {{threshold: auto}} # a fixed threshold gives few candidates in clean images
"""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
