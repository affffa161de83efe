"""Keras models from elsewhere, such as the ``.h5`` files of the original O'TRAIN: read without running their code."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otrain_core.errors import CubeError
from otrain_core.safe import limit_of

# Layers that only compute. Not here: Lambda (carries code), and layers that read files or run other programs.
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
    "DTypePolicy",
}
MAX_CONFIG = 2**24  # bytes of the description of a model
SIZES = ("units", "filters", "kernel_size", "batch_shape", "target_shape", "padding", "size", "pool_size", "shape")
MAX_LENGTH = 2**14  # of any of them: memory is taken as the description says


def load_any_model(path: str | Path):
    """A Keras model from a ``.keras`` or ``.h5`` file, ours or another's.

    Its description is looked through first: only layers that compute are let in, so that nothing in
    the file can run.

    Returns
    -------
    keras.Model

    Raises
    ------
    CubeError
        Another kind of file, layers that carry code, layers or an archive too large, or a file that this Keras
        cannot read.
    """
    path = Path(path)
    if not path.is_file():
        raise CubeError(f"{path}: no such file")
    readers = {".keras": _keras_config, ".h5": _h5_config, ".hdf5": _h5_config}
    if path.suffix.lower() not in readers:
        raise CubeError(f"{path}: a model is a .onnx, .keras or .h5 file, not {path.suffix or 'this'}")
    check_layers(readers[path.suffix.lower()](path), path)
    from otrain_core.networks.architecture import load_model

    return load_model(path)


def check_layers(config: Any, path: str | Path) -> None:
    """Refuse a description with layers that carry code or that are not known.

    Raises
    ------
    CubeError
    """
    for key, length in _lengths(config):
        if length > MAX_LENGTH:
            raise CubeError(f"{path}: {key}: {length} is more than the {MAX_LENGTH} that are read from a file")
    for name in _layers(config):
        if name not in LAYERS:
            raise CubeError(
                f"{path}: layer {name} is refused: only layers that compute are read from a file, as others can run code"
            )


def _lengths(config: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Every whole number under one of `SIZES`."""
    if isinstance(config, dict):
        for name, value in config.items():
            yield from _lengths(value, name if name in SIZES else "")
    elif isinstance(config, list):
        for value in config:
            yield from _lengths(value, key)
    elif key and isinstance(config, int | float):
        yield key, config


def _layers(config: Any) -> Iterator[str]:
    """Class names of all layers: of everything in a list of layers, and of what is a model itself."""
    if isinstance(config, dict):
        registered = str(config.get("registered_name") or "")
        module = str(config.get("module") or "keras")
        if "class_name" in config and isinstance(config.get("config"), dict):
            is_layer = "batch_shape" in config["config"] or "layers" in config["config"] or "name" in config["config"]
            if is_layer:
                yield str(config["class_name"])
            if module.split(".")[0] not in ("keras", "builtins") and not registered.startswith("otrain>"):
                yield f"{module}.{config['class_name']}"
        for value in config.values():
            yield from _layers(value)
    elif isinstance(config, list):
        for value in config:
            yield from _layers(value)


def _keras_config(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(member.file_size for member in archive.infolist())
            if total > limit_of(path):
                raise CubeError(f"{path}: unfolds to {total / 2**30:.1f} GiB; refused as a decompression bomb")
            if archive.getinfo("config.json").file_size > MAX_CONFIG:
                raise CubeError(f"{path}: its description is too large for a model")
            return json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise CubeError(f"{path}: not a readable Keras model ({error})") from None


def _h5_config(path: Path) -> Any:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if "model_config" not in file.attrs:
                raise CubeError(f"{path}: holds weights without the network they belong to; save the whole model")
            text = file.attrs["model_config"]
            return json.loads(text)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CubeError(f"{path}: not a readable HDF5 model ({str(error).splitlines()[0]})") from None
