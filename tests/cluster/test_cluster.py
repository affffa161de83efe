"""The profile on a real Slurm: the workflow itself with its head killed midway, and what else can go wrong with a job."""

import base64
import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from otrain_core.errors import ClusterError
from otrain_core.jobs import slurm

IMAGES = ["sim0001", "sim0002", "sim0003"]
CUBE = "results/tiny/builtin"
# A cluster without accounting, as the comment in the profile says.
NO_ACCOUNTING = ("# slurm-status-command: squeue", "slurm-status-command: squeue")
GRES = ("    # gpu: 0\n    # gres:", "    gpu: 0\n    gres:")


def site_profile(root, folder, *edits):
    """The project's profile as a site edits it: comments become settings."""
    text = (root / "slurm/config.yaml").read_text()
    for before, after in edits:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    folder.mkdir()
    (folder / "config.yaml").write_text(text)
    return ["--profile", str(folder)]


def wait_for(condition, log, *, limit=900):
    end = time.monotonic() + limit
    while not (found := condition()):
        assert time.monotonic() < end, log.read_text()[-4000:]
        time.sleep(0.7)
    return found


def finish(head, log, *, limit=900):
    try:
        return head.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        head.kill()
        raise AssertionError(log.read_text()[-4000:]) from None


def job_of(process):
    """Number of the job in Slurm that a process belongs to."""
    with contextlib.suppress(psutil.Error):
        return process.environ().get("SLURM_JOB_ID")


def stop_the_clock(cluster):
    """Suspend all jobs, so that none ends before the test has looked; what they leave free goes to those that wait."""
    end = time.monotonic() + 300
    while jobs := [job for job in cluster.jobs() if job["state"] in ("PENDING", "RUNNING", "COMPLETING")]:
        assert time.monotonic() < end, jobs
        for job in jobs:
            if job["state"] == "RUNNING":
                with contextlib.suppress(subprocess.CalledProcessError):  # it has ended meanwhile
                    cluster.ask("scontrol", "suspend", job["number"])
        time.sleep(0.3)


@pytest.fixture(scope="module")
def killed(cluster, root, tmp_path_factory):
    """A small run of the workflow whose head was killed with SIGKILL after its first image, and `make resume`."""
    folder = tmp_path_factory.mktemp("killed")
    config = folder / "small.yaml"
    config.write_text(
        "run: {experiments: [otrain2], protocols: [by-image], max_images: 3}\nexperiments: {otrain2: {epochs: 1}}\n"
    )
    arguments = [
        *site_profile(root, folder / "profile", NO_ACCOUNTING),
        *("--directory", str(folder), "--configfile", "tests/e2e/tiny.yaml", str(config)),
        *("--config", f"telescope_folder={root / 'tests/e2e/telescopes'}", "--", f"{CUBE}/otrain2/seed1/train.json"),
    ]

    first = folder / "first.log"
    head = cluster.head(*arguments, log=first)
    wait_for(lambda: " steps (" in first.read_text() or head.poll() is not None, first)
    head.send_signal(signal.SIGKILL)
    head.wait()
    stop_the_clock(cluster)
    # The head may have died while it noted an image: what it had noted counts.
    noted = {base64.urlsafe_b64decode(path.name).decode() for path in (folder / ".snakemake/metadata").iterdir()}
    done = {path: (folder / path).stat().st_mtime_ns for path in noted if path.endswith("/cutouts.npz")}

    # What many would try: unlock, and start the same command again.
    snakemake = [sys.executable, "-m", "snakemake"]
    again = [
        subprocess.run([*snakemake, *more, *arguments], cwd=root, env=cluster.env, capture_output=True, text=True)
        for more in (["--unlock"], [])
    ]
    orphans = [job["number"] for job in cluster.jobs() if job["state"] == "SUSPENDED"]

    log = folder / "resumed.log"
    head = cluster.head("--directory", str(folder), log=log, resume=True)
    wait_for(lambda: "going on" in log.read_text() or head.poll() is not None, log)
    survivors = [process.pid for process in psutil.process_iter() if job_of(process) in orphans]
    status = finish(head, log)
    return SimpleNamespace(
        survivors=survivors,
        folder=folder,
        first=first,
        done=done,
        again=again,
        orphans=orphans,
        log=log,
        status=status,
        jobs=cluster.jobs(),
    )


def test_resumed_run_finishes(killed):
    assert killed.status == 0, killed.log.read_text()[-4000:]
    training = json.loads((killed.folder / CUBE / "otrain2/seed1/train.json").read_text())
    assert training["train_seconds"] > 0


def test_finished_work_is_not_done_again(killed):
    assert 1 <= len(killed.done) < len(IMAGES)
    assert {path: (killed.folder / path).stat().st_mtime_ns for path in killed.done} == killed.done


def runs(killed):
    """Jobs of the first and of the second head, in their order."""
    names = [re.search("SLURM run ID: (.*)", log.read_text())[1] for log in (killed.first, killed.log)]
    jobs = sorted(killed.jobs, key=lambda job: int(job["number"]))
    return [[job for job in jobs if job["run"] == name] for name in names]


def test_no_two_writers(killed):
    """Nothing of the first head's jobs was alive when the second head began, and none of its jobs earlier than that."""
    first, second = runs(killed)
    assert {job["number"] for job in first if job["state"] == "CANCELLED"} == set(killed.orphans)
    assert killed.survivors == []
    assert max(job["end"] for job in first) <= min(job["start"] for job in second)


