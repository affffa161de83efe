"""Tests of the import into MLflow, with real stores in temporary folders."""

import json
import multiprocessing
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from otrain_core import io
from otrain_core.errors import OtrainError
from otrain_core.evaluation.gate import validation_mcc
from otrain_core.plan.config import GateOptions
from otrain_core.registry import track
from otrain_core.registry.records import find_trainings, run_tags
from otrain_core.registry.store import open_store, place_of
from otrain_core.registry.track import METRICS, import_runs, track_files
from otrain_core.results import run_keys
from otrain_core.studies.sweep import SWEEP_KEYS
from tests.unit.synthetic_results import write_results

GATE = GateOptions()


def live_runs(place):
    client, experiment = open_store(**place)
    return client.search_runs([experiment])


def contents(store):
    """All rows of the store, to check that nothing has changed."""
    with sqlite3.connect(store) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(map(repr, connection.execute(f"SELECT * FROM {name}"))) for name in names}


def test_every_run_has_the_same_metrics_and_its_tags(place, runs):
    record = import_runs(runs, **place, gate=GATE)
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
        assert run.data.tags["protocol"] == ("random" if folder.endswith("random") else "by-image")
        assert run.data.tags["experiment"] in folder
        assert run.data.params["inputs"] == "difference"


def test_history_figures_and_records_are_there(place, runs):
    record = import_runs(runs[:1], **place, gate=GATE)
    client, _ = open_store(**place)
    run_id = record["runs"][0]["run_id"]
    table = io.read_table(Path(runs[0]) / "history.csv")
    points = client.get_metric_history(run_id, "epoch/validation_loss")
    assert [point.step for point in points] == table["epoch"].tolist()
    np.testing.assert_allclose([point.value for point in points], table["validation_loss"])
    assert {file.path for file in client.list_artifacts(run_id, "figures")} >= {"figures/panels.png"}
    assert {file.path for file in client.list_artifacts(run_id, "records")} >= {
        "records/metrics.json",
        "records/scores.csv",
    }


def test_importing_twice_changes_nothing(place, runs, tmp_path):
    for number in (1, 2):
        track_files(runs=runs, store=str(place["store"]), record=str(tmp_path / f"{number}.json"), gate=GATE)
        if number == 1:
            before = contents(place["store"])
            files = sorted(path for path in place["artifacts"].rglob("*"))
    assert contents(place["store"]) == before
    assert sorted(path for path in place["artifacts"].rglob("*")) == files
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_the_champion_is_the_best_of_those_that_pass(place, runs):
    record = import_runs(runs, **place, gate=GATE)
    client, _ = open_store(**place)
    by_image = {run: io.read_json(f"{run}/metrics.json")["headline"] for run in runs if not run.endswith("/random")}
    assert len(client.search_model_versions("name = 'otrain-tiny'")) == len(by_image) == 2
    calibrations = {run: io.read_json(f"{run}/metrics.json")["calibration"]["method"] for run in by_image}
    passing = [run for run, row in by_image.items() if row["mcc_low"] > 0.7 and row["fp_share"] <= 0.05]
    best = max(passing, key=validation_mcc)
    champion = client.get_model_version_by_alias("otrain-tiny", "champion")
    assert champion.tags["training"] == "/".join(["tiny/builtin", Path(best).parent.name, "1", "by-image"])
    assert float(champion.tags["threshold"]) == pytest.approx(by_image[best]["threshold"], rel=1e-5)
    assert json.loads(champion.tags["calibration"])["method"] == calibrations[best]
    described = yaml.safe_load(Path(champion.source.removeprefix("file://"), "MLmodel").read_text())
    stored = {key: described["metadata"][key] for key in ("threshold", "cube_digest", "commit", "telescope")}
    assert stored == {key: champion.tags[key] for key in stored}
    assert json.loads(champion.tags["calibration"]).items() <= json.loads(described["metadata"]["calibration"]).items()
    assert "tensor" in described["signature"]["inputs"]
    assert champion.tags["cube_digest"] == "ab" * 32
    assert record["champions"]["tiny"]["version"] == int(champion.version)
    assert record["champions"]["tiny"]["mcc_validation"] == pytest.approx(validation_mcc(best), rel=1e-5)


def test_the_alias_goes_when_nothing_passes(place, runs, caplog):
    from mlflow.exceptions import MlflowException

    assert import_runs(runs, **place, gate=GATE)["champions"]["tiny"]
    assert import_runs(runs, **place, gate=GateOptions(min_mcc=0.999))["champions"]["tiny"] is None
    assert "otrain-tiny: no model passes the gate (version 1: MCC 0." in caplog.text
    assert "is not above 0.999; version 2: MCC 0." in caplog.text
    client, _ = open_store(**place)
    with pytest.raises(MlflowException):
        client.get_model_version_by_alias("otrain-tiny", "champion")


