"""Addresses of servers, what they answer, and what tells results folders apart."""

import shutil
import threading

import pytest

from otrain_core.errors import OtrainError
from otrain_core.registry.store import history_metrics, open_store, place_of, read_server, server_address, shown, why
from tests.unit.loopback import loopback


@pytest.mark.parametrize("address", ["http://server:5000", "https://mlflow.group.org/otrain", "http://10.0.0.7:5000/"])
def test_addresses(monkeypatch, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert server_address() == address.rstrip("/")


def test_no_address(monkeypatch):
    assert server_address() is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", " ")
    assert server_address() is None


@pytest.mark.parametrize(
    "address",
    ["server:5000", "htp://server", "http://", "http://server:port", "sqlite:///mlflow.db", "http://server:0"],
)
def test_what_is_no_address_is_told(monkeypatch, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(OtrainError, match=r"MLFLOW_TRACKING_URI: .* is not the address of a server"):
        server_address()


def test_no_password_is_shown():
    assert shown("https://anna:secret@server:5000/x") == "https://server:5000/x"
    assert "secret" not in why(ValueError("cannot reach http://anna:secret@server/api"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<html>a router's page</html>", r"is no MLflow server \(status 200\)"),
        (404, r"is no MLflow server \(status 404\)"),
        (503, r"is no MLflow server \(status 503\)"),
        ((5, b"OK"), r"no MLflow server answers there \(no answer in time\)"),
    ],
)
def test_something_else_answers(answer, message):
    with loopback() as web:
        web.answers = [answer]
        with pytest.raises(OtrainError, match=message):
            read_server(web.url, timeout=0.5)


@pytest.mark.parametrize(
    ("address", "reason"),
    [("http://127.0.0.1:9", "Connection refused"), ("http://nowhere.invalid:5000", "known|resolution|resolve")],
)
def test_nothing_answers(address, reason):
    with pytest.raises(OtrainError, match=rf"^{address}: no MLflow server answers there \(.*({reason}).*\)$"):
        read_server(address, timeout=5)


def test_one_place_for_many_jobs_that_start_at_once(tmp_path):
    found, barrier = [], threading.Barrier(16)

    def job():
        barrier.wait()
        found.append(place_of(tmp_path))

    jobs = [threading.Thread(target=job) for _ in range(16)]
    for item in jobs:
        item.start()
    for item in jobs:
        item.join()
    assert len(set(found)) == 1 and len(found[0]) == 12
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.id"]
    shutil.copytree(tmp_path, tmp_path / "moved")
    assert place_of(tmp_path / "moved") == found[0]
    (tmp_path / "other").mkdir()
    assert place_of(tmp_path / "other") != found[0]


def test_a_file_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "m.db").write_text("not a database at all, but long enough to be read as one" * 20)
    with pytest.raises(OtrainError, match=r"m\.db: not a store .* delete it"):
        open_store(tmp_path / "m.db", tmp_path / "art")


def test_a_history_becomes_metrics_without_what_is_missing():
    rows = [{"epoch": 1, "loss": 0.5, "accuracy": float("nan")}, {"epoch": 2, "loss": 0.25, "accuracy": 0.9}]
    points = [(point.key, point.value, point.timestamp, point.step) for point in history_metrics(rows, [10.4, 20.6])]
    assert points == [("epoch/loss", 0.5, 10, 1), ("epoch/loss", 0.25, 20, 2), ("epoch/accuracy", 0.9, 20, 2)]
