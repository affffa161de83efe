"""The MLflow server of a group: a real PostgreSQL and the server of `make server`, on loopback.

Takes about 40 CPU seconds, half of them for the two starts of the server.
"""

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import requests

from otrain_core import io
from otrain_core.cli.main import main
from otrain_core.errors import OtrainError
from otrain_core.evaluation.gate import validation_mcc
from otrain_core.plan.config import GateOptions
from otrain_core.registry import track
from otrain_core.registry.live import LiveRun
from otrain_core.registry.store import EXPERIMENT, HISTORY, place_of, read_server
from otrain_core.registry.track import METRICS, import_runs
from otrain_core.results import run_keys
from tests.unit.synthetic_results import write_results
from tests.unit.tiny_network import tiny_network
from tests.unit.tiny_onnx import write_tiny

pytestmark = pytest.mark.xdist_group("mlflow-server")
WRITERS = 8


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def database():
    """URI of a new, empty PostgreSQL database; its server refuses to run as root."""
    installed = [*map(Path, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
    programs = Path(shutil.which("pg_ctl")).resolve().parent if shutil.which("pg_ctl") else next(iter(installed), None)
    if programs is None:
        pytest.skip("PostgreSQL is not installed (make programs, as root)")
    user = "postgres" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="otrain-pg", dir="/tmp"))  # the names of sockets must be short
    password, port = "not:secret", free_port()
    (folder / "password").write_text(password)
    for path in (folder, folder / "password"):
        if user:
            shutil.chown(path, user)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "LC_ALL": "C", "PGPASSWORD": password}
    run = partial(subprocess.run, check=True, user=user, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    run(["initdb", "-D", "data", "-U", "otrain", "--auth=scram-sha-256", "--pwfile=password", "--no-sync"])
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    run(["pg_ctl", "-D", "data", "-o", options, "-l", "log", "-w", "start"])
    try:
        run(["createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "otrain", "mlflow"])
        yield f"postgresql://otrain:not%3Asecret@127.0.0.1:{port}/mlflow"
    finally:
        run(["pg_ctl", "-D", "data", "-m", "immediate", "stop"])
        shutil.rmtree(folder)


class Server:
    """The server as `make server` starts it, stopped and started again on the same port."""

    def __init__(self, root, database, folder):
        self.port, self.folder = free_port(), folder
        self.address = f"http://127.0.0.1:{self.port}"
        settings = [f"MLFLOW_PORT={self.port}", f"MLFLOW_ARTIFACTS={folder / 'artifacts'}", "MLFLOW_WORKERS=2"]
        settings.append("MLFLOW_NAME=mlflow.group.test")
        venv = f"VENV={Path(sys.executable).parents[1]}"
        self.command = ["make", "-s", "--old-file=setup", "-C", str(root), "server", venv, *settings]
        self.environment = {**os.environ, "MLFLOW_DB": database, "PYTHONPATH": str(root)}

    def start(self):
        with open(self.folder / "server.log", "a") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 180
        while True:
            assert self.process.poll() is None, (self.folder / "server.log").read_text()[-3000:]
            try:
                return read_server(self.address, timeout=2)
            except OtrainError:
                assert time.monotonic() < deadline, (self.folder / "server.log").read_text()[-3000:]
                time.sleep(0.5)

    def stop(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server(root, database, tmp_path_factory):
    started = Server(root, database, tmp_path_factory.mktemp("server"))
    started.client = started.start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    from otrain_core.networks.architecture import save_model

    path = tmp_path_factory.mktemp("model") / "model.keras"
    save_model(tiny_network("otrain2", size=17, normalise="mad-asinh"), path)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory, model_file):
    """Eight results folders, as of eight people, each with one training of the same telescope."""
    made = []
    for number in range(WRITERS):
        root = tmp_path_factory.mktemp(f"person{number}") / "results"
        runs = write_results(
            root, model=model_file, experiments=("otrain2",), seeds=(number + 1,), quality=2.5, passing=True
        )["runs"]
        made += runs
        write_tiny(Path(runs[0]) / "model.onnx", about={"threshold": 0.1 * (number + 1)})
    return made


def write_live_and_import(folder, address, barrier):
    """Do the work of a training job and of the import after it."""
    track.draw_training = lambda folder: {}  # it takes a second per run
    barrier.wait(120)
    live = LiveRun(address, run_keys(folder), place=place_of(Path(folder).parents[3]), wait=120)
    live.begin([])
    for row in io.read_table(Path(folder) / "history.csv").to_dict("records"):
        live.epoch(row)
    live.close("FINISHED")
    record = io.read_json(Path(folder) / "train.json")
    io.write_json(Path(folder) / "train.json", record | {"mlflow_run": live.run_id})
    barrier.wait(120)
    done = import_runs([folder], store=address, gate=GateOptions())
    assert [entry["run_id"] for entry in done["runs"]] == [live.run_id]  # the live run is completed


def at_once(function, arguments):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["otrain_core.registry.track", "mlflow", __name__])
    barrier = context.Barrier(len(arguments))
    jobs = [context.Process(target=function, args=(*values, barrier), daemon=True) for values in arguments]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(600)
    assert [job.exitcode for job in jobs] == [0] * len(jobs)


def runs_of(client, folder):
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    place = place_of(Path(folder).parents[3])
    return client.search_runs([experiment], f"tags.place = '{place}'")


def is_whole(client, run, folder):
    """Whether the run contains everything in the folder."""
    folder = Path(folder)
    table, headline = io.read_table(folder / "history.csv"), io.read_json(folder / "metrics.json")["headline"]
    for name in HISTORY:
        points = sorted(client.get_metric_history(run.info.run_id, f"epoch/{name}"), key=lambda point: point.step)
        assert [point.step for point in points] == table["epoch"].tolist()
        np.testing.assert_allclose([point.value for point in points], table[name])
    assert {name: run.data.metrics[name] for name in METRICS} == pytest.approx(
        {name: headline[name] for name in METRICS}
    )
    files = {file.path: file.file_size for file in client.list_artifacts(run.info.run_id, "records")}
    names = ("train.json", "metrics.json", "history.csv", "scores.csv", "curves.csv")
    assert files == {f"records/{name}": (folder / name).stat().st_size for name in names}
    stored = {file.path for file in client.list_logged_model_artifacts(run.data.tags["model_id"])}
    assert {"MLmodel", "model.onnx"} <= stored
    return run.info.status == "FINISHED"


def test_eight_writers_at_once_lose_nothing(server, folders):
    at_once(write_live_and_import, [(folder, server.address) for folder in folders])
    for folder in folders:
        (run,) = runs_of(server.client, folder)
        assert is_whole(server.client, run, folder)
        tags = {name: run.data.tags[name] for name in ("telescope", "pipeline", "experiment", "commit", "live")}
        expected = {"telescope": "tiny", "pipeline": "builtin", "experiment": "otrain2", "commit": "0123456789ab"}
        assert tags == expected | {"live": "finished"}
    versions = server.client.search_model_versions("name = 'otrain-tiny'")
    assert sorted(int(version.version) for version in versions) == list(range(1, WRITERS + 1))
    assert {version.run_id for version in versions} == {
        runs_of(server.client, folder)[0].info.run_id for folder in folders
    }
    champion = server.client.get_model_version_by_alias("otrain-tiny", "champion")
    passing = [version for version in versions if version.tags["gate"] == "passed"]
    assert float(champion.tags["mcc_validation"]) == max(float(version.tags["mcc_validation"]) for version in passing)


def import_one(folder, address, barrier):
    track.draw_training = lambda folder: {}
    barrier.wait(120)
    import_runs([folder], store=address, gate=GateOptions())


def test_two_imports_of_one_folder_at_once(server, tmp_path, model_file):
    folder = write_results(tmp_path / "results", telescope="twice", model=model_file, experiments=("paper",))["runs"][0]
    write_tiny(Path(folder) / "model.onnx")
    at_once(import_one, [(folder, server.address)] * 2)
    (run,) = runs_of(server.client, folder)
    assert is_whole(server.client, run, folder)
    assert len(server.client.search_model_versions("name = 'otrain-twice'")) == 1


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("mlflow.group.test:{}", "http://mlflow.group.test:{}", 200),
        ("127.0.0.1:{}", "http://127.0.0.1:{}", 200),
        ("mlflow.group.test:{}", "http://elsewhere.test", 403),
        ("elsewhere.test:{}", "http://mlflow.group.test:{}", 403),
    ],
)
def test_browsers_reach_it_by_its_name_only(server, host, origin, status):
    headers = {"Host": host.format(server.port), "Origin": origin.format(server.port)}
    url = f"{server.address}/ajax-api/2.0/mlflow/runs/search"
    assert requests.post(url, json={"experiment_ids": ["1"]}, headers=headers, timeout=30).status_code == status


