"""Import of finished trainings into an MLflow store: the file of a results folder, or the server of a group.

The store is a view of the records in the results folder and can be made again from them at any time. One process imports
all runs one after the other, because a new SQLite store is corrupted if many processes open it at once. A server accepts
many imports at once.

All runs belong to one MLflow experiment, with telescope, pipeline, experiment, seed and protocol as tags. MLflow sorts,
filters, groups and plots the runs of one experiment in one table, so that telescopes can be compared. Models are registered
by telescope (``otrain-{telescope}``), because a model is used for one telescope.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.errors import OtrainError
from otrain_core.figures.finder import MAIN, TABLES
from otrain_core.figures.training import draw_training
from otrain_core.io import digest, read_table, write_json
from otrain_core.plan.config import GateOptions
from otrain_core.registry.format import write_model
from otrain_core.registry.models import ONNX, ensure_version, name_champion
from otrain_core.registry.records import (
    RECORDS,
    REQUIRED,
    StudyTable,
    TrainingRecord,
    read_record,
    run_name,
    run_tags,
)
from otrain_core.registry.store import (
    EXPERIMENT,
    LIVE,
    history_metrics,
    insist,
    is_address,
    locked,
    open_server,
    open_store,
    place_of,
    server_address,
    shown,
    told,
)
from otrain_core.results import number, results_root, run_keys, store_path

log = logging.getLogger("otrain")

SENT_LATER = ("transfer.csv", "finetune.csv", "gradcam.png")  # files of later steps, sent once they exist
FINDER_FILES = ("finder.json", "finder.csv", "finder.onnx")
FINDER_METRICS = ("threshold", "n_parameters", "n_train_images", "n_validation_images", "kept_epoch", "cpu_seconds")
# Metrics that every run has.
METRICS = (
    *("mcc", "mcc_low", "mcc_high", "accuracy", "f1", "recall", "fpr_at_1pct_missed", "fpr_at_5pct_missed"),
    *("fp_share", "ece", "false_alarms_per_image"),
)


def track_files(
    *,
    runs: Sequence[str | Path],
    store: str | Path,
    record: str | Path,
    gate: GateOptions,
    studies: Sequence[str | Path] = (),
) -> None:
    """Import the trainings in the folders `runs` and write what was imported to `record` (step `track`).

    If MLFLOW_TRACKING_URI is set, the trainings are also imported to that server. If the server does not answer, a
    warning is logged, and `otrain models import` can import them later.

    Parameters
    ----------
    runs : sequence of path-like
        See `import_runs`.
    store : path-like
        SQLite file; the artifacts go to mlartifacts beside it.
    record : path-like
        JSON file to write.
    gate : GateOptions
    studies : sequence of path-like
        Tables of sweeps.

    Raises
    ------
    OtrainError
        The store cannot be opened, or a record cannot be read.
    """
    imported = import_runs(runs, store=store, studies=studies, gate=gate)
    if imported["broken"]:
        raise OtrainError("; ".join(entry["reason"] for entry in imported["broken"]))
    server = {}
    try:
        if address := server_address():
            server["server"] = {"address": shown(address), "runs": len(runs)}
            import_runs(runs, store=address, studies=studies, gate=gate)
    except OtrainError as error:
        log.warning(
            "%s; the trainings are in %s; send them to the server later with `otrain models import`", error, store
        )
        server = {"server": {"error": str(error)}}
    artifacts = str(Path(store).parent / "mlartifacts")
    write_json(record, {"store": f"sqlite:///{store}", "artifacts": artifacts, **imported, **server})


def import_runs(
    folders: Iterable[str | Path],
    *,
    store: str | Path,
    gate: GateOptions,
    artifacts: str | Path | None = None,
    studies: Iterable[str | Path] = (),
) -> dict[str, Any]:
    """Import trainings into the store and choose the champion of every telescope.

    A run is identified by the digest of its records: importing it again changes nothing. A training that was repeated
    replaces its older run, which MLflow then lists as deleted (its registered version remains, tagged ``superseded``).
    Runs whose folder no longer exists, and runs of other results folders, are not changed. Runs of an interrupted import,
    and runs that a training has started on a server, are completed.

    Parameters
    ----------
    folders : iterable of path-like
        telescope/pipeline/experiment/seedN[/random] with train.json, metrics.json, history.csv and model.keras, and
        optionally scores.csv, curves.csv, model.onnx, transfer.csv, finetune.csv and gradcam.png; or
        telescope/pipeline/finder/seedN of a detector network with finder.json, finder.csv and finder.onnx.
        Only trainings with the protocol ``by-image`` are registered, because the others have no score on images that
        they never saw. Detector networks are not registered.
    store : path-like
        SQLite file, or address of a server.
    gate : GateOptions
        See `otrain_core.evaluation.gate`. Of the models that pass, the one with the highest MCC on validation becomes the
        champion, so that it is not chosen by its scores on the test set. If no model passes, the alias is removed.
    artifacts : path-like, optional
        Folder of the artifacts (default: mlartifacts beside the SQLite file). A server has its own folder.
    studies : iterable of path-like
        Tables of sweeps. Each becomes a run, under which its trainings are listed; they are not registered.

    Returns
    -------
    dict
        experiment, runs (folder, run_id, digest; model and version if registered), studies (name: run_id), champions
        (telescope: see `otrain_core.registry.models.name_champion`), skipped (folders that are not complete, with the
        reason), broken (folders with a file that cannot be read, with the reason).

    Raises
    ------
    OtrainError
        The store cannot be opened, or the server stops answering.
    """
    paths = [Path(folder) for folder in folders]
    root = results_root(paths[0]) if paths else Path(".")
    remote = is_address(store)
    with locked(store_path(root) if remote else Path(store)):
        if remote:
            client, experiment = open_server(str(store))
        else:
            client, experiment = open_store(store, artifacts or Path(store).parent / "mlartifacts")
        with told(store):
            tables = [StudyTable(Path(table), place_of(root)) for table in studies]
            parents = {table.name: _ensure_study(client, experiment, table) for table in tables}
            children = {member: (table.name, parents[table.name]) for table in tables for member in table.members}
            found = _import_trainings(client, experiment, paths, children)
            telescopes = {entry["model"].removeprefix("otrain-") for entry in found["runs"] if "model" in entry}
            champions = {name: name_champion(client, name, gate=gate) for name in sorted(telescopes)}
    return {
        "experiment": EXPERIMENT,
        "runs": found["runs"],
        "studies": parents,
        "champions": champions,
        "skipped": found["skipped"],
        "broken": found["broken"],
    }


def _import_trainings(
    client, experiment: str, folders: Sequence[Path], children: Mapping[str, tuple[str, str]]
) -> dict[str, list[dict[str, Any]]]:
    """Import training by training, and list the folders under runs, skipped and broken."""
    found: dict[str, list[dict[str, Any]]] = {"runs": [], "skipped": [], "broken": []}
    for folder in folders:
        is_finder = (folder / "finder.json").is_file()
        if missing := [name for name in (FINDER_FILES if is_finder else REQUIRED) if not (folder / name).is_file()]:
            found["skipped"].append({"folder": str(folder), "reason": f"{', '.join(missing)}: no such file"})
            continue
        started = time.perf_counter()
        try:
            if is_finder:
                entry, changed = _ensure_finder(client, experiment, folder)
            else:
                entry, changed = _ensure_run(client, experiment, TrainingRecord(folder, children))
        except (OtrainError, ValueError, KeyError) as error:
            reason = (
                str(error)
                if isinstance(error, OtrainError)
                else f"{folder}: a record cannot be used ({type(error).__name__}: {error})"
            )
            found["broken"].append({"folder": str(folder), "reason": reason})
            log.warning("%s", reason)
            continue
        if changed:
            log.info("imported %s in %.1f s", folder, time.perf_counter() - started)
        found["runs"].append(entry)
    return found


def _ensure_study(client, experiment: str, study: StudyTable) -> str:
    """Find or create the run under which the trainings of a study are listed; its identifier."""
    found = [
        run
        for run in client.search_runs([experiment], f"tags.kind = 'study' and tags.study = '{study.name}'")
        if run.data.tags.get("place") == study.place
    ]
    if found:
        run = min(found, key=lambda run: (run.info.start_time, run.info.run_id))
    else:
        words = f"Trainings with {study.option} = {', '.join(study.values)}, listed below this run."
        tags = {"kind": "study", "study": study.name, "option": study.option, "place": study.place}
        tags |= {"mlflow.note.content": words, "mlflow.source.name": "O'TRAIN"}
        start = int(1000 * study.path.stat().st_mtime)
        run = client.create_run(experiment, run_name=f"study {study.name}", tags=tags, start_time=start)
        client.set_terminated(run.info.run_id, "FINISHED", end_time=start)
    paths = [study.path, study.path.with_suffix(".png")]
    _send_files(client, run, {path: "figures" if path.suffix == ".png" else "records" for path in paths})
    return run.info.run_id


def _send_files(client, run, files: Mapping[Path, str]) -> None:
    """Send the existing files that the run does not have yet, each to a folder of its artifacts."""
    sent = json.loads(run.data.tags.get("files") or "{}")
    there = {path: digest(path)[:16] for path in files if path.is_file()}
    for path, mark in there.items():
        if sent.get(path.name) != mark:
            client.log_artifact(run.info.run_id, str(path), files[path])
    if new := {path.name: mark for path, mark in there.items() if sent.get(path.name) != mark}:
        client.set_tag(run.info.run_id, "files", json.dumps(sent | new, sort_keys=True))


def _ensure_run(client, experiment: str, training: TrainingRecord) -> tuple[dict[str, Any], bool]:
    """Import the run of a training and, under the protocol by-image, its registered version; whether the run is new."""
    found = [
        run
        for run in client.search_runs([experiment], f"tags.training = '{training.name}'")
        if run.data.tags.get("place", training.place) == training.place
    ]
    good = [run for run in found if run.data.tags.get("digest") == training.digest and _is_whole(client, run)]
    if good:  # more than one if two imports ran at the same time
        run = min(good, key=lambda run: (run.info.start_time, run.info.run_id))
        if run.data.tags.get("mlflow.parentRunId", "") != training.parent and training.parent:
            client.set_tag(run.info.run_id, "study", training.study)
            client.set_tag(run.info.run_id, "mlflow.parentRunId", training.parent)
    else:
        live = [run for run in found if run.info.run_id == training.train.get("mlflow_run")]
        live = [run for run in live if LIVE in run.data.tags and "digest" not in run.data.tags]
        run = client.get_run(_write_run(client, experiment, training, live=live[0] if live else None))
    for other in found:
        goes_on = "digest" not in other.data.tags and other.info.start_time > run.info.start_time
        if other.info.run_id != run.info.run_id and not goes_on:
            client.delete_run(other.info.run_id)
    _send_files(
        client, run, {training.folder / name: "figures" if name.endswith("png") else "records" for name in SENT_LATER}
    )
    entry = {"folder": str(training.folder), "run_id": run.info.run_id, "digest": training.digest}
    onnx = _send_onnx(client, run, training.folder / ONNX)
    if training.keys["protocol"] == "by-image" and not training.study:
        tags = training.version_tags() | ({"onnx": onnx} if onnx else {})
        name = f"otrain-{training.keys['telescope']}"
        version = ensure_version(client, run.info.run_id, name=name, tags=tags, description=training.words())
        entry |= {"model": name, "version": version}
    return entry, not good


def _ensure_finder(client, experiment: str, folder: Path) -> tuple[dict[str, Any], bool]:
    """Import the run of a detector network: its record, history and ONNX file, and its results in the study finder."""
    from mlflow.entities import Metric, Param, RunTag

    keys, place, record = run_keys(folder), place_of(results_root(folder)), read_record(folder / "finder.json")
    tables = [folder.parent / f"{name}.csv" for name in TABLES]
    files = [path for path in (*(folder / name for name in FINDER_FILES), *tables) if path.is_file()]
    mark = hashlib.sha256("".join(f"{path.name} {digest(path)}\n" for path in files).encode()).hexdigest()[:32]
    tags = run_tags(keys, place) | {"kind": "finder", "study": "finder", "digest": mark}
    runs = client.search_runs([experiment], f"tags.training = '{tags['training']}' and tags.place = '{place}'")
    good = [run for run in runs if run.data.tags.get("digest") == mark and run.info.status == "FINISHED"]
    live = [run for run in runs if run.info.run_id == record.get("mlflow_run") and "digest" not in run.data.tags]
    if good or live:
        run = (good or live)[0]
    else:
        run = client.create_run(experiment, run_name=run_name(keys), tags=run_tags(keys, place))
    run_id = run.info.run_id
    if not good:
        numbers = {name: number(record, name) for name in FINDER_METRICS} | _found_by(folder.parent, keys["seed"])
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, 0) for name, value in numbers.items() if np.isfinite(value)]
        rows = read_table(folder / "finder.csv").to_dict("records")
        params = [Param(name, str(value)) for name, value in (record.get("options") or {}).items()]
        metrics += _not_sent(client, run, history_metrics(rows, [now] * len(rows)))
        client.log_batch(run_id, metrics=metrics, params=params)
        for path in files:
            client.log_artifact(run_id, str(path), "records")
        client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        client.set_terminated(run_id, "FINISHED")
    for other in runs:
        if other.info.run_id != run_id:
            client.delete_run(other.info.run_id)
    return {"folder": str(folder), "run_id": run_id, "digest": mark}, not good


def _found_by(folder: Path, seed: int) -> dict[str, float]:
    """Completeness of a detector network at one false alarm per image, S/N 5 to 10, if the study exists."""
    if not (folder / "completeness.csv").is_file():
        return {}
    table = read_table(folder / "completeness.csv")
    table = table[(table["seed"] == seed) & (table["false_alarms"] == 1) & (table["kind"] == "all")]
    table = table[(table["snr_low"] == MAIN[0]) & (table["snr_high"] == MAIN[1])].set_index("detector")["completeness"]
    names = {"completeness": "finder", "completeness_no_difference": "finder, no difference"}
    return {name: float(table.get(detector, np.nan)) for name, detector in names.items()}


def _is_whole(client, run) -> bool:
    """Whether the import of the run was completed and its model still exists."""
    from mlflow.exceptions import MlflowException

    model_id = run.data.tags.get("model_id")
    if run.info.status != "FINISHED" or not model_id:
        return False
    try:
        return any(file.path == "MLmodel" for file in client.list_logged_model_artifacts(model_id))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def _send_onnx(client, run, path: Path) -> str:
    """Store the ONNX file, if it exists, with the model of the run; its digest, or ''."""
    if not path.is_file():
        return ""
    mark = digest(path)
    if run.data.tags.get("onnx") != mark:
        client.log_model_artifact(run.data.tags["model_id"], str(path))
        client.set_tag(run.info.run_id, "onnx", mark)
    return mark


def _write_run(client, experiment: str, training: TrainingRecord, *, live=None) -> str:
    """Write the run of a training, or complete the run that the training itself has started."""
    from mlflow.entities import Dataset, DatasetInput, LoggedModelOutput, Metric, Param, RunTag

    start, tags, name = training.started, training.tags(), run_name(training.keys)
    if live is None:
        run_id = client.create_run(experiment, start_time=start, run_name=name, tags=tags).info.run_id
    else:
        run_id, start = live.info.run_id, live.info.start_time
    end = max(start, training.started) + int(1000 * training.seconds)
    metrics = [Metric(key, value, end, 0) for key in METRICS if np.isfinite(value := number(training.headline, key))]
    metrics.append(Metric("train_seconds", training.seconds, end, 0))
    metrics += _not_sent(client, live, _history(training, start)) if live else _history(training, start)
    client.log_batch(
        run_id,
        metrics=metrics,
        params=[Param(key, value) for key, value in training.params().items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )
    cube_digest = str(training.train.get("cube_digest", "unknown"))
    cube = Dataset(name=tags["cube"], digest=cube_digest[:16], source_type="local", source="cube.npz")
    insist(client.log_inputs, run_id, datasets=[DatasetInput(cube)])
    for record in RECORDS:
        if (training.folder / record).is_file():
            client.log_artifact(run_id, str(training.folder / record), "records")
    figures = {} if training.study else draw_training(training.folder)
    for figure_name, figure in figures.items():
        client.log_figure(run_id, figure, f"figures/{figure_name}.png")
    model = client.create_logged_model(experiment, name=name.replace("/", "-"), source_run_id=run_id)
    about = {"run_id": run_id, "model_id": model.model_id, "metadata": training.use()}
    with tempfile.TemporaryDirectory() as folder:
        write_model(training.folder / "model.keras", Path(folder, "model"), **about)
        client.log_model_artifacts(model.model_id, str(Path(folder, "model")))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    client.set_tag(run_id, "model_id", model.model_id)
    client.set_terminated(run_id, status="FINISHED", end_time=end)
    return run_id


def _not_sent(client, run, points: Sequence[Any]) -> list[Any]:
    """Points of a history that a run does not have yet: the training has sent some of them itself."""
    sent = {(key, point.step) for key in run.data.metrics for point in client.get_metric_history(run.info.run_id, key)}
    return [point for point in points if (point.key, point.step) not in sent]


def _history(training: TrainingRecord, start: int) -> list:
    table = read_table(training.folder / "history.csv")
    stamps = start + 1000 * table["seconds"].cumsum() if "seconds" in table else [start] * len(table)
    return history_metrics(table.to_dict("records"), list(stamps))
