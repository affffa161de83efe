"""Records of the trainings in a results folder: found, read, and converted to tags and parameters of MLflow runs."""

from __future__ import annotations

import calendar
import getpass
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.errors import OtrainError
from otrain_core.evaluation.gate import NUMBERS, validation_mcc
from otrain_core.evaluation.words import count, interval, num
from otrain_core.io import digest, read_json
from otrain_core.plan.pools import is_pool
from otrain_core.registry.store import place_of
from otrain_core.results import number, results_root, run_keys, trained_folders

FORMAT = "3"  # increase it when a change of this module requires that runs are imported again
REQUIRED = ("train.json", "metrics.json", "history.csv", "model.keras")
RECORDS = (*REQUIRED[:3], "scores.csv", "curves.csv")
OPTIONS = ("network", "inputs", "size", "normalise", "augment", "batch_size", "keep")


def records_digest(folder: str | Path) -> str:
    """Digest of the records and the model of a training, which identifies it."""
    folder = Path(folder)
    sha = hashlib.sha256(FORMAT.encode())
    for path in sorted(folder / name for name in (*RECORDS, "model.keras")):
        if path.is_file():
            sha.update(f"{path.name} {digest(path)}\n".encode())
    return sha.hexdigest()[:32]


def find_trainings(root: str | Path) -> tuple[list[str], list[str]]:
    """Find all trainings in a results folder.

    Returns
    -------
    folders : list of str
        Folders of the trainings, detector networks last.
    studies : list of str
        Tables of the studies.

    Raises
    ------
    OtrainError
        The folder has no training.
    """
    root = Path(root)
    # Trainings on pools are left out, because they are never evaluated.
    found = [str(folder) for folder in trained_folders(root) if not is_pool(run_keys(folder)["telescope"])]
    found += sorted(str(path.parent) for path in root.glob("*/*/finder/seed*/finder.json"))
    if not found:
        raise OtrainError(f"{root}: no training in this folder (telescope/pipeline/experiment/seedN/train.json)")
    return found, sorted(map(str, root.glob("studies/*.csv")))


def run_name(keys: Mapping[str, Any]) -> str:
    """Name of a run in the list of runs."""
    name = "/".join(str(keys[key]) for key in ("telescope", "pipeline", "experiment", "seed"))
    return name + (" (random)" if keys["protocol"] == "random" else "")


