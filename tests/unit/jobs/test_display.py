"""The display of a run: counts, time left, failures as they happen."""

import io
import logging
from types import SimpleNamespace

import pytest

from otrain_core.jobs import display
from otrain_core.jobs.display import Display, duration, is_not_displayed, published_costs, said


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: self.now))


def record(event, message="", **extra):
    made = logging.LogRecord("snakemake.logging", logging.INFO, "", 0, message, (), None)
    made.__dict__.update({"event": event} if event else {}, **extra)
    return made


def run_job(shown, job, rule, *, clock=None, seconds=0.0, log=(), wildcards=None, fails=False):
    about = {"jobid": job, "rule_name": rule, "log": list(log), "output": ["x"]}
    shown.emit(record("job_info", wildcards=wildcards or {}, **about))  # errors do not name the wildcards
    if clock:
        clock.now += seconds
    shown.emit(record("job_error", **about) if fails else record("job_finished", job_id=job))


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def made(stages, **options):
    return Display(stages, **({"cores": 1, "costs": {}, "stream": io.StringIO()} | options))


def test_plain_lines_are_few(clock):
    shown = made({"psf": 500, "cube": 1})
    shown.open()
    for job in range(500):
        run_job(shown, job, "psf", clock=clock, seconds=1)
    run_job(shown, 500, "cube", clock=clock, seconds=1)
    lines = shown.stream.getvalue().splitlines()
    assert len(lines) <= 12
    assert lines[0] == "51/501 jobs, 51 s so far, about 8 min left; psf 51/500"
    assert lines[-1] == "501/501 jobs, 8 min so far, done"


def test_the_time_left_follows_the_pace_of_the_run(clock):
    """Jobs of a stage that has begun as in this run; others as published, at the pace of this run."""
    shown = made({"psf": 10, "train": 2}, cores=2, costs={"psf": 1.0, "train": 80.0})
    assert shown.left() == pytest.approx((10 * 1 + 2 * 80) / 2)
    for job in range(2):
        run_job(shown, job, "psf", clock=clock, seconds=3)
    assert shown.left() == pytest.approx((8 * 3 + 2 * 240) / 2)


def test_a_failure_is_told_with_its_sentence(tmp_path):
    log = tmp_path / "psf.log"
    log.write_text("2026-01-01 10:00:00,123 ERROR image a: GAIN: no gain\n2026-01-01 10:00:00,124 INFO Traceback\n")
    shown = made({"psf": 2})
    run_job(shown, 1, "psf", log=[str(log)], wildcards={"telescope": "T", "image": "a"}, fails=True)
    assert shown.stream.getvalue() == f"FAILED: psf T/a: image a: GAIN: no gain\n        log file: {log}\n"
    assert "1 failed" in shown.line()


def test_a_crash_is_told_by_the_last_line_of_its_log(tmp_path):
    log = tmp_path / "psf.log"
    log.write_text("Traceback\nValueError: bad\n\n")
    shown = made({"psf": 1})
    run_job(shown, 1, "psf", log=[str(log)], fails=True)
    assert "FAILED: psf: ValueError: bad" in shown.stream.getvalue()


def test_an_image_that_is_left_out_is_told(tmp_path):
    log = tmp_path / "psf.log"
    log.write_text("2026-01-01 10:00:00,123 WARNING image a: GAIN: no gain (left out of the run)\n")
    shown = made({"psf": 20})
    run_job(shown, 1, "psf", log=[str(log)], wildcards={"image": "a"})
    assert shown.stream.getvalue() == "left out: psf a: image a: GAIN: no gain (left out of the run)\n"


def test_an_image_that_is_left_out_counts_once_in_the_time_left(tmp_path, clock):
    log = tmp_path / "psf.log"
    log.write_text("2026-01-01 10:00:00,123 WARNING image a: GAIN: no gain (left out of the run)\n")
    shown = made({"psf": 4})
    run_job(shown, 1, "psf", log=[str(log)], wildcards={"image": "a"}, clock=clock, seconds=6)
    assert shown.left() == pytest.approx(3 * 6)
    assert shown.line() == "1/4 jobs, 6 s so far, about 18 s left; 1 failed; psf 1/4"


def test_lines_of_snakemake_that_stay():
    assert not is_not_displayed(record("job_finished", "Finished jobid: 3"))
    assert not is_not_displayed(record(None, "Select jobs to execute..."))
    assert is_not_displayed(record(None, "Nothing to be done (all requested files are present and up to date)."))
    assert is_not_displayed(record("run_info", "Job stats:"))


def test_the_live_display_shows_stages_and_what_runs(clock):
    from rich.console import Console

    shown = made({"psf": 3, "subtract": 3})
    run_job(shown, 1, "psf", clock=clock, seconds=2)
    shown.emit(record("job_info", jobid=2, rule_name="subtract", log=[], wildcards={"image": "a"}, output=["x"]))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(shown.table())
    lines = console.export_text().splitlines()
    assert lines[0].split()[0] == "psf" and "1/3" in lines[0]
    assert "0/3" in lines[1] and "1 running" in lines[1]
    assert "now: subtract a" in lines[2] and "1/6 jobs, 2 s so far, about" in lines[3]


def test_on_a_terminal_failures_stand_above_the_display():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = made({"psf": 2}, stream=Terminal())
    shown.open()
    run_job(shown, 1, "psf", fails=True)
    shown.close()
    text = shown.stream.getvalue()
    assert "FAILED: psf" in text and "\x1b[" in text and "1/2 jobs" not in text


def test_costs_that_are_published_or_not(tmp_path):
    assert published_costs()["subtract"] > 0.5
    assert published_costs(tmp_path / "none.csv") == {}
    assert said([str(tmp_path / "none.log")], " ERROR ") == ""
    assert [duration(seconds) for seconds in (5, 600, 7200)] == ["5 s", "10 min", "2.0 h"]