def test_a_retrained_run_takes_the_place_of_the_old_one(place, runs, tmp_path):
    first = import_runs(runs, **place, gate=GATE)
    history = io.read_table(Path(runs[0]) / "history.csv")
    io.write_table(Path(runs[0]) / "history.csv", history.assign(loss=history["loss"] * 0.9))
    second = import_runs(runs, **place, gate=GATE)
    changed = [a["run_id"] != b["run_id"] for a, b in zip(first["runs"], second["runs"], strict=True)]
    assert changed == [True, False, False, False]
    assert {run.info.run_id for run in live_runs(place)} == {entry["run_id"] for entry in second["runs"]}
    client, _ = open_store(**place)
    old = client.get_model_version("otrain-tiny", str(first["runs"][0]["version"]))
    assert old.tags["superseded"] == str(second["runs"][0]["version"])


def test_runs_of_removed_folders_stay(place, runs):
    first = import_runs(runs, **place, gate=GATE)
    shutil.rmtree(Path(runs[-1]).parent)
    again = import_runs(runs, **place, gate=GATE)
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
            import_runs(runs[:1], **place, gate=GATE)
    record = import_runs(runs, **place, gate=GATE)
    found = live_runs(place)
    assert sorted(run.info.run_id for run in found) == sorted(entry["run_id"] for entry in record["runs"])
    assert all(run.info.status == "FINISHED" for run in found)
    client, _ = open_store(**place)
    versions = client.search_model_versions("name = 'otrain-tiny'")
    assert sorted(version.run_id for version in versions) == sorted(
        entry["run_id"] for entry in record["runs"] if "version" in entry
    )


def test_lost_artifacts_are_imported_anew(place, runs):
    first = import_runs(runs[:1], **place, gate=GATE)
    shutil.rmtree(place["artifacts"])
    second = import_runs(runs[:1], **place, gate=GATE)
    assert first["runs"][0]["run_id"] != second["runs"][0]["run_id"]
    assert len(live_runs(place)) == 1


def _import(runs, store, artifacts):
    track.draw_training = lambda folder: {}
    import_runs(runs, store=store, artifacts=artifacts, gate=GATE)


def test_two_imports_at_once_into_a_store_that_is_not_there_yet(tmp_path, runs):
    context = multiprocessing.get_context("spawn")
    jobs = [
        context.Process(target=_import, args=(runs, tmp_path / "m.db", tmp_path / "art"), daemon=True) for _ in range(2)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(300)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert len(live_runs({"store": tmp_path / "m.db", "artifacts": tmp_path / "art"})) == 4


def test_a_copied_results_folder_gets_a_store_of_its_own(place, runs, tmp_path):
    import_runs(runs[:1], **place, gate=GATE)
    shutil.copytree(tmp_path, tmp_path.with_name(tmp_path.name + "copy"))
    moved = tmp_path.with_name(tmp_path.name + "copy")
    record = import_runs(runs[:1], store=moved / "mlflow.db", artifacts=moved / "mlartifacts", gate=GATE)
    client, experiment = open_store(moved / "mlflow.db", moved / "mlartifacts")
    assert str(moved) in client.get_run(record["runs"][0]["run_id"]).info.artifact_uri
    assert (moved / "mlflow.db.moved").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.keras", "PK not really", "model.keras: not a Keras model"),
        ("train.json", '{"options": {"netwo', "train.json: the record is incomplete"),
        ("metrics.json", "[]", "metrics.json: not a record"),
    ],
)
def test_a_broken_record_is_told_and_keeps_nothing_from_the_others(place, runs, tmp_path, name, content, message):
    kept = (Path(runs[0]) / name).read_bytes()
    (Path(runs[0]) / name).write_text(content)
    record = import_runs(runs, **place, gate=GATE)
    assert [entry["folder"] for entry in record["runs"]] == runs[1:]
    assert message in record["broken"][0]["reason"]
    with pytest.raises(OtrainError, match=message):
        track_files(runs=runs, store=str(place["store"]), record=str(tmp_path / "record.json"), gate=GATE)
    (Path(runs[0]) / name).write_bytes(kept)
    assert not import_runs(runs, **place, gate=GATE)["broken"]
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
        record = import_runs(main_runs + swept, **place, studies=[table], gate=GATE)
        client, _ = open_store(**place)
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
    first = import_runs(runs[:1], **place, gate=GATE)
    (folder / "model.onnx").write_bytes(b"an exported model")
    (folder / "transfer.csv").write_text("source,target\n")
    second = import_runs(runs[:1], **place, gate=GATE)
    assert first["runs"] == second["runs"]
    client, _ = open_store(**place)
    run = client.get_run(second["runs"][0]["run_id"])
    assert "records/transfer.csv" in {file.path for file in client.list_artifacts(run.info.run_id, "records")}
    files = {file.path for file in client.list_logged_model_artifacts(run.data.tags["model_id"])}
    assert {"MLmodel", "model.onnx"} <= files
    version = client.get_model_version("otrain-tiny", "1")
    assert version.tags["onnx"] == io.digest(folder / "model.onnx")


