"""The detector network: fully convolutional, stride 1, from the planes of an image to maps of its transients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.candidates.planes import PLANES
from otrain_core.classify.finder import FORMAT, MAPS
from otrain_core.errors import OtrainError
from otrain_core.io import atomic
from otrain_core.networks.architecture import keras, layers, ops
from otrain_core.networks.export_onnx import convert_model, write_metadata
from otrain_core.networks.tiles import TARGETS
from otrain_core.plan.finder import FinderOptions

FIRST_SCORE = 0.01  # heat from an untrained network; it is low because transients are rare
OFFSET, LOG_SNR, FOOTPRINT = 1.0, 0.3, 0.05  # weights of the terms of the loss; that of the heat is 1
TOLERANCE = 1e-3  # largest difference of a map between Keras and ONNX Runtime, relative for values above 1


def build_finder(options: FinderOptions) -> keras.Model:
    """Build an untrained network, for planes of any size.

    Returns
    -------
    keras.Model
        Input float32 (N, height, width, len(`PLANES`)) from `otrain_core.candidates.planes.Planes.inputs`; output
        (N, height, width, len(`MAPS`)): logit of the heat, dx and dy [px], logarithm of the S/N, logit of the footprint.
        Each pair of layers has a residual connection (He et al. 2016, CVPR).
    """
    planes = keras.Input((None, None, len(PLANES)), name="planes")
    x = bridge = None
    for number, dilation in enumerate(options.dilations, start=1):
        x = layers.Conv2D(
            options.filters,
            3,
            padding="same",
            dilation_rate=dilation,
            kernel_initializer="he_normal",
            name=f"conv{number}",
        )(planes if x is None else x)
        if bridge is not None and number % 2 == 1:
            x = layers.Add(name=f"bridge{number}")([x, bridge])
        x = layers.ReLU(name=f"relu{number}")(x)
        if number % 2 == 1:
            bridge = x
    bias = np.zeros(len(MAPS), np.float32)
    bias[[MAPS.index("heat"), MAPS.index("footprint")]] = np.log(FIRST_SCORE / (1 - FIRST_SCORE))
    bias[MAPS.index("log_snr")] = 2.0
    head = layers.Conv2D(
        len(MAPS),
        1,
        kernel_initializer="zeros",
        bias_initializer=lambda shape, dtype=None: ops.convert_to_tensor(bias),
        name="maps",
    )
    return keras.Model(planes, head(x), name="finder")


def reach(dilations: Sequence[int]) -> int:
    """Radius of the receptive field: the maps at a pixel depend on pixels up to this distance [px]."""
    return int(sum(dilations))


def finder_loss(targets, maps):
    """Loss of a batch, per source (a scalar tensor).

    It is the sum of the penalty-reduced focal loss of the heat (Law & Deng 2018, ECCV, eq. 1; Zhou et al. 2019,
    arXiv:1904.07850), the mean absolute errors of offset and log S/N near the sources, and the cross entropy of the
    footprint. `targets` are from `otrain_core.networks.tiles.make_targets`.
    """
    t = {name: targets[..., k] for k, name in enumerate(TARGETS)}
    m = {name: maps[..., k] for k, name in enumerate(MAPS)}
    score = ops.sigmoid(m["heat"])
    is_source = ops.cast(t["heat"] > 0.9999, "float32")
    n = ops.maximum(ops.sum(is_source), 1.0)
    hit = is_source * (1 - score) ** 2 * ops.softplus(-m["heat"])
    miss = (1 - is_source) * (1 - t["heat"]) ** 4 * score**2 * ops.softplus(m["heat"])
    near = ops.maximum(ops.sum(t["near"]), 1.0)
    offset = ops.sum(t["near"] * (ops.abs(m["dx"] - t["dx"]) + ops.abs(m["dy"] - t["dy"]))) / near
    size = ops.sum(t["near"] * ops.abs(m["log_snr"] - t["log_snr"])) / near
    outline = ops.softplus(m["footprint"]) - t["footprint"] * m["footprint"]
    heat, outline = (ops.sum(t["counts"] * part) / n for part in (hit + miss, outline))
    return heat + OFFSET * offset + LOG_SNR * size + FOOTPRINT * outline


def export_finder(
    model: keras.Model, path: str | Path, *, options: FinderOptions, about: Mapping[str, Any], probes: np.ndarray
) -> None:
    """Write a network as ONNX, and check it against Keras.

    Parameters
    ----------
    model : keras.Model
        From `build_finder`.
    path : path-like
    options : FinderOptions
    about : mapping
        Added to the metadata; ``threshold`` is required.
    probes : numpy.ndarray
        (N, height, width, planes), inputs for which both must agree.

    Raises
    ------
    OtrainError
        The maps of the file differ from those of the network, or it cannot be written.
    """
    import onnxruntime

    record = {
        "format": FORMAT,
        "planes": list(PLANES),
        "maps": list(MAPS),
        "reach": reach(options.dilations),
        "n_parameters": int(model.count_params()),
        "options": options.model_dump(),
    } | dict(about)
    with atomic(path) as temporary:
        convert_model(model, temporary, name="planes")
        expected = np.asarray(model.predict_on_batch(probes))
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: probes})[0]
        difference = float(np.max(np.abs(found - expected)))
        if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise OtrainError(f"{path}: the maps of ONNX Runtime differ from those of Keras by {difference:.2g}")
        write_metadata(temporary, record)
