"""Import of finished trainings into an MLflow store.

The store is a view of the records in the results folder and can be rebuilt from them
at any time. One process imports everything, one run after the other: many processes
that open a fresh SQLite store at once corrupt it.

All runs go to one MLflow experiment, with telescope, pipeline, experiment, seed and
protocol as tags: MLflow sorts, filters, groups and plots the runs of one experiment in
one table, so this is what makes telescopes comparable. Models are registered by
telescope (``otrain-{telescope}``), because a model is used on one telescope.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.io import digest, read_json, read_table
from otrain_core.mlflow_store import EXPERIMENT, locked, open_store, write_model
from otrain_core.registry import BY_HAND, CHAMPION
from otrain_core.report_figures import draw_training
from otrain_core.report_text import count, interval, num
from otrain_core.summary import number, read_record, run_keys, tune_mcc

log = logging.getLogger("otrain")

FORMAT = "2"  # raise it when runs must be imported anew because this module writes them differently
REQUIRED = ("train.json", "metrics.json", "history.csv", "model.keras")
RECORDS = (*REQUIRED[:3], "scores.csv", "curves.csv")
# The same for every run, a dozen at most.
METRICS = (
    *("mcc", "mcc_low", "mcc_high", "accuracy", "f1", "recall", "fpr_at_1pct_missed", "fpr_at_5pct_missed"),
    *("fp_share", "ece", "false_alarms_per_image"),
)
HISTORY = ("loss", "accuracy", "tune_loss", "tune_accuracy")
OPTIONS = ("network", "inputs", "size", "normalise", "augment", "batch_size", "keep")


def records_digest(folder: str | Path) -> str:
    """Digest of everything that is imported from the folder of a training."""
    folder = Path(folder)
    sha = hashlib.sha256(FORMAT.encode())
    for path in sorted([folder / name for name in (*RECORDS, "model.keras")] + sorted(folder.glob("*.png"))):
        if path.is_file():
            sha.update(f"{path.name} {digest(path)}\n".encode())
    return sha.hexdigest()[:32]


def import_runs(
    folders: Iterable[str | Path],
    *,
    store: str | Path,
    artifacts: str | Path,
    min_mcc: float = 0.7,
    max_fp: float = 0.05,
) -> dict[str, Any]:
    """Import trainings into the store and name the champion of every telescope.

    A run is known by the digest of its records: importing it again changes nothing. A
    training that was done anew takes the place of its older run, which MLflow then lists
    as deleted (its registered version stays, tagged ``superseded``). Runs whose folder is
    gone are left alone. What an import that was cut short has left is completed.

    Parameters
    ----------
    folders : iterable of path-like
        telescope/pipeline/experiment/seedN[/random_split], each with train.json,
        metrics.json, history.csv and model.keras; scores.csv, curves.csv and PNG figures if
        there are any.
        Only trainings under the protocol ``grouped`` are registered: the others have no
        score on images they never saw.
    store, artifacts : path-like
        SQLite file and folder of the artifacts.
    min_mcc, max_fp : float
        Gate: the champion has MCC above, and false positives as a share of the test set
        at most this. Of those that pass, the champion is the one of highest MCC on tune, so that
        its numbers on test were not what it was chosen by. Without any model that passes, the
        alias is removed.

    Returns
    -------
    dict
        experiment, runs (folder, run_id, digest, and model and version where registered),
        champions (telescope: version, run_id, mcc, mcc_tune, or None), skipped (folders that are
        not complete, with the reason).

    Raises
    ------
    OtrainError
        The store cannot be opened.
    """
    record: dict[str, Any] = {"experiment": EXPERIMENT, "runs": [], "champions": {}, "skipped": []}
    store = Path(store)
    with locked(store):
        client, experiment = open_store(store, artifacts)
        telescopes = set()
        for folder in map(Path, folders):
            missing = [name for name in REQUIRED if not (folder / name).is_file()]
            if missing:
                record["skipped"].append({"folder": str(folder), "reason": f"{', '.join(missing)}: no such file"})
                continue
            training = _Training(folder)
            started = time.perf_counter()
            entry, changed = _ensure_run(client, experiment, training)
            if changed:
                log.info("imported %s in %.1f s", folder, time.perf_counter() - started)
            record["runs"].append(entry)
            telescopes.add(training.keys["telescope"])
        for telescope in sorted(telescopes):
            record["champions"][telescope] = _name_champion(client, telescope, min_mcc=min_mcc, max_fp=max_fp)
    return record


class _Training:
    """The records of one training."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.keys = run_keys(folder)
        self.name = "/".join(str(value) for value in self.keys.values())
        self.train, self.metrics = read_json(folder / "train.json"), read_record(folder / "metrics.json")
        self.headline = self.metrics.get("headline") or {}
        self.digest = records_digest(folder)

    @property
    def model_name(self) -> str:
        return f"otrain-{self.keys['telescope']}"

    @property
    def started(self) -> int:
        """Start of the training [ms since 1970]: the record's time is that of its end."""
        import calendar

        try:
            end = calendar.timegm(time.strptime(self.train.get("time", ""), "%Y-%m-%dT%H:%M:%SZ"))
        except ValueError:
            end = self.folder.joinpath("train.json").stat().st_mtime
        return int(1000 * (end - self.seconds))

    @property
    def seconds(self) -> float:
        return float(np.nan_to_num(number(self.headline, "train_seconds")))

    def tags(self) -> dict[str, str]:
        return {
            **{key: str(value) for key, value in self.keys.items()},
            "cube": f"{self.keys['telescope']}/{self.keys['pipeline']}",
            "commit": str(self.train.get("commit", "")),
            "cube_digest": str(self.train.get("cube_digest", ""))[:16],
            "training": self.name,
            "digest": self.digest,
            "mlflow.note.content": self.words(),
            "mlflow.source.name": "O'TRAIN",
            "mlflow.source.git.commit": str(self.train.get("commit", "")).rstrip("+"),
        }

    def words(self) -> str:
        """What the numbers are and on which data, in one sentence."""
        grouped = self.keys["protocol"] == "grouped"
        data = "images it never saw" if grouped else "images of a random split, tuned and scored on the same cutouts"
        row = self.headline
        return (
            f"MCC {interval(row, 'mcc')}, recall {interval(row, 'recall', percent=True)}, FPR"
            f" {interval(row, 'fpr', percent=True)} at threshold {num(number(row, 'threshold'))}, on"
            f" {count(row.get('n_true'))} True and {count(row.get('n_false'))} False from {count(row.get('n_images'))} {data}."
        )

    def params(self) -> dict[str, str]:
        options = self.train.get("options") or {}
        values = {name: options.get(name, "") for name in OPTIONS}
        values["inputs"] = "+".join(values["inputs"]) if isinstance(values["inputs"], list) else values["inputs"]
        values["threshold_rule"] = self.metrics.get("threshold_rule", "")
        values["n_parameters"] = self.train.get("n_parameters", "")
        values["n_train"] = self.train.get("n_train", "")
        return {name: str(value) for name, value in values.items()}

    def version_tags(self) -> dict[str, str]:
        """What someone needs who uses the model, and what the gate looks at."""
        return {
            **{key: str(value) for key, value in self.keys.items()},
            "training": self.name,
            "digest": self.digest,
            "threshold": f"{number(self.headline, 'threshold'):.6g}",
            "calibration": json.dumps(self.metrics.get("calibration") or {}, sort_keys=True),
            "cube_digest": str(self.train.get("cube_digest", "")),
            "mcc": f"{number(self.headline, 'mcc'):.6g}",
            "mcc_tune": f"{tune_mcc(self.folder):.6g}",
            "fp_share": f"{number(self.headline, 'fp_share'):.6g}",
        }


