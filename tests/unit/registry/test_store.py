"""Tests of stores and servers, and of the identifiers of results folders."""

import shutil
import sqlite3
import threading
from contextlib import closing

import pytest

from otrain_core.errors import OtrainError
from otrain_core.registry import store as store_module
from otrain_core.registry.store import (
    history_metrics,
    open_store,
    place_of,
    read_server,
    read_store,
    server_address,
    shown,
    told,
    why,
)
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
        (b"<html>a router's page</html>", r"is not an MLflow server \(status 200\)"),
        (404, r"is not an MLflow server \(status 404\)"),
        (503, r"is not an MLflow server \(status 503\)"),
        ((5, b"OK"), r"no MLflow server answers at this address \(no answer in time\)"),
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
    with pytest.raises(OtrainError, match=rf"^{address}: no MLflow server answers at this address \(.*({reason}).*\)$"):
        read_server(address, timeout=5)


def test_one_place_for_many_jobs_that_start_at_once(tmp_path):
    found, barrier = [], threading.Barrier(16, timeout=60)

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


def make(path, content):
    """Write a file that is not a store: bytes, or a database of another program from SQL statements."""
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    with closing(sqlite3.connect(path)) as database:
        for statement in content:
            database.execute(statement)
        database.commit()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"not a database at all, but long enough to be read as one" * 20, "file is not a database"),
        (
            ["CREATE TABLE answers (x)", "INSERT INTO answers VALUES (1)"],
            "a database with 1 tables, none of them of MLflow",
        ),
    ],
)
def test_a_file_that_is_no_store_is_refused_and_left_as_it_is(tmp_path, content, reason):
    store = tmp_path / "mlflow.db"
    make(store, content)
    before = store.read_bytes()
    with pytest.raises(
        OtrainError, match=rf"mlflow\.db: this version of MLflow cannot open the store \({reason}\); delete it"
    ):
        open_store(store, tmp_path / "art")
    with pytest.raises(
        OtrainError, match=rf"mlflow\.db: this version of MLflow cannot open the store \({reason}\); give"
    ):
        read_store(store)
    assert store.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_damaged_store_is_one_sentence(place):
    content = place["store"].read_bytes()
    place["store"].write_bytes(content[: len(content) // 2])
    with pytest.raises(OtrainError, match="this version of MLflow cannot open the store .*malformed"):
        read_store(place["store"])


def test_a_store_that_another_program_holds_is_one_sentence(place, monkeypatch):
    monkeypatch.setattr(store_module, "PATIENCE", 0.05)
    client = read_store(place["store"])
    with closing(sqlite3.connect(place["store"], isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for opened in (read_store, lambda store: open_store(store, place["artifacts"])):
            with pytest.raises(OtrainError, match=r"mlflow\.db: locked by another program; try again"):
                opened(place["store"])
        other.execute("ROLLBACK")
    assert not client.search_registered_models()


def test_what_a_database_refuses_meanwhile_is_one_sentence(place):
    from sqlalchemy.exc import OperationalError

    with pytest.raises(OtrainError, match=r"mlflow\.db: database is locked; nothing is lost"), told(place["store"]):
        raise OperationalError("SELECT 1", {}, sqlite3.OperationalError("database is locked"))


def test_a_history_becomes_metrics_without_what_is_missing():
    rows = [{"epoch": 1, "loss": 0.5, "accuracy": float("nan")}, {"epoch": 2, "loss": 0.25, "accuracy": 0.9}]
    points = [(point.key, point.value, point.timestamp, point.step) for point in history_metrics(rows, [10.4, 20.6])]
    assert points == [("epoch/loss", 0.5, 10, 1), ("epoch/loss", 0.25, 20, 2), ("epoch/accuracy", 0.9, 20, 2)]
