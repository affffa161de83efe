"""Progress of a local run: a live display on a terminal, a few plain lines elsewhere.

It replaces Snakemake's own lines on the terminal. The log file of Snakemake still has all of them.
"""

from __future__ import annotations

import csv
import logging
import os
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from otrain_core.jobs.job import DISPLAYED, LEFT_OUT

DROPPED = (
    "job_info",
    "group_info",
    "job_started",
    "job_finished",
    "job_error",
    "progress",
    "shellcmd",
    "resources_info",
)
DONE_ANYWAY = ("Select jobs", "Execute ", "Removing temporary", "Finished job", "Touching")  # lines without an event
COSTS = Path(__file__).parents[2] / "results/published/demo/benchmarks.csv"
STEP = 0.1  # fraction of the jobs between two plain lines
TAIL = 20_000  # bytes that are read from the end of a log


def attach(workflow: Any) -> Display | None:
    """Show the progress of a run instead of Snakemake's lines; called once, before the first job.

    Parameters
    ----------
    workflow : snakemake.workflow.Workflow

    Returns
    -------
    Display or None
        None on a cluster, or if Snakemake uses another logger.
    """
    logger = logging.getLogger("snakemake.logging")
    theirs = next((handler for handler in logger.handlers if handler.name == "DefaultStreamHandler"), None)
    if not isinstance(theirs, logging.StreamHandler) or not workflow.local_exec:
        return None
    totals = Counter(job.rule.name for job in workflow.dag.needrun_jobs())
    order = {rule.name: place for place, rule in enumerate(workflow.rules)}
    stages = dict(sorted(totals.items(), key=lambda stage: order.get(stage[0], len(order))))
    display = Display(stages, cores=workflow.resource_settings.cores or 1, costs=published_costs())
    theirs.addFilter(is_not_displayed)
    logger.addHandler(display)
    os.environ[DISPLAYED] = "1"
    display.open()
    theirs.setStream(sys.stderr)  # redirected by the live display, so that other lines of Snakemake appear above it
    return display


def is_not_displayed(record: logging.LogRecord) -> bool:
    """Whether a line of Snakemake has information that the display lacks."""
    event = str(getattr(record, "event", None) or "")
    return event not in DROPPED and not (not event and str(record.msg).startswith(DONE_ANYWAY))


def published_costs(path: str | Path = COSTS) -> dict[str, float]:
    """Mean time of a job [s] by rule in the published demo, to estimate the remaining time of rules without a job yet."""
    with suppress(OSError, ValueError, KeyError), open(path, encoding="utf-8") as file:
        return {row["rule"]: float(row["mean"]) for row in csv.DictReader(file) if "per second" not in row["rule"]}
    return {}


