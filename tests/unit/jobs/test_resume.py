"""The note of a run, and what `make resume` does with it; with a real Slurm in tests/cluster."""

import json
import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

from otrain_core.errors import ClusterError, OtrainError
from otrain_core.jobs import resume, slurm


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a finished process for a head, no Slurm, and Snakemake replaced by a list of its commands."""
    (tmp_path / ".snakemake").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(resume.MARK, raising=False)
    monkeypatch.setattr(sys, "argv", ["snakemake", "--cores", "2", "--rerun-incomplete", "--", "paper"])
    monkeypatch.setattr(slurm, "is_here", lambda: False)
    return tmp_path


@pytest.fixture
def commands(monkeypatch):
    commands = []
    monkeypatch.setattr(resume, "_snakemake", lambda arguments: commands.append(arguments) or 0)

    def unlock(command, **_):
        commands.append(command[3:])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(resume.subprocess, "run", unlock)
    return commands


@pytest.fixture
def queue(monkeypatch):
    """Slurm's queue: cancelling empties it."""
    queue = []
    monkeypatch.setattr(slurm, "jobs_of", lambda folder: list(queue))
    monkeypatch.setattr(slurm, "cancel", lambda jobs: queue.clear())
    return queue


def note(**changes):
    """The note of a run as `remember` leaves it, then changed."""
    resume.remember(executor=changes.get("executor", "local"))
    text = json.loads(resume.RECORD.read_text()) | changes
    resume.RECORD.write_text(json.dumps(text))
    return text


def test_goes_on_with_the_same_command(folder, commands, capfd):
    note(pid=2**22 + 1)
    assert resume.resume() == 0
    assert commands == [
        ["--unlock", "--cores", "2", "--", "paper"],
        ["--rerun-incomplete", "--cores", "2", "--", "paper"],
    ]
    assert "resuming: snakemake --cores 2 -- paper" in capfd.readouterr().out
    with pytest.raises(ClusterError, match="no run to resume"):
        resume.resume()


def test_a_living_run_is_left_alone(folder, commands):
    note(pid=os.getppid(), started=psutil.Process(os.getppid()).create_time())
    with pytest.raises(ClusterError, match=f"the run is still going on, as process {os.getppid()}"):
        resume.resume()
    assert not commands


def test_a_number_given_to_another_process_is_not_the_run(folder, commands):
    note(pid=os.getppid(), started=1.0)
    assert resume.resume() == 0


def test_a_run_of_another_machine_needs_the_users_word(folder, commands):
    note(host="login1")
    with pytest.raises(ClusterError, match="started on login1 .* make resume GONE=1"):
        resume.resume()
    assert not commands
    assert resume.resume(gone=True) == 0


def test_processes_that_outlived_their_run_are_stopped_first(folder, commands):
    mark = note(pid=2**22 + 1)["mark"]
    sleep = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    left, other = (
        subprocess.Popen(sleep, env=os.environ | {resume.MARK: text}, stdout=subprocess.PIPE) for text in (mark, "no")
    )
    try:
        for process in (left, other):
            process.stdout.readline()
        with pytest.raises(
            ClusterError, match="1 processes of an earlier run still write to this folder; .*otrain_core.jobs.resume"
        ):
            resume.check_before_start(executor="local")
        assert not commands
        assert resume.resume() == 0
        assert left.poll() is not None
        assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.communicate()


def test_jobs_are_cancelled_before_anything_starts(folder, commands, queue):
    note(pid=2**22 + 1, executor="slurm")
    queue.append(slurm.Job("7", "RUNNING"))
    with pytest.raises(ClusterError, match="1 jobs of an earlier run are in the queue"):
        resume.check_before_start(executor="slurm")
    assert resume.resume() == 0
    assert not queue and len(commands) == 2


def test_nothing_starts_while_jobs_do_not_go(folder, commands, queue, monkeypatch):
    note(pid=2**22 + 1, executor="slurm")
    queue.append(slurm.Job("7", "COMPLETING"))
    monkeypatch.setattr(slurm, "cancel", lambda jobs: None)
    monkeypatch.setattr(resume, "PATIENCE", 0.0)
    with pytest.raises(ClusterError, match=r"7 \(COMPLETING\)"):
        resume.resume()
    assert not commands
    assert resume.RECORD.exists()


def test_jobs_may_end_by_themselves(folder, commands, monkeypatch):
    note(pid=2**22 + 1, executor="slurm")
    listings = [[slurm.Job("7", "RUNNING")], [slurm.Job("7", "RUNNING")], []]
    monkeypatch.setattr(slurm, "jobs_of", lambda folder: listings.pop(0))
    monkeypatch.setattr(slurm, "cancel", lambda jobs: pytest.fail("cancelled"))
    assert resume.resume(wait=True) == 0
    assert not listings


def test_two_at_once_are_refused(folder, commands):
    note(pid=2**22 + 1)
    with resume._alone(), pytest.raises(ClusterError, match="another `make resume`"):
        resume.resume()
    assert not commands


def test_a_second_run_on_slurm_is_refused_in_the_folder_of_a_living_one(folder, queue):
    note(pid=os.getppid(), started=psutil.Process(os.getppid()).create_time(), executor="slurm")
    with pytest.raises(ClusterError, match=f"process {os.getppid()} is running in this folder"):
        resume.check_before_start(executor="slurm")


