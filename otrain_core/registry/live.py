"""Live view of a running training on the MLflow server of the group.

The live run is a preview. The record of a training is in the files that it writes, and their import
(`otrain_core.registry.track`) completes the run. Nothing here may therefore stop or slow a training: a separate thread
sends the metrics. If the server does not answer, one warning is logged, and the missing metrics are sent once it answers
again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from otrain_core.errors import OtrainError
from otrain_core.registry.records import run_name, run_tags
from otrain_core.registry.store import HISTORY, LIVE, history_metrics, open_server, place_of, server_address, shown, why
from otrain_core.results import results_root, run_keys

log = logging.getLogger("otrain")

RETRY = 30.0  # time after which a server that did not answer is tried again [s]
IMPORT_LATER = "the training goes on; import its record later with `otrain models import`"


@contextmanager
def live_run(folder: str | Path) -> Iterator[LiveRun | None]:
    """Make a run for the training that writes to `folder`, on the server given by ``MLFLOW_TRACKING_URI``.

    Yields
    ------
    LiveRun or None
        None if no server is given, or if the folder is not telescope/pipeline/experiment/seedN.
    """
    live = _begin(Path(folder))
    try:
        yield live
    except BaseException as error:
        if live is not None:
            live.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    if live is not None:
        live.close("FINISHED")


def _begin(folder: Path) -> LiveRun | None:
    try:
        address = server_address()
        keys = run_keys(folder)
    except ValueError:
        return None
    except OtrainError as error:
        log.warning("%s; %s", error, IMPORT_LATER)
        return None
    return LiveRun(address, keys, place=place_of(results_root(folder))) if address else None


class LiveRun:
    """One run on a server, to which a separate thread sends epoch after epoch.

    Parameters
    ----------
    address : str
        Address of the server.
    keys : mapping
        From `otrain_core.results.run_keys`.
    place : str
        Identifier of the results folder, see `otrain_core.registry.store.place_of`.
    wait : float
        Longest time that `close` waits for the server [s].

    Attributes
    ----------
    run_id : str or None
        Identifier of the run, once the server has created it.
    """

    def __init__(self, address: str, keys: Mapping[str, Any], *, place: str, wait: float = 20.0):
        self.address, self.keys, self.place, self.wait = address, dict(keys), place, wait
        self.run_id: str | None = None
        self._client: Any = None
        self._rows: list[tuple[float, Mapping[str, float]]] = []
        self._sent = 0
        self._status: str | None = None
        self._missing = False  # the last attempt failed
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def begin(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Start the thread. `rows` are the earlier epochs of a resumed training, whose run is continued."""
        self._resumed = bool(rows)
        self._rows = [(time.time(), row) for row in rows]
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def epoch(self, row: Mapping[str, float]) -> None:
        """Send one row of the history, without waiting for the server."""
        with self._changed:
            self._rows.append((time.time(), row))
            self._changed.notify()

    def close(self, status: str) -> None:
        """End the run with a status of MLflow. Whatever the server does not accept in time is left to the import."""
        if self._thread is None:
            return
        with self._changed:
            self._status = status
            self._changed.notify()
        self._thread.join(self.wait)
        if self._thread.is_alive() and not self._missing:
            log.warning("%s: no answer in time; %s", shown(self.address), IMPORT_LATER)

    def _work(self) -> None:
        while True:
            with self._changed:
                status, seen = self._status, len(self._rows)
            try:
                self._send(status, seen)
                if self._missing:
                    log.info("%s: the MLflow server answers again", shown(self.address))
                self._missing = False
            except Exception as error:  # no error may stop the training
                if not self._missing:
                    log.warning("%s; %s", self._sentence(error), IMPORT_LATER)
                self._missing = True
            if status:
                return
            with self._changed:
                self._changed.wait_for(partial(self._has_news, seen), timeout=RETRY if self._missing else None)

    def _has_news(self, seen: int) -> bool:
        return self._status is not None or len(self._rows) > seen

    def _sentence(self, error: Exception) -> str:
        return str(error) if isinstance(error, OtrainError) else f"{shown(self.address)}: {why(error)}"

    def _send(self, status: str | None, seen: int) -> None:
        if self.run_id is None:
            self._open()
        rows = self._rows[self._sent : seen]
        if rows:
            metrics = history_metrics([row for _, row in rows], [1000 * stamp for stamp, _ in rows])
            self._client.log_batch(self.run_id, metrics=metrics)
            self._sent = seen
        if status:
            self._client.set_tag(self.run_id, LIVE, status.lower())
            self._client.set_terminated(self.run_id, status)

    def _open(self) -> None:
        """Create the run, or find the run of the resumed training; close older runs of this training that never ended."""
        self._client, experiment = open_server(self.address)
        tags = run_tags(self.keys, self.place)
        found = self._client.search_runs(
            [experiment],
            filter_string=f"tags.training = '{tags['training']}' and tags.place = '{self.place}'",
            order_by=["attributes.start_time DESC"],
        )
        open_ = [run for run in found if LIVE in run.data.tags and "digest" not in run.data.tags]
        if self._resumed and open_:
            run_id = open_.pop(0).info.run_id
            there = {point.step for point in self._client.get_metric_history(run_id, f"epoch/{HISTORY[0]}")}
            with self._changed:  # the server can only have rows of the resumed training
                while self._sent < len(self._rows) and self._rows[self._sent][1]["epoch"] in there:
                    self._sent += 1
            self._client.update_run(run_id, status="RUNNING")
            self._client.set_tag(run_id, LIVE, "running")
        else:
            note = "The import of the record of this training adds the scores."
            tags |= {LIVE: "running", "mlflow.note.content": note}
            run_id = self._client.create_run(experiment, run_name=run_name(self.keys), tags=tags).info.run_id
        for run in open_:
            if run.info.status == "RUNNING":
                self._client.set_terminated(run.info.run_id, "KILLED")
        self.run_id = run_id
