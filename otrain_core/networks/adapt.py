"""Fine-tuning: further training of a trained model with labels from another telescope.

The network is trained on the labels, and its weights are then interpolated between the old and the new ones (Wortsman et al.
2022, arXiv:2109.01903). The step of the interpolation is chosen by cross-validation over the labelled images, that is, on
images that the training has not seen. If these show no gain, the old weights are kept. Finally the log odds are scaled and
shifted to fit the labels; with few labels this changes them little. Without labels the model does not change.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.classify.classifier import Classifier
from otrain_core.classify.shipped import shipped_card, shipped_file
from otrain_core.cubes.inputs import SAMPLING, select_inputs
from otrain_core.errors import OtrainError
from otrain_core.evaluation.calibrate import Calibration, deal_folds, logit, pull_calibration
from otrain_core.evaluation.metrics import cross_entropy
from otrain_core.networks.loop import HISTORY, Loop
from otrain_core.networks.predict import predict

if TYPE_CHECKING:
    from otrain_core.plan.config import Experiment, FinetuneOptions

MIN_PER_CLASS = 2  # labels of each class that are needed outside each fold for a training

Labelled = tuple[np.ndarray, np.ndarray]  # cutouts and their labels

log = logging.getLogger("otrain")


def load_shipped() -> tuple[Any, Classifier, dict[str, Any]]:
    """Load the shipped model for fine-tuning: its network, its classifier, and the options of its training.

    Raises
    ------
    OtrainError
        This installation has no shipped model, or its files do not belong together.
    """
    from otrain_core.networks.architecture import input_stage, load_model

    classifier, model = Classifier.load(shipped_file()), load_model(shipped_file("keras"))
    stage = input_stage(model)
    if stage.channels != classifier.channels or model.input_shape[1] != classifier.size or not classifier.threshold:
        raise OtrainError(
            f"{shipped_file('keras')}: this is not the network of {shipped_file().name}; install O'TRAIN again"
        )
    used = {"network": model.name, "inputs": stage.channels, "size": classifier.size, "normalise": stage.normalise}
    return model, classifier, ((shipped_card() or {}).get("options") or {}) | used


def completed(cube: dict[str, Any]) -> dict[str, Any]:
    """Complete a cube with all inputs of the shipped model: optional channels and the padding of small cutouts are NaN.

    Raises
    ------
    CubeError
        The cube has no channel that the model requires.
    OtrainError
        This installation has no shipped model.
    """
    model = Classifier.load(shipped_file())
    pixels = [name for name in model.channels if name not in SAMPLING]
    existing = [str(name) for name in cube["channels"]]
    read = pixels + [name for name in existing if name not in pixels]
    size, side = model.size, min(cube["cube"].shape[1:3])
    cutouts = select_inputs(
        cube, inputs=read, size=max(size, side), optional=[*model.optional, "psf"], least=model.least_size
    )
    columns = {name: np.full(len(cutouts), np.nan) for name in model.channels if name in SAMPLING and name not in cube}
    return cube | columns | {"cube": cutouts, "channels": np.array(read)}


def even_odds(threshold: float) -> Calibration:
    """Calibration that gives a score at the threshold the probability 0.5; the identity if the threshold is NaN."""
    known = np.isfinite(threshold)
    return Calibration(1.0, -float(logit(np.array([threshold]))[0]) if known else 0.0, "platt")


def _train(
    model,
    staged: np.ndarray,
    labels: np.ndarray,
    *,
    seed: int,
    options: FinetuneOptions,
    experiment: Experiment,
    validation: Labelled | None = None,
) -> pd.DataFrame:
    """Train on outputs of the input stage; the history has the loss on validation (default: the training cutouts).

    Batch normalisation is frozen by default, both statistics and scale, because these were determined from many cutouts, and
    the input stage has brought the new cutouts to the same scale. The classes are weighted by their inverse frequency, the
    learning rate follows a cosine, and the last epoch is kept, so that no labels are needed to choose an epoch.
    """
    from otrain_core.networks import architecture

    labels = np.asarray(labels).astype(np.int32)
    for layer in model.layers:
        if isinstance(layer, architecture.keras.layers.BatchNormalization):
            layer.trainable = options.batch_norm != "frozen"
        if hasattr(layer, "seed_generator"):  # dropout: otherwise its state depends on what ran before
            layer.seed_generator.state.assign([seed, 0])
    architecture.keras.utils.set_random_seed(seed)
    changed = {"schedule": "cosine", "keep": "last", "patience": 0, "jit_compile": "auto", "min_batches": 1}
    kept = options.model_dump(include={"learning_rate", "epochs", "batch_size"})
    counts = np.bincount(labels, minlength=2)
    loop = Loop(
        architecture.without_input_stage(model),
        (staged, labels),
        validation or (staged, labels),
        experiment=experiment.model_copy(update=changed | kept),
        seed=seed,
        weights={value: float(len(labels) / (2 * counts[value])) for value in (0, 1)},
    )
    return loop.run()


def adapt(
    model,
    cutouts: np.ndarray,
    labels: np.ndarray,
    images: np.ndarray,
    *,
    start: Calibration,
    seed: int,
    options: FinetuneOptions,
    experiment: Experiment,
    validation: Labelled | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Fine-tune a model in place as far as the labels show a gain, and move its decision threshold to 0.5.

    Parameters
    ----------
    model : keras.Model
        From `otrain_core.networks.architecture.build_network`; it must not have been trained on the images.
    cutouts, labels : numpy.ndarray
        (n, size, size, channels) from `otrain_core.networks.predict.model_inputs`, and (n,) 0 or 1; n may be 0.
    images : numpy.ndarray
        (n,) names of the images, by which the labels are divided into folds.
    start : Calibration
        Calibration that gives a score at the threshold of the model the probability 0.5; it is used as it is if there
        are no labels.
    seed : int
        Seed of the order of the cutouts, augmentation and dropout.
    options : FinetuneOptions
    experiment : Experiment
        Options with which the model was trained; ``label_smoothing`` and ``augment`` are used again.
    validation : tuple of array, optional
        Cutouts and labels whose loss is written to the history; they are not used otherwise.

    Returns
    -------
    history : pandas.DataFrame
        History of the training on all labels; it has no rows if there was no such training.
    record : dict
        step (0: old weights, 1: new weights), n_labels, n_labelled_images, log_loss (out of fold, for each step), slope
        and offset of the log odds.
    """
    labels, old = np.asarray(labels).astype(int), model.get_weights()
    history = pd.DataFrame(columns=list(HISTORY))
    staged, scores = _staged_and_scores(model, cutouts)
    step, odds = 0.0, logit(scores)
    losses: dict[str, float] = {}
    fold = deal_folds(images, options.folds) if len(labels) else np.empty(0, int)
    if _enough(labels, fold):
        found = _out_of_fold(model, staged, labels, fold, seed=seed, options=options, experiment=experiment)
        step, losses = _choose_step(found, labels, images, start=start, pull=options.pull)
        odds = found[step]
        if step:
            held_out = (
                (_staged_and_scores(model, validation[0])[0], np.asarray(validation[1]).astype(np.int32))
                if validation
                else None
            )
            history = _train(
                model, staged, labels, seed=seed, options=options, experiment=experiment, validation=held_out
            )
            model.set_weights(_between(old, model.get_weights(), step))
    curve = pull_calibration(labels, odds, start=start, pull=options.pull)
    _move_odds(model, curve)
    about = {"step": step, "n_labels": len(labels), "n_labelled_images": len(np.unique(images))}
    log.info(
        f"{len(labels)} labels on {about['n_labelled_images']} images: weights interpolated by {step:g} between old and"
        f" fine-tuned, log odds {curve.slope:.2f} z {curve.offset:+.2f}"
    )
    return history, {**about, "log_loss": losses, "slope": curve.slope, "offset": curve.offset}


