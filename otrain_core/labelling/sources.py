"""The candidates of the labelling page: cubes of a run with the scores of their trainings, and new candidates."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.errors import OtrainError
from otrain_core.results import table_if_there

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("otrain")


@dataclass
class Training:
    """Scores of one training for the rows of a cube, NaN where it has none.

    Attributes
    ----------
    name : str
    score : numpy.ndarray
    threshold : float
    undecided : numpy.ndarray
        bool: too near to the threshold, see `otrain_core.evaluation.abstain`.
    model : Path or None
        ``model.keras``, for Grad-CAM.
    validation_mcc : float
        By which the best one is chosen.
    """

    name: str
    score: np.ndarray
    threshold: float
    undecided: np.ndarray
    model: Path | None = None
    validation_mcc: float = np.nan


@dataclass
class Source:
    """Candidates of one cube, with what trainings say of them.

    Attributes
    ----------
    telescope, pipeline : str
    cube : mapping of arrays
        As from `otrain_core.cubes.cube_format.read_cube`; with ``labels_before``, -1 for no label.
    trainings : list of Training
        The best one first.
    suspects : dict of int to float
        Probability that the label is wrong, by row, for suspected ones.
    sets : numpy.ndarray or None
        train, validation or test, by row.
    new : bool
        New candidates, that are in no cube of a run.
    notes : mapping of int to str
        What else is to be said of a row (unlike the training set).
    """

    telescope: str
    pipeline: str
    cube: Mapping[str, np.ndarray]
    trainings: list[Training] = field(default_factory=list)
    suspects: dict[int, float] = field(default_factory=dict)
    sets: np.ndarray | None = None
    new: bool = False
    notes: Mapping[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "/".join(filter(None, (self.telescope, self.pipeline)))

    def __len__(self) -> int:
        return len(self.cube["candids"])

    def before(self) -> np.ndarray:
        """Labels without the sheet: 1, 0, or -1 for none."""
        return np.asarray(self.cube.get("labels_before", self.cube["labels"])).astype(int)


def open_cubes(results: str | Path, cubes: Sequence[str] = (), *, experiments: Sequence[str] = ()) -> list[Source]:
    """The cubes of a run with their trainings under the protocol by-image.

    Parameters
    ----------
    results : path-like
        Folder of the run.
    cubes : sequence of str
        As telescope/pipeline (default: all, but for pools).
    experiments : sequence of str
        Whose trainings are asked (default: those of ``summary.csv``, which has none of the studies; all where there
        is no such file).

    Raises
    ------
    OtrainError
        A cube is not there, or there is none at all.
    """
    from otrain_core.cubes.cube_format import read_cube
    from otrain_core.plan.pools import is_pool

    root = Path(results)
    if not cubes:
        found = [path.parent.relative_to(root) for path in sorted(root.glob("*/*/cube.npz"))]
        cubes = [str(name) for name in found if not is_pool(name.parts[0])]
    if not cubes:
        raise OtrainError(f"{root}: no cube (telescope/pipeline/cube.npz) in this folder; has the run come so far?")
    sources = []
    experiments = experiments or _summarised(root)
    for name in cubes:
        folder = root / name
        cube = read_cube(folder / "cube.npz", mmap=True)
        telescope, pipeline = name.split("/")
        source = Source(telescope, pipeline, cube)
        _add_trainings(source, folder, experiments)
        _add_suspects(source, folder)
        sources.append(source)
    return sources


def _summarised(root: Path) -> list[str]:
    """Experiments of ``summary.csv``; none where there is no such table."""
    table = table_if_there(root / "summary.csv")
    return table["experiment"].astype(str).unique().tolist() if table is not None and "experiment" in table else []


def _add_trainings(source: Source, folder: Path, experiments: Sequence[str]) -> None:
    from otrain_core.evaluation.metrics import confusion, rates
    from otrain_core.results import number, read_record

    for path in sorted(folder.glob("*/seed*/scores.csv")):
        if experiments and path.parent.parent.name not in experiments:
            continue
        record, table = read_record(path.parent / "metrics.json"), _table(path, source, "score", "set", "label")
        threshold = number(record.get("headline") or {}, "threshold")
        if table is None or not np.isfinite(threshold):
            continue
        score = np.full(len(source), np.nan)
        score[table["index"]] = table["score"]
        model = path.parent / "model.keras"
        validation = table[table["set"] == "validation"]
        mcc = (
            rates(**confusion(validation["label"], validation["score"], threshold))["mcc"]
            if len(validation)
            else np.nan
        )
        name = f"{path.parent.parent.name}/{path.parent.name}"
        undecided = _undecided(score, record)
        source.trainings.append(Training(name, score, threshold, undecided, model if model.is_file() else None, mcc))
        if source.sets is None:
            source.sets = np.full(len(source), "", dtype="U10")
            source.sets[table["index"]] = table["set"].astype(str)
    source.trainings.sort(key=lambda training: -np.nan_to_num(training.validation_mcc, nan=-2))


def _undecided(score: np.ndarray, record: Mapping[str, Any]) -> np.ndarray:
    """Whether the rule of abstention of a training, on its calibrated scores, leaves a candidate open."""
    from otrain_core.evaluation.calibrate import Calibration
    from otrain_core.results import number

    rule = record.get("abstention") or {}
    low, high = number(rule, "low"), number(rule, "high")
    if not np.isfinite([low, high]).all() or not record.get("calibration"):
        return np.zeros(len(score), bool)
    probability = np.full(len(score), np.nan)
    known = np.isfinite(score)
    probability[known] = Calibration.from_record(record["calibration"]).apply(score[known])
    return (probability > low) & (probability < high)


def _add_suspects(source: Source, folder: Path) -> None:
    for path in sorted(folder.glob("*/label_noise/suspects.csv")):
        table = _table(path, source, "suspected", "p_wrong")
        if table is None:
            continue
        for row in table[table["suspected"].astype(str) == "True"].itertuples():
            source.suspects[row.index_] = max(float(row.p_wrong), source.suspects.get(row.index_, 0))


def _table(path: Path, source: Source, *columns: str) -> pd.DataFrame | None:
    """A table about the rows of a cube, None where it was made for another one or cannot be read."""
    from otrain_core.io import read_table

    try:
        table = read_table(path)
        if missing := {"index", "candid", *columns} - set(table):
            raise OtrainError(f"no columns {', '.join(sorted(missing))}")
        rows = table["index"].to_numpy(int)
    except (OtrainError, OSError, ValueError) as error:
        log.warning("%s: cannot be used (%s), left aside", path, error)
        return None
    if len(rows) and (
        rows.min() < 0 or rows.max() >= len(source) or (source.cube["candids"][rows] != table["candid"]).any()
    ):
        log.warning("%s: made for an earlier cube, left aside", path)
        return None
    return table.assign(index_=rows)


def open_new(paths: Sequence[str], model: str, *, results: str | Path = "results", telescope: str = "") -> list[Source]:
    """New candidates, that are in no cube of a run, scored by a model.

    Parameters
    ----------
    paths : sequence of str
        Cubes (``.npz``), folders of cubes (as `otrain night` keeps them), folders of FITS cutouts, or such files.
    model : str
        ``model.onnx``, folder of a training, or a registered telescope, see `otrain_core.registry.models.find_model`.
    results : path-like
        Run that registered the telescope.
    telescope : str
        Of candidates that do not name theirs; default that of the model.

    Raises
    ------
    OtrainError
        No paths, no such model, or what cannot be read.
    """
    from otrain_core.classify.classifier import Classifier
    from otrain_core.classify.shipped import NAME as SHIPPED
    from otrain_core.cubes.cube_format import read_cube
    from otrain_core.cubes.new_labels import read_cutouts
    from otrain_core.registry.models import find_model

    if not paths:
        raise OtrainError("--model: new candidates are needed too: cubes, folders or FITS cutouts")
    path = find_model(model, results=results)
    classifier = Classifier.load(path)
    if classifier.threshold is None:
        raise OtrainError(
            f"--model: {path} has no threshold of its own, so that no candidate could be called uncertain"
        )
    telescope = telescope or (model if model == SHIPPED else str(classifier.about.get("telescope") or ""))
    cubes = [read_cube(one, mmap=True, both_classes=False) for one in paths if one.endswith(".npz")]
    folders = {one: sorted(Path(one).glob("*.npz")) for one in paths if Path(one).is_dir()}
    cubes += [read_cutouts(folder) for folder, parts in folders.items() if parts]
    files = [one for one in paths if not one.endswith(".npz") and not folders.get(one)]
    cubes += [_read_files(files, classifier.size)] if files else []
    sources = []
    for cube in cubes:
        found = classifier.classify(cube)
        mine = str(cube["telescope"]) if "telescope" in cube and str(cube["telescope"]) else telescope
        if not mine:
            raise OtrainError("--telescope: neither the candidates nor the model name theirs")
        network = path.parent / "model.keras"
        training = Training(
            "/".join(str(classifier.about[key]) for key in ("experiment", "seed") if classifier.about.get(key))
            or path.name,
            found["score"].astype(float),
            float(classifier.threshold),
            found["undecided"],
            network if network.is_file() else None,
        )
        notes = {int(k): str(found["reason"][k]) for k in np.flatnonzero(found["reason"] != "")}
        sources.append(Source(mine, str(cube.get("pipeline", "")), cube, [training], new=True, notes=notes))
    return sources


def _read_files(paths: Sequence[str], size: int) -> dict[str, np.ndarray]:
    """FITS cutouts as a cube without labels."""
    from otrain_core.cubes.cube_format import CUBE_COLUMNS
    from otrain_core.cubes.cutout_files import find_cutouts, read_blocks

    files = [file for path in paths for file in (find_cutouts(Path(path)) if Path(path).is_dir() else [Path(path)])]
    blocks = list(read_blocks(files, size=size))
    channels = [
        name for name in blocks[0][0] if all(name in planes for planes, _ in blocks) and blocks[0][0][name].ndim == 3
    ]
    rows = [row for _, part in blocks for row in part]
    cube = {"cube": np.concatenate([np.stack([planes[name] for name in channels], axis=-1) for planes, _ in blocks])}
    cube |= {key: np.array([row[name] for row in rows]) for key, name in CUBE_COLUMNS.items() if name in rows[0]}
    return cube | {"labels": np.zeros(len(rows), np.uint8), "channels": np.array(channels)}
