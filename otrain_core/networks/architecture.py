"""The networks, each of which contains its input stage.

The input of a model are the raw cutouts of the cube, with NaN for missing pixels. The output (N, 2) are the probabilities of
False and True. The names of the channels are stored in the model, so that training and use cannot differ.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otrain_core.plan.config import Experiment

os.environ.setdefault(
    "TF_CPP_MIN_LOG_LEVEL", "3"
)  # before TensorFlow is loaded; the messages of its C++ code are of no use


@contextmanager
def _banners_dropped() -> Iterator[None]:
    """Suppress the output of compiled code while it is loaded, because it ignores log levels then."""
    saved, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)


with _banners_dropped():
    import keras
    from keras import layers, ops

    from .psf_residual import (
        matched_filter,
        psf_residual,
    )  # relative: both are stored with registered models

MIN_SIZE = 9  # least side of the cutouts [px]
NORMALISATIONS = ("none", "mad-asinh")
PRECISIONS = ("float32", "mixed_bfloat16")
MAD_OF_NOISE = 1.4826  # standard deviation of Gaussian noise over its MAD
_HUGE = 3.0e38  # larger than any pixel value, but finite in float32


@keras.saving.register_keras_serializable(package="otrain")
class InputStage(layers.Layer):
    """Conversion of the pixels of the cube to the input of the first convolution.

    Missing pixels (NaN or infinite) are 0 after the normalisation, which is the median of the cutout under
    ``mad-asinh``. The channel ``mask`` becomes 1 where any bit is set or the value is missing, and 0 elsewhere. A constant
    plane, such as the pixel scale, becomes the logarithm of its ratio to the usual value, limited to -3 to 3, or 0 if it is
    unknown. The channel ``psf`` is replaced by the residual of the difference after the fit of a point source, see
    `otrain_core.networks.psf_residual.psf_residual`, also compressed by asinh.

    Parameters
    ----------
    channels : sequence of str
        Names of the channels, in the order of the last axis.
    normalise : {'none', 'mad-asinh'}
        Raw values, or asinh((x - median) / MAD) of each cutout and channel; median and MAD are taken over the pixels
        that are not missing. If the MAD is 0, the mean absolute deviation is used; a constant channel becomes 0.
    centre : bool
        Trim an even side by one pixel, so that the candidate (pixel side // 2) lies exactly in the middle and flips and
        rotations by 90 degrees do not move it.
    usual : mapping of str to float, optional
        Usual value of each channel that is a constant plane.
    matched : bool
        Add `otrain_core.networks.psf_residual.matched_filter`, compressed by asinh, as the last plane. The unit of science
        and reference is then the MAD of the difference, and median and MAD use every second row and column.
    """

    def __init__(
        self,
        *,
        channels: Sequence[str],
        normalise: str,
        centre: bool = False,
        usual: Mapping[str, float] | None = None,
        matched: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if normalise not in NORMALISATIONS:
            raise ValueError(f"normalise: must be one of {', '.join(NORMALISATIONS)}, not {normalise!r}")
        if "psf" in channels and ("difference" not in channels or normalise != "mad-asinh"):
            raise ValueError("the channel psf needs the channel difference and the normalisation mad-asinh")
        self.channels = [str(name) for name in channels]
        self.normalise = normalise
        self.centre = centre
        self.usual = {str(name): float(value) for name, value in (usual or {}).items()}
        self.matched = matched

    def call(self, inputs):
        # Channels first: ONNX Runtime takes forty times as long for an array and a number if the last axis has length 1.
        x = ops.transpose(ops.cast(inputs, "float32"), (0, 3, 1, 2))
        valid = ops.isfinite(x)
        # Not where(valid, ...): ONNX converters replace that by a product, and NaN * 0 is NaN.
        x = ops.where(ops.isnan(x), 0.0, x)
        x = ops.where(ops.isinf(x), 0.0, x)
        planes = {name: x[:, k] for k, name in enumerate(self.channels)}
        if "mask" in planes:
            flag = ops.logical_or(planes["mask"] != 0, ops.logical_not(valid[:, self.channels.index("mask")]))
            planes["mask"] = ops.cast(flag, "float32")
        for name, usual in self.usual.items():
            known = ops.where(planes[name] > 0, planes[name], usual)
            planes[name] = ops.clip(ops.log(known / usual), -3.0, 3.0)
        if self.normalise == "mad-asinh":
            planes |= self._normalised(x, valid, planes)
        x = ops.stack(list(planes.values()), axis=-1)
        if self.centre:
            x = x[:, 1 - x.shape[1] % 2 :, 1 - x.shape[2] % 2 :, :]
        return ops.cast(x, self.compute_dtype)

    def _normalised(self, x, valid, planes):
        """Images in units of their noise, compressed by asinh, and the residual instead of the PSF."""
        index = [k for k, name in enumerate(self.channels) if name not in ("mask", "psf", *self.usual)]
        index.sort(key=lambda k: self.channels[k] != "difference")
        normal = {}
        if index:
            own = [ops.stack([array[:, k] for k in index], axis=1) for array in (x, valid)]
            found = _in_mads(*own, coarse=self.matched)
            normal = {self.channels[k]: found[:, j] for j, k in enumerate(index)}
        seen = {name: ops.arcsinh(normal[name]) for name in self.channels if name in normal}
        if "psf" in planes:
            sigmas, known = normal["difference"] / MAD_OF_NOISE, valid[:, self.channels.index("difference")]
            seen["psf"] = ops.arcsinh(psf_residual(sigmas, known, planes["psf"]))
            if self.matched:
                seen["matched"] = ops.arcsinh(matched_filter(sigmas, known, planes["psf"]))
        return seen

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        if self.centre:
            height, width = height - 1 + height % 2, width - 1 + width % 2
        return (batch, height, width, channels + self.matched)

    def get_config(self):
        config = super().get_config()
        config.update(channels=self.channels, normalise=self.normalise, centre=self.centre, usual=self.usual)
        return config | {"matched": self.matched}


def _in_mads(x, valid, *, coarse: bool):
    """Subtract the median of each plane of (N, C, H, W) and divide by its MAD; missing pixels become 0.

    With `coarse` all planes are divided by the MAD of the first plane, so that their fluxes can be compared, and medians and
    MAD use every second row and column.
    """
    step = 2 if coarse else 1
    pixels, among = (array[:, :, ::step, ::step] for array in (x, valid))
    shape = (-1, pixels.shape[1], pixels.shape[2] * pixels.shape[3])
    pixels, among = ops.reshape(pixels, shape), ops.reshape(among, shape)
    count = ops.sum(ops.cast(among, "float32"), axis=-1, keepdims=True)
    median = _median(pixels, among, count)
    if coarse:
        pixels, among, count = pixels[:, :1], among[:, :1], count[:, :1]
    deviation = ops.abs(pixels - (median[:, :1] if coarse else median)) * ops.cast(among, "float32")
    mad = _median(deviation, among, count)
    mean_deviation = ops.sum(deviation, axis=-1, keepdims=True) / ops.maximum(count, 1.0)
    scale = ops.where(mad > 0, mad, mean_deviation)
    scale = ops.where(scale > 0, scale, 1.0)
    median, scale = median[..., None], scale[..., None]
    return ops.clip((x - median) / scale, -1e30, 1e30) * ops.cast(valid, "float32")


def _median(values, valid, count):
    """Median of the valid values along the last axis (0 if there are none).

    Half of the missing values are set below all pixels and half above them (of an odd number, one more above). The middle is
    then at a rank that is known in advance, and only half of the pixels need to be sorted.
    """
    n = values.shape[-1]
    rank = ops.cumsum(ops.cast(ops.logical_not(valid), "int32"), axis=-1)
    fill = ops.where(ops.equal(rank % 2, 0), -_HUGE, _HUGE)
    lower = -ops.top_k(-ops.where(valid, values, fill), n // 2 + 1, sorted=False)[0]
    largest = ops.top_k(lower, 2)[0]
    high, low = largest[..., :1], largest[..., 1:]
    even = ops.equal(ops.cast(count, "int32") % 2, 0)
    return ops.where(count > 0, ops.where(even, 0.5 * low + 0.5 * high, high if n % 2 else low), 0.0)


@keras.saving.register_keras_serializable(package="otrain")
class CentreWindow(layers.Layer):
    """The central ``side`` x ``side`` pixels of a feature map; smaller maps are padded with 0.

    The number of weights in the layers that follow does not depend on the size of the cutout.
    """

    def __init__(self, side: int, **kwargs):
        super().__init__(**kwargs)
        self.side = side

    def call(self, inputs):
        height, width = inputs.shape[1], inputs.shape[2]
        pads = [max(self.side - length, 0) for length in (height, width)]
        if any(pads):
            inputs = ops.pad(inputs, [[0, 0], *[[pad // 2, pad - pad // 2] for pad in pads], [0, 0]])
        top, left = max((height - self.side) // 2, 0), max((width - self.side) // 2, 0)
        return inputs[:, top : top + self.side, left : left + self.side, :]

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.side, self.side, input_shape[3])

    def get_config(self):
        return {**super().get_config(), "side": self.side}


def build_network(experiment: Experiment, *, size: int) -> keras.Model:
    """Build an untrained network.

    Parameters
    ----------
    experiment : Experiment
        ``network``, ``inputs``, ``normalise`` and ``precision`` are used. ``paper`` is the network of Makhlouf et al.
        2022 (A&A 664, A81) as in their code, with 2,621,826 parameters at 32 x 32 x 1. ``otrain2`` is a strided
        network with batch normalisation, whose weights do not depend on the size; ``otrain3`` has the same layers after
        a different input stage. ``inputs`` are the channels in the order of the last axis; those in
        `otrain_core.cubes.inputs.SAMPLING` are constant planes. ``precision`` applies to the layers between the input
        stage and the logits; these two and all weights are always float32.
    size : int
        Side of the cutouts [px].

    Returns
    -------
    keras.Model
        Input float32 (N, size, size, channels), with NaN for missing pixels; output (N, 2) probabilities of False and
        True. The initial weights depend on the random state of Keras.

    Raises
    ------
    ConfigError
        The size is too small for a network.
    """
    return _build(
        experiment.network,
        size=size,
        channels=experiment.inputs,
        normalise=experiment.normalise,
        precision=experiment.precision,
    )


def rebuild(model: keras.Model, *, size: int | None = None, precision: str | None = None) -> keras.Model:
    """Build the same network, with the same weights, for another size of the cutouts or another precision.

    Raises
    ------
    ValueError
        The model was not built by `build_network`, or its weights depend on the size of the cutouts.
    """
    stage = input_stage(model)
    other = _build(
        model.name,
        size=size or model.input_shape[1],
        channels=stage.channels,
        normalise=stage.normalise,
        precision=precision or precision_of(model),
    )
    other.set_weights(model.get_weights())
    return other


def _build(network: str, *, size: int, channels: Sequence[str], normalise: str, precision: str) -> keras.Model:
    from otrain_core.cubes.inputs import SAMPLING
    from otrain_core.errors import ConfigError

    if size < MIN_SIZE:
        raise ConfigError(f"size: cutouts must have at least {MIN_SIZE} x {MIN_SIZE} pixels, not {size} x {size}")
    builders = {"paper": _paper, "otrain2": _otrain2, "otrain3": _otrain2}
    if network not in builders:
        raise ValueError(f"network: must be one of {', '.join(builders)}, not {network!r}")
    cutouts = keras.Input((size, size, len(channels)), name="cutouts")
    stage = InputStage(
        channels=channels,
        normalise=normalise,
        centre=network != "paper",
        matched=network == "otrain3",
        usual={name: SAMPLING[name] for name in channels if name in SAMPLING},
        dtype="float32",
        name="input_stage",
    )
    pixels = stage(cutouts)
    logits = layers.Dense(
        2, dtype="float32", name="logits"
    )  # created first, because the initial weights depend on the order in which layers are created
    with _precision(precision):
        features = builders[network](pixels)
    probabilities = layers.Softmax(dtype="float32", name="probabilities")(logits(features))
    return keras.Model(cutouts, probabilities, name=network)


@contextmanager
def _precision(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _paper(x):
    def convolve(x, filters, number):
        return layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{number}")(x)

    x = convolve(convolve(x, 16, 1), 32, 2)
    x = layers.Dropout(0.3)(layers.AveragePooling2D(2)(x))
    x = convolve(x, 64, 3)
    x = layers.Dropout(0.3)(layers.MaxPooling2D(2)(x))
    x = convolve(convolve(x, 128, 4), 256, 5)
    x = layers.Flatten()(layers.MaxPooling2D(2)(x))
    x = layers.Dropout(0.3)(layers.Dense(512, activation="relu", name="dense1")(x))
    return layers.Dense(256, activation="relu", name="dense2")(x)


def _otrain2(x):
    # Few filters and no batch normalisation at full resolution, where memory traffic limits the speed.
    x = layers.Conv2D(12, 3, padding="same", activation="relu", name="conv1")(x)
    for number, (filters, stride) in enumerate(((32, 2), (32, 1), (64, 2), (48, 1)), start=2):
        padding = "same" if stride == 1 else _odd_padding(x.shape[1])
        x = layers.Conv2D(filters, 3, strides=stride, padding=padding, use_bias=False, name=f"conv{number}")(x)
        x = layers.BatchNormalization(momentum=0.95, name=f"norm{number}")(x)
        x = layers.ReLU(name=f"relu{number}")(x)
    # The candidate is in the middle; its surroundings enter as an average.
    centre = layers.Flatten(name="centre")(CentreWindow(5, name="window")(x))
    around = layers.GlobalAveragePooling2D(name="around")(x)
    x = layers.Dropout(0.5)(layers.Concatenate(name="features")([centre, around]))
    return layers.Dropout(0.5)(layers.Dense(64, activation="relu", name="dense1")(x))


def _odd_padding(side: int) -> str:
    """Padding for which a 3 x 3 convolution of stride 2 gives an odd side if the input side is odd.

    The candidate then stays in the middle of each map, and a rotated cutout gives the rotated map.
    """
    return "valid" if (side - 1) // 2 % 2 else "same"


def input_stage(model: keras.Model) -> InputStage:
    """Input stage of a model; its attribute ``channels`` lists the inputs of the model.

    Raises
    ------
    ValueError
        The model was not built by `build_network`.
    """
    for layer in model.layers:
        if isinstance(layer, InputStage):
            return layer
    raise ValueError(f"model {model.name!r} has no input stage of O'TRAIN")


def precision_of(model: keras.Model) -> str:
    """Precision (one of `PRECISIONS`) with which `build_network` made the model."""
    full, mixed = PRECISIONS
    return mixed if any(layer.dtype_policy.name == mixed for layer in model.layers) else full


def without_input_stage(model: keras.Model) -> keras.Model:
    """Model of the layers after the input stage, which shares their weights.

    The input stage has no weights and commutes with flips and rotations, so that it need not be computed in every epoch.
    """
    return keras.Model(input_stage(model).output, model.output, name=f"{model.name}_body")


def flops(model: keras.Model) -> int:
    """Number of floating-point operations for one cutout; a multiply-add counts as two.

    Only convolutions and dense layers are counted; normalisation, pooling and activations add at most a few per cent.
    """
    total = 0
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
            kernel_size = 1
            for length in layer.kernel.shape:
                kernel_size *= length
            positions = layer.output.shape[1] * layer.output.shape[2]
            total += 2 * positions * kernel_size
        elif isinstance(layer, layers.Dense):
            total += 2 * layer.kernel.shape[0] * layer.kernel.shape[1]
    return int(total)


def save_model(model: keras.Model, path) -> None:
    """Write a model as ``.keras``; the file gets its name only when it is complete."""
    from otrain_core.io import atomic

    with atomic(path) as temporary:
        model.save(temporary)


def load_model(path) -> keras.Model:
    """Read a model in safe mode, in which no code from the file is run.

    Raises
    ------
    CubeError
        The file does not exist, is not a Keras model, or was written by an incompatible version.
    """
    from otrain_core.errors import CubeError, first_line

    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise CubeError(f"{path}: not a readable Keras model ({first_line(error)})") from None
