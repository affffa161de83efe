"""How a model does on the test sets of other cubes than the one it was trained on.

No image that the model was trained or tuned on is scored: two pipelines of one telescope share
images, and so do a pool and the telescopes in it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.cubes.cube_format import read_cube
from otrain_core.cubes.footprints import guard_distances, pairs_within, unit_vectors
from otrain_core.cubes.pool import TRAINED
from otrain_core.errors import ConfigError, CubeError
from otrain_core.evaluation import metrics
from otrain_core.evaluation.bootstrap import bootstrap_intervals
from otrain_core.evaluation.thresholds import best_threshold
from otrain_core.io import read_table, write_table
from otrain_core.networks.predict import score_rows

if TYPE_CHECKING:
    from otrain_core.plan.config import EvaluateOptions

NamedCube = tuple[str, Mapping[str, np.ndarray], pd.DataFrame]  # telescope/pipeline, cube and split
RATES = ("mcc", "mcc_low", "mcc_high", "recall", "fpr", "accuracy")
TRANSFER_COLUMNS = (
    "source",
    "target",
    "experiment",
    "seed",
    "relation",
    "size",
    "n_images",
    "n_true",
    "n_false",
    "n_seen",
    "threshold",
    *RATES,
    "auc",
    "fpr_at_5pct_missed",
    "threshold_validation",
    *(f"{name}_validation" for name in RATES),
    "note",
)

log = logging.getLogger("otrain")


def rows_of(split: pd.DataFrame, *sets: str) -> np.ndarray:
    """Rows of a cube that stand in the named sets of its split."""
    return split.loc[split["set"].isin(sets), "index"].to_numpy(int)


def image_names(cube: Mapping[str, np.ndarray], telescope: str) -> np.ndarray:
    """telescope:image of every cutout; a pool has these names already."""
    images = np.asarray(cube["images"]).astype(str) if "images" in cube else np.full(len(cube["labels"]), "")
    return images if "telescopes" in cube else np.char.add(f"{telescope}:", images)


def unseen(
    target: Mapping[str, np.ndarray],
    rows: np.ndarray,
    source: Mapping[str, np.ndarray],
    trained: np.ndarray,
    *,
    target_telescope: str,
    source_telescope: str,
    guard: float,
) -> np.ndarray:
    """Which rows of the target show nothing that the source's training has shown.

    Parameters
    ----------
    target, source : mapping
        Cubes.
    rows, trained : numpy.ndarray
        Rows of the target that are asked about, and of the source that were trained or tuned on.
    target_telescope, source_telescope : str
        A pool (key ``telescopes``) says of every cutout where it comes from.
    guard : float
        As in `otrain_core.cubes.split.check_split` [seeing FWHM].

    Returns
    -------
    numpy.ndarray
        (len(rows),) bool: False where the image, or the place on the sky as seen by the same
        telescope, is one of those of the training.
    """
    theirs = np.asarray(source["telescopes"])[trained] if "telescopes" in source else source_telescope
    trained = trained[np.broadcast_to(np.asarray(theirs) == target_telescope, trained.shape)]
    fresh = np.ones(len(rows), dtype=bool)
    if len(trained) == 0 or len(rows) == 0:
        return fresh
    names = image_names(target, target_telescope)[rows]
    fresh &= ~np.isin(names, image_names(source, source_telescope)[trained])
    return fresh & ~_near(target, rows, source, trained, guard)


def unseen_by(source: NamedCube, target: NamedCube, rows: np.ndarray, *, guard: float) -> np.ndarray:
    """`unseen` for rows of a target and all that a source's model was trained and tuned on."""
    return unseen(
        target[1],
        rows,
        source[1],
        rows_of(source[2], *TRAINED),
        target_telescope=target[0].split("/")[0],
        source_telescope=source[0].split("/")[0],
        guard=guard,
    )


def _near(target, rows, source, trained, guard) -> np.ndarray:
    near = np.zeros(len(rows), dtype=bool)
    if not all(key in cube for cube in (target, source) for key in ("ra", "dec")):
        return near
    ours, theirs = (
        unit_vectors(np.asarray(cube["ra"], float)[index], np.asarray(cube["dec"], float)[index])
        for cube, index in ((target, rows), (source, trained))
    )
    our_guards, their_guards = guard_distances(target, guard)[rows], guard_distances(source, guard)[trained]
    near[pairs_within(ours, our_guards, theirs, their_guards)[0]] = True
    return near


