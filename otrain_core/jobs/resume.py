"""Go on with a run whose process has died, without a second writer on any file.

Snakemake's own process, the head, leaves a note of its command in ``.snakemake`` when it starts. When it
is killed, what it started lives on: jobs in Slurm's queue, and processes of this machine. Unlocking and
starting again at once would then write the same files twice. ``make resume`` (``python -m
otrain_core.jobs.resume``) stops what lives on, waits until it is gone, unlocks, and starts the same command
with ``--rerun-incomplete``; what had finished is not done again.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from otrain_core.errors import ClusterError, OtrainError
from otrain_core.jobs import slurm
from otrain_core.jobs.job import REFUSED
from otrain_core.jobs.job import RUN_MARK as MARK

RECORD = Path(".snakemake", "otrain_run.json")
SHOWN = 5  # refusals of jobs that are told
PATIENCE = 120.0  # seconds for jobs and processes to end once they were told to


def read_note() -> dict[str, Any] | None:
    """The note of the last run in this folder that has not finished, or None.

    Raises
    ------
    ClusterError
        It is damaged: nothing is known about processes and jobs that may still be at work.
    """
    from otrain_core.io import read_json

    if not RECORD.is_file():
        return None
    try:
        note = dict(read_json(RECORD))
        if missing := {"arguments", "typed_in", "executor", "host", "pid", "started", "mark"} - set(note):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    except (TypeError, ValueError) as error:
        raise ClusterError(
            f"{RECORD}: the note of the last run is damaged ({error}); see that nothing of it is at work, and delete it"
        ) from None
    return note


def head_lives(note: Mapping[str, Any]) -> bool | None:
    """Whether the process that left the note is still there; None where it ran on another machine."""
    if note["host"] != platform.node():
        return None
    try:
        process = psutil.Process(note["pid"])
        same = abs(process.create_time() - note["started"]) < 5  # else the number was given to another process
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def left_processes(note: Mapping[str, Any], *, of_jobs: bool = False) -> list[psutil.Process]:
    """Processes of this machine that the run started and that outlived it.

    Slurm looks after those of its jobs while they are in the queue; what escaped it then is found with `of_jobs`.
    """
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:  # gone, or another user's
            continue
        mine = environment.get(MARK) == note["mark"] and process.pid != os.getpid()
        if mine and (of_jobs or slurm.IN_JOB not in environment):
            found.append(process)
    return found


def start(workflow: Any) -> None:
    """What a run does before its first job: `check_before_start`, `otrain_core.jobs.slurm.check_profile`, `remember`.

    Parameters
    ----------
    workflow : snakemake.workflow.Workflow

    Raises
    ------
    ClusterError
    """
    executor = workflow.executor_plugin.name
    check_before_start(executor=executor)
    if executor == "slurm":
        jobs = {job.rule.name: job for job in workflow.dag.needrun_jobs() if not job.is_local}  # one of each rule
        partitions = {job.resources.get("slurm_partition") for job in jobs.values()} - {None}
        slurm.check_profile(partitions, status_command=workflow.executor_settings.status_command)
    remember(executor=executor)


def check_before_start(*, executor: str) -> None:
    """Refuse to start beside a living run on Slurm, or beside what a dead one left at work.

    Raises
    ------
    ClusterError
        With the command that helps.
    """
    note = read_note()
    alive = note is not None and head_lives(note)
    on_slurm = executor == "slurm" or (note is not None and note["executor"] == "slurm" and slurm.is_here())
    if on_slurm and note and alive:
        raise ClusterError(f"process {note['pid']} is at work in this folder: {_command(note)}")
    if on_slurm and (jobs := slurm.jobs_of(".")):
        raise ClusterError(f"{len(jobs)} jobs of an earlier run are in the queue and write here; {_advice()}")
    if note and not alive and (left := left_processes(note)):
        raise ClusterError(f"{len(left)} processes of an earlier run still write here; {_advice()}")


def remember(*, executor: str) -> None:
    """Leave the note of this run, unless that of a living one is there, and mark all that it will start."""
    from otrain_core.io import write_json

    mark = str(uuid.uuid4())
    os.environ |= {MARK: mark}
    before = read_note()
    if before and head_lives(before) and before["pid"] != os.getpid():
        return
    arguments = [text for text in sys.argv[1:] if text != "--rerun-incomplete"]
    # Where the command was typed: with --directory, Snakemake has changed to another folder meanwhile.
    moved = any(text == "-d" or text.startswith("--dir") for text in arguments)
    note = {
        "arguments": arguments,
        "typed_in": os.environ.get("PWD", os.getcwd()) if moved else os.getcwd(),
        "executor": executor,
        "host": platform.node(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "mark": mark,
    }
    write_json(RECORD, note)
    shutil.rmtree(REFUSED, ignore_errors=True)
    if executor == "slurm":
        print(f"If this process dies, its jobs live on: {_advice()}", file=sys.stderr)


def forget() -> None:
    """The run has finished: there is nothing to go on with."""
    RECORD.unlink(missing_ok=True)


def ended() -> str:
    """The run has ended by itself, with failures: what helps to go on, in words for the terminal."""
    from otrain_core.io import write_json

    try:
        note = read_note()
    except ClusterError as error:
        return str(error)
    if note is None or note["pid"] != os.getpid():
        return ""
    with suppress(OSError):  # a full disk: the run can be gone on with all the same
        write_json(RECORD, note | {"ended": True})
    return _what_refused(note) or f"`{_resume_command()}` tries again what is missing."


def refusals(note: Mapping[str, Any]) -> list[str]:
    """What jobs of a run refused in their input, and would refuse again; sorted."""
    from otrain_core.io import read_json

    found = []
    for path in sorted(REFUSED.glob("*.json")):
        with suppress(OSError, ValueError):
            record = read_json(path)
            if record["run"] == note["mark"]:
                found.append(f"rule {record['rule']}: {record['message']}")
    return found


def _what_refused(note: Mapping[str, Any]) -> str:
    """Sentences about the refusals of a run; '' where there are none."""
    found = refusals(note)
    if not found:
        return ""
    lines = [*found[:SHOWN], *([f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])]
    advice = f"The same input fails again. Mend it and start anew: {_command(note)}"
    if any(": image " in text for text in found):  # recorded only where bad images are not left out
        option = " KEEP_GOING=1" if _resume_command().startswith("make") else " --keep-going"
        advice += f"\nOr leave bad images out: `{_resume_command()}{option}`"
    return "\n".join([*lines, advice])


def explain_lock() -> None:
    """Let Snakemake's refusal of a locked folder say what to do here."""
    import snakemake.exceptions

    class Locked(snakemake.exceptions.WorkflowError):
        def __init__(self) -> None:
            super().__init__(_why_locked() or str(original()))

    original = snakemake.exceptions.LockException
    if original.__name__ != Locked.__name__:
        snakemake.exceptions.LockException = Locked


