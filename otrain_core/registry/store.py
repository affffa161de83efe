"""Storage of runs and models by MLflow: the SQLite store of a results folder, or the server of a group."""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from otrain_core.errors import OtrainError

log = logging.getLogger("otrain")

ADDRESS = "MLFLOW_TRACKING_URI"  # environment variable with the address of the server of a group
PLACE = "mlflow.id"  # file in a results folder with its identifier, which distinguishes its runs on a server
EXPERIMENT = "otrain"
HISTORY = ("loss", "accuracy", "validation_loss", "validation_accuracy")  # metrics per epoch, named epoch/loss etc.
PATIENCE = 20.0  # time for which another program may lock a store [s]
LIVE = "live"  # tag of a run that a training writes itself: running, finished, failed or killed
# A predefined view of the web page: scores of the main runs, grouped by cube and experiment, averaged over the seeds.
_METRICS = [f"metrics.`{name}`" for name in ("mcc", "recall", "fp_share", "ece", "false_alarms_per_image")]
_TAGS = [f"tags.`{name}`" for name in ("telescope", "pipeline", "experiment", "seed", "commit")]
_WIDTHS = {"attributes.`Run Name`": 430, **dict.fromkeys(_METRICS, 120), **dict.fromkeys(_TAGS, 110)}
VIEW = {
    "searchFilter": "tags.study = 'none' and tags.protocol = 'by-image'",
    "orderByKey": "metrics.`mcc`",
    "orderByAsc": False,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "datasetsFilter": [],
    "modelVersionFilter": "All Runs",
    "selectedColumns": [*_METRICS, *_TAGS],
    "columnOrder": [*_WIDTHS, "runDateAndNestInfo", "duration"],
    "columnWidths": _WIDTHS,
    "runsExpanded": {},
    "runsPinned": [],
    "runsHidden": [],
    "runsVisibilityMap": {},
    "runsHiddenMode": "FIRST_20_RUNS",
    "viewMaximized": False,
    "runListHidden": False,
    "isAccordionReordered": False,
    "useGroupedValuesInCharts": True,
    "hideEmptyCharts": True,
    "groupBy": {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "tag", "groupByData": "cube"}, {"mode": "tag", "groupByData": "experiment"}],
    },
    "groupsExpanded": {},
    "autoRefreshEnabled": True,
    "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
}
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # the page shows training runs, not language models
    "mlflow.note.content": "Every training of O'TRAIN. Group or filter by the tags telescope, cube, experiment, protocol,"
    " study; sort by mcc. Protocol by-image: scored on images the model never saw. Protocol random: random split, scored on"
    " the set it was tuned on.",
    "mlflow.sharedViewState.telescopes": json.dumps(VIEW),  # page experiments/ID/runs?viewStateShareKey=telescopes
}


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Lock the store, so that a second import waits for the first."""
    import fcntl

    store.parent.mkdir(parents=True, exist_ok=True)
    with open(store.with_name(f".{store.name}.lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: waiting for another import to finish", store)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # the file system has no locks
        yield


def import_mlflow() -> None:
    """Import MLflow without telemetry and log output, and let it wait for seconds, not minutes, for a server."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    import mlflow  # noqa: F401

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(
        logging.CRITICAL
    )  # its tracebacks; the error is raised as one sentence


def open_store(store: str | Path, artifacts: str | Path):
    """Open a SQLite store, which is created if it does not exist.

    A store that was copied from another folder contains absolute paths of the old folder. It is renamed to ``*.moved``,
    and a new store is created.

    Returns
    -------
    client : mlflow.MlflowClient
    experiment_id : str

    Raises
    ------
    OtrainError
        The store cannot be opened, or another MLflow version wrote it.
    """
    import_mlflow()
    store, location = Path(store).resolve(), Path(artifacts).resolve().as_uri()
    with _opening(
        store,
        advice="delete it if nothing else needs it, and run the rule track again, which makes it from the records",
    ):
        if store.exists() and _artifact_location(store) not in (None, location):
            log.warning("%s was made in another folder; it is renamed to %s.moved and made again", store, store.name)
            os.replace(store, store.with_name(store.name + ".moved"))
        if not store.exists():
            # Made under another name and renamed when complete, so that a crash leaves no incomplete store.
            fresh = store.with_name(f".{store.name}.new")
            fresh.unlink(missing_ok=True)
            _client(fresh).create_experiment(EXPERIMENT, artifact_location=location, tags=EXPERIMENT_TAGS)
            os.replace(fresh, store)
        client = _client(store)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return client, client.create_experiment(EXPERIMENT, artifact_location=location, tags=EXPERIMENT_TAGS)
        _refresh(client, experiment)
    return client, experiment.experiment_id


def read_store(store: str | Path):
    """Open an existing store for reading.

    Raises
    ------
    OtrainError
        There is no store, the file is not a store, it is locked by another program, or another version of MLflow wrote it.
    """
    store = Path(store)
    if not store.is_file():
        raise OtrainError(
            f"{store}: no such store of models; give the results folder of a run (--results) or a model file"
        )
    import_mlflow()
    with _opening(store, advice="give the results folder of a run (--results)"):
        _artifact_location(store)
        client = _client(store.resolve())
        client.search_registered_models(max_results=1)
    return client


