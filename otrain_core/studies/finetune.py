"""Fine-tuning: a model that never saw a telescope goes on training on a few labels of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.cubes.pool import TRAINED
from otrain_core.errors import CubeError
from otrain_core.evaluation import metrics
from otrain_core.networks.loop import Loop
from otrain_core.studies.transfer import (
    RATES,
    fit_to,
    image_names,
    measure,
    model_inputs,
    rows_of,
    score_rows,
    tune_threshold,
    unseen,
)

COLUMNS = (
    *("source", "target", "experiment", "seed", "n_labels", "n_labelled_true", "n_images", "n_true", "n_false"),
    *("threshold_from", "threshold", *RATES, "auc", "fpr_at_5pct_missed"),
    *("threshold_tune", *(f"{name}_tune" for name in RATES), "seconds"),
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
    model,
    cutouts: np.ndarray,
    labels: np.ndarray,
    *,
    seed: int,
    learning_rate: float = 3e-4,
    epochs: int = 20,
    batch_size: int = 16,
    label_smoothing: float = 0.05,
    augment: bool = True,
    batch_norm: str = "frozen",
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
        (n, size, size, channels) as from `otrain_core.networks.train.select_inputs`.
    labels : numpy.ndarray
        (n,) 0 or 1, weighed by their inverse frequency.
    seed : int
        Of the order, augmentation and dropout.
    learning_rate, epochs, batch_size, label_smoothing, augment
        As in `otrain_core.networks.train.train_model`, on one device; the learning rate falls along a cosine.
    batch_norm : {'frozen', 'trained'}
        Trained: scale and statistics follow the batches of the target.
    """
    from otrain_core.networks import architecture

    labels = np.asarray(labels).astype(np.int32)
    for layer in model.layers:
        if isinstance(layer, architecture.keras.layers.BatchNormalization):
            layer.trainable = batch_norm != "frozen"
        if hasattr(layer, "seed_generator"):  # dropout: its state would depend on what ran before
            layer.seed_generator.state.assign([seed, 0])
    architecture.keras.utils.set_random_seed(seed)
    stage = architecture.keras.Model(model.input, architecture.input_stage(model).output)
    data = (np.asarray(stage.predict(cutouts, batch_size=256, verbose=0), np.float32), labels)
    options = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "augment": augment}
    options |= {"schedule": "cosine", "label_smoothing": label_smoothing, "keep": "last", "patience": 0}
    counts = np.bincount(labels, minlength=2)
    loop = Loop(
        architecture.without_input_stage(model),
        data,
        data,
        seed=seed,
        options=options,
        weights={value: float(len(labels) / (2 * counts[value])) for value in (0, 1)},
        steps=-(-len(labels) // batch_size),
    )
    return loop.run()


def finetune_curve(
    model,
    source: tuple[str, Mapping[str, np.ndarray], pd.DataFrame],
    target: tuple[str, Mapping[str, np.ndarray], pd.DataFrame],
    *,
    sizes: Sequence[int],
    seed: int,
    rng: np.random.Generator,
    threshold_rule: str = "platt",
    bootstrap: int = 1000,
    confidence: float = 0.95,
    guard: float = 4.0,
    experiment: str = "",
    **options: Any,
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
    threshold_rule, bootstrap, confidence, guard
        As in `otrain_core.studies.transfer.transfer`.
    experiment : str
        For the table.
    **options
        Of `fine_tune`.

    Returns
    -------
    pandas.DataFrame
        `COLUMNS`, one row for no labels and one for each size. The rates of `RATES` are at a
        threshold that needs no more labels: that of the source's tune set without labels, else
        from the same n labels (threshold_from). With ``_tune`` they are at the threshold of the
        target's whole tune set, which has more labels: what a better threshold would give.

    Raises
    ------
    CubeError
        The model has seen the target's test images, or the draws have one class only.
    """
    telescopes = {"source_telescope": source[0].split("/")[0], "target_telescope": target[0].split("/")[0]}
    (name, cube, split), (target_name, other, other_split) = source, target
    labels = np.asarray(other["labels"]).astype(int)
    tune, test = rows_of(other_split, "tune"), rows_of(other_split, "test")
    if not unseen(other, test, cube, rows_of(split, *TRAINED), guard=guard, **telescopes).all():
        raise CubeError(f"the model of {name} was trained on what the test set of {target_name} shows")
    images = image_names(other, telescopes["target_telescope"])
    intervals = {"rng": rng, "draws": bootstrap, "confidence": confidence}
    first_tune = rows_of(split, "tune")
    own = tune_threshold(np.asarray(cube["labels"])[first_tune], score_rows(model, cube, first_tune), threshold_rule)
    model = fit_to(model, min(other["cube"].shape[1:3]))
    weights = model.get_weights()
    table = []
    for n in (0, *sorted(set(sizes))):
        if n > np.sum(other_split["set"] == "train"):
            log.warning("%s has fewer than %d labels to fine-tune with", target_name, n)
            continue
        row: dict[str, Any] = {"source": name, "target": target_name, "experiment": experiment, "seed": seed}
        drawn, threshold, seconds = np.empty(0, int), own, 0.0
        if n:
            drawn = draw_labels(other_split, n, seed=seed)
            model.set_weights(weights)
            history = fine_tune(model, model_inputs(model, other, drawn), labels[drawn], seed=seed, **options)
            threshold = tune_threshold(labels[drawn], score_rows(model, other, drawn), threshold_rule)
            seconds = float(history["seconds"].sum())
        scores = {chosen: score_rows(model, other, rows) for chosen, rows in (("tune", tune), ("test", test))}
        better = tune_threshold(labels[tune], scores["tune"], threshold_rule)
        at_tune = measure(labels[test], scores["test"], images[test], better, **intervals)
        row |= {"n_labels": n, "n_labelled_true": int(labels[drawn].sum())}
        row |= {"n_images": len(np.unique(images[test])), "n_true": int(labels[test].sum())}
        row |= {"n_false": int((labels[test] == 0).sum()), "threshold_from": "labels" if n else "source"}
        row |= {"threshold": threshold, "threshold_tune": better, "seconds": seconds}
        row |= measure(labels[test], scores["test"], images[test], threshold, **intervals)
        row |= {"auc": metrics.auc(labels[test], scores["test"])}
        row |= {"fpr_at_5pct_missed": metrics.fpr_at_recall(labels[test], scores["test"], 0.95)}
        table.append(row | {f"{key}_tune": value for key, value in at_tune.items()})
    return pd.DataFrame(table, columns=list(COLUMNS))