def test_models_by_command(server, folders, tmp_path, monkeypatch, capsys):
    """List, promote, roll back and use models of the server from a folder without results."""
    from otrain_core.registry.models import find_model

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    champion = server.client.get_model_version_by_alias("otrain-tiny", "champion")
    other = "1" if champion.version != "1" else "2"
    assert main(["models", "promote", "tiny", other]) == 0
    assert main(["models", "list"]) == 0
    assert f"otrain-tiny version {other}: builtin/otrain2" in capsys.readouterr().out
    import_runs(folders[:1], store=server.address, gate=GateOptions())  # a manual choice is kept
    fetched = find_model("tiny")
    by_seed = {folder.rpartition("seed")[2]: folder for folder in folders}
    seed = server.client.get_model_version("otrain-tiny", other).tags["seed"]
    assert fetched.read_bytes() == Path(by_seed[seed], "model.onnx").read_bytes()
    fetched.write_bytes(b"damaged")
    assert find_model("tiny").read_bytes() == Path(by_seed[seed], "model.onnx").read_bytes()
    assert main(["models", "roll-back", "tiny"]) == 0
    assert server.client.get_model_version_by_alias("otrain-tiny", "champion").version == champion.version
    assert main(["models", "automatic", "tiny"]) == 0
    assert main(["models", "promote", "tiny", "77"]) == 1
    assert "otrain-tiny: no version or alias '77'" in capsys.readouterr().err


