"""Safe reading of Keras models from other sources, such as the ``.h5`` files of the original O'TRAIN."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from otrain_core.errors import CubeError, first_line
from otrain_core.safe import limit_of

# Layers that only compute. Lambda (contains code) and layers that read files or run other programs are left out.
LAYERS = {
    "InputLayer",
    "Conv2D",
    "SeparableConv2D",
    "DepthwiseConv2D",
    "Conv2DTranspose",
    "Dense",
    "Dropout",
    "SpatialDropout2D",
    "Flatten",
    "Reshape",
    "Permute",
    "BatchNormalization",
    "LayerNormalization",
    "Rescaling",
    "MaxPooling2D",
    "AveragePooling2D",
    "GlobalMaxPooling2D",
    "GlobalAveragePooling2D",
    "ZeroPadding2D",
    "Cropping2D",
    "UpSampling2D",
    "Activation",
    "ReLU",
    "LeakyReLU",
    "PReLU",
    "ELU",
    "Softmax",
    "Add",
    "Subtract",
    "Multiply",
    "Average",
    "Maximum",
    "Minimum",
    "Concatenate",
    "GaussianNoise",
    "GaussianDropout",
    "Normalization",
    "Functional",
    "Model",
    "Sequential",
    "InputStage",
    "CentreWindow",
}
OURS = {"InputStage", "CentreWindow"}
# Other classes that a configuration may contain; none of them runs any other code.
PARTS = {
    "__keras_tensor__",
    "__tuple__",
    "Constant",
    "DTypePolicy",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "L1",
    "L1L2",
    "L2",
    "LecunNormal",
    "LecunUniform",
    "MaxNorm",
    "MinMaxNorm",
    "NonNeg",
    "Ones",
    "Orthogonal",
    "Policy",
    "RandomNormal",
    "RandomUniform",
    "TensorShape",
    "TruncatedNormal",
    "UnitNorm",
    "VarianceScaling",
    "Zeros",
}
MODULES = {
    "builtins",
    "keras",
    "keras.constraints",
    "keras.dtype_policies",
    "keras.engine.functional",
    "keras.engine.sequential",
    "keras.initializers",
    "keras.layers",
    "keras.models",
    "keras.regularizers",
    "keras.src.engine.functional",
    "keras.src.engine.sequential",
    "keras.src.models.functional",
    "keras.src.models.sequential",
}
MAX_CONFIG = 2**24  # largest configuration of a model [bytes]
MAX_NESTING = 60  # deepest nesting of its lists and dictionaries
SIZES = ("units", "filters", "kernel_size", "batch_shape", "target_shape", "padding", "size", "pool_size", "shape")
MAX_LENGTH = 2**14  # largest value of these keys, because Keras allocates memory according to them
MAX_OUTPUT = 2**22  # largest number of values in the output of a layer for one cutout


def load_any_model(path: str | Path):
    """Read a Keras model from a ``.keras`` or ``.h5`` file of any origin.

    The configuration is checked first: only layers that compute are permitted, so that no code in the file can run. The
    number of weights is limited by the size of the file, and the output of a layer for one cutout to `MAX_OUTPUT` values.

    Returns
    -------
    keras.Model

    Raises
    ------
    CubeError
        The file is of another type, contains layers with code, layers or archive members that are too large, or cannot
        be read by this version of Keras.
    """
    path = Path(path)
    if not path.is_file():
        raise CubeError(f"{path}: no such file")
    readers = {".keras": _keras_config, ".h5": _h5_config, ".hdf5": _h5_config}
    if path.suffix.lower() not in readers:
        raise CubeError(f"{path}: a model must be a .onnx, .keras or .h5 file")
    check_layers(readers[path.suffix.lower()](path), path)
    from otrain_core.networks.architecture import load_model

    with _weights_limited(limit_of(path), path):
        model = load_model(path)
    for layer in model._flatten_layers():
        for shape in _output_shapes(layer):
            if math.prod(length or 1 for length in shape) > MAX_OUTPUT:
                raise CubeError(
                    f"{path}: the output of layer {layer.name}, {shape[1:]}, is too large; the model is refused"
                )
    return model


def _output_shapes(layer: Any) -> list[tuple[int | None, ...]]:
    """Output shapes of a layer, as far as they are known."""
    shapes = []
    for node in getattr(layer, "_inbound_nodes", []):
        shapes += [tuple(tensor.shape) for tensor in node.output_tensors]
    return shapes


@contextmanager
def _weights_limited(limit: int, path: Path) -> Iterator[None]:
    """Refuse a model whose layers have more weights than a limit, before memory is allocated for them."""
    from otrain_core.networks.architecture import keras

    original, total = keras.layers.Layer.add_weight, 0

    def add_weight(layer, shape=None, *arguments, **options):
        nonlocal total
        total += math.prod(int(length) for length in (shape or ()))
        if total > limit:
            raise CubeError(f"{path}: its layers have more weights than the file can contain; the model is refused")
        return original(layer, shape, *arguments, **options)

    keras.layers.Layer.add_weight = add_weight
    try:
        yield
    finally:
        keras.layers.Layer.add_weight = original


def check_layers(config: Any, path: str | Path) -> None:
    """Refuse a configuration that contains anything but layers that compute, and their parts.

    Raises
    ------
    CubeError
        The configuration is refused.
    """
    for key, length in _lengths(config):
        if not 0 <= abs(length) <= MAX_LENGTH:  # NaN too
            raise CubeError(f"{path}: {key}: must be at most {MAX_LENGTH}, not {length}")
    _check_classes(config, path)


def _check_classes(config: Any, path: str | Path, depth: int = 0) -> None:
    """Check everything from which Keras would make an object: entries with a class, and entries of lists of layers."""
    if depth > MAX_NESTING:
        raise CubeError(f"{path}: the configuration is nested too deeply for a model")
    if isinstance(config, dict):
        if "class_name" in config:
            _check_class(config, path)
        for entry in _list_of(config.get("layers")):
            if not isinstance(entry, dict) or "class_name" not in entry:
                raise CubeError(f"{path}: an entry in the list of layers is not a layer; the model is refused")
            if not _is_one_of(entry["class_name"], LAYERS):
                _refuse(entry["class_name"], path)
        for name, value in config.items():
            if name != "compile_config" or depth:  # ignored in the model itself, which is not compiled here
                _check_classes(value, path, depth + 1)
    elif isinstance(config, list):
        for value in config:
            _check_classes(value, path, depth + 1)


def _list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _check_class(config: dict[str, Any], path: str | Path) -> None:
    name, module, registered = (config.get(key) for key in ("class_name", "module", "registered_name"))
    if not _is_one_of(name, LAYERS | PARTS):
        _refuse(name, path)
    if name in OURS:
        if registered != f"otrain>{name}":
            _refuse(f"{registered or module}.{name}", path)
    elif not (module is None or _is_one_of(module, MODULES)) or registered not in (None, name):
        _refuse(f"{registered if registered not in (None, name) else module}.{name}", path)


def _is_one_of(name: Any, names: set[str]) -> bool:
    return isinstance(name, str) and name in names


def _refuse(name: Any, path: str | Path) -> None:
    raise CubeError(
        f"{path}: layer {str(name)[:80]} is refused: only layers that compute are permitted, because others can run code"
    )


def _lengths(config: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, float]]:
    """All numbers under the keys of `SIZES`."""
    if depth > MAX_NESTING:
        return  # _check_classes raises the error
    if isinstance(config, dict):
        for name, value in config.items():
            yield from _lengths(value, name if name in SIZES else "", depth + 1)
    elif isinstance(config, list):
        for value in config:
            yield from _lengths(value, key, depth + 1)
    elif key and isinstance(config, int | float):
        yield key, config


def _keras_config(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(member.file_size for member in archive.infolist())
            if total > limit_of(path):
                raise CubeError(f"{path}: expands to {total / 2**30:.1f} GiB; refused as a decompression bomb")
            if archive.getinfo("config.json").file_size > MAX_CONFIG:
                raise CubeError(f"{path}: the configuration is too large for a model")
            return json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, RecursionError, NotImplementedError) as error:
        raise CubeError(f"{path}: not a readable Keras model ({error})") from None


def _h5_config(path: Path) -> Any:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if "model_config" not in file.attrs:
                raise CubeError(f"{path}: contains weights without their network; save the whole model")
            text = file.attrs["model_config"]
            return json.loads(text)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, RuntimeError) as error:
        raise CubeError(f"{path}: not a readable HDF5 model ({first_line(error)})") from None
