"""What is asked of Slurm, with its commands recorded; a real one answers in tests/cluster."""

import contextlib
import os
import subprocess
import sys

import psutil
import pytest

from otrain_core.errors import ClusterError
from otrain_core.jobs import slurm

RUN = "0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.fixture
def answers(monkeypatch):
    """Answers by command, and the list of commands that were given."""
    answers, asked = {}, []

    def ask(*command):
        asked.append(command)
        answer = answers[command[0]]
        if isinstance(answer, Exception):
            raise answer
        return answer.pop(0) if isinstance(answer, list) else answer

    monkeypatch.setattr(slurm, "_ask", ask)
    return answers, asked


def test_only_jobs_of_snakemake_in_the_folder_count(answers, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    answers[0]["squeue"] = (
        f"1|RUNNING|{RUN}|{tmp_path}\n2|PENDING|mine_{RUN}|{link}\n"
        f"3|RUNNING|{RUN}|{tmp_path / 'other'}\n4|RUNNING|my job|{tmp_path}\n"
    )
    assert slurm.jobs_of(tmp_path) == [("1", "RUNNING"), ("2", "PENDING")]


def test_many_jobs_are_cancelled_in_parts(answers):
    answers[0]["scancel"] = ""
    slurm.cancel(slurm.Job(str(number), "RUNNING") for number in range(1200))
    assert [len(command) - 2 for command in answers[1]] == [500, 500, 200]


def test_waiting_ends_when_the_jobs_are_gone_or_says_which_are_not(answers, tmp_path):
    line = f"7|COMPLETING|{RUN}|{tmp_path}\n"
    answers[0]["squeue"] = [line, line, ""]
    slurm.wait_until_gone(tmp_path, limit=None, pause=0)
    answers[0]["squeue"] = line
    with pytest.raises(ClusterError, match=r"1 jobs are still in the queue after 0 s: 7 \(COMPLETING\)"):
        slurm.wait_until_gone(tmp_path, limit=0, pause=0)


def test_profile_that_does_not_fit(answers):
    answers[0].update({"sinfo": "short*\ngpu\n", "sacct": ClusterError("sacct: Slurm accounting storage is disabled")})
    slurm.check_profile(["short", "short,gpu"], status_command="squeue")
    with pytest.raises(ClusterError, match="slurm_partition: this cluster has no partition cpu; it has short, gpu"):
        slurm.check_profile(["cpu"], status_command="squeue")
    with pytest.raises(ClusterError, match="slurm-status-command: set it to squeue.*storage is disabled"):
        slurm.check_profile(["short"], status_command="sacct")


def test_a_slurm_that_does_not_answer_is_not_an_empty_queue():
    with pytest.raises(ClusterError, match="no-such-command"):
        slurm._ask("no-such-command")
    with pytest.raises(ClusterError, match="false: exit status 1"):
        slurm._ask("false")


CHILD = "from otrain_core.jobs.slurm import die_with_parent; die_with_parent(); print('up', flush=True); input()"
PARENT = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdin=0); print(p.pid, flush=True); p.wait()"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is of Linux")
@pytest.mark.parametrize("suspended", [False, True])
def test_a_process_of_a_job_ends_with_the_one_that_started_it(suspended):
    """Slurm without cgroups loses sight of it then."""
    command = [sys.executable, "-c", PARENT, CHILD]
    environment = os.environ | {"SLURM_JOB_ID": "7"}
    parent = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    try:
        assert parent.stdout.readline() == "up\n"
        if suspended:
            child.suspend()
        parent.kill()
        gone, _ = psutil.wait_procs([child], timeout=30)
        assert gone or child.status() == psutil.STATUS_ZOMBIE
    finally:
        parent.kill()
        parent.wait()
        parent.stdin.close()
        parent.stdout.close()
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def test_outside_of_jobs_nothing_is_bound_to_its_parent(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(slurm.ctypes, "CDLL", lambda *_args, **_named: pytest.fail("bound"))
    slurm.die_with_parent()
