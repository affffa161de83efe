"""Resume a run whose process has died, without two processes that write the same file.

The process of Snakemake (the head) leaves a note of its command in ``.snakemake`` when it starts. If it is killed, the
jobs in the queue of Slurm and the processes on this machine that it started continue. To unlock the folder and start
again immediately would then write the same files twice. ``make resume`` (``python -m otrain_core.jobs.resume``) stops
these jobs and processes, waits until they have ended, unlocks the folder, and starts the same command with
``--rerun-incomplete``. Finished jobs are not run again.
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
SHOWN = 5  # maximum number of refusals in a message
PATIENCE = 120.0  # time that jobs and processes have to end after they are stopped [s]


def read_note() -> dict[str, Any] | None:
    """The note of the last unfinished run in this folder, or None.

    Returns
    -------
    dict or None
        arguments (of Snakemake), typed_in (working directory of the command), executor, host, pid, started (creation
        time of the process, in seconds since 1970), mark (see `left_processes`), and ended (True if the run ended by
        itself, with failures).

    Raises
    ------
    ClusterError
        The note is damaged, so that it is unknown whether processes and jobs still run.
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
            f"{RECORD}: the note of the last run is damaged ({error}); check that no process of that run is left, then "
            "delete this file"
        ) from None
    return note


def head_lives(note: Mapping[str, Any]) -> bool | None:
    """Whether the process that left the note still runs; None if it was started on another machine."""
    if note["host"] != platform.node():
        return None
    try:
        process = psutil.Process(note["pid"])
        same = abs(process.create_time() - note["started"]) < 5  # otherwise another process has this number now
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def left_processes(note: Mapping[str, Any], *, of_jobs: bool = False) -> list[psutil.Process]:
    """Processes on this machine that were started by the run and have outlived it.

    Parameters
    ----------
    note : mapping
        Note of the run. Its mark is in the environment of all processes of the run.
    of_jobs : bool
        Include the processes of Slurm's jobs, which Slurm stops itself if it does not lose sight of them.
    """
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:  # it has ended, or belongs to another user
            continue
        of_run = environment.get(MARK) == note["mark"] and process.pid != os.getpid()
        if of_run and (of_jobs or slurm.IN_JOB not in environment):
            found.append(process)
    return found


def start(workflow: Any) -> None:
    """Prepare a run before its first job: check that it may start, check the Slurm profile, and leave a note.

    Parameters
    ----------
    workflow : snakemake.workflow.Workflow

    Raises
    ------
    ClusterError
        See `check_before_start` and `otrain_core.jobs.slurm.check_profile`.
    """
    executor = workflow.executor_plugin.name
    check_before_start(executor=executor)
    if executor == "slurm":
        jobs = {job.rule.name: job for job in workflow.dag.needrun_jobs() if not job.is_local}  # one per rule
        partitions = {job.resources.get("slurm_partition") for job in jobs.values()} - {None}
        slurm.check_profile(partitions, status_command=workflow.executor_settings.status_command)
    remember(executor=executor)


def check_before_start(*, executor: str) -> None:
    """Refuse to start if another run on Slurm, or jobs or processes of an earlier run, still write to this folder.

    Raises
    ------
    ClusterError
        Says which run it is, and which command resumes it.
    """
    note = read_note()
    alive = note is not None and head_lives(note)
    on_slurm = executor == "slurm" or (note is not None and note["executor"] == "slurm" and slurm.is_here())
    if on_slurm and note and alive:
        raise ClusterError(_in_use(note))
    if on_slurm and (jobs := slurm.jobs_of(".")):
        raise ClusterError(f"{len(jobs)} jobs of an earlier run are in the queue and write to this folder; {_advice()}")
    if note and not alive and (left := left_processes(note)):
        raise ClusterError(f"{len(left)} processes of an earlier run still write to this folder; {_advice()}")


def remember(*, executor: str) -> None:
    """Leave a note of this run, unless another run is still going on, and mark all processes that it will start."""
    from otrain_core.io import write_json

    mark = str(uuid.uuid4())
    os.environ |= {MARK: mark}
    before = read_note()
    if before and head_lives(before) and before["pid"] != os.getpid():
        return
    arguments = [text for text in sys.argv[1:] if text != "--rerun-incomplete"]
    # With --directory, Snakemake has changed its working directory; PWD is still that of the command.
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
        print(f"If this process dies, its jobs continue; {_advice()}", file=sys.stderr)


def forget() -> None:
    """Delete the note of a run that has finished."""
    RECORD.unlink(missing_ok=True)


def ended() -> str:
    """Note that the run has ended by itself, with failures.

    Returns
    -------
    str
        Advice for the terminal; '' if the note belongs to another run.
    """
    from otrain_core.io import write_json

    try:
        note = read_note()
    except ClusterError as error:
        return str(error)
    if note is None or note["pid"] != os.getpid():
        return ""
    with suppress(OSError):  # a full disk: the run can still be resumed
        write_json(RECORD, note | {"ended": True})
    return _refusals_in_words(note) or f"`{_resume_command()}` runs the missing jobs again."


def refusals(note: Mapping[str, Any]) -> list[str]:
    """Sorted errors of the jobs of a run that refused their input and would refuse it again."""
    from otrain_core.io import read_json

    found = []
    for path in sorted(REFUSED.glob("*.json")):
        with suppress(OSError, ValueError):
            record = read_json(path)
            if record["run"] == note["mark"]:
                found.append(f"rule {record['rule']}: {record['message']}")
    return found