def _ensure_run(client, experiment: str, training: _Training) -> tuple[dict[str, Any], bool]:
    """The run of this training and, under the protocol grouped, its registered version."""
    found = client.search_runs(
        [experiment], filter_string=f"tags.training = '{training.name}'", order_by=["attributes.start_time DESC"]
    )
    good = [run for run in found if run.data.tags.get("digest") == training.digest and _is_whole(client, run)]
    run_id = good[0].info.run_id if good else _write_run(client, experiment, training)
    for run in found:
        if run.info.run_id != run_id:
            client.delete_run(run.info.run_id)
    entry = {"folder": str(training.folder), "run_id": run_id, "digest": training.digest}
    if training.keys["protocol"] == "grouped":
        entry |= {"model": training.model_name, "version": _ensure_version(client, run_id, training)}
    return entry, not good


def _is_whole(client, run) -> bool:
    """Whether the run was imported to its end and its model is still there."""
    from mlflow.exceptions import MlflowException

    model_id = run.data.tags.get("model_id")
    if run.info.status != "FINISHED" or not model_id:
        return False
    try:
        location = client.get_logged_model(model_id).artifact_location
    except MlflowException:
        return False
    return Path(location.removeprefix("file://"), "MLmodel").is_file()


def _write_run(client, experiment: str, training: _Training) -> str:
    from mlflow.entities import Dataset, DatasetInput, LoggedModelOutput, Metric, Param, RunTag

    start = training.started
    name = "/".join(str(training.keys[key]) for key in ("telescope", "pipeline", "experiment", "seed"))
    name += " (random split)" if training.keys["protocol"] == "paper" else ""
    run_id = client.create_run(experiment, start_time=start, run_name=name).info.run_id
    end = start + int(1000 * training.seconds)
    metrics = [Metric(key, value, end, 0) for key in METRICS if np.isfinite(value := number(training.headline, key))]
    metrics.append(Metric("train_seconds", training.seconds, end, 0))
    client.log_batch(
        run_id,
        metrics=metrics + _history(training, start),
        params=[Param(key, value) for key, value in training.params().items()],
        tags=[RunTag(key, value) for key, value in training.tags().items()],
    )
    cube_digest = str(training.train.get("cube_digest", "unknown"))
    cube = Dataset(name=training.tags()["cube"], digest=cube_digest[:16], source_type="local", source="cube.npz")
    client.log_inputs(run_id, datasets=[DatasetInput(cube)])
    for record in RECORDS:
        if (training.folder / record).is_file():
            client.log_artifact(run_id, str(training.folder / record), "records")
    for path in sorted(training.folder.glob("*.png")):
        client.log_artifact(run_id, str(path), "figures")
    for figure_name, figure in draw_training(training.folder).items():
        client.log_figure(run_id, figure, f"figures/{figure_name}.png")
    model = client.create_logged_model(experiment, name=name.replace("/", "-"), source_run_id=run_id)
    with tempfile.TemporaryDirectory() as folder:
        write_model(training.folder / "model.keras", Path(folder, "model"), run_id=run_id, model_id=model.model_id)
        client.log_model_artifacts(model.model_id, str(Path(folder, "model")))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    client.set_tag(run_id, "model_id", model.model_id)
    client.set_terminated(run_id, status="FINISHED", end_time=end)
    return run_id