class Display(logging.Handler):
    """Display of finished jobs by rule, of the remaining time, and of failures as they happen.

    Parameters
    ----------
    stages : mapping of str to int
        Number of jobs by rule, in the order of the display.
    cores : int
        CPU cores of the run.
    costs : mapping of str to float
        Mean time of a job [s] by rule in another run.
    stream : file, optional
        Default: standard error.
    """

    def __init__(
        self, stages: Mapping[str, int], *, cores: int, costs: Mapping[str, float], stream: TextIO | None = None
    ):
        super().__init__()
        self.stages, self.cores, self.costs = dict(stages), max(cores, 1), costs
        self.stream = stream or sys.stderr
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()  # finished jobs whose image is left out
        self.seconds: defaultdict[str, float] = defaultdict(float)  # total time of the finished jobs by rule
        self.running: dict[int, tuple[dict[str, Any], float]] = {}
        self.start, self.told = time.monotonic(), 0.0
        self._live: Any = None

    def open(self) -> None:
        """Start the live display, if the stream is a terminal."""
        if self.stream.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                get_renderable=self.table, console=Console(file=self.stream), refresh_per_second=2, transient=False
            )
            self._live.start()

    def close(self) -> None:
        """Stop the live display; its last state stays on the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event = str(getattr(record, "event", None) or "")
            if event == "job_info":
                self.running[record.__dict__["jobid"]] = (record.__dict__, time.monotonic())
            elif event == "job_finished":
                self._finished(record.__dict__["job_id"])
            elif event == "job_error":
                self._failed(record.__dict__)
        except Exception:  # a display that fails must not end a run
            self.handleError(record)

    def _finished(self, job: int) -> None:
        if job not in self.running:
            return
        about, began = self.running.pop(job)
        rule = about["rule_name"]
        self.done[rule] += 1
        self.seconds[rule] += time.monotonic() - began
        if about.get("wildcards") and (sentence := said(about.get("log") or [], LEFT_OUT)):
            self.left_out[rule] += 1
            self._print(f"left out: {_shown(about)}: {sentence}")
        share = sum(self.done.values()) / max(sum(self.stages.values()), 1)
        if self._live is None and (share >= self.told + STEP or share == 1):
            self.told = share
            self._print(self.line())

    def _failed(self, about: Mapping[str, Any]) -> None:
        began, _ = self.running.pop(about["jobid"], (about, 0.0))  # the event of an error has no wildcards
        self.failed[about["rule_name"]] += 1
        logs = list(about.get("log") or [])
        sentence = said(logs, " ERROR ") or last_line(logs) or "no log was written"
        self._print(f"FAILED: {_shown(began)}: {sentence}")
        if logs:
            self._print(f"        log file: {logs[0]}")

    def _print(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self.stream, flush=True)

    def left(self) -> float:
        """Estimated remaining time [s], from the finished jobs and from the costs of another run."""
        known = {rule: self.seconds[rule] / n for rule, n in self.done.items() if n}
        theirs = sum(self.costs.get(rule, 0.0) * n for rule, n in self.done.items())
        ours = sum(self.seconds[rule] for rule in self.done if rule in self.costs)
        pace = ours / theirs if theirs > 0 and ours > 0 else 1.0
        usual = sorted(self.costs.values())[len(self.costs) // 2] if self.costs else 1.0
        to_come = {rule: n - self.done[rule] - self.failed[rule] for rule, n in self.stages.items()}
        work = sum(n * known.get(rule, pace * self.costs.get(rule, usual)) for rule, n in to_come.items() if n > 0)
        return work / self.cores

    def line(self) -> str:
        """The progress of the run in one line."""
        total, done = sum(self.stages.values()), sum(self.done.values())
        spent = time.monotonic() - self.start
        open_ = [f"{rule} {self.done[rule]}/{n}" for rule, n in self.stages.items() if 0 < self.done[rule] < n]
        rest = f"about {duration(self.left())} left" if done < total else "done"
        n_bad = sum((self.failed + self.left_out).values())
        bad = f"; {n_bad} failed" if n_bad else ""
        return f"{done}/{total} jobs, {duration(spent)} so far, {rest}{bad}{'; ' * bool(open_)}{', '.join(open_)}"

    def table(self) -> Any:
        """The live display: one row per rule, and the progress of the run."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        at_work = Counter(str(about["rule_name"]) for about, _ in list(self.running.values()))
        table = Table(box=None, padding=(0, 1), show_header=False)
        for rule, n in self.stages.items():
            done, bad = self.done[rule], self.failed[rule] + self.left_out[rule]
            style = "red" if bad else "green" if done == n else "cyan" if at_work[rule] else "dim"
            more = [f"{at_work[rule]} running"] * bool(at_work[rule]) + [f"{bad} failed"] * bool(bad)
            table.add_row(
                Text(rule, style=style),
                ProgressBar(total=n, completed=done, width=24),
                Text(f"{done}/{n}", justify="right"),
                Text(", ".join(more), style=style),
            )
        jobs = [_shown(about) for about, _ in list(self.running.values())[:4]]
        now = Text("now: " + ("; ".join(jobs) or "-"), style="dim", no_wrap=True, overflow="ellipsis")
        return Group(table, now, Text(self.line().split("; ")[0], style="bold"))


def said(logs: list[str], mark: str) -> str:
    """The last line with `mark` in the logs of a job, without time and level; '' if there is none."""
    lines = [line for line in _lines(logs) if mark in line]
    return re.sub(r"^[\d\- :,]+(ERROR|WARNING) ", "", lines[-1]) if lines else ""


def last_line(logs: list[str]) -> str:
    """The last non-empty line in the logs of a job, or ''."""
    return next((line for line in reversed(_lines(logs)) if line.strip()), "")


def _lines(logs: list[str]) -> list[str]:
    lines: list[str] = []
    for path in logs:
        with suppress(OSError), open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines += file.read().decode("utf-8", "replace").splitlines()
    return lines


def _shown(about: Mapping[str, Any]) -> str:
    """Rule of a job, and the values of its wildcards."""
    return f"{about['rule_name']} {'/'.join(map(str, dict(about.get('wildcards') or {}).values()))}".strip()


def duration(seconds: float) -> str:
    """A time in seconds, minutes or hours, as text."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
