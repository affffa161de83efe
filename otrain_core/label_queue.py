"""Candidates that are worth a person's look, and why: uncertain, disagreeing, suspected, new."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.errors import OtrainError
from otrain_core.evaluate import column
from otrain_core.labels import word

log = logging.getLogger("otrain")

REASONS = {
    "uncertain": "the best training leaves it undecided",
    "disagreeing": "trainings disagree about it",
    "against the label": "all trainings contradict its label",
    "suspected label": "networks that never saw its image doubt its label",
    "recent night": "it is of the last night, or new",
}
NIGHT = 16.0  # hours before the last candidate that are one night: no night is longer, no day shorter than 8


@dataclass
class Training:
    """Scores of one training for the rows of a cube, NaN where it has none.

    Attributes
    ----------
    name : str
    score : numpy.ndarray
    threshold : float
    undecided : numpy.ndarray
        bool: too near to the threshold, see `otrain_core.abstain`.
    model : Path or None
        ``model.keras``, for Grad-CAM.
    tune_mcc : float
        By which the best one is chosen.
    """

    name: str
    score: np.ndarray
    threshold: float
    undecided: np.ndarray
    model: Path | None = None
    tune_mcc: float = np.nan


@dataclass
class Source:
    """Candidates of one cube, with what trainings say of them.

    Attributes
    ----------
    telescope, pipeline : str
    cube : mapping of arrays
        As from `otrain_core.cube.read_cube`; with ``labels_before``, -1 for no label.
    trainings : list of Training
        The best one first.
    suspects : dict of int to float
        Probability that the label is wrong, by row, for suspected ones.
    sets : numpy.ndarray or None
        train, tune or test, by row.
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


def open_cubes(results: str | Path, cubes: Sequence[str] = ()) -> list[Source]:
    """The cubes of a run with their trainings under the protocol grouped.

    Parameters
    ----------
    results : path-like
        Folder of the run.
    cubes : sequence of str
        As telescope/pipeline (default: all, but for pools).

    Raises
    ------
    OtrainError
        A cube is not there, or there is none at all.
    """
    from otrain_core.cube import read_cube
    from otrain_core.sheets import is_pool

    root = Path(results)
    if not cubes:
        found = [path.parent.relative_to(root) for path in sorted(root.glob("*/*/cube.npz"))]
        cubes = [str(name) for name in found if not is_pool(name.parts[0])]
    if not cubes:
        raise OtrainError(f"{root}: no cube (telescope/pipeline/cube.npz) in this folder; has the run come so far?")
    sources = []
    for name in cubes:
        folder = root / name
        cube = read_cube(folder / "cube.npz", mmap=True)
        telescope, pipeline = name.split("/")
        source = Source(telescope, pipeline, cube)
        _add_trainings(source, folder)
        _add_suspects(source, folder)
        sources.append(source)
    return sources


def _add_trainings(source: Source, folder: Path) -> None:
    from otrain_core.metrics import confusion, rates
    from otrain_core.summary import number, read_record

    for path in sorted(folder.glob("*/seed*/scores.csv")):
        record, table = read_record(path.parent / "metrics.json"), _table(path, source)
        threshold = number(record.get("headline") or {}, "threshold")
        if table is None or not np.isfinite(threshold):
            continue
        score = np.full(len(source), np.nan)
        score[table["index"]] = table["score"]
        model = path.parent / "model.keras"
        tune = table[table["set"] == "tune"]
        mcc = rates(**confusion(tune["label"], tune["score"], threshold))["mcc"] if len(tune) else np.nan
        name = f"{path.parent.parent.name}/{path.parent.name}"
        undecided = _undecided(score, record)
        source.trainings.append(Training(name, score, threshold, undecided, model if model.is_file() else None, mcc))
        if source.sets is None:
            source.sets = np.full(len(source), "", dtype="U8")
            source.sets[table["index"]] = table["set"].astype(str)
    source.trainings.sort(key=lambda training: -np.nan_to_num(training.tune_mcc, nan=-2))


def _undecided(score: np.ndarray, record: Mapping[str, Any]) -> np.ndarray:
    """Whether the rule of abstention of a training, on its calibrated scores, leaves a candidate open."""
    from otrain_core.calibrate import Calibration
    from otrain_core.summary import number

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
        table = _table(path, source)
        if table is None:
            continue
        for row in table[table["suspected"].astype(str) == "True"].itertuples():
            source.suspects[row.index_] = max(float(row.p_wrong), source.suspects.get(row.index_, 0))


