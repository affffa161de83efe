"""Grad-CAM maps, which show the parts of a cutout that determine the decision of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.arrays import read_stack, write_arrays
from otrain_core.cubes.inputs import column, select_inputs
from otrain_core.errors import ConfigError, CubeError
from otrain_core.evaluation.metrics import OUTCOMES
from otrain_core.io import read_json, read_table, write_json, write_table
from otrain_core.plan.config import ExplainOptions

DEFAULT = ExplainOptions()
_SUMMARY = ("n", "energy_within_fwhm", "energy_of_flat_map", "fallbacks")
_SAMPLE = 100  # cutouts of each kind from which the mean share of energy is computed


def explain_files(
    *,
    model: str | Path,
    cube: str | Path,
    scores: str | Path,
    metrics: str | Path,
    gradcam: str | Path,
    figure: str | Path,
    draw: Callable[[Mapping[str, np.ndarray], str | Path], None],
    options: ExplainOptions,
    seed: int,
    neighbours: str | Path | None = None,
    record: str | Path | None = None,
) -> None:
    """Draw Grad-CAM maps of the decisions of a network on its test set, and score its cutouts without their neighbours.

    Parameters
    ----------
    model, cube, scores, metrics : path-like
        ``model.keras``, ``cube.npz``, ``scores.csv`` and ``metrics.json`` (for the threshold).
    gradcam, figure : path-like
        Files to write: ``.npz`` and PNG.
    draw : callable
        `otrain_core.figures.galleries.draw_grad_cam`, which draws the arrays of `explain_model` to a file.
    options : ExplainOptions
    seed : int
        Seed for the choice of the right decisions, and for the noise that replaces a neighbour.
    neighbours, record : path-like, optional
        Files to write: CSV of the neighbour test, and JSON with a summary.

    Raises
    ------
    CubeError, ConfigError
        As `explain_model` and `otrain_core.networks.neighbours.neighbour_test`.
    """
    from otrain_core.networks.architecture import load_model
    from otrain_core.networks.devices import check_seed
    from otrain_core.networks.neighbours import neighbour_test

    check_seed(seed)

    network, arrays, table = load_model(model), read_stack(cube, mmap=("cube",)), read_table(scores)
    threshold = read_json(metrics)["headline"]["threshold"]
    maps, result = explain_model(
        network, arrays, table, threshold=threshold, rng=np.random.default_rng(seed), options=options
    )
    write_arrays(gradcam, maps)
    draw(maps, figure)
    if neighbours and record:
        tested, numbers = neighbour_test(
            network,
            arrays,
            table,
            threshold=threshold,
            rng=np.random.default_rng([seed, 1]),
            n_sigma=options.neighbour_sigma,
        )
        write_table(neighbours, tested)
        write_json(record, {**result, "neighbours": numbers})


def find_layer(model, name: str | None = None) -> str:
    """Name of the layer whose output is used for Grad-CAM.

    Without a name this is the last convolution. The normalisation and activation that directly follow a convolution belong
    to it, because their output is the input of the next layer.

    Raises
    ------
    ConfigError
        There is no such layer, or its output is not (height, width, channels).
    """
    from keras import layers

    names = [layer.name for layer in model.layers]
    convolutions = [layer.name for layer in model.layers if isinstance(layer, layers.Conv2D)]
    if name is None:
        if not convolutions:
            raise ConfigError(f"explain.layer: model {model.name!r} has no convolution")
        name = convolutions[-1]
    elif name not in names or len(model.get_layer(name).output.shape) != 4:
        raise ConfigError(
            f"explain.layer: {name!r} is not a convolution of the model; use one of {', '.join(convolutions)}"
        )
    if name in convolutions:
        rest = model.layers[names.index(name) + 1 :]
        for layer in rest:
            if not isinstance(layer, layers.BatchNormalization | layers.Activation | layers.ReLU):
                break
            name = layer.name
    return name


def logits_of(model):
    """Logits of False and True, as a tensor of the model."""
    from keras import layers, ops

    last = model.layers[-1]
    if isinstance(last, layers.Softmax):
        return last.input
    if isinstance(last, layers.Dense) and getattr(last.activation, "__name__", "") == "softmax":
        return ops.matmul(last.input, last.kernel) + last.bias
    raise ConfigError(f"model {model.name!r} does not end in a softmax")


def _with_features(model, layer: str):
    """Model whose outputs are the features of a layer and the logits."""
    from keras import Model

    return Model(model.input, [model.get_layer(layer).output, logits_of(model)])


def grad_cam(
    model, cutouts: np.ndarray, *, options: ExplainOptions = DEFAULT, batch_size: int = 64
) -> dict[str, np.ndarray]:
    """Grad-CAM maps of the evidence for the class that the network chose.

    The map is the positive part of the sum of the features of a layer, each weighted by the mean derivative of the output
    with respect to it (Selvaraju et al. 2020). The output is the difference of the logits of the two classes, which does not
    saturate; with ``output: softmax`` it is the probability, as in Makhlouf et al. 2022. If no feature supports the class,
    this map would be zero. The absolute value of the weighted sum is then used, and ``fallback`` is True.

    Parameters
    ----------
    model : keras.Model
        From `otrain_core.networks.architecture`.
    cutouts : numpy.ndarray
        float32 (N, S, S, C), the input of the model.
    options : ExplainOptions
        ``layer`` and ``output`` are used.
    batch_size : int
        Number of cutouts that are processed at a time.

    Returns
    -------
    dict
        maps float32 (N, h, w) with maximum 1 (0 everywhere if all derivatives vanish), resized (N, S, S) with bilinear
        interpolation, weights (N, features), called (N,) the class that the network chose, fallback bool (N,), layer
        (name).

    Raises
    ------
    ConfigError
        The layer is not known, or the back end is not TensorFlow.
    CubeError
        There are no cutouts.
    """
    import keras

    from otrain_core.networks.architecture import input_stage

    if keras.backend.backend() != "tensorflow":
        raise ConfigError(f"KERAS_BACKEND: Grad-CAM needs tensorflow, not {keras.backend.backend()}")
    layer = find_layer(model, options.layer)
    featured = _with_features(model, layer)
    parts = [
        _weighted_features(featured, cutouts[start : start + batch_size], options.output)
        for start in range(0, len(cutouts), batch_size)
    ]
    if not parts:
        raise CubeError("there are no cutouts to explain")
    summed, weights, called = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    maps = np.maximum(summed, 0)
    fallback = maps.max(axis=(1, 2)) <= 0
    maps[fallback] = np.abs(summed[fallback])
    peak = maps.max(axis=(1, 2), keepdims=True)
    maps = np.divide(maps, peak, out=np.zeros_like(maps), where=peak > 0).astype(np.float32)
    # An input stage with `centre` removes the first row and column of an even cutout.
    seen = input_stage(model).output.shape[1:3]
    resized = np.asarray(keras.ops.image.resize(maps[..., None], seen, interpolation="bilinear"))[..., 0]
    missing = [(full - part, 0) for full, part in zip(cutouts.shape[1:3], seen, strict=True)]
    return {
        "maps": maps,
        "resized": np.pad(resized, [(0, 0), *missing], mode="edge"),
        "weights": weights.astype(np.float32),
        "called": called.astype(np.uint8),
        "fallback": fallback,
        "layer": np.array(layer),
    }


def _weighted_features(featured, cutouts: np.ndarray, output: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        features, logits = featured(tf.convert_to_tensor(cutouts), training=False)
        called = tf.cast(logits[:, 1] >= logits[:, 0], tf.int32)
        chosen = tf.one_hot(called, 2)
        values = logits if output == "logit" else tf.nn.softmax(logits)
        target = tf.reduce_sum(values * chosen, axis=1)
        if output == "logit":
            target -= tf.reduce_sum(values * (1 - chosen), axis=1)
    gradient = tape.gradient(target, features).numpy().astype(np.float64)
    weights = gradient.mean(axis=(1, 2))
    return np.einsum("nyxk,nk->nyx", features.numpy(), weights), weights, called.numpy()


def central_energy(maps: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of a map within a radius around the candidate (pixel side // 2).

    Parameters
    ----------
    maps : numpy.ndarray
        (N, S, S), not negative.
    radius : array
        (N,) [px].

    Returns
    -------
    share, area : numpy.ndarray
        (N,) share of the map, NaN where the map is 0 everywhere, and share of the area of the cutout, which is what a
        flat map would give. Both are NaN where the radius is not known.
    """
    height, width = maps.shape[1:]
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height // 2, x - width // 2)
    radius = np.asarray(radius, dtype=float)
    inside = distance[None] <= radius[:, None, None]
    total, known = maps.sum(axis=(1, 2)), np.isfinite(radius)
    unknown = np.full(len(maps), np.nan)
    share = np.divide((maps * inside).sum(axis=(1, 2)), total, out=unknown.copy(), where=known & (total > 0))
    return share, np.where(known, inside.mean(axis=(1, 2)), np.nan)


