"""Tests of live runs: whatever the server does, the training goes on."""

import logging
import threading
import time

import pytest

from otrain_core.errors import OtrainError
from otrain_core.registry import live as mlflow_live
from otrain_core.registry.live import LiveRun, live_run
from tests.unit.loopback import loopback

KEYS = {"telescope": "TCA", "pipeline": "gmadet", "experiment": "otrain2", "seed": 1, "protocol": "by-image"}
ROW = {"loss": 0.5, "accuracy": 0.9, "validation_loss": float("nan"), "validation_accuracy": 0.8, "seconds": 1.0}


@pytest.fixture(autouse=True)
def threads_end(monkeypatch):
    """Wait for the thread of every LiveRun before the patches of its test are undone: it would use those of the next."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive(), thread.name


class Server:
    """Records what a client sends; refuses the first `away` calls."""

    def __init__(self, away=0):
        self.away, self.calls, self.points, self.ended = away, [], [], None

    def open(self, _address):
        self.calls.append("open")
        if self.away:
            self.away -= 1
            raise OtrainError("http://server: no MLflow server answers at this address (Connection refused)")
        return self, "1"

    def search_runs(self, *_args, **_kwargs):
        return []

    def create_run(self, *_args, tags, **_kwargs):
        self.tags, self.info, self.run_id = tags, self, "abc"
        return self

    def log_batch(self, _run, *, metrics):
        self.calls.append("log_batch")
        if self.away:
            self.away -= 1
            raise ConnectionResetError("[Errno 104] Connection reset by peer")
        self.points += [(point.key, point.step) for point in metrics]

    def set_tag(self, _run, key, value):
        self.tags[key] = value

    def set_terminated(self, _run, status):
        self.ended = status


def train(live, server, epochs=4):
    """Run epochs, each of which lasts until the server has been called once more."""
    live.begin([])
    for epoch in range(epochs + 1):
        if epoch:
            live.epoch(ROW | {"epoch": epoch})
        deadline = time.monotonic() + 60
        while len(server.calls) <= epoch:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    live.close("FINISHED")


@pytest.mark.parametrize("away", [0, 1, 2])
def test_every_epoch_arrives_when_the_server_comes_back(monkeypatch, caplog, away):
    caplog.set_level(logging.INFO, "otrain")
    server = Server(away)
    monkeypatch.setattr(mlflow_live, "open_server", server.open)
    live = LiveRun("http://server", KEYS, place="here")
    train(live, server)
    names = {"epoch/loss", "epoch/accuracy", "epoch/validation_accuracy"}  # NaN is not sent
    assert sorted(server.points) == sorted((name, epoch) for name in names for epoch in range(1, 5))
    assert (server.ended, server.tags["live"], live.run_id) == ("FINISHED", "finished", "abc")
    assert server.tags["training"] == "TCA/gmadet/otrain2/1/by-image"
    assert caplog.text.count("import its record later with `otrain models import`") == min(away, 1)
    assert caplog.text.count("answers again") == min(away, 1)


def test_one_warning_about_a_server_that_never_answers(monkeypatch, caplog):
    server = Server(away=99)
    monkeypatch.setattr(mlflow_live, "open_server", server.open)
    live = LiveRun("http://server", KEYS, place="here")
    train(live, server)
    assert live.run_id is None
    (told,) = [record.getMessage() for record in caplog.records]
    assert told == (
        "http://server: no MLflow server answers at this address (Connection refused); the training goes on;"
        " import its record later with `otrain models import`"
    )


def test_a_server_that_hangs_is_not_waited_for(caplog):
    with loopback() as web:
        answer = threading.Event()
        web.answers = [lambda _query: answer.wait(30) and 503]
        live = LiveRun(web.url, KEYS, place="here", wait=0.5)
        live.begin([])
        started = time.monotonic()
        live.epoch(ROW | {"epoch": 1})
        assert time.monotonic() - started < 5
        live.close("FINISHED")
        assert 0.3 < time.monotonic() - started < 15
        answer.set()
        live._thread.join(30)  # while the server still answers
    assert "no answer in time; the training goes on" in caplog.text


def test_an_error_of_the_training_is_raised_and_recorded(tmp_path, monkeypatch):
    folder = tmp_path / "TCA" / "gmadet" / "otrain2" / "seed1"
    folder.mkdir(parents=True)
    server = Server()
    monkeypatch.setattr(mlflow_live, "open_server", server.open)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    with pytest.raises(ZeroDivisionError), live_run(folder) as live:
        live.begin([])
        raise ZeroDivisionError
    assert server.ended == "FAILED"
    assert server.tags["place"] == (tmp_path / "mlflow.id").read_text().strip()


def test_no_server_and_a_wrong_one(tmp_path, monkeypatch, caplog):
    folder = tmp_path / "TCA" / "gmadet" / "otrain2" / "seed1"
    with live_run(folder) as live:
        assert live is None and not caplog.records
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    with live_run(tmp_path / "mine") as live:  # `otrain train` writes to any folder
        assert live is None and not caplog.records
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "server:5000")
    with live_run(folder) as live:
        assert live is None
    assert "'server:5000' is not the address of a server (http://HOST:PORT); the training goes on" in caplog.text
