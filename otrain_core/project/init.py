"""A project made from a folder of FITS files: what is found, assumed and missing."""

from __future__ import annotations

import os
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
from otrain_core.project.look import SOLUTIONS, Frame, look_at
from otrain_core.project.measure import Measured, measure
from otrain_core.project.settle import UNITS, Camera, cameras_of, settle_detector
from otrain_core.safe import safe_name

ENOUGH = 20  # science images from which a model of one's own can be tested on images of its own
CALIBRATION = 4  # dark or bias frames that are measured

Tell = Callable[[str, int, int], None]


@dataclass
class Project:
    """What `init_project` found and wrote.

    Attributes
    ----------
    project, folder : pathlib.Path
    cameras : list of Camera
    fields : dict
        Fields by telescope.
    left_out : list of Frame
        Frames that are not of the sky, copies, and files that cannot be read.
    added : int
        Rows added to the sheet.
    written : list of str
        Files that were written or got rows, relative to the working directory.
    missing : list of tuple
        What is missing, and what mends it.
    science : int
        Science images of the sheet, old and new.
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
    """Look at a folder and write a project, or add to one what is new in the folder.

    Parameters
    ----------
    folder, project : path-like
    threads : int
    tell : callable, optional
        Called with what is done, the number that is done and that of all.

    Raises
    ------
    ConfigError
        No folder, no FITS file in it, another run at work, or a sheet that cannot be added to.
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
        with suppress(OSError):  # it is not empty
            project.rmdir()
    return found


def _named(tell: Tell | None, what: str) -> Callable[[int, int], None] | None:
    return (lambda done, total: tell(what, done, total)) if tell else None


def _write(found: Project) -> None:
    """Write or add to the files of the project, and note what is missing."""
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
    return os.path.realpath(split_extension(root / path)[0])


def _rows(
    found: Project,
    camera: Camera,
    entry: Field,
    known: Mapping[str, Row],
    names: set[tuple[str, str]],
    root: Path,
) -> list[Row]:
    """Rows of the frames of a field that the sheet lacks; known ones get a WCS file where they have none."""
    frames = [(frame, "science") for frame in entry.science] + [(frame, "reference") for frame in entry.stacked]
    theirs = []
    for frame, _ in frames:
        row = known.get(_place(found.folder, frame.path))
        if row is not None:
            theirs.append(row)
            if frame.wcs not in ("", "header") and not row.get("wcs"):
                row["wcs"] = os.path.relpath(found.folder / frame.wcs, root)
    if not theirs and not entry.complete:
        return []
    like = theirs[0] if theirs else None
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
    """Name of an image, of its file; with that of its folder, or a number, where another has it."""
    path = Path(frame.path.removesuffix("[*]"))
    stem = path.name.split(".fit")[0].split(".FIT")[0].split(".fts")[0]
    plain = safe_name(stem, fallback="image")
    longer = safe_name(f"{path.parent.name}-{stem}", fallback="image")
    choices = [plain, longer, *(f"{longer}-{k}" for k in range(2, 10_000))]
    name = next(choice for choice in choices if (telescope, choice) not in names)
    names.add((telescope, name))
    return name


def _note_missing(found: Project, telescopes: Sequence[str]) -> None:
    folder, project = found.folder, found.project
    for camera in [camera for camera in found.cameras if camera.science]:
        for value in camera.values:
            if value.state != "missing":
                continue
            mend = f"correct {project / TELESCOPES / camera.name}.yaml"
            if value.key == "WCS":
                mend = f"otrain solve {folder} -o {project / SOLUTIONS} && otrain init {folder} -o {project}"
            found.missing.append((f"{camera.name}: {value.key}: {value.because}", mend if value.key != "time" else ""))
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
            told = f"{camera.name}: frames of a colour camera (BAYERPAT {', '.join(patterns)}): pixels side by side see other colours"
            found.missing.append(
                (told, "extract one colour first (Siril: seqextract_Green), and run otrain init on these")
            )
    raw = [camera for camera in found.cameras if camera.science and not any(f.calibrated for f in camera.science)]
    if raw and any(frame.kind in ("dark", "flat") for frame in found.left_out):
        told = "the frames do not look calibrated, and darks or flats are beside them"
        found.missing.append(
            (told, "calibrate them first (Siril, AstroImageJ, ccdproc); uncalibrated ones work less well")
        )


def init_text(found: Project) -> str:
    """What was found, assumed and left out, what is missing, and the line to go on with."""
    lines: list[str] = []
    for camera in found.cameras:
        lines.append(f"{camera.name}: {len(camera.science)} images of the sky, {len(camera.stacks)} stacks of images")
        if not camera.science:
            continue
        for value in camera.values:
            if value.state != "missing":
                said = f"{value.value:g}" if isinstance(value.value, float) else str(value.value)
                said += f" {UNITS[value.key]}" if value.key in UNITS else ""
                lines.append(f"  {value.state:<8} {value.key:<12} {said}: {value.because}")
        for entry in found.fields[camera.name]:
            if entry.complete:
                made = f"stacked from {len(entry.stacked)}" if entry.stacked else entry.reference
                lines.append(
                    f"  field    {entry.name:<12} {len(entry.science)} images; reference {made}: {entry.because}"
                )
    if found.left_out:
        lines += ["left out:", *_left_out(found.left_out)]
    if found.missing:
        lines.append("missing:")
        for what, mend in found.missing:
            lines += [f"  {what}", *([f"    {mend}"] if mend else [])]
    if found.written:
        files = ", ".join(found.written)
        lines.append(f"written: {found.project}: {files} ({found.added} rows added)")
    else:
        lines.append(f"written: nothing; {found.project} has all of it" if found.science else "written: nothing")
    return "\n".join([*lines, *_next(found)])


def _left_out(frames: Sequence[Frame]) -> list[str]:
    """One line for each kind and reason, with the first file as the example."""
    groups = Counter((frame.kind, _short(frame.why)) for frame in frames)
    lines = []
    for (kind, why), n in sorted(groups.items()):
        first = next(frame for frame in frames if (frame.kind, _short(frame.why)) == (kind, why))
        lines.append(f"  {n:4d} {kind} ({first.why if n == 1 else why}): {first.path}{', ...' * (n > 1)}")
    return lines[:12] + ([f"  and {len(lines) - 12} more kinds"] if len(lines) > 12 else [])


def _short(why: str) -> str:
    return " ".join(why.split()[:3]) if why.startswith(("a copy of", "the same exposure")) else why


def _next(found: Project) -> list[str]:
    """The commands to go on with: with few images the shipped model first."""
    if not found.science:
        return ["next: nothing can be searched or trained yet"]
    enter = f"cd {found.project} && "
    train = f"{enter}otrain run {CONFIG}"
    if found.science >= ENOUGH:
        return [f"next, what a run costs:   {enter}otrain plan {CONFIG}", f"next, train your own:     {train}"]
    return [
        f"next, with the shipped model:  {enter}otrain search {CONFIG} -o tonight",
        f"later, train your own:         {train}   ({found.science} images: too few to say how good it is)",
    ]


def init_record(found: Project) -> dict[str, Any]:
    """The same for --json."""
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
        "missing": [{"what": what, "mend": mend} for what, mend in found.missing],
        "written": found.written,
        "added": found.added,
        "science": found.science,
    }
