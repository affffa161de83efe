"""Tests of graphs of unknown origin: operators, other files, memory and time."""

import json
import time

import numpy as np
import pytest

from otrain_core.classify import graph
from otrain_core.classify.classifier import Classifier
from otrain_core.errors import CubeError
from tests.unit.tiny_onnx import write_tiny

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

ABOUT = {"format": 1, "channels": ["difference"], "size": 9, "threshold": 0.5}


def write(path, nodes, arrays=(), **options):
    """Write a model with these operators from `x` to `y`, and with our metadata."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 9, 9, 1])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays]
    made = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    proto = helper.make_model(made, opset_imports=domains, ir_version=9, **options)
    helper.set_model_props(proto, {"otrain": json.dumps(ABOUT)})
    path.write_bytes(proto.SerializeToString())
    return path


def test_what_our_exporter_writes_passes(tmp_path):
    from otrain_core.networks.export_onnx import export_model
    from tests.unit.tiny_network import tiny_network

    path = tmp_path / "model.onnx"
    export_model(tiny_network("otrain2", size=15, channels=["difference", "psf"], normalise="mad-asinh"), path)
    graph.check_graph(path.read_bytes())
    assert Classifier.load(path).score(np.zeros((3, 15, 15, 2), np.float32)).shape == (3,)
    graph.check_graph(write_tiny(tmp_path / "tiny.onnx").read_bytes())


@pytest.mark.parametrize(
    ("kind", "domain", "told"),
    [("Loop", "", "operator Loop"), ("Range", "", "operator Range"), ("Py", "mine", "operator mine.Py")],
)
def test_unknown_operators_are_refused(tmp_path, kind, domain, told):
    path = write(tmp_path / "m.onnx", [helper.make_node(kind, ["x"], ["y"], domain=domain)])
    with pytest.raises(CubeError, match=told):
        graph.check_graph(path.read_bytes())
    with pytest.raises(CubeError, match=told):
        Classifier.load(path)


def test_graphs_within_graphs_and_functions_are_refused(tmp_path):
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "inner", [], [])
    path = write(tmp_path / "m.onnx", [helper.make_node("Identity", ["x"], ["y"], body=inner)])
    with pytest.raises(CubeError, match="a graph inside an operator"):
        graph.check_graph(path.read_bytes())
    made = helper.make_function("mine", "F", ["a"], ["b"], [helper.make_node("Identity", ["a"], ["b"])], [])
    path = write(tmp_path / "f.onnx", [helper.make_node("Identity", ["x"], ["y"])], functions=[made])
    with pytest.raises(CubeError, match="functions of its own"):
        graph.check_graph(path.read_bytes())


def test_numbers_in_other_files_are_not_read(tmp_path, monkeypatch):
    """Not even if the file is in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(np.ones(1, np.float32).tobytes())
    path = write(tmp_path / "m.onnx", [helper.make_node("Mul", ["x", "a"], ["y"])], [("a", np.ones(1, np.float32))])
    proto = onnx.load(str(path))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(CubeError, match="keeps its weights in other files"):
        Classifier.load(path)


@pytest.mark.parametrize("left", [0.0, 0.3, 0.9])
def test_truncated_files_are_told(tmp_path, left):
    data = write_tiny(tmp_path / "tiny.onnx").read_bytes()
    with pytest.raises(CubeError, match="ONNX model"):
        graph.check_graph(data[: int(left * len(data))])
    with pytest.raises(CubeError, match="ONNX model"):
        graph.check_graph(b"\xff" * 1000)


def test_a_small_file_that_takes_all_memory(tmp_path):
    """Two vectors of 60,000 numbers have a product of 14 GB."""
    ones = np.ones(60_000, np.float32)
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Mul", ["a", "s"], ["as"]),
        helper.make_node("Mul", ["as", "b"], ["c"]),
        helper.make_node("ReduceSum", ["c"], ["y"], keepdims=0),
    ]
    path = write(tmp_path / "m.onnx", nodes, [("a", ones[:, None]), ("b", ones[None])])
    assert path.stat().st_size < 1e6
    classifier = Classifier.load(path)
    with pytest.raises(CubeError, match="more than 4 GiB of memory"):
        classifier.score(np.ones((2, 9, 9, 1), np.float32))


def test_a_graph_that_takes_its_time_is_ended(tmp_path, monkeypatch):
    square = np.ones((700, 700), np.float32)
    nodes = [helper.make_node("Mul", ["a", "one"], ["v0"])]
    nodes += [helper.make_node("MatMul", [f"v{k}", "a"], [f"v{k + 1}"]) for k in range(2000)]
    nodes += [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Mul", ["v2000", "s"], ["y"]),
    ]
    nodes[0] = helper.make_node("Mul", ["a", "s"], ["v0"])
    nodes.insert(0, nodes.pop(-2))
    path = write(tmp_path / "m.onnx", nodes, [("a", square), ("one", np.ones(1, np.float32))])
    monkeypatch.setattr(graph, "SECONDS", 0.2)
    monkeypatch.setattr(graph, "PER_CUTOUT", 0.0)
    classifier = Classifier.load(path)
    started = time.monotonic()
    with pytest.raises(CubeError, match="takes more than 0 s for 1 cutouts; it was stopped"):
        classifier.score(np.ones((1, 9, 9, 1), np.float32))
    assert time.monotonic() - started < 20