def _history(training: _Training, start: int) -> list:
    from mlflow.entities import Metric

    table = read_table(training.folder / "history.csv")
    stamps = start + 1000 * table["seconds"].cumsum() if "seconds" in table else [start] * len(table)
    return [
        Metric(f"epoch/{name}", float(value), int(stamp), int(epoch))
        for name in HISTORY
        if name in table
        for value, stamp, epoch in zip(table[name], stamps, table["epoch"], strict=True)
        if np.isfinite(value)
    ]


def _ensure_version(client, run_id: str, training: _Training) -> int:
    """Register the run's model, once; older versions of the same training become superseded."""
    from mlflow.exceptions import MlflowException

    name = training.model_name
    try:
        client.create_registered_model(
            name, description=f"Real/bogus classifier of telescope {training.keys['telescope']} (probability of True)."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client.search_model_versions(f"name = '{name}'")
    mine = [version for version in versions if version.run_id == run_id]
    if not mine:
        model = client.get_logged_model(client.get_run(run_id).data.tags["model_id"])
        tags = training.version_tags()
        mine = [
            client.create_model_version(
                name,
                source=model.artifact_location,
                run_id=run_id,
                model_id=model.model_id,
                tags=tags,
                description=training.words(),
            )
        ]
    number_ = int(mine[0].version)
    for version in versions:
        same = version.tags.get("training") == training.name and int(version.version) != number_
        if same and "superseded" not in version.tags:
            client.set_model_version_tag(name, version.version, "superseded", str(number_))
    return number_


def _name_champion(client, telescope: str, *, min_mcc: float, max_fp: float) -> dict[str, Any] | None:
    """Give the alias to the version of highest MCC on tune among those that pass the gate on test, or to none.

    A champion chosen by hand stays.
    """
    from mlflow.exceptions import MlflowException

    name = f"otrain-{telescope}"
    passing = []
    for version in client.search_model_versions(f"name = '{name}'"):
        tags = version.tags
        mcc, mcc_tune, fp_share = (_float(tags.get(key)) for key in ("mcc", "mcc_tune", "fp_share"))
        if "superseded" not in tags and tags.get("protocol") == "grouped" and mcc > min_mcc and fp_share <= max_fp:
            rank = mcc_tune if np.isfinite(mcc_tune) else -np.inf  # versions of older imports lack it
            passing.append((rank, -int(version.version), version))
    try:
        current = client.get_model_version_by_alias(name, CHAMPION).version
    except MlflowException:
        current = None
    if current is not None and client.get_registered_model(name).tags.get(BY_HAND) == "true":
        return _champion(name, client.get_model_version(name, current))
    if not passing:
        if current is not None:
            client.delete_registered_model_alias(name, CHAMPION)
        log.warning("%s: no model passes the gate (MCC above %g, false positives at most %g)", name, min_mcc, max_fp)
        return None
    _, _, best = max(passing, key=lambda item: item[:2])
    if current is None or int(current) != int(best.version):
        client.set_registered_model_alias(name, CHAMPION, best.version)
    return _champion(name, best)


def _champion(name: str, best) -> dict[str, Any]:
    scores = {key: value for key in ("mcc", "mcc_tune") if np.isfinite(value := _float(best.tags.get(key)))}
    return {"model": name, "version": int(best.version), "run_id": best.run_id, **scores, **_named(best.tags)}


def _named(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: tags[key] for key in ("pipeline", "experiment", "seed", "threshold") if key in tags}


def _float(text: str | None) -> float:
    return float(text) if text else np.nan