def test_a_second_start_is_refused_while_jobs_of_the_first_live(killed):
    unlocked, refused = killed.again
    assert unlocked.returncode == 0, unlocked.stderr
    assert refused.returncode != 0
    command = f"python -m otrain_core.jobs.resume --directory {killed.folder}"
    assert f"{len(killed.orphans)} jobs of an earlier run are in the queue" in refused.stderr
    assert command in refused.stderr and command in killed.first.read_text()


def test_the_steps_of_an_image_are_one_job(killed):
    first, second = ([job["rule"].split("_")[1] for job in jobs] for jobs in runs(killed))
    assert first == ["image"] * len(IMAGES)
    assert second.count("image") <= len(IMAGES) - len(killed.done)
    assert [name for name in second if name != "image"] == ["cube", "split", "train"]
    assert {job["partition"] for job in killed.jobs if job["rule"].startswith("rule_train")} == {"gpu"}


def test_nothing_is_left_to_resume(killed, cluster, root):
    """A finished run takes its note with it."""
    command = [sys.executable, "-m", "otrain_core.jobs.resume", "--directory", str(killed.folder)]
    result = subprocess.run(command, cwd=root, env=cluster.env, capture_output=True, text=True)
    assert result.returncode == 1 and "no run to resume" in result.stderr


@pytest.fixture(scope="module")
def faults(cluster, root, tmp_path_factory):
    """One run in which jobs fail, run out of memory, are cancelled from outside, and ask for a GPU by --gres."""
    folder = tmp_path_factory.mktemp("faults")
    log = folder / "head.log"
    profile = site_profile(root, folder / "profile", NO_ACCOUNTING, GRES)
    head = cluster.head(*profile, "--snakefile", "tests/cluster/faults.smk", "--directory", str(folder), log=log)

    def victim():
        began = (folder / "results/began").exists()
        return began and [job["number"] for job in cluster.jobs() if job["rule"] == "rule_cancelled"]

    (number,) = wait_for(victim, log)
    cluster.ask("scancel", number)
    status = finish(head, log)
    of_rule = {}
    for job in cluster.jobs():
        details = cluster.job(job["number"])
        if details["WorkDir"] == str(folder):
            of_rule.setdefault(job["rule"], []).append(details)
    for jobs in of_rule.values():
        jobs.sort(key=lambda job: int(job["JobId"]))
    return SimpleNamespace(folder=folder, text=log.read_text(), status=status, jobs=of_rule)


def results(faults, name):
    return (faults.folder / "results" / f"{name}.txt").read_text().split()


def test_the_others_end_all_the_same(faults):
    assert faults.status == 1
    assert results(faults, "good") == ["good"]


def test_a_traceback_is_in_the_log_and_on_the_terminal(faults):
    message = "ValueError: no way through fails"
    log = (faults.folder / "results/logs/fails.log").read_text()
    assert "Traceback" in log and message in log
    assert message in faults.text and "results/logs/fails.log" in faults.text


def test_a_job_that_fails_has_three_tries(faults):
    assert [job["JobState"] for job in faults.jobs["rule_fails"]] == ["FAILED"] * 3


def test_a_group_that_fails_shows_its_traceback_and_is_tried_again(faults):
    assert "ValueError: no way through second_of_image" in faults.text
    (jobs,) = [jobs for rule, jobs in faults.jobs.items() if rule.startswith("rule_image_")]
    assert [job["JobState"] for job in jobs] == ["FAILED", "COMPLETED"]
    assert results(faults, "image") == ["first", "2"]


def test_a_cancelled_job_is_tried_again_with_more_time(faults):
    assert [job["JobState"] for job in faults.jobs["rule_cancelled"]] == ["CANCELLED", "COMPLETED"]
    assert [job["TimeLimit"] for job in faults.jobs["rule_cancelled"]] == ["00:07:00", "00:14:00"]
    assert results(faults, "cancelled") == ["2"]


def test_a_cancelled_job_leaves_no_process(faults, cluster):
    """Slurm tracks processes by their parents here, as on a node without cgroups."""
    live = [job["number"] for job in cluster.jobs() if job["state"] in ("RUNNING", "SUSPENDED", "COMPLETING")]
    assert [process for process in psutil.process_iter() if (job := job_of(process)) and job not in live] == []


def test_a_job_out_of_memory_is_tried_again_with_more(faults):
    first, second = faults.jobs["rule_hungry"]
    assert (first["MinMemoryNode"], second["MinMemoryNode"]) == ("600M", "1200M")
    assert first["JobState"] != "COMPLETED" and second["JobState"] == "COMPLETED"
    assert results(faults, "hungry") == ["2"]


def test_a_gpu_asked_for_by_gres(faults):
    (job,) = faults.jobs["rule_train"]
    assert job["Partition"] == "gpu" and "gpu" in job["TresPerNode"]
    assert results(faults, "training") == ["2", "0"]


def test_a_gpu_asked_for_by_gpus(killed, cluster):
    (number,) = [job["number"] for job in killed.jobs if job["rule"].startswith("rule_train")]
    assert "gpu:1" in cluster.job(number)["TresPerJob"]


def test_slurm_never_starts_a_job_again(faults):
    assert {job["Requeue"] for jobs in faults.jobs.values() for job in jobs} == {"0"}


def test_a_profile_that_does_not_fit_stops_before_any_job(cluster, monkeypatch):
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.env[name])
    with pytest.raises(ClusterError, match="no partition long; it has cpu, gpu"):
        slurm.check_profile(["cpu", "long"], status_command="squeue")
    with pytest.raises(ClusterError, match="slurm-status-command: set it to squeue"):
        slurm.check_profile(["cpu"], status_command="sacct")
    slurm.check_profile(["cpu", "gpu,cpu"], status_command="squeue")