def fit_to(model, side: int):
    """The model itself, or for smaller cutouts the same weights in a network of their size.

    Raises
    ------
    CubeError
        The weights of the network depend on the size of the cutouts.
    """
    from otrain_core.networks.architecture import rebuild

    if side >= model.input_shape[1]:
        return model
    try:
        return rebuild(model, size=side)
    except (ValueError, ConfigError):
        raise CubeError(
            f"cutouts of {side} px are too small for a network {model.name} trained on {model.input_shape[1]} px"
        ) from None


def score_fitted(model, cube: Mapping[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Probability of True of some rows of a cube, by the weights of a model in a network of the cutouts' size.

    Raises
    ------
    CubeError
        As `fit_to` and `otrain_core.networks.predict.score_rows`.
    """
    return score_rows(fit_to(model, min(cube["cube"].shape[1:3])), cube, rows)


def validation_threshold(labels: np.ndarray, scores: np.ndarray, rule: str) -> float:
    """Threshold by a rule of `otrain_core.evaluation.thresholds`; NaN without both classes."""
    return best_threshold(labels, scores, rule) if len(np.unique(labels)) == 2 else np.nan


def rates_at(
    labels: np.ndarray,
    scores: np.ndarray,
    images: np.ndarray,
    threshold: float,
    *,
    rng: np.random.Generator,
    options: EvaluateOptions,
) -> dict[str, float]:
    """`RATES` at a threshold, the interval of MCC by image; all NaN without threshold or cutouts."""
    if len(labels) == 0 or not np.isfinite(threshold):
        return dict.fromkeys(RATES, np.nan)
    values = metrics.rates(**metrics.confusion(labels, scores, threshold))
    interval = bootstrap_intervals(
        labels,
        scores,
        images,
        threshold,
        rng=rng,
        draws=options.bootstrap,
        confidence=options.confidence,
        stated_recall=options.stated_recall,
    )
    values["mcc_low"], values["mcc_high"] = interval["mcc"]
    return {name: values[name] for name in RATES}


def relation(source: str, target: str, members: Iterable[str]) -> str:
    """What the model knows of the target: own, pooled, pipeline, or nothing (telescope, left-out).

    Parameters
    ----------
    source, target : str
        As telescope/pipeline.
    members : iterable of str
        Telescopes of a pool; empty where the source is a telescope.
    """
    members = set(members)
    if source == target:
        return "own"
    if members:
        return "pooled" if target.split("/")[0] in members else "left-out"
    return "pipeline" if source.split("/")[0] == target.split("/")[0] else "telescope"


def transfer_files(
    *,
    model: str | Path,
    cube: str | Path,
    split: str | Path,
    target_cubes: Sequence[str | Path],
    target_splits: Sequence[str | Path],
    table: str | Path,
    source: str,
    targets: Sequence[str],
    experiment: str,
    seed: int,
    rule: str,
    evaluate: EvaluateOptions,
    guard: float,
) -> None:
    """Score one model on the test sets of all cubes of a run, and write the table.

    Parameters
    ----------
    model, cube, split : path-like
        ``model.keras`` and the files that it was trained on.
    target_cubes, target_splits : sequence of path-like
        ``cube.npz`` and ``split.csv`` of each of `targets`.
    table : path-like
        CSV written, see `TRANSFER_COLUMNS`.
    source, targets : str, sequence of str
        As telescope/pipeline; the source may be a pool.
    experiment, seed : str, int
        Of the training; the seed draws the bootstrap too.
    rule, evaluate, guard
        See `transfer`.

    Raises
    ------
    CubeError
        The model cannot score the cube that it was trained on.
    """
    from otrain_core.networks.architecture import load_model

    cubes = zip(targets, target_cubes, target_splits, strict=True)
    result = transfer(
        load_model(model),
        (source, read_cube(cube, mmap=True), read_table(split)),
        ((name, read_cube(path, mmap=True), read_table(other)) for name, path, other in cubes),
        rng=np.random.default_rng(seed),
        rule=rule,
        evaluate=evaluate,
        guard=guard,
        experiment=experiment,
        seed=seed,
    )
    write_table(table, result)


def transfer(
    model,
    source: NamedCube,
    targets: Iterable[NamedCube],
    *,
    rng: np.random.Generator,
    rule: str,
    evaluate: EvaluateOptions,
    guard: float,
    experiment: str = "",
    seed: int = 0,
) -> pd.DataFrame:
    """Score a model on the test set of every target.

    Parameters
    ----------
    model : keras.Model
    source : tuple
        telescope/pipeline (or a pool), cube and split that the model was trained on.
    targets : iterable of tuple
        The same of the cubes that are scored, one in memory at a time; the source may be among them.
    rng : numpy.random.Generator
        For the bootstrap by image.
    rule : {'gmean', 'f1', 'f1-mcc', 'platt'}
        Sets the thresholds.
    evaluate : EvaluateOptions
        ``bootstrap`` and ``confidence`` of the intervals count.
    guard : float
        See `unseen`.
    experiment, seed : str, int
        Of the training, for the table.

    Returns
    -------
    pandas.DataFrame
        `TRANSFER_COLUMNS`, one row a target. relation as from `relation`; size [px] of the cutouts scored;
        n_seen test cutouts left out by `unseen`; the rates of `RATES` at the model's own threshold
        (from the source's validation set) and, with ``_validation``, at one set on the target's validation set. A
        target that the model cannot score has NaN and the reason in note.
    """
    name, cube, split = source
    validation = rows_of(split, "validation")
    own = validation_threshold(np.asarray(cube["labels"])[validation], score_fitted(model, cube, validation), rule)
    members = np.unique(cube["telescopes"]).tolist() if "telescopes" in cube else []
    table = []
    for target in targets:
        (other_name, other, _), telescope = target, target[0].split("/")[0]
        parts, n_seen = _parts(source, target, guard)
        labels = {chosen: np.asarray(other["labels"])[rows].astype(int) for chosen, rows in parts.items()}
        images = image_names(other, telescope)[parts["test"]]
        row: dict[str, Any] = {
            "source": name,
            "target": other_name,
            "experiment": experiment,
            "seed": seed,
            "note": "",
            "relation": relation(name, other_name, members),
            "threshold": own,
            "n_images": len(np.unique(images)),
            "n_seen": n_seen,
            "n_true": int(np.sum(labels["test"] == 1)),
            "n_false": int(np.sum(labels["test"] == 0)),
        }
        try:
            scores = {chosen: score_fitted(model, other, rows) for chosen, rows in parts.items()}
        except CubeError as error:
            row["note"] = str(error)
            log.warning("%s on %s: %s", name, other_name, error)
        else:
            row["size"] = min(model.input_shape[1], *other["cube"].shape[1:3])
            row |= _compare(labels, scores, images, own=own, rule=rule, rng=rng, options=evaluate)
        table.append(row)
    return pd.DataFrame(table, columns=list(TRANSFER_COLUMNS))


def _parts(source: NamedCube, target: NamedCube, guard: float) -> tuple[dict[str, np.ndarray], int]:
    """Rows of validation and test of a target that the model has not seen, and how many it has."""
    parts, n_seen = {}, 0
    for chosen in ("validation", "test"):
        rows = kept = rows_of(target[2], chosen)
        if target[0] != source[0]:  # the own split has been checked for leaks when it was made
            kept = rows[unseen_by(source, target, rows, guard=guard)]
        parts[chosen], n_seen = kept, len(rows) - len(kept)  # in the end those of test
    return parts, n_seen


def _compare(
    labels: Mapping[str, np.ndarray],
    scores: Mapping[str, np.ndarray],
    images: np.ndarray,
    *,
    own: float,
    rule: str,
    rng: np.random.Generator,
    options: EvaluateOptions,
) -> dict[str, Any]:
    if len(labels["test"]) == 0:
        return {"note": "every test cutout shows what the model was trained on"}
    threshold = validation_threshold(labels["validation"], scores["validation"], rule)
    at_validation = rates_at(labels["test"], scores["test"], images, threshold, rng=rng, options=options)
    record = rates_at(labels["test"], scores["test"], images, own, rng=rng, options=options) | {
        "auc": metrics.auc(labels["test"], scores["test"]),
        "fpr_at_5pct_missed": metrics.fpr_at_recall(labels["test"], scores["test"], 0.95),
        "threshold_validation": threshold,
    }
    return record | {f"{name}_validation": value for name, value in at_validation.items()}


def transfer_matrix(table: pd.DataFrame, *, value: str = "mcc", experiment: str) -> pd.DataFrame:
    """Mean over seeds of a column of `transfer`'s tables, sources down, targets across."""
    part = table[table["experiment"] == experiment]
    return part.pivot_table(index="source", columns="target", values=value, aggfunc="mean", dropna=False)