def run_tags(keys: Mapping[str, Any], place: str) -> dict[str, str]:
    """Tags that a run has from the start."""
    return {key: str(value) for key, value in keys.items()} | {
        "kind": "training",
        "cube": f"{keys['telescope']}/{keys['pipeline']}",
        "training": "/".join(str(value) for value in keys.values()),
        "place": place,
        "mlflow.user": _user(),
        "mlflow.source.name": "O'TRAIN",
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # the user has no name, as in some containers
        return "unknown"


class StudyTable:
    """Table of a sweep: its option, the values, and the trainings that belong to it (`members`)."""

    def __init__(self, path: Path, place: str):
        self.path, self.name, self.place = path, path.stem, place
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        self.option = table["option"].iloc[0] if len(table) else ""
        self.values = list(dict.fromkeys(table["value"]))
        names = table["experiment"] + "-" + table["sweep"] + "-" + table["value"]
        self.members = [
            f"{telescope}/{pipeline}/{name}/{seed}"
            for telescope, pipeline, name, seed in zip(
                table["telescope"], table["pipeline"], names, table["seed"], strict=True
            )
        ]


class TrainingRecord:
    """The records of one training.

    Parameters
    ----------
    folder : Path
        telescope/pipeline/experiment/seedN[/random].
    children : mapping
        Name of the study and identifier of its run, for each training of a study (telescope/pipeline/experiment/seed).

    Raises
    ------
    OtrainError
        A record cannot be read.
    ValueError
        The folder is not the folder of a training.
    """

    def __init__(self, folder: Path, children: Mapping[str, tuple[str, str]]):
        self.folder = folder
        self.keys = run_keys(folder)
        self.name = "/".join(str(value) for value in self.keys.values())
        self.train, self.metrics = read_record(folder / "train.json"), read_record(folder / "metrics.json")
        self.headline = self.metrics.get("headline") or {}
        self.digest = records_digest(folder)
        self.place = place_of(results_root(folder))
        self.study, self.parent = children.get(self.name.rpartition("/")[0], ("", ""))

    @property
    def started(self) -> int:
        """Start of the training [ms since 1970], from the time in the record, which is the end of the training."""
        try:
            end: float = calendar.timegm(time.strptime(self.train.get("time", ""), "%Y-%m-%dT%H:%M:%SZ"))
        except ValueError:
            end = self.folder.joinpath("train.json").stat().st_mtime
        return int(1000 * (end - self.seconds))

    @property
    def seconds(self) -> float:
        """Duration of the training [s]; 0 if unknown."""
        return float(np.nan_to_num(number(self.headline, "train_seconds")))

    def tags(self) -> dict[str, str]:
        """Tags of the run."""
        tags = run_tags(self.keys, self.place) | {"study": self.study or "none"}
        if self.parent:
            tags["mlflow.parentRunId"] = self.parent
        return tags | {
            "commit": str(self.train.get("commit", "")),
            "cube_digest": str(self.train.get("cube_digest", ""))[:16],
            "digest": self.digest,
            "mlflow.note.content": self.words(),
            "mlflow.source.git.commit": str(self.train.get("commit", "")).rstrip("+"),
        }

    @property
    def collapsed(self) -> str:
        """Sentence that the network assigns all cutouts of the test set to one class; '' if it does not."""
        counts = {key: number(self.metrics.get("confusion") or {}, key) for key in ("tp", "fp", "fn", "tn")}
        called_true, called_false = counts["tp"] + counts["fp"], counts["fn"] + counts["tn"]
        if not called_true + called_false > 0 or (called_true and called_false):
            return ""
        return f"the training collapsed: it calls every cutout {'True' if called_true else 'False'}"

    def words(self) -> str:
        """The main scores and their data in one sentence, after a warning if the training collapsed."""
        by_image = self.keys["protocol"] == "by-image"
        data = "images it never saw" if by_image else "images of a random split, tuned and scored on the same cutouts"
        row = self.headline
        collapsed = f"{self.collapsed[0].upper()}{self.collapsed[1:]}. " if self.collapsed else ""
        return (
            f"{collapsed}MCC {interval(row, 'mcc')}, recall {interval(row, 'recall', percent=True)}, FPR"
            f" {interval(row, 'fpr', percent=True)} at threshold {num(number(row, 'threshold'))}, on"
            f" {count(row.get('n_true'))} True and {count(row.get('n_false'))} False from {count(row.get('n_images'))} {data}."
        )

    def params(self) -> dict[str, str]:
        """Parameters of the run: only those that differ between trainings."""
        options = self.train.get("options") or {}
        values = {name: options.get(name, "") for name in OPTIONS}
        values["inputs"] = "+".join(values["inputs"]) if isinstance(values["inputs"], list) else values["inputs"]
        values["threshold_rule"] = self.metrics.get("threshold_rule", "")
        values["n_parameters"] = self.train.get("n_parameters", "")
        values["n_train"] = self.train.get("n_train", "")
        return {name: str(value) for name, value in values.items()}

    def use(self) -> dict[str, str]:
        """Metadata that a user of the model needs; stored with the model and with its version."""
        return {key: str(value) for key, value in self.keys.items()} | {
            "training": self.name,
            "digest": self.digest,
            "threshold": f"{number(self.headline, 'threshold'):.6g}",
            "calibration": json.dumps(self.metrics.get("calibration") or {}, sort_keys=True),
            "cube_digest": str(self.train.get("cube_digest", "")),
            "commit": str(self.train.get("commit", "")),
        }

    def version_tags(self) -> dict[str, str]:
        """Tags of the registered version: the metadata of `use`, and the scores that the gate checks."""
        calibration = self.metrics.get("calibration") or {}
        use = {key: calibration[key] for key in ("method", "slope", "offset", "knots", "values") if key in calibration}
        tags = self.use() | {
            "calibration": json.dumps(use, sort_keys=True),
            "place": self.place,
            "mcc_validation": f"{validation_mcc(self.folder):.6g}",
            "collapsed": self.collapsed,
        }
        return tags | {name: f"{number(self.headline, name):.6g}" for name in NUMBERS}


def read_record(path: Path) -> dict[str, Any]:
    """Read a record (JSON) of a training.

    Raises
    ------
    OtrainError
        The record cannot be read.
    """
    try:
        record = read_json(path)
    except ValueError as error:
        raise OtrainError(f"{path}: the record is incomplete ({error}); delete it and run the workflow again") from None
    if not isinstance(record, dict):
        raise OtrainError(f"{path}: not a record of a training")
    return record
