"""Logging and the handling of failures in the jobs of the workflow."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from otrain_core.errors import ClusterError, ImageError, MissingProgramError, OtrainError, UpstreamFailed
from otrain_core.jobs.slurm import die_with_parent

# Environment variables
KEEP_GOING = "OTRAIN_KEEP_GOING"  # set by the Snakefile under --keep-going
DISPLAYED = "OTRAIN_DISPLAYED"  # set if `otrain_core.jobs.display` shows failures: jobs then write to their logs only
RUN_MARK = "OTRAIN_RUN"  # marks all processes of a run, see `otrain_core.jobs.resume`

LEFT_OUT = "(left out of the run)"
REFUSED = Path(".snakemake", "otrain_refused")  # folder for the notes of jobs that refused their input

log = logging.getLogger("otrain")


@contextmanager
def job_logging(snakemake: Any) -> Iterator[None]:
    """Send log lines and tracebacks to the log file of the rule, and handle failures.

    A problem with the user's input is reported in one sentence. If the job processes one image and the run was started
    with ``--keep-going``, the image is left out after any error except a lack of disk space or memory: its outputs
    become failure marks, which later steps pass on and the report lists.

    Parameters
    ----------
    snakemake : snakemake.script.Snakemake
        The object that Snakemake gives to a script.
    """
    log_path = Path(snakemake.log[0]) if snakemake.log else None
    die_with_parent()
    handlers = _start_logging(log_path)
    wildcards = dict(snakemake.wildcards.items())
    try:
        with _failures_handled(snakemake, wildcards, log_path):
            yield
    finally:
        for handler in handlers[1:]:
            handler.close()


@contextmanager
def _failures_handled(snakemake: Any, wildcards: dict[str, str], log_path: Path | None) -> Iterator[None]:
    """Handle failures as described in `job_logging`, for a rule or for one of the steps of a job."""
    try:
        yield
    except (OtrainError, OSError) as error:
        image_error = _of_image(error, wildcards, log_path)
        if image_error is None:
            _stop(snakemake, wildcards, error)
        else:
            _stop_or_leave_out(snakemake, wildcards, image_error)
    except Exception as error:
        logging.getLogger("otrain").exception("rule %s failed for %s", snakemake.rule, wildcards or "this run")
        image_error = _of_image(error, wildcards, log_path)
        if image_error is None or os.environ.get(KEEP_GOING) != "1":
            raise
        _stop_or_leave_out(snakemake, wildcards, image_error)
    else:
        if "image" in wildcards:
            _failure_path(snakemake, wildcards).unlink(missing_ok=True)
        refused_path(snakemake.rule, wildcards).unlink(missing_ok=True)


@dataclass
class _Step:
    """The attributes of Snakemake's object that the handling of failures needs."""

    rule: str
    output: list[str | Path]


@contextmanager
def step_of_job(
    rule: str, outputs: Iterable[str | Path], *, wildcards: dict[str, str], log_path: str | Path | None
) -> Iterator[None]:
    """Run one of several steps within a job; its failures are handled as those of the job of a rule.

    Parameters
    ----------
    rule : str
        Name of the step.
    outputs : iterable of path-like
        Files that the step writes.
    wildcards : dict of str
        Wildcards of the rule: telescope, pipeline and image.
    log_path : path-like or None
        Log file of the job.
    """
    with _failures_handled(_Step(rule, list(outputs)), wildcards, Path(log_path) if log_path else None):
        yield


def _start_logging(log_path: Path | None) -> list[logging.Handler]:
    """Send warnings to the terminal and all lines to the log file; returns the handlers."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_path:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_path, mode="w"))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=handlers, force=True
    )
    logging.getLogger("otrain").setLevel(logging.INFO)
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every glyph that is embedded in a PDF
    handlers[0].setLevel(logging.CRITICAL if log_path and os.environ.get(DISPLAYED) else logging.WARNING)
    return handlers


def _of_image(error: Exception, wildcards: dict[str, str], log_path: Path | None) -> ImageError | None:
    """The error as one of the image of the job; None if the job has no image, or if the machine is the cause."""
    if isinstance(error, ImageError):
        return error
    machine = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
    if "image" not in wildcards or isinstance(error, OtrainError) or machine:
        return None
    first = (str(error).splitlines() or [""])[0][:200]
    where = f"; the traceback is in {log_path}" if log_path else ""
    unexpected = ImageError(
        wildcards["image"], type(error).__name__, f"{first or 'no message'} (unexpected error{where})"
    )
    unexpected.__cause__ = error
    return unexpected


def _stop(snakemake: Any, wildcards: dict[str, str], error: Exception) -> NoReturn:
    """End the job with one sentence; the traceback goes to the log file."""
    refused = isinstance(error, OtrainError)
    log.error("%s", error if refused else f"rule {snakemake.rule}: {error}")
    log.info("%s", traceback.format_exc())
    if refused and not isinstance(error, UpstreamFailed | ClusterError | MissingProgramError):
        _remember_refusal(snakemake.rule, wildcards, str(error))
    raise SystemExit(1) from None


def _stop_or_leave_out(snakemake: Any, wildcards: dict[str, str], error: ImageError) -> None:
    """End the job of a bad image or, under ``--keep-going``, write failure marks in place of its outputs."""
    _record_failure(snakemake, wildcards, error)
    if os.environ.get(KEEP_GOING) != "1":
        _stop(snakemake, wildcards, error)
    if not isinstance(error, UpstreamFailed):
        log.warning("%s %s", error, LEFT_OUT)
        log.info("%s", traceback.format_exc())
    try:
        _mark_outputs(snakemake, error)
    except OSError as full:
        _stop(snakemake, wildcards, full)


def _failure_path(snakemake: Any, wildcards: dict[str, str]) -> Path:
    from otrain_core.results import job_folder

    telescope, pipeline = wildcards.get("telescope", "-"), wildcards.get("pipeline", "sky")
    return job_folder("results", "failures", telescope, pipeline, wildcards["image"]) / f"{snakemake.rule}.json"


def _failure(error: ImageError, rule: str) -> dict[str, Any]:
    record = {"image": error.image, "key": error.key, "message": error.message, "step": rule}
    if error.__cause__ is not None:  # an unexpected error
        record["traceback"] = "".join(traceback.format_exception(error.__cause__))
    return record


def _record_failure(snakemake: Any, wildcards: dict[str, str], error: ImageError) -> None:
    from otrain_core.io import write_json

    if "image" in wildcards and not isinstance(error, UpstreamFailed):
        with suppress(OSError):  # a full disk must not cause a second traceback
            write_json(_failure_path(snakemake, wildcards), _failure(error, snakemake.rule))


def _mark_outputs(snakemake: Any, error: ImageError) -> None:
    from otrain_core.io import write_json

    for path in snakemake.output:
        write_json(path, {"otrain_failed": _failure(error, snakemake.rule)})


def refused_path(rule: str, wildcards: Mapping[str, str]) -> Path:
    """Path of the note of a job that refused its input and would refuse it again."""
    return REFUSED / ("-".join([rule, *map(str, wildcards.values())]) + ".json")


def _remember_refusal(rule: str, wildcards: dict[str, str], message: str) -> None:
    """Leave a note for `otrain_core.jobs.resume`, if the run can be resumed."""
    from otrain_core.io import write_json

    if run := os.environ.get(RUN_MARK):
        with suppress(OSError):
            REFUSED.mkdir(parents=True, exist_ok=True)
            write_json(refused_path(rule, wildcards), {"run": run, "rule": rule, "message": message})
