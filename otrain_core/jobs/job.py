"""What every job of the workflow shares: its log, its failures, its provenance."""

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

KEEP_GOING = "OTRAIN_KEEP_GOING"  # set by the Snakefile under --keep-going
DISPLAYED = (
    "OTRAIN_DISPLAYED"  # set while `otrain_core.jobs.display` tells of failures: jobs then write to their log alone
)
LEFT_OUT = "(left out of the run)"
RUN_MARK = "OTRAIN_RUN"  # in the environment of all that a run starts, see `otrain_core.jobs.resume`
REFUSED = Path(".snakemake", "otrain_refused")  # notes of jobs that refused their input

log = logging.getLogger("otrain")


@contextmanager
def job_logging(snakemake: Any) -> Iterator[None]:
    """Send log lines and uncaught tracebacks to the rule's log file.

    A problem with the user's input is told in one sentence. If the job belongs to
    one image and the run was started with ``--keep-going``, the image is left out,
    whatever its step met (but for a machine out of disk or memory): its outputs become
    failure marks that later steps pass on and the report lists.
    """
    log_path = Path(snakemake.log[0]) if snakemake.log else None
    die_with_parent()
    handlers = _start_logging(log_path)
    wildcards = dict(snakemake.wildcards.items())
    try:
        with _failures_told(snakemake, wildcards, log_path):
            yield
    finally:
        for handler in handlers[1:]:
            handler.close()


@contextmanager
def _failures_told(snakemake: Any, wildcards: dict[str, str], log_path: Path | None) -> Iterator[None]:
    """What `job_logging` does with a failure, for a rule or for one of the steps that a job runs."""
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
    """What the handling of failures reads of Snakemake's object."""

    rule: str
    output: list[str | Path]


@contextmanager
def step_of_job(
    rule: str, outputs: Iterable[str | Path], *, wildcards: dict[str, str], log_path: str | Path | None
) -> Iterator[None]:
    """Run one of several steps within a job: its failures are told and marked as if it were the job of a rule.

    Parameters
    ----------
    rule : str
        Name of the step.
    outputs : iterable of path-like
        Files that it writes.
    wildcards : dict of str
        As of the rule: telescope, pipeline, image.
    log_path : path-like or None
        Log of the job.
    """
    with _failures_told(_Step(rule, list(outputs)), wildcards, Path(log_path) if log_path else None):
        yield


def _start_logging(log_path: Path | None) -> list[logging.Handler]:
    """Warnings to the terminal, all lines to the log file; the handlers."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_path:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_path, mode="w"))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=handlers, force=True
    )
    logging.getLogger("otrain").setLevel(logging.INFO)
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells every glyph that a PDF embeds
    handlers[0].setLevel(logging.CRITICAL if log_path and os.environ.get(DISPLAYED) else logging.WARNING)
    return handlers


def _of_image(error: Exception, wildcards: dict[str, str], log_path: Path | None) -> ImageError | None:
    """What a job met as an error of its image; None where it is not of one image, or of the machine and not of it."""
    if isinstance(error, ImageError):
        return error
    machine = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
    if "image" not in wildcards or isinstance(error, OtrainError) or machine:
        return None
    first = (str(error).splitlines() or [""])[0][:200]
    where = f"; the traceback is in {log_path}" if log_path else ""
    unforeseen = ImageError(wildcards["image"], type(error).__name__, f"{first or 'no message'} (not foreseen{where})")
    unforeseen.__cause__ = error
    return unforeseen


def _stop(snakemake: Any, wildcards: dict[str, str], error: Exception) -> NoReturn:
    """End the job with one sentence; the traceback goes to the log file."""
    refused = isinstance(error, OtrainError)
    log.error("%s", error if refused else f"rule {snakemake.rule}: {error}")
    log.info("%s", traceback.format_exc())
    if refused and not isinstance(error, UpstreamFailed | ClusterError | MissingProgramError):
        _remember_refusal(snakemake.rule, wildcards, str(error))
    raise SystemExit(1) from None


def _stop_or_leave_out(snakemake: Any, wildcards: dict[str, str], error: ImageError) -> None:
    """End the job of a bad image or, under ``--keep-going``, put failure marks in place of its outputs."""
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
    if error.__cause__ is not None:  # what nothing foresaw
        record["traceback"] = "".join(traceback.format_exception(error.__cause__))
    return record


def _record_failure(snakemake: Any, wildcards: dict[str, str], error: ImageError) -> None:
    from otrain_core.io import write_json

    if "image" in wildcards and not isinstance(error, UpstreamFailed):
        with suppress(OSError):  # a full disk is no reason for a second traceback
            write_json(_failure_path(snakemake, wildcards), _failure(error, snakemake.rule))


def _mark_outputs(snakemake: Any, error: ImageError) -> None:
    from otrain_core.io import write_json

    for path in snakemake.output:
        write_json(path, {"otrain_failed": _failure(error, snakemake.rule)})


def refused_path(rule: str, wildcards: Mapping[str, str]) -> Path:
    """Where a job notes that it refused its input, so that it would refuse it again."""
    return REFUSED / ("-".join([rule, *map(str, wildcards.values())]) + ".json")


def _remember_refusal(rule: str, wildcards: dict[str, str], message: str) -> None:
    """Leave a note for `otrain_core.jobs.resume`, where the run is one that can be gone on with."""
    from otrain_core.io import write_json

    if run := os.environ.get(RUN_MARK):
        with suppress(OSError):
            REFUSED.mkdir(parents=True, exist_ok=True)
            write_json(refused_path(rule, wildcards), {"run": run, "rule": rule, "message": message})
