"""Make a project from a folder of FITS files, and say what was found, assumed and missing."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otrain_core.extensions import split_extension
from otrain_core.plan.sections import read_yaml
from otrain_core.plan.telescopes import HIPS
from otrain_core.project.fields import Field, group_fields, propose
from otrain_core.project.files import (
    CONFIG,
    TELESCOPES,
    Row,
    alone,
    data_root,
    read_sheet_rows,
    write_config,
    write_sheet,
    write_telescope,
)
from otrain_core.project.look import SOLUTIONS, Frame, frame_stem, look_at
from otrain_core.project.measure import Measured, measure
from otrain_core.project.settle import UNITS, Camera, cameras_of, settle_detector
from otrain_core.safe import safe_name

ENOUGH = 20  # science images needed to train a model and test it on separate images
CALIBRATION = 4  # number of dark or bias frames to measure

Tell = Callable[[str, int, int], None]


@dataclass
class Project:
    """What `init_project` found and wrote.

    Attributes
    ----------
    project, folder : pathlib.Path
    cameras : list of Camera
    fields : dict of str to list of Field
        Fields by telescope.
    left_out : list of Frame
        Calibration frames, copies, data products and unreadable files.
    added : int
        Number of rows added to the sheet.
    written : list of str
        Files that were created or extended, relative to the project.
    missing : list of tuple of str
        What is missing, and what to do about it ('' where there is nothing to suggest).
    science : int
        Number of science images in the sheet, old and new.
    """

    project: Path
    folder: Path
    cameras: list[Camera]
    fields: dict[str, list[Field]]
    left_out: list[Frame]
    added: int = 0
    written: list[str] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)
    science: int = 0


def init_project(folder: str | Path, project: str | Path, *, threads: int = 2, tell: Tell | None = None) -> Project:
    """Inspect a folder of FITS files and write a project, or add the new files to an existing project.

    Parameters
    ----------
    folder : path-like
        Folder of FITS files; its subfolders are searched as well.
    project : path-like
        Folder of the project, which is created where it does not exist.
    threads : int
        Number of frames to measure in parallel.
    tell : callable, optional
        Progress callback, called with a description, the number of files done and the total.

    Returns
    -------
    Project

    Raises
    ------
    ConfigError
        The folder does not exist or has no FITS file, another `otrain init` is working on the project, or rows
        cannot be added to its sheet.
    """
    folder, project = Path(folder), Path(project)
    frames = look_at(folder, project=project, threads=4 * threads, tell=_named(tell, "headers"))
    cameras = cameras_of(frames, fallback=folder.resolve().name)
    dark = [frame for kind in ("bias", "dark") for frame in frames if frame.kind == kind][:CALIBRATION]
    calibration = measure(dark, folder, threads=threads)
    found = Project(project, folder, cameras, {}, [f for f in frames if f.kind not in ("science", "stack")])
    for camera in cameras:
        measured: dict[str, Measured] = {}
        groups = group_fields(camera.science or camera.stacks, fallback=camera.name)
        for name, group in groups.items():
            measured |= measure(group, folder, threads=threads, tell=_named(tell, f"seeing of {camera.name} {name}"))
        camera.values = settle_detector(camera, measured, calibration)
        found.fields[camera.name] = [
            propose(name, group, camera.stacks, measured, alone=len(groups) == 1)
            for name, group in groups.items()
            if camera.science
        ]
    new = not project.exists()
    with alone(project):
        _write(found)
    if new and not found.written:
        with suppress(OSError):  # another process may have put files there
            project.rmdir()
    return found


def _named(tell: Tell | None, what: str) -> Callable[[int, int], None] | None:
    """A progress callback for one task, or None where there is no callback."""
    return (lambda done, total: tell(what, done, total)) if tell else None


def _write(found: Project) -> None:
    """Write the files of the project or add to them, and collect what is missing."""
    project = found.project
    root, old = data_root(project, found.folder), read_sheet_rows(project)
    known = {_place(root, row["path"]): row for row in old if row.get("path")}
    names = {(row["telescope"], row.get("image", "")) for row in old}
    before, new = [dict(row) for row in old], []
    for camera in found.cameras:
        for entry in found.fields[camera.name]:
            new += _rows(found, camera, entry, known, names, root)
    telescopes = sorted({row["telescope"] for row in [*old, *new]})
    if new or [dict(row) for row in old] != before:
        write_sheet(project, old, new)
        found.written.append("images.csv")
    for camera in found.cameras:
        if camera.name in telescopes and write_telescope(project, camera):
            found.written.append(f"{TELESCOPES}/{camera.name}.yaml")
    if telescopes and write_config(project, found.folder, telescopes):
        found.written.insert(0, CONFIG)
    found.added, found.science = len(new), sum(row.get("role") != "reference" for row in [*old, *new])
    _note_missing(found, telescopes)


def _place(root: Path, path: str) -> str:
    """Absolute path of a file without its extension in brackets, to recognise files that the sheet has."""
    return os.path.realpath(split_extension(root / path)[0])


def _rows(
    found: Project,
    camera: Camera,
    entry: Field,
    known: Mapping[str, Row],
    names: set[tuple[str, str]],
    root: Path,
) -> list[Row]:
    """New rows of the sheet for the frames of a field; fills in missing WCS files of the rows it has already."""
    frames = [(frame, "science") for frame in entry.science] + [(frame, "reference") for frame in entry.stacked]
    existing = []
    for frame, _ in frames:
        row = known.get(_place(found.folder, frame.path))
        if row is not None:
            existing.append(row)
            if frame.wcs not in ("", "header") and not row.get("wcs"):
                row["wcs"] = os.path.relpath(found.folder / frame.wcs, root)
    if not existing and not entry.complete:
        return []
    like = existing[0] if existing else None
    rows = []
    for frame, role in frames:
        if _place(found.folder, frame.path) in known:
            continue
        row = {"telescope": like["telescope"] if like else camera.name, "role": "science" if like else role}
        row["image"] = _free_name(frame, row["telescope"], names)
        row["path"] = os.path.relpath(found.folder / frame.path, root)
        if frame.wcs not in ("", "header"):
            row["wcs"] = os.path.relpath(found.folder / frame.wcs, root)
        if like:
            row |= {key: like[key] for key in ("field", "reference") if like.get(key)}
        elif entry.reference and not entry.stacked:
            survey = entry.reference.startswith(HIPS)
            row["reference"] = entry.reference if survey else os.path.relpath(found.folder / entry.reference, root)
        else:
            row["field"] = entry.name
        rows.append(row)
    return rows


def _free_name(frame: Frame, telescope: str, names: set[tuple[str, str]]) -> str:
    """Name of an image: that of its file, preceded by its folder and followed by a number where the name is taken."""
    path = frame.path.removesuffix("[*]")
    stem = frame_stem(path)
    plain = safe_name(stem, fallback="image")
    longer = safe_name(f"{Path(path).parent.name}-{stem}", fallback="image")
    choices = [plain, longer, *(f"{longer}-{k}" for k in range(2, 10_000))]
    name = next(choice for choice in choices if (telescope, choice) not in names)
    names.add((telescope, name))
    return name


def _note_missing(found: Project, telescopes: Sequence[str]) -> None:
    """Fill `found.missing`."""
    folder, project = found.folder, found.project
    here, there, solutions = (shlex.quote(str(path)) for path in (folder, project, project / SOLUTIONS))
    for camera in [camera for camera in found.cameras if camera.science]:
        for value in camera.values:
            if value.state != "missing":
                continue
            remedy = f"set {value.key} in {project / TELESCOPES / camera.name}.yaml"
            if value.key == "WCS":
                remedy = f"otrain solve {here} -o {solutions} && otrain init {here} -o {there}"
            found.missing.append(
                (f"{camera.name}: {value.key}: {value.because}", remedy if value.key != "time" else "")
            )
        for entry in found.fields[camera.name]:
            if not entry.complete:
                found.missing.append((f"{camera.name}: field {entry.name}: {entry.because}", ""))
    if (project / CONFIG).is_file() and CONFIG not in found.written:
        cubes = (read_yaml(project / CONFIG).get("run") or {}).get("cubes") or []
        for name in telescopes:
            if not any(str(cube).split("/")[0] == name for cube in cubes):
                found.missing.append((f"{name} is not in run.cubes", f'add "{name}/builtin" to {project / CONFIG}'))
    for camera in found.cameras:
        if patterns := sorted({frame.bayer for frame in [*camera.science, *camera.stacks] if frame.bayer}):
            problem = (
                f"{camera.name}: frames of a colour camera (BAYERPAT {', '.join(patterns)}): neighbouring pixels record "
                "different colours"
            )
            remedy = "extract one colour first (Siril: seqextract_Green), then run otrain init on the extracted frames"
            found.missing.append((problem, remedy))
    raw = [camera for camera in found.cameras if camera.science and not any(f.calibrated for f in camera.science)]
    if raw and any(frame.kind in ("dark", "flat") for frame in found.left_out):
        problem = "the frames do not look calibrated, although the folder has darks or flats"
        remedy = "calibrate them first (Siril, AstroImageJ, ccdproc); results from uncalibrated frames are worse"
        found.missing.append((problem, remedy))


def init_text(found: Project) -> str:
    """Report of what was found, assumed, left out and missing, and the commands to run next."""
    lines: list[str] = []
    for camera in found.cameras:
        lines.append(f"{camera.name}: {len(camera.science)} science images, {len(camera.stacks)} stacked images")
        if not camera.science:
            continue
        for value in camera.values:
            if value.state != "missing":
                text = f"{value.value:g}" if isinstance(value.value, float) else str(value.value)
                text += f" {UNITS[value.key]}" if value.key in UNITS else ""
                lines.append(f"  {value.state:<8} {value.key:<12} {text}: {value.because}")
        for entry in found.fields[camera.name]:
            if entry.complete:
                source = f"stacked from {len(entry.stacked)} frames" if entry.stacked else entry.reference
                lines.append(
                    f"  field    {entry.name:<12} {len(entry.science)} images; reference {source}: {entry.because}"
                )
    if found.left_out:
        lines += ["left out:", *_left_out(found.left_out)]
    if found.missing:
        lines.append("missing:")
        for what, remedy in found.missing:
            lines += [f"  {what}", *([f"    {remedy}"] if remedy else [])]
    if found.written:
        files = ", ".join(found.written)
        lines.append(f"written: {found.project}: {files} ({found.added} rows added)")
    else:
        lines.append(f"written: nothing; {found.project} is up to date" if found.science else "written: nothing")
    return "\n".join([*lines, *_next(found)])


def _left_out(frames: Sequence[Frame]) -> list[str]:
    """One line per kind and reason, with the first file as an example."""
    groups = Counter((frame.kind, _short(frame.why)) for frame in frames)
    lines = []
    for (kind, why), n in sorted(groups.items()):
        first = next(frame for frame in frames if (frame.kind, _short(frame.why)) == (kind, why))
        lines.append(f"  {n:4d} {kind} ({first.why if n == 1 else why}): {first.path}{', ...' * (n > 1)}")
    return lines[:12] + ([f"  and {len(lines) - 12} more kinds"] if len(lines) > 12 else [])


def _short(why: str) -> str:
    """A reason without the name of the other file, so that equal reasons are counted together."""
    return " ".join(why.split()[:3]) if why.startswith(("a copy of", "the same exposure")) else why


def _next(found: Project) -> list[str]:
    """The commands to run next; with few images the shipped model comes first."""
    if not found.science:
        return ["next: no image can be searched or used for training yet"]
    enter = f"cd {shlex.quote(str(found.project))} && "
    train = f"{enter}otrain run {CONFIG}"
    if found.science >= ENOUGH:
        return [f"next, cost of a run:        {enter}otrain plan {CONFIG}", f"next, train your own model: {train}"]
    return [
        f"next, use the shipped model:  {enter}otrain search {CONFIG} -o tonight",
        f"later, train your own model:  {train}   ({found.science} images are too few to measure how good it is)",
    ]


def init_record(found: Project) -> dict[str, Any]:
    """The report of `init_text` as a dictionary, for --json."""
    return {
        "project": str(found.project),
        "telescopes": {
            camera.name: {
                "values": [value.__dict__ for value in camera.values],
                "fields": [
                    {
                        "name": entry.name,
                        "science": [frame.path for frame in entry.science],
                        "stacked": [frame.path for frame in entry.stacked],
                        "reference": entry.reference,
                        "because": entry.because,
                    }
                    for entry in found.fields[camera.name]
                ],
            }
            for camera in found.cameras
        },
        "left_out": [{"path": frame.path, "kind": frame.kind, "why": frame.why} for frame in found.left_out],
        "missing": [{"what": what, "mend": remedy} for what, remedy in found.missing],
        "written": found.written,
        "added": found.added,
        "science": found.science,
    }
