"""The verbs ``init``, ``example``, ``solve``, ``plan`` and ``run``, and ``search`` for all images of a project."""

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
    """Write a project for a folder of FITS files; status 1 if there is no image to search or train on."""
    from otrain_core.project.init import init_project, init_record, init_text

    folder = Path(arguments.folder)
    project = Path(arguments.output or f"{folder.resolve().name}-otrain")
    quiet = arguments.quiet or not sys.stderr.isatty()
    found = init_project(folder, project, threads=arguments.threads, tell=None if quiet else _bar)
    return int(not found.science), init_record(found), init_text(found)


def _bar(what: str, done: int, total: int) -> None:
    """Draw a progress bar on the terminal."""
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
    """Write WCS headers; status 1 if a frame is not solved."""
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
    lines.append(f"{len(found) - len(lost)} of {len(found)} frames without a WCS were solved")
    return int(bool(lost)), found, "\n".join(lines)


def snakefile() -> Path:
    """Path of the Snakefile in the clone of this package.

    Raises
    ------
    OtrainError
        The package is installed without a clone.
    """
    path = Path(__file__).parents[2] / "workflow" / "Snakefile"
    if not path.is_file():
        raise OtrainError(
            "the workflow is not part of the installed package; clone the repository of O'TRAIN and run make setup there"
        )
    return path


def plan(arguments: Namespace) -> Outcome:
    """Estimate the cost of a run and what its data will allow."""
    from otrain_core.project.costs import plan_record, plan_run, plan_text

    snakefile()
    found = plan_run(arguments.config, results=arguments.results)
    return 0, plan_record(found), plan_text(found, arguments.config)


def run(arguments: Namespace) -> Outcome:
    """Replace this process by Snakemake, with the options of ``make demo``."""
    from otrain_core.plan.run import Run

    path = snakefile()
    Run.from_files(arguments.config)  # reports a wrong key in one sentence, without the output of Snakemake
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(path), "--cores", str(arguments.cores or "all")]
    command += ["--scheduler", "greedy", "--scheduler-subsample", "20", "--rerun-incomplete"]
    command += ["--keep-going"] * arguments.keep_going
    command += ["--configfile", *arguments.config, *(["--", *arguments.target] if arguments.target else [])]
    sys.stdout.flush()
    os.execv(sys.executable, command)


def search_project(arguments: Namespace) -> Outcome:
    """Search all images of a project, with its references and detectors; see `otrain_core.cli.search.search`."""
    from otrain_core.cli.search import search
    from otrain_core.plan.run import Run

    if arguments.reference or arguments.stack or arguments.survey or arguments.wcs:
        raise ConfigError(
            "--reference, --stack, --survey and --wcs cannot be used with a project, whose sheet of images names them"
        )
    project = Run.from_files(arguments.science)
    telescopes = project.used_telescopes()
    if not telescopes:
        raise ConfigError(f"{' + '.join(arguments.science)}: run.cubes: empty; name the telescopes to search")
    for telescope in telescopes:
        if project.telescopes[telescope].source != "images":
            raise ConfigError(f"telescope {telescope}: source: must be images, as search needs a sheet of images")
    worst, lines = 0, []
    images: list[Any] = []
    refused: list[Any] = []
    for telescope in telescopes:
        own = copy.copy(arguments)
        own.detector = project.telescopes[telescope].detector
        own.output = str(Path(arguments.output, telescope)) if len(telescopes) > 1 else arguments.output
        own.by_image, lost = _by_image(own, project, telescope)
        own.science = list(own.by_image)
        status, record, text = search(own)
        worst = max(worst, status, int(bool(lost)))
        images, refused = images + record["images"], refused + record["refused"] + lost
        lines.append(text)
    return worst, record | {"images": images, "refused": refused}, "\n".join(filter(None, lines))


def _by_image(arguments: Namespace, project: Any, telescope: str) -> tuple[dict[str, Namespace], list[dict[str, str]]]:
    """The arguments of each science image, with its reference and WCS; and the images whose reference cannot be made.

    Each reference is stacked once, in OUTPUT/references.
    """
    inputs, found, lost = project.inputs, {}, []
    stack = _stacker(project, telescope, Path(arguments.output))
    for image in inputs.images(telescope):
        one, row, path = copy.copy(arguments), inputs.sheet[telescope][image], inputs.science(telescope, image)
        one.survey, one.wcs = inputs.hips(telescope, image) or None, inputs.wcs(telescope, image)
        try:
            if not one.survey:
                one.reference = inputs.reference(telescope, image) if row.reference else stack(row.field)
        except OtrainError as error:
            lost.append({"science": path, "image": image, "reason": str(error)})
            print(f"{path}: {error} (refused)", file=sys.stderr)
        else:
            found[path] = one
    return found, lost


def _stacker(project: Any, telescope: str, output: Path) -> Callable[[str], str]:
    from otrain_core.sky.reference import reference_files

    failed: dict[str, OtrainError] = {}  # a failed stack is not tried again for the next image of its field

    def stack(field: str) -> str:
        if field in failed:
            raise failed[field]
        path = output / "references" / f"{telescope}-{field}.fits"
        frames = project.inputs.reference_frames(telescope, field)
        newest = max((os.path.getmtime(frame) for frame in frames if Path(frame).is_file()), default=0.0)
        if not path.is_file() or os.path.getmtime(path) < newest:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                reference_files(
                    frames=frames,
                    wcs=project.inputs.reference_wcs(telescope, field),
                    reference=path,
                    record=path.with_suffix(".json"),
                    detector=project.telescopes[telescope].detector,
                    field=field,
                )
            except OtrainError as error:
                failed[field] = error
                raise
        return str(path)

    return stack
