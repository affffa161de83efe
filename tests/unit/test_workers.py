"""A worker of pytest that is killed."""

import signal
import subprocess
import sys

CONFTEST = "from tests.conftest import pytest_handlecrashitem, pytest_report_teststatus, pytest_xdist_make_scheduler\n"
KILLED = """
import os, pathlib, signal, pytest

@pytest.mark.parametrize("name", ["before", "killed", "after"])
def test_it(name):
    once = pathlib.Path(__file__).with_suffix(".once")
    if name == "killed" and not (CAN_RUN and once.exists()):
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def outcome(root, folder, *, can_run):
    """Closing line and exit status of tests of which one kills its worker, always or the first time alone."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_killed.py").write_text(KILLED.replace("CAN_RUN", str(can_run)))
    for number in range(4):
        (folder / f"test_other{number}.py").write_text("def test_one(): pass\ndef test_two(): pass\n")
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--rootdir", str(folder), str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=300)
    return made.stdout.strip().splitlines()[-1], made.returncode


def test_the_test_that_a_worker_was_lost_at_is_run_once_more(root, tmp_path):
    line, status = outcome(root, tmp_path, can_run=True)
    assert "11 passed, 1 rerun in" in line and status == 0


def test_it_fails_the_second_time_and_all_others_are_run(root, tmp_path):
    line, status = outcome(root, tmp_path, can_run=False)
    assert "1 failed, 10 passed, 1 rerun in" in line and status == 1


def test_what_takes_too_much_memory_tells_what_it_was_at(root):
    lines = ["import faulthandler, threading, time", "from tests.workers import abort_beyond", "faulthandler.enable()"]
    lines += [
        "def hungry():",
        "    threading.Thread(target=abort_beyond, args=(1,), daemon=True).start()",
        "    time.sleep(300)",
    ]
    command = [sys.executable, "-c", "\n".join([*lines, "hungry()"])]
    made = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=300)
    assert made.returncode == -signal.SIGABRT and "in hungry" in made.stderr
