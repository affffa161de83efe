"""Direct use of Slurm: the jobs of the workflow in the queue, and a check of the profile against the cluster."""

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
# The name of all jobs of one run of Snakemake is a UUID with an optional prefix.
_RUN_NAME = re.compile(r"(.+_)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
IN_JOB = "SLURM_JOB_ID"  # environment variable of all processes of a job
_PR_SET_PDEATHSIG = 1  # option of prctl(2)
_AT_ONCE = 500  # maximum number of jobs cancelled by one command


class Job(NamedTuple):
    """One job in the queue: its number, and its state as named by Slurm (PENDING, RUNNING, COMPLETING, ...)."""

    number: str
    state: str


def is_here() -> bool:
    """Whether this machine has the commands of Slurm."""
    return shutil.which("squeue") is not None


def die_with_parent() -> None:
    """Within a job of Slurm, let the system kill this process when its parent ends, even if it is suspended.

    If Slurm tracks processes by their parents and not with cgroups, it loses a process whose parent was killed first;
    the process would then run, or stay suspended, for ever. This works on Linux only; elsewhere nothing happens.
    """
    if IN_JOB not in os.environ or not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended in the meantime
        os.kill(os.getpid(), signal.SIGKILL)


def _ask(*command: str) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"{command[0]}: {error}") from None
    if result.returncode != 0:
        raise ClusterError(f"{command[0]}: {result.stderr.strip() or f'exit status {result.returncode}'}")
    return result.stdout


def jobs_of(folder: str | Path) -> list[Job]:
    """Jobs of Snakemake in the queue, in any state, whose working directory is `folder`.

    Raises
    ------
    ClusterError
        Slurm does not answer.
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
    """Cancel jobs; jobs that have ended in the meantime are not an error."""
    numbers = [job.number for job in jobs]
    for start in range(0, len(numbers), _AT_ONCE):
        _ask("scancel", "--quiet", *numbers[start : start + _AT_ONCE])


def wait_until_gone(folder: str | Path, *, limit: float | None, pause: float = 1.0) -> None:
    """Wait until no job of `folder` is in the queue.

    Parameters
    ----------
    folder : path-like
    limit, pause : float
        Maximum waiting time (None: no limit) and time between two queries [s].

    Raises
    ------
    ClusterError
        Jobs are still in the queue after `limit`.
    """
    end = None if limit is None else time.monotonic() + limit
    while jobs := jobs_of(folder):
        if end is not None and time.monotonic() > end:
            names = ", ".join(f"{job.number} ({job.state})" for job in jobs[:10])
            raise ClusterError(f"{len(jobs)} jobs are still in the queue after {limit:.0f} s: {names}")
        time.sleep(pause)


def check_profile(partitions: Iterable[str], *, status_command: str | None) -> None:
    """Check the profile before the first job; otherwise all jobs would be rejected, or never be seen to end.

    Parameters
    ----------
    partitions : iterable of str
        Partitions that the jobs of this run ask for.
    status_command : {'sacct', 'squeue'} or None
        Command that Snakemake will use to query the states of jobs.

    Raises
    ------
    ClusterError
        The cluster lacks a partition, or it lacks the accounting that ``sacct`` needs.
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
                f"{PROFILE}: slurm-status-command: set it to squeue, "
                f"as this cluster has no accounting that sacct could query ({error})"
            ) from None
