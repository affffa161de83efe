"""The note of a run, and what `make resume` does with it; with a real Slurm in tests/cluster."""

import json
import os
import subprocess
import sys

import psutil
import pytest

from otrain_core.errors import ClusterError
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
    assert "going on: snakemake --cores 2 -- paper" in capfd.readouterr().out
    with pytest.raises(ClusterError, match="no run to go on with"):
        resume.resume()


def test_a_living_run_is_left_alone(folder, commands):
    note(pid=os.getppid(), started=psutil.Process(os.getppid()).create_time())
    with pytest.raises(ClusterError, match=f"still goes on, as process {os.getppid()}"):
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
            ClusterError, match="1 processes of an earlier run still write here; .*otrain_core.jobs.resume"
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
    with pytest.raises(ClusterError, match=f"process {os.getppid()} is at work in this folder"):
        resume.check_before_start(executor="slurm")


def test_the_note_of_a_living_run_stays(folder):
    """Two runs on one machine may share a folder where their files differ; the first one is remembered."""
    first = note(pid=os.getppid(), started=psutil.Process(os.getppid()).create_time())
    resume.remember(executor="local")
    assert resume.read_note() == first


def test_last_words_suggest_what_helps(tmp_path):
    assert resume.last_words(tmp_path, keep_going=False) == "`make resume` tries again what is missing."
    for name in ("b", "a"):
        (tmp_path / "tel/sky" / name).mkdir(parents=True)
        record = {"image": name, "key": "GAIN", "message": "no gain", "step": "psf"}
        (tmp_path / "tel/sky" / name / "psf.json").write_text(json.dumps(record))
    told = resume.last_words(tmp_path, keep_going=False)
    assert told.startswith("image a: GAIN: no gain (and 1 more)\n")
    assert "make resume KEEP_GOING=1" in told and "--keep-going" in told
    assert resume.last_words(tmp_path, keep_going=True) == "`make resume` tries again what is missing."


def test_bad_images_are_left_out_on_request(folder, commands):
    resume.remember(executor="local")
    note = json.loads(resume.RECORD.read_text())
    resume.RECORD.write_text(json.dumps(note | {"pid": 2**22 + 1}))
    assert resume.resume(keep_going=True) == 0
    plain = ["--cores", "2", "--", "paper"]
    assert commands == [["--unlock", "--keep-going", *plain], ["--rerun-incomplete", "--keep-going", *plain]]
