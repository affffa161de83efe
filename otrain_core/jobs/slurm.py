"""What the workflow asks Slurm itself: its own jobs in the queue, and whether the profile fits the cluster."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from otrain_core.errors import ClusterError

PROFILE = "workflow/profiles/slurm/config.yaml"
# Snakemake names all jobs of a run by one UUID, behind an optional prefix.
_RUN_NAME = re.compile(r"(.+_)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
IN_JOB = "SLURM_JOB_ID"  # in the environment of all processes of a job
_PR_SET_PDEATHSIG = 1  # of prctl(2)
_AT_ONCE = 500  # jobs cancelled by one command


class Job(NamedTuple):
    """One job in the queue: its number, and its state in Slurm's words (PENDING, RUNNING, COMPLETING...)."""

    number: str
    state: str


def is_here() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("squeue") is not None


def die_with_parent() -> None:
    """Within a job of Slurm: end this process when the one that started it ends, also when it is stopped.

    Where Slurm tracks processes by their parents and not by cgroups, one whose parent was killed first is out of its
    reach: it would go on, or stay suspended, for ever. Linux alone has this; elsewhere nothing happens.
    """
    if IN_JOB not in os.environ or not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended in between
        os.kill(os.getpid(), signal.SIGKILL)


def _ask(*command: str) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"{command[0]}: {error}") from None
    if result.returncode != 0:
        raise ClusterError(f"{command[0]}: {result.stderr.strip() or f'ended with {result.returncode}'}")
    return result.stdout


def jobs_of(folder: str | Path) -> list[Job]:
    """Jobs of Snakemake in the queue, waiting, running or ending, that work in `folder`.

    Raises
    ------
    ClusterError
        Slurm does not answer: nothing is known about its jobs.
    """
    listing = _ask("squeue", "--noheader", "--user", str(os.getuid()), "--format", "%i|%T|%j|%Z")
    folder = Path(folder).resolve()
    jobs = []
    for line in listing.splitlines():
        number, state, name, place = line.strip().split("|", 3)
        if _RUN_NAME.fullmatch(name) and Path(place).resolve() == folder:
            jobs.append(Job(number, state))
    return jobs


def cancel(jobs: Iterable[Job]) -> None:
    """Cancel jobs; those that have ended meanwhile are no error."""
    numbers = [job.number for job in jobs]
    for start in range(0, len(numbers), _AT_ONCE):
        _ask("scancel", "--quiet", *numbers[start : start + _AT_ONCE])


def wait_until_gone(folder: str | Path, *, limit: float | None, pause: float = 1.0) -> None:
    """Wait until no job of `folder` is in the queue.

    Parameters
    ----------
    folder : path-like
    limit, pause : float
        Seconds, in all (None: for ever) and between two questions.

    Raises
    ------
    ClusterError
        Jobs are still there.
    """
    end = None if limit is None else time.monotonic() + limit
    while jobs := jobs_of(folder):
        if end is not None and time.monotonic() > end:
            names = ", ".join(f"{job.number} ({job.state})" for job in jobs[:10])
            raise ClusterError(f"{len(jobs)} jobs are still in the queue after {limit:.0f} s: {names}")
        time.sleep(pause)


def check_profile(partitions: Iterable[str], *, status_command: str | None) -> None:
    """Refuse what would only show after every job was rejected, or never.

    Parameters
    ----------
    partitions : iterable of str
        That jobs of this run ask for.
    status_command : {'sacct', 'squeue'} or None
        What Snakemake will ask for the states of jobs.

    Raises
    ------
    ClusterError
        A partition that the cluster does not have, or no accounting where ``sacct`` is to be asked.
    """
    known = [name.rstrip("*") for name in _ask("sinfo", "--all", "--noheader", "--format", "%R").split()]
    unknown = sorted({name for text in partitions for name in str(text).split(",")} - set(known))
    if unknown:
        raise ClusterError(
            f"{PROFILE}: slurm_partition: this cluster has no partition {', '.join(unknown)}; "
            f"it has {', '.join(dict.fromkeys(known))}"
        )
    if status_command == "sacct":
        try:
            _ask("sacct", "--noheader", "--starttime", "now", "--format", "JobID")
        except ClusterError as error:
            raise ClusterError(
                f"{PROFILE}: slurm-status-command: set it to squeue; "
                f"this cluster has no accounting that would tell when a job has ended ({error})"
            ) from None
