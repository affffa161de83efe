"""The verbs of a project: ``init``, ``example``, ``solve``, ``plan`` and ``run``, and ``search`` of all images of a project."""

from __future__ import annotations

import copy
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from otrain_core.errors import ConfigError, OtrainError

Outcome = tuple[int, Any, str]


def init(arguments: Namespace) -> Outcome:
    """Write a project for a folder of FITS files; status 1 where nothing can be searched or trained."""
    from otrain_core.project.init import init_project, init_record, init_text

    folder = Path(arguments.folder)
    project = Path(arguments.output or f"{folder.resolve().name}-otrain")
    quiet = arguments.quiet or not sys.stderr.isatty()
    found = init_project(folder, project, threads=arguments.threads, tell=None if quiet else _bar)
    return int(not found.science), init_record(found), init_text(found)


def _bar(what: str, done: int, total: int) -> None:
    """One line that grows, on a terminal."""
    filled = 30 * done // max(total, 1)
    end = "\r\033[K" if done == total else ""
    print(f"\r\033[K{what[:40]:<40} [{'#' * filled}{'.' * (30 - filled)}] {done}/{total}", end=end, file=sys.stderr)
    sys.stderr.flush()


def example(arguments: Namespace) -> Outcome:
    """Write simulated frames."""
    from otrain_core.project.example import write_example

    paths = write_example(arguments.folder, frames=arguments.frames, wcs=arguments.wcs, seed=arguments.seed)
    text = f"{arguments.folder}: {len(paths) - 1} simulated FITS files; next: otrain init {arguments.folder}"
    return 0, {"folder": arguments.folder, "files": [str(path) for path in paths]}, text


def solve(arguments: Namespace) -> Outcome:
    """Write WCS headers; status 1 where a frame is not solved."""
    from otrain_core.project.solve import solve_frames

    quiet = arguments.quiet or not sys.stderr.isatty()
    found = solve_frames(
        arguments.paths,
        output=arguments.output,
        scale=arguments.scale,
        seconds=arguments.seconds,
        threads=arguments.threads,
        tell=None if quiet else _bar,
    )
    lost = [item for item in found if item["reason"]]
    lines = [f"{item['path']}: {item['reason'] or item['wcs']}" for item in found]
    lines.append(f"{len(found) - len(lost)} of {len(found)} frames without a WCS are solved")
    return int(bool(lost)), found, "\n".join(lines)


def snakefile() -> Path:
    """The Snakefile of the clone that this package belongs to.

    Raises
    ------
    OtrainError
        The package was installed without a clone.
    """
    path = Path(__file__).parents[2] / "workflow" / "Snakefile"
    if not path.is_file():
        raise OtrainError(
            "the workflow is not part of the installed package: get a clone of the project, and make setup"
        )
    return path


def plan(arguments: Namespace) -> Outcome:
    """Say what a run will cost and be enough for."""
    from otrain_core.project.costs import plan_record, plan_run, plan_text

    snakefile()
    found = plan_run(arguments.config, results=arguments.results)
    return 0, plan_record(found), plan_text(found, arguments.config)


def run(arguments: Namespace) -> Outcome:
    """Become Snakemake, with the options of ``make demo``."""
    from otrain_core.plan.run import Run

    path = snakefile()
    Run.from_files(arguments.config)  # a wrong key is told in one sentence
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(path), "--cores", str(arguments.cores or "all")]
    command += ["--scheduler", "greedy", "--scheduler-subsample", "20", "--rerun-incomplete"]
    command += ["--keep-going"] * arguments.keep_going
    command += ["--configfile", *arguments.config, *(["--", *arguments.target] if arguments.target else [])]
    sys.stdout.flush()
    os.execv(sys.executable, command)


def search_project(arguments: Namespace) -> Outcome:
    """Search all images of a project, with its references and detectors; see `otrain_core.cli.search.search`."""
    from otrain_core.cli.search import search
    from otrain_core.io import write_json
    from otrain_core.plan.run import Run

    if arguments.reference or arguments.stack or arguments.survey or arguments.wcs:
        raise ConfigError("a project has its own references: --reference, --stack, --survey and --wcs are for images")
    project = Run.from_files(arguments.science)
    done, lines = 0, []
    images: list[Any] = []
    refused: list[Any] = []
    for telescope in project.used_telescopes():
        if project.telescopes[telescope].source != "images":
            raise ConfigError(f"telescope {telescope}: search takes the images of a sheet (source images)")
        for group in _groups(project, telescope, Path(arguments.output)):
            own = copy.copy(arguments)
            own.detector = project.telescopes[telescope].detector
            own.science, own.wcs = group["science"], group["wcs"]
            own.reference, own.survey = group["reference"], group["survey"]
            status, record, text = search(own)
            done, images, refused = max(done, status), images + record["images"], refused + record["refused"]
            lines.append(text)
    record = record | {"images": images, "refused": refused}
    write_json(Path(arguments.output, "search.json"), record)
    return done, record, "\n".join(filter(None, lines))


def _groups(project: Any, telescope: str, output: Path) -> list[dict[str, Any]]:
    """Science images that have one reference and one WCS file, or none; stacks are made in OUTPUT/references, once."""
    inputs = project.inputs
    groups: dict[tuple[str | None, str, str | None], list[str]] = {}
    stack = _stacker(project, telescope, output)
    for image in inputs.images(telescope):
        survey, row = inputs.hips(telescope, image), inputs.sheet[telescope][image]
        reference = None if survey else inputs.reference(telescope, image) if row.reference else stack(row.field)
        key = (reference, survey, inputs.wcs(telescope, image))
        groups.setdefault(key, []).append(inputs.science(telescope, image))
    return [
        {"reference": reference, "survey": survey or None, "wcs": wcs, "science": paths}
        for (reference, survey, wcs), paths in groups.items()
    ]


def _stacker(project: Any, telescope: str, output: Path) -> Callable[[str], str]:
    from otrain_core.sky.reference import reference_files

    def stack(field: str) -> str:
        path = output / "references" / f"{telescope}-{field}.fits"
        frames = project.inputs.reference_frames(telescope, field)
        newest = max((os.path.getmtime(frame) for frame in frames if Path(frame).is_file()), default=0.0)
        if not path.is_file() or os.path.getmtime(path) < newest:
            path.parent.mkdir(parents=True, exist_ok=True)
            reference_files(
                frames=frames,
                wcs=project.inputs.reference_wcs(telescope, field),
                reference=path,
                record=path.with_suffix(".json"),
                detector=project.telescopes[telescope].detector,
                field=field,
            )
        return str(path)

    return stack