def _refusals_in_words(note: Mapping[str, Any]) -> str:
    """Sentences on the refusals of a run, '' if there are none."""
    found = refusals(note)
    if not found:
        return ""
    lines = [*found[:SHOWN], *([f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])]
    advice = f"The same input would fail again. Correct it and start the run again: {_command(note)}"
    if any(": image " in text for text in found):  # recorded only if bad images are not left out
        option = " KEEP_GOING=1" if _resume_command().startswith("make") else " --keep-going"
        advice += f"\nOr leave out the bad images: `{_resume_command()}{option}`"
    return "\n".join([*lines, advice])


def explain_lock() -> None:
    """Replace Snakemake's message on a locked folder by one that says what to do."""
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
        return _in_use(note)
    if alive is None:
        return (
            f"a run was started in this folder on {note['host']} and has not finished; run `{_resume_command()}` there "
            "to resume it"
        )
    return f"an earlier run in this folder was killed; {_advice()}"


def _in_use(note: Mapping[str, Any]) -> str:
    return f"process {note['pid']} is running in this folder: {_command(note)}"


def _command(note: Mapping[str, Any]) -> str:
    return shlex.join(["snakemake", *note["arguments"]])


def _advice() -> str:
    return f"`{_resume_command()}` stops its remaining jobs and processes, and resumes it"


def _resume_command() -> str:
    here = Path.cwd()
    clone = here == Path(__file__).resolve().parents[2]
    return "make resume" if clone else f"python -m otrain_core.jobs.resume --directory {shlex.quote(str(here))}"


@contextmanager
def _alone() -> Iterator[None]:
    with open(RECORD.with_suffix(".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system releases it when the process ends
        except BlockingIOError:
            raise ClusterError("another `make resume` is running in this folder") from None
        except OSError:
            pass  # the file system has no locks
        yield


def stop_what_is_left(note: Mapping[str, Any], *, wait: bool = False) -> None:
    """Stop the processes and cancel the jobs that have outlived their run, and wait until they have ended.

    Parameters
    ----------
    note : mapping
        Note of the run.
    wait : bool
        Let the jobs end by themselves, without a time limit.

    Raises
    ------
    ClusterError
        Some of them do not end, or Slurm does not answer.
    """
    _stop_processes(left_processes(note))  # first, so that none of them can submit another job
    if note["executor"] != "slurm":
        return
    if jobs := slurm.jobs_of("."):
        print(f"{'waiting for' if wait else 'cancelling'} {len(jobs)} jobs of the run in the queue")
        if not wait:
            slurm.cancel(jobs)
        slurm.wait_until_gone(".", limit=None if wait else PATIENCE)
    _stop_processes(left_processes(note, of_jobs=True))  # without cgroups Slurm may have lost sight of some


def _stop_processes(left: list[psutil.Process]) -> None:
    """Terminate processes, kill those that do not end, and wait until all have ended."""
    if not left:
        return
    print(f"stopping {len(left)} processes of the run on this machine")
    for process in left:
        _signal(process, "terminate")
        _signal(process, "resume")  # a suspended process handles the signal only after it continues
    _, left = psutil.wait_procs(left, timeout=10)
    for process in left:
        _signal(process, "kill")
    if psutil.wait_procs(left, timeout=PATIENCE)[1]:
        raise ClusterError(
            "these processes of the run do not end even when killed: " + ", ".join(str(process.pid) for process in left)
        )


def _signal(process: psutil.Process, name: str) -> None:
    with suppress(psutil.NoSuchProcess):
        getattr(process, name)()


def resume(*, wait: bool = False, gone: bool = False, keep_going: bool = False) -> int:
    """Resume the last run of this folder.

    Parameters
    ----------
    wait : bool
        Let the jobs in the queue end by themselves instead of cancelling them.
    gone : bool
        The user confirms that the process of the run on another machine has ended.
    keep_going : bool
        Leave out bad images from now on.

    Returns
    -------
    int
        Exit status of Snakemake.

    Raises
    ------
    ClusterError
        There is no run to resume, or another process may still write to this folder.
    OtrainError
        The run ended because of its input, and would end in the same way again.
    """
    note = read_note()
    if note is None:
        raise ClusterError(f"{Path.cwd()}: no run to resume; the last one has finished, or none was started here")
    if note.get("ended") and not keep_going and (words := _refusals_in_words(note)):
        raise OtrainError(words)
    with _alone():
        alive = head_lives(note)
        if alive:
            raise ClusterError(f"the run is still going on, as process {note['pid']}: {_command(note)}")
        if alive is None and not gone:
            raise ClusterError(
                f"the run was started on {note['host']} (process {note['pid']}), which cannot be checked from here; run "
                "make resume there or, if you are sure that the process has ended, make resume GONE=1 here"
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
        print(f"resuming: {_command(note)}", flush=True)
        status = _snakemake(["--rerun-incomplete", *note["arguments"]])
        os.chdir(folder)
        if status == 0:  # Snakemake does not call `forget` if no job is left
            forget()
        return status


def _snakemake(arguments: list[str]) -> int:
    """Run Snakemake in this process, which holds the lock of `_alone`; returns its exit status."""
    from snakemake.cli import main

    sys.argv = ["snakemake", *arguments]
    os.environ |= {"PWD": os.getcwd()}
    try:
        main()
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    return 0


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="make resume", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--directory", default=".", help="working directory of the run (default: this one)")
    parser.add_argument("--wait", action="store_true", help="wait for the jobs in the queue instead of cancelling them")
    parser.add_argument(
        "--gone", action="store_true", help="confirm that the process of the run on another machine has ended"
    )
    parser.add_argument("--keep-going", action="store_true", help="leave out bad images from now on")
    arguments = parser.parse_args()
    try:
        os.chdir(arguments.directory)
        return resume(wait=arguments.wait, gone=arguments.gone, keep_going=arguments.keep_going)
    except (OtrainError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
