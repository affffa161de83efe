"""Fine-tuning: a model that never saw a telescope goes on training on a few labels of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.cubes.cube import read_cube
from otrain_core.errors import CubeError
from otrain_core.evaluation import metrics
from otrain_core.io import read_table, write_table
from otrain_core.networks.devices import prepare_device
from otrain_core.networks.loop import Loop
from otrain_core.networks.predict import model_inputs, predict
from otrain_core.studies.transfer import (
    RATES,
    NamedCube,
    fit_to,
    image_names,
    rates_at,
    rows_of,
    score_fitted,
    tune_threshold,
    unseen_by,
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
    "threshold_tune",
    *(f"{name}_tune" for name in RATES),
    "seconds",
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


def fine_tune(
    model, cutouts: np.ndarray, labels: np.ndarray, *, seed: int, options: FinetuneOptions, experiment: Experiment
) -> pd.DataFrame:
    """Go on training a model in place, and give the history.

    Batch normalisation is frozen by default, statistics and scale alike: those of the source come
    from many cutouts, and the input stage has brought those of the target to the same scale. The
    last epoch is kept: no label is spent on choosing one.

    Parameters
    ----------
    model : keras.Model
        Of `otrain_core.networks.architecture.build_network`.
    cutouts : numpy.ndarray
        (n, size, size, channels) as from `otrain_core.networks.predict.model_inputs`.
    labels : numpy.ndarray
        (n,) 0 or 1, weighed by their inverse frequency.
    seed : int
        Of the order, augmentation and dropout.
    options : FinetuneOptions
        The learning rate falls along a cosine.
    experiment : Experiment
        With which the model was trained; ``label_smoothing`` and ``augment`` stay as they were.
    """
    from otrain_core.networks import architecture

    labels = np.asarray(labels).astype(np.int32)
    for layer in model.layers:
        if isinstance(layer, architecture.keras.layers.BatchNormalization):
            layer.trainable = options.batch_norm != "frozen"
        if hasattr(layer, "seed_generator"):  # dropout: its state would depend on what ran before
            layer.seed_generator.state.assign([seed, 0])
    architecture.keras.utils.set_random_seed(seed)
    stage = architecture.keras.Model(model.input, architecture.input_stage(model).output)
    data = (predict(stage, cutouts), labels)
    changed = {"schedule": "cosine", "keep": "last", "patience": 0, "jit_compile": "auto", "min_batches": 1}
    counts = np.bincount(labels, minlength=2)
    loop = Loop(
        architecture.without_input_stage(model),
        data,
        data,
        experiment=experiment.model_copy(update=changed | options.model_dump(exclude={"batch_norm"})),
        seed=seed,
        weights={value: float(len(labels) / (2 * counts[value])) for value in (0, 1)},
    )
    return loop.run()


def finetune_files(
    *,
    model: str | Path,
    source_cube: str | Path,
    source_split: str | Path,
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
        ``model.keras`` and the files that it was trained on.
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
    from otrain_core.networks.architecture import load_model

    prepare_device(threads=threads)  # before anything starts TensorFlow
    result = finetune_curve(
        load_model(model),
        (source, read_cube(source_cube, mmap=True), read_table(source_split)),
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
    source: NamedCube,
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
        telescope/pipeline, cube and split: what the model was trained on, and the target.
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
        threshold that needs no more labels: that of the source's tune set without labels, else
        from the same n labels (threshold_from). With ``_tune`` they are at the threshold of the
        target's whole tune set, which has more labels: what a better threshold would give.

    Raises
    ------
    CubeError
        The model has seen the target's test images, or the draws have one class only.
    """
    if not unseen_by(source, target, rows_of(target[2], "test"), guard=guard).all():
        raise CubeError(f"the model of {source[0]} was trained on what the test set of {target[0]} shows")
    other, other_split = target[1:]
    labels = np.asarray(other["labels"]).astype(int)
    rule = experiment.threshold
    first_tune = rows_of(source[2], "tune")
    own = tune_threshold(np.asarray(source[1]["labels"])[first_tune], score_fitted(model, source[1], first_tune), rule)
    model = fit_to(model, min(other["cube"].shape[1:3]))
    weights = model.get_weights()
    table = []
    for n in (0, *sorted(set(sizes))):
        if n > np.sum(other_split["set"] == "train"):
            log.warning("%s has fewer than %d labels to fine-tune with", target[0], n)
            continue
        drawn, threshold, seconds = np.empty(0, int), own, 0.0
        if n:
            drawn = draw_labels(other_split, n, seed=seed)
            model.set_weights(weights)
            history = fine_tune(
                model,
                model_inputs(model, other, drawn),
                labels[drawn],
                seed=seed,
                options=options,
                experiment=experiment,
            )
            threshold = tune_threshold(labels[drawn], score_fitted(model, other, drawn), rule)
            seconds = float(history["seconds"].sum())
        row = {
            "source": source[0],
            "target": target[0],
            "experiment": name,
            "seed": seed,
            "n_labels": n,
            "n_labelled_true": int(labels[drawn].sum()),
            "threshold_from": "labels" if n else "source",
            "threshold": threshold,
            "seconds": seconds,
        }
        table.append(row | _scored(model, target, threshold, rule=rule, rng=rng, options=evaluate))
    return pd.DataFrame(table, columns=list(FINETUNE_COLUMNS))


def _scored(
    model, target: NamedCube, threshold: float, *, rule: str, rng: np.random.Generator, options: EvaluateOptions
) -> dict[str, Any]:
    """Scores on the test set of a target, at a threshold and at the one of its whole tune set."""
    name, cube, split = target
    labels, images = np.asarray(cube["labels"]).astype(int), image_names(cube, name.split("/")[0])
    tune, test = rows_of(split, "tune"), rows_of(split, "test")
    better = tune_threshold(labels[tune], score_fitted(model, cube, tune), rule)
    scores = score_fitted(model, cube, test)
    at_tune = rates_at(labels[test], scores, images[test], better, rng=rng, options=options)
    return {
        "n_images": len(np.unique(images[test])),
        "n_true": int(labels[test].sum()),
        "n_false": int((labels[test] == 0).sum()),
        "threshold_tune": better,
        **rates_at(labels[test], scores, images[test], threshold, rng=rng, options=options),
        "auc": metrics.auc(labels[test], scores),
        "fpr_at_5pct_missed": metrics.fpr_at_recall(labels[test], scores, 0.95),
        **{f"{key}_tune": value for key, value in at_tune.items()},
    }