def test_runs_of_another_results_folder_are_left_alone(place, runs, tmp_path, model_file):
    """Two users have trainings with the same names on one server."""
    import_runs(runs[:1], **place, gate=GATE)
    other = write_results(tmp_path / "other/results", model=model_file, quality=2.5)["runs"]
    import_runs(other[:1], **place, gate=GATE)
    assert len(live_runs(place)) == 2
    client, _ = open_store(**place)
    versions = client.search_model_versions("name = 'otrain-tiny'")
    assert len(versions) == 2 and not any("superseded" in version.tags for version in versions)


def test_a_server_that_is_away_does_not_stop_the_rule(place, runs, tmp_path, monkeypatch, caplog):
    for address, reason in (("http://127.0.0.1:9", "no MLflow server answers"), ("htp:/x", "not the address")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        track_files(runs=runs[:1], store=str(place["store"]), record=str(tmp_path / "record.json"), gate=GATE)
        assert reason in caplog.text and "otrain models import" in caplog.text
        record = io.read_json(tmp_path / "record.json")
        assert len(record["runs"]) == 1 and reason in record["server"]["error"]
        caplog.clear()


def test_the_page_of_a_model_says_that_loading_it_runs_code(place, runs):
    client, _ = open_store(**place)
    client.create_registered_model("otrain-tiny", description="of an earlier import")
    import_runs(runs[:1], **place, gate=GATE)
    described = client.get_registered_model("otrain-tiny").description
    assert described.startswith("Real/bogus classifier of telescope tiny (probability of True).")
    assert "runs the Python code that is stored with it" in described


def test_what_the_gate_looks_at_comes_to_versions_of_earlier_imports(place, runs):
    import_runs(runs, **place, gate=GATE)
    client, _ = open_store(**place)
    before = client.get_model_version("otrain-tiny", "1").tags
    client.delete_model_version_tag("otrain-tiny", "1", "fp_share")
    record = import_runs(runs, **place, gate=GATE)
    assert client.get_model_version("otrain-tiny", "1").tags == before
    assert record["champions"]["tiny"]


def test_a_detector_network_is_a_run_with_its_file_and_its_numbers(place, tmp_path):
    cube = tmp_path / "results/tiny/builtin"
    folder = cube / "finder/seed2"
    folder.mkdir(parents=True)
    (folder / "finder.onnx").write_bytes(b"a network")
    io.write_json(folder / "finder.json", {"threshold": 0.3, "cpu_seconds": 12.0, "options": {"filters": 16}})
    io.write_table(folder / "finder.csv", pd.DataFrame({"epoch": [1, 2], "loss": [3.0, 2.0], "validation_loss": 2.5}))
    import_runs([folder], **place, gate=GATE)
    found = {"detector": ["finder", "finder, no difference"], "completeness": [0.7, 0.6], "seed": 2, "kind": "all"}
    table = pd.DataFrame(found).assign(false_alarms=1.0, snr_low=5.0, snr_high=10.0)
    io.write_table(folder.parent / "completeness.csv", table)
    for _ in range(2):  # the numbers of the study came later; the second time changes nothing
        record = import_runs([folder], **place, gate=GATE)
        (run,) = live_runs(place)
        assert record["runs"][0]["run_id"] == run.info.run_id
        assert run.info.status == "FINISHED" and run.data.tags["kind"] == "finder"
        assert run.data.metrics["completeness"] == 0.7 and run.data.metrics["completeness_no_difference"] == 0.6
        assert run.data.metrics["threshold"] == 0.3 and run.data.metrics["epoch/loss"] == 2
        assert run.data.params["filters"] == "16"
    client, _ = open_store(**place)
    files = {file.path for file in client.list_artifacts(run.info.run_id, "records")}
    assert {"records/finder.onnx", "records/finder.json", "records/completeness.csv"} <= files
    assert find_trainings(tmp_path / "results")[0] == [str(folder)]
    (folder / "finder.onnx").unlink()
    assert "finder.onnx: no such file" in import_runs([folder], **place, gate=GATE)["skipped"][0]["reason"]


def test_the_import_completes_the_history_of_a_detector_network(place, tmp_path):
    """The training has sent its first epoch; then the server did not answer."""
    folder = tmp_path / "results/tiny/builtin/finder/seed2"
    folder.mkdir(parents=True)
    client, experiment = open_store(**place)
    tags = run_tags(run_keys(folder), place_of(tmp_path / "results"))
    run_id = client.create_run(experiment, tags=tags | {"live": "running"}).info.run_id
    client.log_metric(run_id, "epoch/loss", 3.0, step=1)
    (folder / "finder.onnx").write_bytes(b"a network")
    io.write_json(folder / "finder.json", {"threshold": 0.3, "mlflow_run": run_id})
    io.write_table(folder / "finder.csv", pd.DataFrame({"epoch": [1, 2], "loss": [3.0, 2.0], "validation_loss": 2.5}))
    assert import_runs([folder], **place, gate=GATE)["runs"][0]["run_id"] == run_id
    for name, values in (("loss", [3.0, 2.0]), ("validation_loss", [2.5, 2.5])):
        points = sorted(client.get_metric_history(run_id, f"epoch/{name}"), key=lambda point: point.step)
        assert [(point.step, point.value) for point in points] == list(zip((1, 2), values, strict=True))
