"""The import into MLflow, on real stores in temporary folders."""

import json
import multiprocessing
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from otrain_core import io
from otrain_core.errors import OtrainError
from otrain_core.evaluation.gate import tune_mcc
from otrain_core.registry import track
from otrain_core.registry.models import name_champion
from otrain_core.registry.records import records_digest
from otrain_core.registry.store import EXPERIMENT, open_store
from otrain_core.registry.track import METRICS, find_trainings, import_runs
from otrain_core.studies.sweep import SWEEP_KEYS
from scripts.registry.track import main
from tests.unit.synthetic_results import write_results

GATE = {"min_mcc": 0.7, "max_fp": 0.05}


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    """A network of the library, untrained and small."""
    from otrain_core.networks.architecture import build_network, save_model

    path = tmp_path_factory.mktemp("model") / "model.keras"
    save_model(build_network("otrain2", size=17, normalise="mad-asinh"), path)
    return path


@pytest.fixture(scope="session")
def blank_store(tmp_path_factory):
    """Tables of a fresh store: making them anew for every test takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    open_store(folder / "mlflow.db", folder / "mlartifacts")
    return folder / "mlflow.db"


@pytest.fixture
def place(tmp_path, blank_store):
    """Store and artifacts of a test, the store made beforehand."""
    shutil.copy(blank_store, tmp_path / "mlflow.db")
    location = (tmp_path / "mlartifacts").resolve().as_uri()
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("UPDATE experiments SET artifact_location = ? WHERE name = ?", (location, EXPERIMENT))
    return {"store": tmp_path / "mlflow.db", "artifacts": tmp_path / "mlartifacts"}


@pytest.fixture(autouse=True)
def no_drawing(request, monkeypatch):
    """Figures take a second a run; one test looks at them."""
    if "figures" not in request.node.name:
        monkeypatch.setattr(track, "draw_training", lambda folder: {})


@pytest.fixture
def runs(tmp_path, model_file):
    return write_results(tmp_path / "results", model=model_file, protocols=("grouped", "paper"))["runs"]


def client_of(place):
    return open_store(place["store"], place["artifacts"])


def live_runs(place):
    client, experiment = client_of(place)
    return client.search_runs([experiment])


def contents(store):
    """All rows of the store, to see that nothing changed."""
    with sqlite3.connect(store) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(map(repr, connection.execute(f"SELECT * FROM {name}"))) for name in names}


def test_every_run_has_the_same_metrics_and_its_tags(place, runs):
    record = import_runs(runs, **place, **GATE)
    found = live_runs(place)
    assert len(found) == len(runs) == len(record["runs"]) == 4
    for run in found:
        assert {name for name in run.data.metrics if "/" not in name} == {*METRICS, "train_seconds"}
        assert run.info.status == "FINISHED"
        assert run.info.end_time - run.info.start_time == 12500
    assert len(METRICS) + 1 <= 12
    by_folder = {entry["folder"]: entry["run_id"] for entry in record["runs"]}
    for folder in runs:
        run = next(run for run in found if run.info.run_id == by_folder[folder])
        headline = io.read_json(f"{folder}/metrics.json")["headline"]
        assert run.data.metrics["mcc"] == pytest.approx(headline["mcc"])
        tags = {key: run.data.tags[key] for key in ("telescope", "pipeline", "seed", "commit")}
        assert tags == {"telescope": "tiny", "pipeline": "builtin", "seed": "1", "commit": "0123456789ab"}
        assert run.data.tags["protocol"] == ("paper" if folder.endswith("random_split") else "grouped")
        assert run.data.tags["experiment"] in folder
        assert run.data.params["inputs"] == "difference"


def test_history_figures_and_records_are_there(place, runs):
    record = import_runs(runs[:1], **place, **GATE)
    client, _ = client_of(place)
    run_id = record["runs"][0]["run_id"]
    table = io.read_table(Path(runs[0]) / "history.csv")
    points = client.get_metric_history(run_id, "epoch/tune_loss")
    assert [point.step for point in points] == table["epoch"].tolist()
    np.testing.assert_allclose([point.value for point in points], table["tune_loss"])
    assert {file.path for file in client.list_artifacts(run_id, "figures")} >= {"figures/panels.png"}
    assert {file.path for file in client.list_artifacts(run_id, "records")} >= {
        "records/metrics.json",
        "records/scores.csv",
    }


def test_importing_twice_changes_nothing(place, runs, tmp_path):
    for number in (1, 2):
        main(runs=runs, store=str(place["store"]), record=str(tmp_path / f"{number}.json"), gate=GATE)
        if number == 1:
            before = contents(place["store"])
            files = sorted(path for path in place["artifacts"].rglob("*"))
    assert contents(place["store"]) == before
    assert sorted(path for path in place["artifacts"].rglob("*")) == files
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_the_champion_is_the_best_of_those_that_pass(place, runs):
    record = import_runs(runs, **place, **GATE)
    client, _ = client_of(place)
    grouped = {run: io.read_json(f"{run}/metrics.json")["headline"] for run in runs if "random_split" not in run}
    assert len(client.search_model_versions("name = 'otrain-tiny'")) == len(grouped) == 2
    passing = [run for run, row in grouped.items() if row["mcc"] > 0.7 and row["fp_share"] <= 0.05]
    best = max(passing, key=tune_mcc)
    champion = client.get_model_version_by_alias("otrain-tiny", "champion")
    assert champion.tags["training"] == "/".join(["tiny/builtin", Path(best).parent.name, "1", "grouped"])
    assert float(champion.tags["threshold"]) == pytest.approx(grouped[best]["threshold"], rel=1e-5)
    assert json.loads(champion.tags["calibration"])["method"] == "platt"
    described = yaml.safe_load(Path(champion.source.removeprefix("file://"), "MLmodel").read_text())
    stored = {key: described["metadata"][key] for key in ("threshold", "cube_digest", "commit", "telescope")}
    assert stored == {key: champion.tags[key] for key in stored}
    assert json.loads(champion.tags["calibration"]).items() <= json.loads(described["metadata"]["calibration"]).items()
    assert "tensor" in described["signature"]["inputs"]
    assert champion.tags["cube_digest"] == "ab" * 32
    assert record["champions"]["tiny"]["version"] == int(champion.version)
    assert record["champions"]["tiny"]["mcc_tune"] == pytest.approx(tune_mcc(best), rel=1e-5)


@pytest.mark.parametrize("gate", [{"min_mcc": 0.999, "max_fp": 0.05}, {"min_mcc": 0.7, "max_fp": -0.001}])
def test_the_alias_goes_when_nothing_passes(place, runs, gate):
    from mlflow.exceptions import MlflowException

    assert import_runs(runs, **place, **GATE)["champions"]["tiny"]
    assert import_runs(runs, **place, **gate)["champions"]["tiny"] is None
    client, _ = client_of(place)
    with pytest.raises(MlflowException):
        client.get_model_version_by_alias("otrain-tiny", "champion")


class Client:
    """A registry without a champion, of a model of which versions may come meanwhile."""

    def __init__(self, *answers):
        self.answers, self.aliases, self.tags = list(answers), {}, {}

    def search_model_versions(self, _):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def get_registered_model(self, _):
        return self

    def set_model_version_tag(self, _name, version, key, value):
        next(item for item in self.answers[-1] if item.version == version).tags[key] = value

    def set_registered_model_alias(self, _name, alias, version):
        self.aliases[alias] = version

    def set_registered_model_tag(self, _name, key, value):
        self.tags[key] = value


class Version:
    def __init__(self, version, **tags):
        self.version, self.run_id, self.tags = version, "", {"protocol": "grouped"} | tags


def test_gate_bounds_are_as_in_the_paper():
    """MCC must exceed its bound, false positives may reach theirs."""
    versions = [
        Version("1", mcc="0.7", fp_share="0.01"),
        Version("2", mcc="0.8", fp_share="0.05"),
        Version("3", mcc="0.9", fp_share="0.0501"),
        Version("4", mcc="0.95", fp_share="0.0", superseded="5"),
        Version("5", mcc="0.99", fp_share="0.0", protocol="paper"),
        Version("6", mcc="nan", fp_share="nan"),
    ]
    client = Client(versions)
    assert name_champion(client, "tiny", min_mcc=0.7, max_fp=0.05)["version"] == 2
    assert client.aliases == {"champion": "2"} and "MCC 0.800" in client.tags["champion"]
    gates = [version.tags["gate"] for version in versions]
    assert [gate == "passed" for gate in gates] == [False, True, False, True, False, False]
    assert gates[0] == "failed: MCC 0.700 is not above 0.7"
    assert gates[2].startswith("failed: false positives 0.050 of the test set")


def test_a_better_version_that_comes_meanwhile_is_the_champion():
    """Two imports at once: the one that looked first looks again."""
    first = Version("1", mcc="0.9", mcc_tune="0.8", fp_share="0.01")
    second = Version("2", mcc="0.9", mcc_tune="0.9", fp_share="0.01")
    client = Client([first], [first, second])
    assert name_champion(client, "tiny", min_mcc=0.7, max_fp=0.05)["version"] == 2
    assert client.aliases == {"champion": "2"}


def test_tune_chooses_and_test_is_only_the_gate():
    versions = [
        Version("1", mcc="0.95", mcc_tune="0.90", fp_share="0.01"),
        Version("2", mcc="0.90", mcc_tune="0.93", fp_share="0.01"),
        Version("3", mcc="0.60", mcc_tune="0.99", fp_share="0.01"),
        Version("4", mcc="0.97", fp_share="0.01"),  # of an import that did not know it
    ]
    champion = name_champion(Client(versions), "tiny", min_mcc=0.7, max_fp=0.05)
    assert (champion["version"], champion["mcc"], champion["mcc_tune"]) == (2, 0.9, 0.93)
    assert name_champion(Client(versions[3:]), "tiny", min_mcc=0.7, max_fp=0.05)["version"] == 4


def test_a_retrained_run_takes_the_place_of_the_old_one(place, runs, tmp_path):
    first = import_runs(runs, **place, **GATE)
    history = io.read_table(Path(runs[0]) / "history.csv")
    io.write_table(Path(runs[0]) / "history.csv", history.assign(loss=history["loss"] * 0.9))
    second = import_runs(runs, **place, **GATE)
    changed = [a["run_id"] != b["run_id"] for a, b in zip(first["runs"], second["runs"], strict=True)]
    assert changed == [True, False, False, False]
    assert {run.info.run_id for run in live_runs(place)} == {entry["run_id"] for entry in second["runs"]}
    client, _ = client_of(place)
    old = client.get_model_version("otrain-tiny", str(first["runs"][0]["version"]))
    assert old.tags["superseded"] == str(second["runs"][0]["version"])


def test_runs_of_removed_folders_stay(place, runs):
    first = import_runs(runs, **place, **GATE)
    shutil.rmtree(Path(runs[-1]).parent)
    again = import_runs(runs, **place, **GATE)
    assert len(live_runs(place)) == 4
    assert [item["folder"] for item in again["skipped"]] == [folder for folder in runs if not Path(folder).exists()]
    assert "train.json" in again["skipped"][0]["reason"]
    assert first["champions"] == again["champions"]


@pytest.mark.parametrize("broken", ["log_artifact", "log_model_artifacts", "set_terminated", "create_model_version"])
def test_an_import_cut_short_is_completed_by_the_next(place, runs, monkeypatch, broken):
    import mlflow

    with monkeypatch.context() as patch:

        def crash(*_args, **_kwargs):
            raise KeyboardInterrupt

        patch.setattr(mlflow.MlflowClient, broken, crash)
        with pytest.raises(KeyboardInterrupt):
            import_runs(runs[:1], **place, **GATE)
    record = import_runs(runs, **place, **GATE)
    found = live_runs(place)
    assert sorted(run.info.run_id for run in found) == sorted(entry["run_id"] for entry in record["runs"])
    assert all(run.info.status == "FINISHED" for run in found)
    client, _ = client_of(place)
    versions = client.search_model_versions("name = 'otrain-tiny'")
    assert sorted(version.run_id for version in versions) == sorted(
        entry["run_id"] for entry in record["runs"] if "version" in entry
    )


def test_lost_artifacts_are_imported_anew(place, runs):
    first = import_runs(runs[:1], **place, **GATE)
    shutil.rmtree(place["artifacts"])
    second = import_runs(runs[:1], **place, **GATE)
    assert first["runs"][0]["run_id"] != second["runs"][0]["run_id"]
    assert len(live_runs(place)) == 1


def _import(runs, store, artifacts):
    track.draw_training = lambda folder: {}
    import_runs(runs, store=store, artifacts=artifacts, **GATE)


def test_two_imports_at_once_into_a_store_that_is_not_there_yet(tmp_path, runs):
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=_import, args=(runs, tmp_path / "m.db", tmp_path / "art")) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0]
    assert len(live_runs({"store": tmp_path / "m.db", "artifacts": tmp_path / "art"})) == 4


def test_a_copied_results_folder_gets_a_store_of_its_own(place, runs, tmp_path):
    import_runs(runs[:1], **place, **GATE)
    shutil.copytree(tmp_path, tmp_path.with_name(tmp_path.name + "copy"))
    moved = tmp_path.with_name(tmp_path.name + "copy")
    record = import_runs(runs[:1], store=moved / "mlflow.db", artifacts=moved / "mlartifacts", **GATE)
    client, experiment = open_store(moved / "mlflow.db", moved / "mlartifacts")
    assert str(moved) in client.get_run(record["runs"][0]["run_id"]).info.artifact_uri
    assert (moved / "mlflow.db.moved").exists()


def test_a_file_that_is_no_store_is_refused(tmp_path, runs):
    (tmp_path / "m.db").write_text("not a database at all, but long enough to be read as one" * 20)
    with pytest.raises(OtrainError, match=r"m\.db: not a store .* delete it"):
        import_runs(runs, store=tmp_path / "m.db", artifacts=tmp_path / "art", **GATE)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.keras", "PK not really", "model.keras: not a Keras model"),
        ("train.json", '{"options": {"netwo', "train.json: not a whole record"),
        ("metrics.json", "[]", "metrics.json: not a record"),
    ],
)
def test_a_broken_record_is_told_and_keeps_nothing_from_the_others(place, runs, tmp_path, name, content, message):
    kept = (Path(runs[0]) / name).read_bytes()
    (Path(runs[0]) / name).write_text(content)
    record = import_runs(runs, **place, **GATE)
    assert [entry["folder"] for entry in record["runs"]] == runs[1:]
    assert message in record["broken"][0]["reason"]
    with pytest.raises(OtrainError, match=message):
        main(runs=runs, store=str(place["store"]), record=str(tmp_path / "record.json"), gate=GATE)
    (Path(runs[0]) / name).write_bytes(kept)
    assert not import_runs(runs, **place, **GATE)["broken"]
    assert len(live_runs(place)) == len(runs)
    assert all(run.info.status == "FINISHED" for run in live_runs(place))


def test_a_study_lists_its_trainings_under_it(place, tmp_path, model_file):
    root = tmp_path / "results"
    main_runs = write_results(root, model=model_file, experiments=("otrain2",))["runs"]
    names = ("otrain2-data-size-50", "otrain2-data-size-100")
    swept = write_results(root, model=model_file, experiments=names)["runs"]
    rows = [("data-size", "n_train", value, "tiny", "builtin", "otrain2", 1) for value in (50, 100)]
    table = root / "studies" / "data-size.csv"
    io.write_table(table, pd.DataFrame(rows, columns=list(SWEEP_KEYS)))
    table.with_suffix(".png").write_bytes(b"a picture")
    assert find_trainings(root) == (sorted(main_runs + swept, key=Path), [str(table)])
    for _ in range(2):  # the second time changes nothing
        record = import_runs(main_runs + swept, **place, studies=[table], **GATE)
        client, _ = client_of(place)
        (parent,) = record["studies"].values()
        assert client.get_run(parent).info.run_name == "study data-size"
        assert {file.path for file in client.list_artifacts(parent, "figures")} == {"figures/data-size.png"}
        found = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in live_runs(place)}
        assert len(found) == 4
        for entry in record["runs"]:
            assert found[entry["run_id"]] == (None if entry["folder"] in main_runs else parent)
            assert ("version" in entry) == (entry["folder"] in main_runs)


def test_what_comes_later_is_added_to_the_run(place, runs):
    folder = Path(runs[0])
    first = import_runs(runs[:1], **place, **GATE)
    (folder / "model.onnx").write_bytes(b"an exported model")
    (folder / "transfer.csv").write_text("source,target\n")
    second = import_runs(runs[:1], **place, **GATE)
    assert first["runs"] == second["runs"]
    client, _ = client_of(place)
    run = client.get_run(second["runs"][0]["run_id"])
    assert "records/transfer.csv" in {file.path for file in client.list_artifacts(run.info.run_id, "records")}
    files = {file.path for file in client.list_logged_model_artifacts(run.data.tags["model_id"])}
    assert {"MLmodel", "model.onnx"} <= files
    version = client.get_model_version("otrain-tiny", "1")
    assert version.tags["onnx"] == io.digest(folder / "model.onnx")


def test_runs_of_another_results_folder_are_left_alone(place, runs, tmp_path, model_file):
    """Two people with the same names on one server."""
    import_runs(runs[:1], **place, **GATE)
    other = write_results(tmp_path / "other/results", model=model_file, quality=2.5)["runs"]
    import_runs(other[:1], **place, **GATE)
    assert len(live_runs(place)) == 2
    client, _ = client_of(place)
    versions = client.search_model_versions("name = 'otrain-tiny'")
    assert len(versions) == 2 and not any("superseded" in version.tags for version in versions)


def test_a_server_that_is_away_does_not_stop_the_rule(place, runs, tmp_path, monkeypatch, caplog):
    for address, reason in (("http://127.0.0.1:9", "no MLflow server answers"), ("htp:/x", "not the address")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        main(runs=runs[:1], store=str(place["store"]), record=str(tmp_path / "record.json"), gate=GATE)
        assert reason in caplog.text and "otrain models import" in caplog.text
        record = io.read_json(tmp_path / "record.json")
        assert len(record["runs"]) == 1 and reason in record["server"]["error"]
        caplog.clear()


def test_the_digest_follows_every_record(runs):
    folder = Path(runs[0])
    before = records_digest(folder)
    assert records_digest(folder) == before
    for name in ("train.json", "metrics.json", "history.csv", "curves.csv", "model.keras"):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(kept + b" ")
        assert records_digest(folder) != before, name
        (folder / name).write_bytes(kept)
    assert records_digest(folder) == before


LOAD = """
import sys, numpy as np, mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/otrain-tiny@champion")
cutouts = np.load(sys.argv[2])
np.save(sys.argv[3], model.predict(cutouts))
"""


def test_the_champion_opens_where_otrain_is_not_installed(place, runs, tmp_path, model_file):
    from otrain_core.networks.architecture import load_model

    import_runs(runs, **place, **GATE)
    cutouts = np.random.default_rng(1).normal(0, 5, (4, 17, 17, 1)).astype(np.float32)
    cutouts[0, :3] = np.nan
    np.save(tmp_path / "cutouts.npy", cutouts)
    # An import hook stands for a machine without the library, also where it is installed.
    block = "import sys; sys.modules['otrain_core'] = None; "
    arguments = [f"sqlite:///{place['store']}", str(tmp_path / "cutouts.npy"), str(tmp_path / "scores.npy")]
    done = subprocess.run(
        [sys.executable, "-c", block + LOAD, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    scores = np.load(tmp_path / "scores.npy")
    np.testing.assert_allclose(scores, load_model(model_file).predict(cutouts, verbose=0), atol=1e-6)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