@contextmanager
def _opening(store: Path, *, advice: str) -> Iterator[None]:
    """Raise an error in one sentence if a store cannot be opened."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, UnicodeDecodeError) as error:
        if "database is locked" in str(error):
            raise OtrainError(f"{store}: locked by another program; try again when that has finished") from None
        raise OtrainError(f"{store}: this version of MLflow cannot open the store ({why(error)}); {advice}") from None


def _client(store: Path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{store}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _artifact_location(store: Path) -> str | None:
    """Location of the artifacts of a store; None if its experiment does not exist yet.

    MLflow creates its tables in any database. A database that is not a store is therefore refused before MLflow opens it.

    Raises
    ------
    sqlite3.Error
        The file is not a database, is a database of another program, or is locked.
    """
    with closing(sqlite3.connect(f"{store.resolve().as_uri()}?mode=rw", uri=True, timeout=PATIENCE)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"alembic_version", "experiments", "registered_models"} <= tables:
            raise sqlite3.DatabaseError(
                f"a database with {len(tables)} tables, none of them of MLflow" if tables else "it is empty"
            )
        rows = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", (EXPERIMENT,)).fetchall()
    return rows[0][0] if rows else None


def server_address() -> str | None:
    """Address of the server of the group, from ``MLFLOW_TRACKING_URI``; None if it is not set.

    Raises
    ------
    OtrainError
        The variable is not an address of the form http://HOST:PORT.
    """
    address = os.environ.get(ADDRESS, "").strip().rstrip("/")
    if not address:
        return None
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise OtrainError(f"{ADDRESS}: {shown(address)!r} is not the address of a server (http://HOST:PORT)")
    return address


def shown(address: str | Path) -> str:
    """Address for logs and records, without user name and password."""
    return re.sub(r"//[^/@]*@", "//", str(address))


def is_address(store: str | Path) -> bool:
    """Whether a store is a server, not a file."""
    return str(store).startswith(("http://", "https://"))


def read_server(address: str, *, timeout: float = 10):
    """Open a server, after a check that it answers.

    Returns
    -------
    mlflow.MlflowClient

    Raises
    ------
    OtrainError
        There is no answer within `timeout` seconds, or the answer is not that of an MLflow server.
    """
    import_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request
    from requests import RequestException

    try:
        answer = http_request(
            get_default_host_creds(address), "/health", "GET", timeout=timeout, max_retries=0, raise_on_status=False
        )
    except (MlflowException, RequestException, OSError) as error:
        raise OtrainError(f"{shown(address)}: no MLflow server answers at this address ({why(error)})") from None
    if answer.status_code != 200 or answer.text.strip() != "OK":
        raise OtrainError(f"{shown(address)}: the server there is not an MLflow server (status {answer.status_code})")
    return MlflowClient(tracking_uri=address, registry_uri=address)


def open_server(address: str):
    """Open a server and its experiment, which is created if it does not exist.

    Returns
    -------
    client : mlflow.MlflowClient
    experiment_id : str

    Raises
    ------
    OtrainError
        As `read_server`, or the server refuses a request.
    """
    client = read_server(address)
    from mlflow.exceptions import MlflowException

    with told(address):
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            try:
                return client, client.create_experiment(EXPERIMENT, tags=EXPERIMENT_TAGS)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another client has just created it
                    raise
            experiment = client.get_experiment_by_name(EXPERIMENT)
        _refresh(client, experiment)
    return client, experiment.experiment_id


def _refresh(client, experiment) -> None:
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    for key, value in EXPERIMENT_TAGS.items():  # stores of earlier versions lack some
        if experiment.tags.get(key) is None:
            insist(client.set_experiment_tag, experiment.experiment_id, key, value)


def insist(function, *arguments: Any, **named: Any) -> None:
    """Write a tag, an alias or a data set, twice if the first attempt fails.

    If two clients add the same row at once, PostgreSQL refuses one of them; its second attempt finds the row.
    """
    from mlflow.exceptions import MlflowException

    try:
        function(*arguments, **named)
    except MlflowException:
        function(*arguments, **named)


@contextmanager
def told(store: str | Path) -> Iterator[None]:
    """Raise errors of MLflow, its server or its database in one sentence."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        raise OtrainError(f"{shown(store)}: {why(error)}; nothing is lost: solve this problem and try again") from None


def why(error: BaseException) -> str:
    """Cause of an error, from the end of the long messages of the network libraries."""
    text = str(error)
    if "timed out" in text:
        return "no answer in time"
    found = re.findall(r"\[Errno -?\d+\] ([^'\"()<>\[\]]+)", text)
    if found:
        return found[-1].strip()
    first = (text.splitlines() or [type(error).__name__])[0][:200]
    return shown(re.sub(r"^\(\w+\.\w+\) ", "", first))  # without the name of the database library


def place_of(root: str | Path) -> str:
    """Identifier of a results folder, which distinguishes its runs from those of other folders; made once, kept in the folder."""
    path = Path(root, PLACE)
    if not path.is_file():
        fresh = path.with_name(f".{PLACE}.{uuid.uuid4().hex}")
        fresh.write_text(uuid.uuid4().hex[:12] + "\n")
        try:
            os.link(fresh, path)  # if many jobs start at once, the first one wins
        except FileExistsError:
            pass
        except OSError:  # the file system has no links
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
    return path.read_text().strip()


def history_metrics(rows: Sequence[Mapping[str, float]], stamps: Sequence[float]) -> list:
    """Convert rows of a history to metrics of MLflow; `stamps` are their times [ms since 1970]."""
    from mlflow.entities import Metric

    return [
        Metric(f"epoch/{name}", float(row[name]), int(stamp), int(row["epoch"]))
        for name in HISTORY
        for row, stamp in zip(rows, stamps, strict=True)
        if np.isfinite(row.get(name, np.nan))
    ]