def _staged_and_scores(model, cutouts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Output of the input stage for cutouts, and the probability of True."""
    from otrain_core.networks import architecture

    stage = architecture.keras.Model(model.input, architecture.input_stage(model).output)
    if len(cutouts) == 0:
        return np.empty((0, *stage.output_shape[1:]), np.float32), np.empty(0, np.float32)
    staged = predict(stage, cutouts)
    return staged, predict(architecture.without_input_stage(model), staged)[:, 1]


def _enough(labels: np.ndarray, fold: np.ndarray) -> bool:
    """Whether there are enough labels outside each fold to train a network."""
    outside = [np.bincount(labels[fold != number], minlength=2) for number in np.unique(fold)]
    return len(outside) > 1 and min(int(counts.min()) for counts in outside) >= MIN_PER_CLASS


def _out_of_fold(
    model,
    staged: np.ndarray,
    labels: np.ndarray,
    fold: np.ndarray,
    *,
    seed: int,
    options: FinetuneOptions,
    experiment: Experiment,
) -> dict[float, np.ndarray]:
    """Log odds (n,) for each step; those of a fold are from a network trained on the other folds. The model is not changed."""
    from otrain_core.networks.architecture import without_input_stage

    old = model.get_weights()
    body = without_input_stage(model)
    found = {step: np.empty(len(labels)) for step in (0.0, *options.steps)}
    for number in np.unique(fold):
        out = fold == number
        model.set_weights(old)
        found[0.0][out] = logit(predict(body, staged[out])[:, 1])
        _train(model, staged[~out], labels[~out], seed=seed, options=options, experiment=experiment)
        new = model.get_weights()
        for step in options.steps:
            model.set_weights(_between(old, new, step))
            found[step][out] = logit(predict(body, staged[out])[:, 1])
    model.set_weights(old)
    return found


def _choose_step(
    odds: Mapping[float, np.ndarray], labels: np.ndarray, images: np.ndarray, *, start: Calibration, pull: float
) -> tuple[float, dict[str, float]]:
    """Step with the lowest log loss out of fold, or 0 if its gain is below one standard error over images; and all losses."""
    losses = {}
    for step, values in odds.items():
        curve = pull_calibration(labels, values, start=start, pull=pull)
        losses[step] = cross_entropy(labels, curve.probability(values))
    best = min(losses, key=lambda step: float(losses[step].mean()))
    _, image = np.unique(np.asarray(images).astype(str), return_inverse=True)
    gain = np.bincount(image, losses[0.0] - losses[best])
    shown = gain.sum() > np.sqrt(len(gain)) * gain.std(ddof=1)
    return (best if shown else 0.0), {f"{step:g}": float(loss.mean()) for step, loss in losses.items()}


def _between(old: Sequence[np.ndarray], new: Sequence[np.ndarray], step: float) -> list[np.ndarray]:
    return [(1 - step) * before + step * after for before, after in zip(old, new, strict=True)]


def _move_odds(model, curve: Calibration) -> None:
    """Scale and shift the log odds of a network by changing its last layer."""
    layer = model.get_layer("logits")
    kernel, bias = layer.get_weights()
    shift = np.array([-curve.offset / 2, curve.offset / 2], np.float32)
    layer.set_weights([kernel * curve.slope, bias * curve.slope + shift])


def standing(model, train: Labelled, validation: Labelled) -> pd.DataFrame:
    """History with one row for a network that was not trained: its loss and accuracy on train and validation."""
    row: dict[str, float] = {"epoch": 1, "seconds": 0.0, "learning_rate": 0.0}
    for prefix, (cutouts, labels) in (("", train), ("validation_", validation)):
        scores = _staged_and_scores(model, cutouts)[1]
        row[f"{prefix}loss"] = float(cross_entropy(labels, scores).mean()) if len(labels) else np.nan
        row[f"{prefix}accuracy"] = float(np.mean((scores >= 0.5) == (labels == 1))) if len(labels) else np.nan
    return pd.DataFrame([row], columns=list(HISTORY))