def test_a_training_outlives_the_server(server, tmp_path, model_file, monkeypatch, caplog, capsys):
    """The server is killed after the second of five epochs; the record is imported when it is back."""
    from otrain_core.networks.train import train_files
    from otrain_core.plan.config import Experiment
    from otrain_core.registry.live import live_run

    folder = Path(write_results(tmp_path / "results", telescope="away", experiments=("paper",))["runs"][0])
    write_tiny(folder / "model.onnx")
    cube = folder.parents[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    epoch, seen = LiveRun.epoch, []

    def watched(self, row):
        epoch(self, row)
        if row["epoch"] == 2:
            deadline = time.monotonic() + 60
            while self._sent < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            seen.append(runs_of(server.client, folder)[0])
            server.stop()

    monkeypatch.setattr(LiveRun, "epoch", watched)
    files = {"model": folder / "model.keras", "history": folder / "history.csv", "record": folder / "train.json"}
    experiment = Experiment(inputs=["difference"], size=15, epochs=5, batch_size=64)
    started = time.monotonic()
    train_files(
        cube=cube / "cube.npz", split=cube / "split.csv", **files, experiment=experiment, seed=1, live_run=live_run
    )
    print(f"training and its wait for a server that is away: {time.monotonic() - started:.1f} s")
    (live,) = seen
    assert (live.info.status, live.data.tags["live"], live.data.metrics.keys()) == (
        *("RUNNING", "running"),
        {f"epoch/{name}" for name in HISTORY},
    )
    assert len(io.read_table(folder / "history.csv")) == 5
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    told = [text for text in warnings if "the training goes on" in text]
    assert len(told) == 1 and "otrain models import" in told[0]
    assert main(["models", "import", "--results", str(tmp_path / "results"), "--quiet"]) == 1
    assert "no MLflow server answers at this address" in capsys.readouterr().err
    server.client = server.start()
    assert main(["models", "import", "--results", str(tmp_path / "results"), "--quiet"]) == 0
    (run,) = runs_of(server.client, folder)
    assert run.info.run_id == live.info.run_id == io.read_json(folder / "train.json")["mlflow_run"]
    assert is_whole(server.client, run, folder)


def test_a_resumed_training_goes_on_with_its_run(server, tmp_path, folders):
    rows = io.read_table(Path(folders[0]) / "history.csv").to_dict("records")
    keys = {"telescope": "again", "pipeline": "builtin", "experiment": "paper", "seed": 1, "protocol": "by-image"}
    ids = []
    for begin in (0, 3, 0):  # killed after three epochs, resumed, then trained anew
        live = LiveRun(server.address, keys, place="here", wait=60)
        live.begin(rows[:begin])
        for row in rows[begin : begin + 3]:
            live.epoch(row)
        if begin:
            live.close("FINISHED")
        else:
            deadline = time.monotonic() + 60
            while live._sent < 3 and time.monotonic() < deadline:
                time.sleep(0.05)
        ids.append(live.run_id)
    assert ids[0] == ids[1] != ids[2]
    points = server.client.get_metric_history(ids[0], "epoch/loss")
    assert [point.step for point in points] == [1, 2, 3, 4, 5, 6]
    assert server.client.get_run(ids[0]).info.status == "FINISHED"
    assert server.client.get_run(ids[2]).info.status == "RUNNING"


def test_the_best_of_eight_is_the_champion_again(server, folders):
    """The data of the killed server are available after its restart."""
    versions = server.client.search_model_versions("name = 'otrain-tiny'")
    passing = [float(version.tags["mcc_validation"]) for version in versions if version.tags["gate"] == "passed"]
    champion = server.client.get_model_version_by_alias("otrain-tiny", "champion")
    assert float(champion.tags["mcc_validation"]) == max(passing)
    best = max(map(validation_mcc, folders))
    assert max(float(version.tags["mcc_validation"]) for version in versions) == pytest.approx(best, rel=1e-5)
    assert all(is_whole(server.client, runs_of(server.client, folder)[0], folder) for folder in folders[:2])