def choose_cutouts(
    scores: pd.DataFrame, threshold: float, *, n: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Choose rows of the cube to explain, for each kind of `OUTCOMES`, from the test set.

    Wrong decisions are sorted, the worst first; right decisions are drawn at random.
    """
    test = scores[scores["set"] == "test"]
    accepted, true = test["score"] >= threshold, test["label"] == 1
    chosen = {}
    for kind, inside in zip(
        OUTCOMES, (true & accepted, ~true & ~accepted, true & ~accepted, ~true & accepted), strict=True
    ):
        part = test[inside]
        if kind.startswith("wrong"):
            worst = (part["score"] - threshold).abs().sort_values(ascending=False, kind="stable")
            chosen[kind] = part.loc[worst.index[:n], "index"].to_numpy()
        else:
            chosen[kind] = rng.permutation(part["index"].to_numpy(copy=True))[:n]
    return chosen


def explain_model(
    model,
    cube: Mapping[str, np.ndarray],
    scores: pd.DataFrame,
    *,
    threshold: float,
    rng: np.random.Generator,
    options: ExplainOptions = DEFAULT,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Grad-CAM maps of right and wrong decisions on the test set, and their concentration on the candidate.

    Parameters
    ----------
    model : keras.Model
    cube : dict of arrays
    scores : pandas.DataFrame
        index, candid, label, score, set.
    threshold : float
        Decision threshold of the model.
    rng : numpy.random.Generator
        Draws the right decisions.
    options : ExplainOptions
        ``layer``, ``output``, and ``n_cutouts``, the number of cutouts of each kind that are kept.

    Returns
    -------
    arrays : dict
        cutouts (N, S, S, C); maps, resized, fallback, called and layer of `grad_cam`; index, candid, label, score, kind,
        energy (share of the map within one FWHM, NaN if the FWHM is not known), fwhm [px], channels; and the record as
        arrays ``summary_*``.
    record : dict
        layer, output, threshold, and for each kind and for all: n, the mean share of the energy of the map within one
        FWHM of the candidate, the share for a flat map, and the number of fallbacks. The means are over at most 100
        cutouts of each kind.

    Raises
    ------
    CubeError
        The test set is empty.
    ConfigError
        As `grad_cam`.
    """
    from otrain_core.networks.architecture import input_stage

    rows = choose_cutouts(scores, threshold, n=max(options.n_cutouts, _SAMPLE), rng=rng)
    index = np.concatenate([rows[kind] for kind in OUTCOMES]).astype(int)
    if index.size == 0:
        raise CubeError("the set test is empty: there is nothing to explain")
    kind = np.repeat(OUTCOMES, [len(rows[name]) for name in OUTCOMES])
    cutouts = select_inputs(cube, inputs=input_stage(model).channels, size=model.input_shape[1], rows=index)
    found = grad_cam(model, cutouts, options=options)
    fwhm = cutout_fwhm(cube, index)
    energy, area = central_energy(found["resized"], fwhm)
    record: dict[str, Any] = {"layer": str(found["layer"]), "output": options.output, "threshold": threshold}
    for name in (*OUTCOMES, "all"):
        inside = np.isfinite(energy) & np.isfinite(fwhm) & ((kind == name) | (name == "all"))
        record[name] = {
            "n": int(inside.sum()),
            "energy_within_fwhm": float(energy[inside].mean()) if inside.any() else np.nan,
            "energy_of_flat_map": float(area[inside].mean()) if inside.any() else np.nan,
            "fallbacks": int(found["fallback"][(kind == name) | (name == "all")].sum()),
        }
    kept = np.concatenate([np.flatnonzero(kind == name)[: options.n_cutouts] for name in OUTCOMES])
    by_index = scores.set_index("index").loc[index[kept]]
    arrays = {
        "cutouts": cutouts[kept],
        "maps": found["maps"][kept],
        "resized": found["resized"][kept],
        "fallback": found["fallback"][kept],
        "called": found["called"][kept],
        "index": index[kept],
        "candid": by_index["candid"].to_numpy().astype(str),
        "label": by_index["label"].to_numpy().astype(np.uint8),
        "score": by_index["score"].to_numpy().astype(np.float32),
        "kind": kind[kept],
        "energy": energy[kept],
        "fwhm": fwhm[kept],
        "channels": np.array(input_stage(model).channels),
        "layer": found["layer"],
        "summary_kind": np.array((*OUTCOMES, "all")),
    }
    for key in _SUMMARY:
        arrays[f"summary_{key}"] = np.array([record[name][key] for name in (*OUTCOMES, "all")])
    return arrays, record


def cutout_fwhm(cube: Mapping[str, np.ndarray], index: np.ndarray) -> np.ndarray:
    """Seeing [px] of each cutout, or the FWHM of the candidate if the seeing is not known."""
    seeing, own = (column(cube, name).astype(float)[index] for name in ("seeing", "fwhms"))
    return np.where(np.isfinite(seeing), seeing, own)