def test_the_note_of_a_living_run_stays(folder):
    """Two runs on one machine may share a folder where their files differ; the first one is remembered."""
    first = note(pid=os.getppid(), started=psutil.Process(os.getppid()).create_time())
    resume.remember(executor="local")
    assert resume.read_note() == first


def test_bad_images_are_left_out_on_request(folder, commands):
    resume.remember(executor="local")
    note = json.loads(resume.RECORD.read_text())
    resume.RECORD.write_text(json.dumps(note | {"pid": 2**22 + 1}))
    assert resume.resume(keep_going=True) == 0
    plain = ["--cores", "2", "--", "paper"]
    assert commands == [["--unlock", "--keep-going", *plain], ["--rerun-incomplete", "--keep-going", *plain]]


def refuse(run, name="psf-t-p-i", message="image i: GAIN: no gain"):
    """What a job leaves that refused its input."""
    path = resume.REFUSED / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"run": run, "rule": name.split("-")[0], "message": message}))


def test_a_run_that_ended_because_of_its_input_is_not_repeated(folder, commands):
    mark = note()["mark"]
    refuse(mark)
    words = resume.ended()
    assert words.splitlines()[0] == "rule psf: image i: GAIN: no gain"
    assert "Correct it and start the run again: snakemake --cores 2 -- paper" in words
    assert words.endswith("Or leave out the bad images: `" + resume._resume_command() + " --keep-going`")
    with pytest.raises(OtrainError, match="image i: GAIN: no gain") as refused:
        resume.resume()
    assert not commands and "start the run again" in str(refused.value)
    ended = json.loads(resume.RECORD.read_text())
    resume.RECORD.write_text(json.dumps(ended | {"pid": 2**22 + 1}))
    assert resume.resume(keep_going=True) == 0 and "--keep-going" in commands[1]
    resume.remember(executor="local")  # started anew: what was refused before is forgotten
    assert resume.refusals(resume.read_note()) == []


def test_the_first_few_refusals_are_told(folder, commands):
    mark = note()["mark"]
    for number in range(7):
        refuse(mark, f"cube-t-p{number}", f"cube {number}: one class")
    words = resume.ended()
    assert words.count("one class") == 5 and "and 2 more" in words
    assert "keep-going" not in words  # of no image: nothing could be left out


@pytest.mark.parametrize("changes", [{}, {"mark": "another"}])
def test_other_ends_can_be_gone_on_with(folder, commands, changes):
    refuse("another-run")
    note()
    assert resume.ended().endswith("runs the missing jobs again.")
    text = json.loads(resume.RECORD.read_text())
    resume.RECORD.write_text(json.dumps(text | {"pid": 2**22 + 1} | changes))
    assert resume.resume() == 0 and len(commands) == 2


def test_a_run_that_was_killed_after_a_refusal_is_gone_on_with(folder, commands):
    """It holds the lock, and other jobs were at work."""
    refuse(note(pid=2**22 + 1)["mark"])
    assert resume.resume() == 0 and len(commands) == 2


def test_a_full_disk_is_no_second_error_at_the_end(folder, monkeypatch):
    note()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("otrain_core.io.write_json", full)
    assert "runs the missing jobs again" in resume.ended()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pid": 2**22 + 1}, "an earlier run in this folder was killed; `.*otrain_core.jobs.resume .*resumes it"),
        (
            {"host": "login1"},
            "a run was started in this folder on login1 and has not finished; run `.*` there to resume it",
        ),
        ({}, "process [0-9]+ is running in this folder: snakemake --cores 2 -- paper"),
    ],
)
def test_a_locked_folder_says_what_to_do(folder, monkeypatch, changes, words):
    import snakemake.exceptions

    monkeypatch.setattr(snakemake.exceptions, "LockException", snakemake.exceptions.LockException)
    resume.explain_lock()
    assert "--unlock" in str(snakemake.exceptions.LockException())  # no note of ours: Snakemake's own words
    note(**changes)
    for _ in range(2):  # every Snakefile that is read explains it again
        resume.explain_lock()
        found = str(snakemake.exceptions.LockException())
        assert re.search(words, found) and "--unlock" not in found


def test_processes_of_jobs_that_escaped_slurm_are_stopped(folder, commands, queue):
    mark = note(pid=2**22 + 1, executor="slurm")["mark"]
    code = "import time; print(flush=True); time.sleep(60)"
    environment = os.environ | {resume.MARK: mark, "SLURM_JOB_ID": "7"}
    left = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    try:
        left.stdout.readline()
        os.kill(left.pid, signal.SIGSTOP)  # as a suspended job
        assert [process.pid for process in resume.left_processes(resume.read_note())] == []
        assert resume.resume() == 0
        assert left.poll() is not None
    finally:
        left.kill()
        left.communicate()


@pytest.mark.parametrize("content", ["", "{", "[]", "[1]", "7", '{"pid": 1}'])
def test_a_damaged_note_is_told(folder, commands, content):
    resume.RECORD.write_text(content)
    for ask in (resume.resume, resume.read_note, lambda: resume.check_before_start(executor="local")):
        with pytest.raises(ClusterError, match=r"otrain_run\.json: the note of the last run is damaged"):
            ask()
    assert not commands
    assert "is damaged" in resume.ended() and "is damaged" in resume._why_locked()