def _table(path: Path, source: Source):
    """A table about the rows of a cube, None where it was made for another one."""
    from otrain_core.io import read_table

    table = read_table(path)
    rows = table["index"].to_numpy(int)
    if len(rows) and (rows.max() >= len(source) or (source.cube["candids"][rows] != table["candid"]).any()):
        log.warning("%s: made for an earlier cube, left aside", path)
        return None
    return table.assign(index_=rows)


def worth_a_look(source: Source, *, most: int = 200) -> dict[int, dict[str, str]]:
    """Rows that are worth a look, with every reason and what it rests on.

    Reasons take turns, each with its clearest case first; of each at most `most`.

    Returns
    -------
    dict
        By row, in the order in which to show them: reason to a sentence.
    """
    found = {
        "uncertain": _uncertain(source),
        "disagreeing": _disagreeing(source),
        "against the label": _against(source),
        "suspected label": _suspected(source),
        "recent night": _recent(source),
    }
    found = {name: cases[:most] for name, cases in found.items()}
    chosen: dict[int, dict[str, str]] = {}
    for turn in range(max(map(len, found.values()))):
        for cases in found.values():
            if turn < len(cases):
                chosen.setdefault(cases[turn][0], {})
    for name, cases in found.items():
        for row, text in cases:
            chosen[row][name] = text
    return chosen


def _uncertain(source: Source) -> list[tuple[int, str]]:
    if not source.trainings:
        return []
    best = source.trainings[0]
    rows = np.flatnonzero(best.undecided)
    rows = rows[np.argsort(np.abs(best.score[rows] - best.threshold), kind="stable")]
    return [
        (int(k), f"{best.name} leaves it undecided: score {best.score[k]:.3f}, threshold {best.threshold:.3f}")
        for k in rows
    ]


