"""Fixtures that tests of several kinds share."""

import multiprocessing.util
import os
import tempfile
import threading
from pathlib import Path

# Quiet and single-threaded numerics: several tests may run side by side.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.pop("MLFLOW_TRACKING_URI", None)  # tests write to no server but their own

import pytest

from otrain_core.temporary import temporary_folder
from tests.workers import Scheduler, abort_beyond

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


def pytest_configure(config):
    """A worker that takes more than a third of the memory tells what it is at, before the kernel ends it without a word."""
    if hasattr(config, "workerinput"):
        limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 3
        threading.Thread(target=abort_beyond, args=(limit,), daemon=True, name="memory").start()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Files stay together, as with `--dist loadfile`."""
    return Scheduler(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem, report, sched):
    """A test at which a worker was lost is run once more, and fails if that happens again."""
    if sched.losses[crashitem] == 1:
        report.outcome = "rerun"


def pytest_report_teststatus(report):
    """Letter and word of such a test."""
    return ("rerun", "R", "RERUN") if report.outcome == "rerun" else None


def pytest_terminal_summary(terminalreporter):
    """Count and name what was skipped, and why, and what was run again."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.write_line(f"run again: {report.nodeid}: {report.longrepr}")
    skipped = terminalreporter.stats.get("skipped", [])
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.write_line(f"not run: {report.nodeid}: {reason}")


@pytest.fixture(scope="session", autouse=True)
def own_temporary_files(tmp_path_factory):
    """Temporary files of the tests, and of processes that they kill, go when the tests end."""
    tmp_path_factory.getbasetemp()  # pytest's own folders stay where they are
    multiprocessing.util.get_temp_dir()  # so does that of multiprocessing, which removes it itself
    with temporary_folder("tests") as folder:
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"], tempfile.tempdir = str(folder), None
        yield
        os.environ.pop("TMPDIR") if before is None else os.environ.update(TMPDIR=before)
        tempfile.tempdir = None


@pytest.fixture(scope="session")
def root() -> Path:
    """Root of the clone."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images, beside the clone; tests that need it are skipped by name elsewhere."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real images of ../shared/data are not here")
    return SHARED_DATA
