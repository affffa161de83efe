"""Safe use of ONNX files of unknown origin: permitted operators, and limits on memory and time.

The graph of such a file contains no code, but it can request any amount of memory, loop forever or read other files.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from otrain_core.errors import CubeError, first_line

# Operators that the exporter writes for our networks and for the layers of `otrain_core.networks.foreign_model.LAYERS`.
# Left out on purpose: loops, branches and scans, which contain graphs of their own; random numbers; and operators that
# make an array of any size from a number (ConstantOfShape, Range, OneHot, EyeLike).
OPERATORS = frozenset(
    [
        "Abs",
        "Add",
        "And",
        "AveragePool",
        "BatchNormalization",
        "Cast",
        "Ceil",
        "Clip",
        "Concat",
        "Constant",
        "Conv",
        "ConvTranspose",
        "CumSum",
        "DepthToSpace",
        "Div",
        "Dropout",
        "Elu",
        "Equal",
        "Erf",
        "Exp",
        "Expand",
        "Flatten",
        "Floor",
        "Gather",
        "Gelu",
        "Gemm",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Greater",
        "GreaterOrEqual",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "IsInf",
        "IsNaN",
        "LayerNormalization",
        "LeakyRelu",
        "Less",
        "LessOrEqual",
        "Log",
        "LogSoftmax",
        "MatMul",
        "Max",
        "MaxPool",
        "Mean",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "PRelu",
        "Pad",
        "Pow",
        "Reciprocal",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "Relu",
        "Reshape",
        "Resize",
        "Round",
        "Selu",
        "Shape",
        "Sigmoid",
        "Sign",
        "Slice",
        "Softmax",
        "Softplus",
        "Softsign",
        "SpaceToDepth",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Sum",
        "Tanh",
        "ThresholdedRelu",
        "Tile",
        "TopK",
        "Transpose",
        "Unsqueeze",
        "Where",
        "Xor",
    ]
)
MAX_NODES = 20_000  # our networks have fewer than 400
MEMORY = 2**32  # most memory that all graphs of a process may use together [bytes]
SECONDS = 30.0  # time allowed for a call, plus `PER_CUTOUT` for each cutout [s]
PER_CUTOUT = 0.5  # [s]; our networks take less than a millisecond

# Field numbers of the ONNX messages that are checked (onnx.proto3).
_GRAPH, _FUNCTIONS = 7, 25
_NODE, _INITIALIZER = 1, 5
_OP_TYPE, _ATTRIBUTE, _DOMAIN = 4, 5, 7
_TENSOR, _SUBGRAPH, _TENSORS, _SUBGRAPHS = 5, 6, 10, 11
_EXTERNAL, _LOCATION = 13, 14


def check_graph(data: bytes) -> None:
    """Refuse an ONNX file with operators that are not permitted, with nested graphs, or with data in other files.

    The file is parsed as protocol buffers, without the package onnx; the graph is not run.

    Parameters
    ----------
    data : bytes
        Content of the file.

    Raises
    ------
    CubeError
        The file is refused, or is not a readable ONNX model.
    """
    n_nodes = 0
    for field, model_part in _fields(memoryview(data)):
        if field == _FUNCTIONS:
            raise CubeError("the ONNX model defines functions of its own; such a model is refused")
        if field != _GRAPH:
            continue
        for kind, part in _fields(_message(model_part)):
            if kind == _NODE:
                n_nodes += 1
                _check_node(_message(part))
            elif kind == _INITIALIZER:
                _check_tensor(_message(part))
    if not 0 < n_nodes <= MAX_NODES:
        raise CubeError(f"the ONNX model has {n_nodes} operators; only models with 1 to {MAX_NODES} operators are used")


def _check_node(node: memoryview) -> None:
    name, domain = "", ""
    for field, value in _fields(node):
        if field == _OP_TYPE:
            name = _text(value)
        elif field == _DOMAIN:
            domain = _text(value)
        elif field == _ATTRIBUTE:
            for kind, part in _fields(_message(value)):
                if kind in (_SUBGRAPH, _SUBGRAPHS):
                    raise CubeError("the ONNX model has a graph inside an operator; such a model is refused")
                if kind in (_TENSOR, _TENSORS):
                    _check_tensor(_message(part))
    if domain not in ("", "ai.onnx") or name not in OPERATORS:
        shown = f"{domain}.{name}" if domain else name
        raise CubeError(f"the operator {shown[:60]} is refused: models of O'TRAIN do not use it")


def _check_tensor(tensor: memoryview) -> None:
    for field, value in _fields(tensor):
        if field == _EXTERNAL or (field == _LOCATION and value):
            raise CubeError("the ONNX model keeps its weights in other files; such a model is refused")


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Field numbers of a message and their values: an int, or the bytes of any other field."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        field, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield field, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise CubeError("not a readable ONNX model")
        if field == 0 or at + length > len(message):
            raise CubeError("not a readable ONNX model: it ends too early")
        yield field, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise CubeError("not a readable ONNX model: it ends too early")


def _message(value: Any) -> memoryview:
    if not isinstance(value, memoryview):
        raise CubeError("not a readable ONNX model")
    return value


def _text(value: Any) -> str:
    return bytes(_message(value)).decode("utf-8", "replace")


def open_graph(data: bytes, *, threads: int = 1) -> Any:
    """Check a graph with `check_graph` and open it with ONNX Runtime on the CPU.

    All such sessions of a process share `MEMORY`; a graph that requests more fails when it is run.

    Raises
    ------
    CubeError
        As `check_graph`.
    Exception
        ONNX Runtime cannot read the graph.
    """
    check_graph(data)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = max(1, threads), 1
    options.log_severity_level = 4  # its errors are raised too
    _limit_memory(MEMORY)
    options.add_session_config_entry("session.use_env_allocators", "1")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@functools.cache  # the allocator can be registered only once per process
def _limit_memory(limit: int) -> None:
    import onnxruntime

    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    place = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    arena = onnxruntime.OrtArenaCfg({"max_mem": limit, "arena_extend_strategy": 1})
    onnxruntime.create_and_register_allocator(place, arena)


def run_graph(session: Any, name: str, cutouts: np.ndarray) -> np.ndarray:
    """Run a graph on cutouts and return its first output.

    Raises
    ------
    CubeError
        The graph takes longer than `SECONDS` and `PER_CUTOUT` allow, needs more memory than `MEMORY`, or cannot be run.
    """
    import onnxruntime

    options = onnxruntime.RunOptions()
    allowed = SECONDS + PER_CUTOUT * len(cutouts)
    clock = threading.Timer(allowed, lambda: setattr(options, "terminate", True))
    clock.daemon = True
    clock.start()
    try:
        return np.asarray(session.run(None, {name: cutouts}, options)[0])
    except Exception as error:  # ONNX Runtime raises its own types
        if options.terminate:
            raise CubeError(
                f"the model takes more than {allowed:.0f} s for {len(cutouts)} cutouts; it was stopped"
            ) from None
        if "memory" in str(error).lower():
            raise CubeError(f"the model needs more than {MEMORY / 2**30:.0f} GiB of memory; it was stopped") from None
        raise CubeError(f"the model cannot score cutouts: {first_line(error)[:200]}") from None
    finally:
        clock.cancel()
