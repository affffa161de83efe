"""Fine-tuning: a model that never saw a telescope goes on training on a few labels of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.classify.classifier import Classifier
from otrain_core.classify.shipped import NAME
from otrain_core.cubes.cube_format import read_cube
from otrain_core.errors import CubeError
from otrain_core.evaluation import metrics
from otrain_core.io import read_table, write_table
from otrain_core.networks.adapt import adapt, even_odds, load_shipped
from otrain_core.networks.devices import prepare_device
from otrain_core.networks.predict import model_inputs
from otrain_core.studies.transfer import (
    RATES,
    NamedCube,
    fit_to,
    image_names,
    rates_at,
    rows_of,
    score_fitted,
    unseen_by,
    validation_threshold,
)

if TYPE_CHECKING:
    from otrain_core.plan.config import EvaluateOptions, Experiment, FinetuneOptions

FINETUNE_COLUMNS = (
    "source",
    "target",
    "experiment",
    "seed",
    "n_labels",
    "n_labelled_true",
    "n_images",
    "n_true",
    "n_false",
    "threshold_from",
    "threshold",
    *RATES,
    "auc",
    "fpr_at_5pct_missed",
    "threshold_validation",
    *(f"{name}_validation" for name in RATES),
    "seconds",
    "step",
)

log = logging.getLogger("otrain")


def draw_labels(split: pd.DataFrame, n: int, *, seed: int) -> np.ndarray:
    """Rows of the first n cutouts of a random order of the set train.

    The classes come as they are. With one seed a smaller draw is part of a larger one, so
    that a curve over n does not jump from draw to draw.

    Raises
    ------
    CubeError
        Fewer than n cutouts in train, or one class only among those drawn.
    """
    rows = np.sort(rows_of(split, "train"))
    if n > len(rows):
        raise CubeError(f"{n} labels were asked for, the set train has {len(rows)}")
    drawn = np.random.default_rng(seed).permutation(rows)[:n]
    labels = split.set_index("index")["label"].loc[drawn]
    if labels.nunique() < 2:
        raise CubeError(f"the {n} labels drawn (seed {seed}) are of one class only")
    return drawn


def finetune_files(
    *,
    model: str | Path | None,
    source_cube: str | Path | None,
    source_split: str | Path | None,
    cube: str | Path,
    split: str | Path,
    table: str | Path,
    source: str,
    target: str,
    experiment_name: str,
    experiment: Experiment,
    seed: int,
    sizes: Sequence[int],
    options: FinetuneOptions,
    evaluate: EvaluateOptions,
    guard: float,
    threads: int | None = None,
) -> None:
    """Fine-tune a model on a telescope that it never saw, with ever more labels, and write the curve.

    Parameters
    ----------
    model, source_cube, source_split : path-like
        ``model.keras`` and the files that it was trained on; None thrice for the shipped model.
    cube, split : path-like
        ``cube.npz`` and ``split.csv`` of the target.
    table : path-like
        CSV written, see `FINETUNE_COLUMNS`.
    source, target : str
        As telescope/pipeline; the source is a pool or another telescope.
    experiment_name, experiment, seed : str, Experiment, int
        Of the training; the seed draws the labels and the bootstrap too.
    sizes, options, evaluate, guard
        See `finetune_curve`.
    threads : int, optional
        CPU threads.

    Raises
    ------
    CubeError
        As `finetune_curve`.
    """
    prepare_device(threads=threads)  # before anything starts TensorFlow
    from otrain_core.networks.architecture import load_model

    if model is None or source_cube is None or source_split is None:
        network, classifier, trained_with = load_shipped()
        origin: NamedCube | Classifier = classifier
        experiment = experiment.model_copy(update={"inputs": trained_with["inputs"]})
    else:
        network = load_model(model)
        origin = (source, read_cube(source_cube, mmap=True), read_table(source_split))
    result = finetune_curve(
        network,
        origin,
        (target, read_cube(cube, mmap=True), read_table(split)),
        sizes=sizes,
        seed=seed,
        rng=np.random.default_rng(seed),
        options=options,
        experiment=experiment,
        evaluate=evaluate,
        guard=guard,
        name=experiment_name,
    )
    write_table(table, result)


def finetune_curve(
    model,
    source: NamedCube | Classifier,
    target: NamedCube,
    *,
    sizes: Sequence[int],
    seed: int,
    rng: np.random.Generator,
    options: FinetuneOptions,
    experiment: Experiment,
    evaluate: EvaluateOptions,
    guard: float,
    name: str = "",
) -> pd.DataFrame:
    """Score a model on the test set of a target, as it is and fine-tuned with ever more labels.

    Parameters
    ----------
    model : keras.Model
    source, target : tuple
        telescope/pipeline, cube and split: what the model was trained on, and the target. The source of the shipped
        model is the model itself, as a `Classifier`.
    sizes : sequence of int
        Numbers of labels; those that the target's train set does not have are left out.
    seed : int
        Of the draws and the trainings.
    rng : numpy.random.Generator
        For the bootstrap by image.
    options : FinetuneOptions
    experiment : Experiment
        With which the model was trained; ``threshold`` sets the thresholds here too.
    evaluate, guard
        As in `otrain_core.studies.transfer.transfer`.
    name : str
        Of the experiment, for the table.

    Returns
    -------
    pandas.DataFrame
        `FINETUNE_COLUMNS`, one row for no labels and one for each size. The rates of `RATES` are at a
        threshold that needs no more labels: that of the source's validation set without labels, else 0.5, to which
        the same n labels bring even odds (threshold_from). step tells how far the weights went
        (`otrain_core.networks.adapt.adapt`). With ``_validation`` they are at the threshold of the
        target's whole validation set, which has more labels: what a better threshold would give.

    Raises
    ------
    CubeError
        The model has seen the target's test images, or the draws have one class only.
    """
    if isinstance(source, tuple) and not unseen_by(source, target, rows_of(target[2], "test"), guard=guard).all():
        raise CubeError(f"the model of {source[0]} was trained on what the test set of {target[0]} shows")
    other, other_split = target[1:]
    labels = np.asarray(other["labels"]).astype(int)
    rule = experiment.threshold
    own = _own_threshold(model, source, rule)
    model = fit_to(model, min(other["cube"].shape[1:3]))
    weights = model.get_weights()
    table = []
    for n in (0, *sorted(set(sizes))):
        if n > np.sum(other_split["set"] == "train"):
            log.warning("%s has fewer than %d labels to fine-tune with", target[0], n)
            continue
        drawn, threshold, step, seconds = np.empty(0, int), own, 0.0, 0.0
        if n:
            drawn = draw_labels(other_split, n, seed=seed)
            model.set_weights(weights)
            started, inputs = time.perf_counter(), model_inputs(model, other, drawn)
            _, adapted = adapt(
                model,
                inputs,
                labels[drawn],
                image_names(other, target[0].split("/")[0])[drawn],
                start=even_odds(own),
                seed=seed,
                options=options,
                experiment=experiment,
            )
            threshold, step, seconds = 0.5, adapted["step"], time.perf_counter() - started
        row = {
            "source": source[0] if isinstance(source, tuple) else NAME,
            "target": target[0],
            "experiment": name,
            "seed": seed,
            "n_labels": n,
            "n_labelled_true": int(labels[drawn].sum()),
            "threshold_from": "labels" if n else "source",
            "threshold": threshold,
            "step": step,
            "seconds": seconds,
        }
        table.append(row | _scored(model, target, threshold, rule=rule, rng=rng, options=evaluate))
    return pd.DataFrame(table, columns=list(FINETUNE_COLUMNS))


def _own_threshold(model, source: NamedCube | Classifier, rule: str) -> float:
    """Threshold of a model that has seen no label of the target."""
    if isinstance(source, Classifier):
        return float(source.threshold or np.nan)
    validation = rows_of(source[2], "validation")
    return validation_threshold(
        np.asarray(source[1]["labels"])[validation], score_fitted(model, source[1], validation), rule
    )


def _scored(
    model, target: NamedCube, threshold: float, *, rule: str, rng: np.random.Generator, options: EvaluateOptions
) -> dict[str, Any]:
    """Scores on the test set of a target, at a threshold and at the one of its whole validation set."""
    name, cube, split = target
    labels, images = np.asarray(cube["labels"]).astype(int), image_names(cube, name.split("/")[0])
    validation, test = rows_of(split, "validation"), rows_of(split, "test")
    better = validation_threshold(labels[validation], score_fitted(model, cube, validation), rule)
    scores = score_fitted(model, cube, test)
    at_validation = rates_at(labels[test], scores, images[test], better, rng=rng, options=options)
    record = {
        "n_images": len(np.unique(images[test])),
        "n_true": int(labels[test].sum()),
        "n_false": int((labels[test] == 0).sum()),
        "threshold_validation": better,
        **rates_at(labels[test], scores, images[test], threshold, rng=rng, options=options),
        "auc": metrics.auc(labels[test], scores),
        "fpr_at_5pct_missed": metrics.fpr_at_recall(labels[test], scores, 0.95),
    }
    return record | {f"{key}_validation": value for key, value in at_validation.items()}
