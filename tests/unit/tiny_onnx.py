"""A model file of the format of `otrain_core.networks.export_onnx` without a network: P(True) = sigmoid(centre of channel 0)."""

import json

import numpy as np


def write_tiny(path, *, size=9, channels=("difference",), about=None, metadata=True):
    """Write the file; `about` adds to its metadata or takes (None) from them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def number(name, values):
        return numpy_helper.from_array(np.array(values, np.int64), name)

    middle = size // 2
    nodes = [
        helper.make_node("Slice", ["cutouts", "start", "end", "axes"], ["pixel"]),
        helper.make_node("Reshape", ["pixel", "flat"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["true"]),
        helper.make_node("Neg", ["logit"], ["minus"]),
        helper.make_node("Sigmoid", ["minus"], ["false"]),
        helper.make_node("Concat", ["false", "true"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("cutouts", TensorProto.FLOAT, [None, size, size, len(channels)])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])],
        [
            number("start", [middle, middle, 0]),
            number("end", [middle + 1, middle + 1, 1]),
            number("axes", [1, 2, 3]),
            number("flat", [-1, 1]),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    record = {
        **{"format": 1, "channels": list(channels), "size": size, "network": "tiny", "threshold": 0.6},
        "calibration": {"method": "platt", "slope": 2.0, "offset": 0.0},
        "abstention": {"low": 0.4, "high": 0.8, "threshold": 0.69, "coverage": 0.95},
        **{"telescope": "tiny", "experiment": "otrain2"},
    } | (about or {})
    if metadata:
        kept = {key: value for key, value in record.items() if value is not None}
        helper.set_model_props(proto, {"otrain": json.dumps(kept)})
    onnx.save(proto, str(path))
    return path


def write_tiny_finder(path, *, threshold=0.5, snr=8.0, about=None):
    """A detector network that finds what exceeds `snr` in the matched filter of the difference."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from otrain_core.candidates.planes import PLANES
    from otrain_core.classify.finder import FORMAT, MAPS

    weights, bias = np.zeros((len(PLANES), len(MAPS)), np.float32), np.zeros(len(MAPS), np.float32)
    weights[PLANES.index("filtered"), MAPS.index("heat")], bias[0] = 4.0, -4.0 * np.arcsinh(snr)
    weights[PLANES.index("filtered"), MAPS.index("log_snr")] = 1.0
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["planes", "weights"], ["seen"]),
            helper.make_node("Add", ["seen", "bias"], ["maps"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("planes", TensorProto.FLOAT, [None, None, None, len(PLANES)])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, [None, None, None, len(MAPS)])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    record = {"format": FORMAT, "planes": list(PLANES), "reach": 0, "threshold": threshold} | (about or {})
    helper.set_model_props(proto, {"otrain": json.dumps(record)})
    onnx.save(proto, str(path))
    return path
