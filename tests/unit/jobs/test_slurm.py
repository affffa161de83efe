"""What is asked of Slurm, with its commands recorded; a real one answers in tests/cluster."""

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
    with pytest.raises(ClusterError, match="false: ended with 1"):
        slurm._ask("false")