def _votes(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """How many trainings have a score, and how many of them say True."""
    scores = np.array([training.score for training in source.trainings])
    limits = np.array([training.threshold for training in source.trainings])
    return np.isfinite(scores).sum(axis=0), (scores >= limits[:, None]).sum(axis=0)


def _disagreeing(source: Source) -> list[tuple[int, str]]:
    if len(source.trainings) < 2:
        return []
    n, true = _votes(source)
    rows = np.flatnonzero((true > 0) & (true < n))
    spread = np.nanstd([training.score[rows] for training in source.trainings], axis=0)
    rows = rows[np.lexsort((-spread, np.abs(true[rows] / n[rows] - 0.5)))]
    return [(int(k), f"{true[k]} of {n[k]} trainings say True") for k in rows]


def _against(source: Source) -> list[tuple[int, str]]:
    if not source.trainings:
        return []
    n, true = _votes(source)
    label = np.asarray(source.cube["labels"])
    rows = np.flatnonzero((n > 0) & (((true == n) & (label == 0)) | ((true == 0) & (label == 1))))
    distance = np.nanmean([np.abs(training.score[rows] - label[rows]) for training in source.trainings], axis=0)
    rows = rows[np.argsort(-distance, kind="stable")]
    who = "the training says" if len(source.trainings) == 1 else "all {n} trainings say"
    return [(int(k), f"{who.format(n=n[k])} {word(not label[k])}, its label is {word(label[k])}") for k in rows]


def _suspected(source: Source) -> list[tuple[int, str]]:
    ranked = sorted(source.suspects.items(), key=lambda item: (-item[1], item[0]))
    return [(row, f"its label is wrong with probability {p:.2f}") for row, p in ranked]


def _recent(source: Source) -> list[tuple[int, str]]:
    times = column(source.cube, "times").astype(str) if "times" in source.cube else np.full(len(source), "")
    hours = _hours(times)
    if source.new:
        rows, text = np.arange(len(source)), "new"
    elif np.isfinite(hours).any():
        last = np.nanmax(hours)
        rows = np.flatnonzero(hours > last - NIGHT)
        if len(rows) == np.isfinite(hours).sum():
            return []  # all of one night: nothing is more recent than the rest
        text = f"of the last night, {times[np.nanargmax(hours)][:10]}"
    else:
        return []
    best = source.trainings[0].score[rows] if source.trainings else np.zeros(len(rows))
    rows = rows[np.argsort(-np.nan_to_num(best, nan=-1), kind="stable")]
    return [(int(k), f"{text}{'; ' + source.notes[k] if source.notes.get(k) else ''}") for k in rows]


def _hours(times: np.ndarray) -> np.ndarray:
    try:
        stamps = np.array([text[:19] or "NaT" for text in times], dtype="datetime64[s]")
    except ValueError:  # of headers that are not as they should be
        return np.full(len(times), np.nan)
    return np.where(np.isnat(stamps), np.nan, stamps.astype("int64") / 3600)


def identity(source: Source, row: int) -> str:
    """A short name of a candidate that stays the same as long as its name and place do."""
    place = [f"{float(source.cube[axis][row]):.1f}" if axis in source.cube else "" for axis in ("x", "y")]
    image = str(source.cube["images"][row]) if "images" in source.cube else ""
    parts = [source.telescope, source.pipeline, image, str(source.cube["candids"][row]), *place]
    return hashlib.blake2s("\0".join(parts).encode(), digest_size=10).hexdigest()


def describe(source: Source, row: int) -> dict[str, Any]:
    """What is known of a candidate, as the page shows it and the store keeps it; None where unknown."""

    def value(key: str) -> Any:
        item = source.cube[key][row] if key in source.cube else None
        if isinstance(item, np.floating | float):
            return float(item) if np.isfinite(item) else None
        return str(item) if isinstance(item, str) and item else None

    scores = [
        {"name": one.name, "score": round(float(one.score[row]), 4), "threshold": round(one.threshold, 4)}
        for one in source.trainings
        if np.isfinite(one.score[row])
    ]
    label, before = int(source.cube["labels"][row]), int(source.before()[row])
    keys = {"mag": "mags", "magerr": "errmags", "filter": "filters", "fwhm": "fwhms", "time": "times"}
    keys |= {"label_reason": "reasons"} | {key: key for key in ("x", "y", "ra", "dec", "snr", "seeing", "pixel_scale")}
    return {
        "telescope": source.telescope,
        "pipeline": source.pipeline,
        "cube": source.name,
        "image": str(source.cube["images"][row]) if "images" in source.cube else "",
        "candid": str(source.cube["candids"][row]),
        **{name: value(key) for name, key in keys.items()},
        "label": "none" if source.new else word(label),
        "before": word(-1 if source.new else before),
        "set": str(source.sets[row]) if source.sets is not None else "",
        "scores": scores,
        "channels": [str(name) for name in source.cube["channels"]],
        "side": int(source.cube["cube"].shape[1]),
    }


def open_new(paths: Sequence[str], model: str, *, results: str | Path = "results", telescope: str = "") -> list[Source]:
    """New candidates, that are in no cube of a run, scored by a model.

    Parameters
    ----------
    paths : sequence of str
        Cubes (``.npz``), folders of FITS cutouts, or such files.
    model : str
        ``model.onnx``, folder of a training, or a registered telescope, see `otrain_core.registry.find_model`.
    results : path-like
        Run that registered the telescope.
    telescope : str
        Of candidates that do not name theirs; default that of the model.

    Raises
    ------
    OtrainError
        No paths, no such model, or what cannot be read.
    """
    from otrain_core.classify import Classifier
    from otrain_core.cube import read_cube
    from otrain_core.registry import find_model

    if not paths:
        raise OtrainError("--model: new candidates are needed too: cubes, folders or FITS cutouts")
    path = find_model(model, results=results)
    classifier = Classifier.load(path)
    telescope = telescope or str(classifier.about.get("telescope") or "")
    cubes = [read_cube(one, mmap=True, both_classes=False) for one in paths if one.endswith(".npz")]
    files = [one for one in paths if not one.endswith(".npz")]
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
    from otrain_core.cube import COLUMNS
    from otrain_core.cutout_files import find_cutouts, read_blocks

    files = [file for path in paths for file in (find_cutouts(Path(path)) if Path(path).is_dir() else [Path(path)])]
    blocks = list(read_blocks(files, size=size))
    channels = [
        name for name in blocks[0][0] if all(name in planes for planes, _ in blocks) and blocks[0][0][name].ndim == 3
    ]
    rows = [row for _, part in blocks for row in part]
    cube = {"cube": np.concatenate([np.stack([planes[name] for name in channels], axis=-1) for planes, _ in blocks])}
    cube |= {key: np.array([row[name] for row in rows]) for key, name in COLUMNS.items() if name in rows[0]}
    return cube | {"labels": np.zeros(len(rows), np.uint8), "channels": np.array(channels)}