def _why_locked() -> str:
    try:
        note = read_note()
    except ClusterError as error:
        return str(error)
    if note is None:
        return ""
    alive = head_lives(note)
    if alive:
        return f"process {note['pid']} is at work in this folder: {_command(note)}"
    if alive is None:
        return (
            f"a run was started in this folder on {note['host']} and has not ended: `{_resume_command()}` there goes on"
        )
    return f"an earlier run in this folder was killed: {_advice()}"


def _command(note: Mapping[str, Any]) -> str:
    return shlex.join(["snakemake", *note["arguments"]])


def _advice() -> str:
    return f"`{_resume_command()}` stops what is left of it and goes on"


def _resume_command() -> str:
    here = Path.cwd()
    clone = here == Path(__file__).resolve().parents[2]
    return "make resume" if clone else f"python -m otrain_core.jobs.resume --directory {shlex.quote(str(here))}"


@contextmanager
def _alone() -> Iterator[None]:
    with open(RECORD.with_suffix(".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however that ends
        except BlockingIOError:
            raise ClusterError("another `make resume` is at work in this folder") from None
        except OSError:
            pass  # a file system without locks
        yield


def stop_what_is_left(note: Mapping[str, Any], *, wait: bool = False) -> None:
    """Stop the processes and cancel the jobs that outlived their run, and see them gone.

    Parameters
    ----------
    note : mapping
    wait : bool
        Let jobs end by themselves, however long they take.

    Raises
    ------
    ClusterError
        Some are still there, or Slurm does not answer.
    """
    _stop_processes(left_processes(note))  # first, so that none of them submits a job any more
    if note["executor"] != "slurm":
        return
    if jobs := slurm.jobs_of("."):
        print(f"{'waiting for' if wait else 'cancelling'} {len(jobs)} jobs that it left in the queue")
        if not wait:
            slurm.cancel(jobs)
        slurm.wait_until_gone(".", limit=None if wait else PATIENCE)
    _stop_processes(left_processes(note, of_jobs=True))  # without cgroups Slurm may lose sight of some


def _stop_processes(left: list[psutil.Process]) -> None:
    """End processes, gently first, and see them gone."""
    if not left:
        return
    print(f"stopping {len(left)} processes that it left on this machine")
    for process in left:
        _signal(process, "terminate")
        _signal(process, "resume")  # a suspended one hears of it only then
    _, left = psutil.wait_procs(left, timeout=10)
    for process in left:
        _signal(process, "kill")
    if psutil.wait_procs(left, timeout=PATIENCE)[1]:
        raise ClusterError("processes of the run do not end: " + ", ".join(str(process.pid) for process in left))


def _signal(process: psutil.Process, name: str) -> None:
    with suppress(psutil.NoSuchProcess):
        getattr(process, name)()


def resume(*, wait: bool = False, gone: bool = False, keep_going: bool = False) -> int:
    """Go on with the last run of this folder.

    Parameters
    ----------
    wait : bool
        Let the jobs that are in the queue end by themselves instead of cancelling them.
    gone : bool
        The user's word that a process on another machine, which cannot be seen from here, has died.
    keep_going : bool
        Leave bad images out from now on.

    Returns
    -------
    int
        Exit status of Snakemake.

    Raises
    ------
    ClusterError
        There is nothing to go on with, or it is not sure that nothing else writes here.
    OtrainError
        The run ended by itself because of its input, and would again.
    """
    note = read_note()
    if note is None:
        raise ClusterError(f"{Path.cwd()}: no run to go on with: the last one finished, or none was started here")
    if note.get("ended") and not keep_going and (words := _what_refused(note)):
        raise OtrainError(words)
    with _alone():
        alive = head_lives(note)
        if alive:
            raise ClusterError(f"the run still goes on, as process {note['pid']}: {_command(note)}")
        if alive is None and not gone:
            raise ClusterError(
                f"the run was started on {note['host']} (process {note['pid']}) and cannot be seen from here: run "
                "make resume there; if that process is gone for good, make resume GONE=1"
            )
        stop_what_is_left(note, wait=wait)
        if keep_going and not {"--keep-going", "-k"} & set(note["arguments"]):
            note = {**note, "arguments": ["--keep-going", *note["arguments"]]}
        folder = Path.cwd()
        os.chdir(note["typed_in"])
        unlock = [sys.executable, "-m", "snakemake", "--unlock", *note["arguments"]]
        unlocked = subprocess.run(unlock, capture_output=True, text=True)
        if unlocked.returncode != 0:
            raise ClusterError(
                f"the folder could not be unlocked: {unlocked.stderr.strip() or unlocked.stdout.strip()}"
            )
        print(f"going on: {_command(note)}", flush=True)
        status = _snakemake(["--rerun-incomplete", *note["arguments"]])
        os.chdir(folder)
        if status == 0:  # also where nothing was left to do
            forget()
        return status


def _snakemake(arguments: list[str]) -> int:
    """Run Snakemake in this process, which keeps the lock of `_alone` as long as it lives."""
    from snakemake.cli import main

    sys.argv = ["snakemake", *arguments]
    os.environ |= {"PWD": os.getcwd()}
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="make resume", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--directory", default=".", help="working directory of the run (default: this one)")
    parser.add_argument("--wait", action="store_true", help="let its jobs end instead of cancelling them")
    parser.add_argument("--gone", action="store_true", help="the process that ran on another machine has died")
    parser.add_argument("--keep-going", action="store_true", help="leave bad images out from now on")
    arguments = parser.parse_args()
    try:
        os.chdir(arguments.directory)
        return resume(wait=arguments.wait, gone=arguments.gone, keep_going=arguments.keep_going)
    except (OtrainError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
