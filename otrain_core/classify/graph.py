"""The graph of an ONNX file from a stranger: which operators it may have, and how much memory and time it may take.

A graph holds no code, but it can ask for any amount of memory, loop without end or read files beside it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from otrain_core.errors import CubeError, first_line

# What the exporter writes for our networks and for the layers of `otrain_core.networks.foreign_model.LAYERS`.
# Not here: loops, branches and scans, which hold graphs of their own, random numbers, and operators that make an
# array of any size from a number (ConstantOfShape, Range, OneHot, EyeLike).
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
MAX_NODES = 20_000  # ours have below 400
MEMORY = 2**32  # bytes that all graphs of a process may hold at a time
SECONDS = 30.0  # for a call, beside `PER_CUTOUT`
PER_CUTOUT = 0.5  # [s]; ours take below a millisecond

# Fields of the messages of ONNX (onnx.proto3) that are looked at.
_GRAPH, _FUNCTIONS = 7, 25
_NODE, _INITIALIZER = 1, 5
_OP_TYPE, _ATTRIBUTE, _DOMAIN = 4, 5, 7
_TENSOR, _SUBGRAPH, _TENSORS, _SUBGRAPHS = 5, 6, 10, 11
_EXTERNAL, _LOCATION = 13, 14


def check_graph(data: bytes) -> None:
    """Refuse an ONNX file with operators that are not known, graphs within graphs, or data in other files.

    The file is read as protocol buffers, without the package onnx; nothing in it is run.

    Parameters
    ----------
    data : bytes
        Content of the file.

    Raises
    ------
    CubeError
    """
    view = memoryview(data)
    n_nodes = 0
    for field, model_part in _fields(view):
        if field == _FUNCTIONS:
            raise CubeError("an ONNX model with functions of its own is refused")
        if field != _GRAPH:
            continue
        for kind, part in _fields(_message(model_part)):
            if kind == _NODE:
                n_nodes += 1
                _check_node(_message(part))
            elif kind == _INITIALIZER:
                _check_tensor(_message(part))
    if not 0 < n_nodes <= MAX_NODES:
        raise CubeError(f"an ONNX model of {n_nodes} operators is refused; those of O'TRAIN have 1 to {MAX_NODES}")


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
                    raise CubeError("an ONNX model with a graph inside an operator is refused")
                if kind in (_TENSOR, _TENSORS):
                    _check_tensor(_message(part))
    if domain not in ("", "ai.onnx") or name not in OPERATORS:
        shown = f"{domain}.{name}" if domain else name
        raise CubeError(f"the operator {shown[:60]} is refused: a model of O'TRAIN has no need of it")


def _check_tensor(tensor: memoryview) -> None:
    for field, value in _fields(tensor):
        if field == _EXTERNAL or (field == _LOCATION and value):
            raise CubeError("an ONNX model whose numbers are in other files is refused")


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Numbers of the fields of a message with their values: int, or the bytes of what has a length."""
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
    """A session of ONNX Runtime on the CPU for a graph that `check_graph` lets pass.

    All such sessions of a process share `MEMORY`; a graph that asks for more is refused when it runs.

    Raises
    ------
    CubeError
        As `check_graph`.
    Exception
        Of ONNX Runtime, where it cannot read the graph.
    """
    check_graph(data)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = max(1, threads), 1
    options.log_severity_level = 4  # its errors are raised too
    _limit_memory(MEMORY)
    options.add_session_config_entry("session.use_env_allocators", "1")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@functools.cache  # an allocator is registered once a process
def _limit_memory(limit: int) -> None:
    import onnxruntime

    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    place = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    arena = onnxruntime.OrtArenaCfg({"max_mem": limit, "arena_extend_strategy": 1})
    onnxruntime.create_and_register_allocator(place, arena)


def run_graph(session: Any, name: str, cutouts: np.ndarray) -> np.ndarray:
    """The first output of a graph for some cutouts.

    Raises
    ------
    CubeError
        It takes longer than `SECONDS` and `PER_CUTOUT` allow, more memory than `MEMORY`, or cannot be run.
    """
    import onnxruntime

    options = onnxruntime.RunOptions()
    allowed = SECONDS + PER_CUTOUT * len(cutouts)
    clock = threading.Timer(allowed, lambda: setattr(options, "terminate", True))
    clock.daemon = True
    clock.start()
    try:
        return np.asarray(session.run(None, {name: cutouts}, options)[0])
    except Exception as error:  # ONNX Runtime raises kinds of its own
        if options.terminate:
            raise CubeError(f"the model takes more than {allowed:.0f} s for {len(cutouts)} cutouts; ended") from None
        if "memory" in str(error).lower():
            raise CubeError(f"the model asks for more than {MEMORY / 2**30:.0f} GiB of memory; refused") from None
        raise CubeError(f"the model cannot score cutouts: {first_line(error)[:200]}") from None
    finally:
        clock.cancel()
