"""Export of a trained network to one ONNX file that contains everything needed for classification.

The graph is that of the Keras model with its input stage: the input are raw cutouts, the output probabilities. The metadata of
the file (JSON, key `KEY`) contain the channels, the threshold, the calibration, the rule for undecided candidates and
statistics of the training set.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.classify.classifier import FORMAT, KEY, check_threshold
from otrain_core.cubes.inputs import select_inputs
from otrain_core.errors import CubeError, OtrainError, first_line
from otrain_core.networks.vary import IMAGES, RIM

if TYPE_CHECKING:
    import pandas as pd

OPSET = 18
N_CHECKED = 512  # real cutouts for which the exported file is compared with the network
TOLERANCE = 1e-5  # largest difference of a probability between Keras and ONNX Runtime


def export_model(
    model,
    path: str | Path,
    *,
    about: Mapping[str, Any] | None = None,
    cutouts: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
) -> dict[str, Any]:
    """Write a network as ONNX, and check that the file gives the same probabilities.

    Parameters
    ----------
    model : keras.Model
        From `otrain_core.networks.architecture.load_model`, or any model with one input (N, S, S, C) and one output (N, 2)
        or (N, 1).
    path : path-like
        File to write; it exists only after the check has passed.
    about : mapping, optional
        Metadata, from `model_record`.
    cutouts : numpy.ndarray, optional
        (N, S, S, C) real cutouts for the check, in addition to random ones.
    rng : numpy.random.Generator, optional
        Draws the random cutouts.

    Returns
    -------
    dict
        The metadata, with ``checked``: the number of cutouts and the largest difference. Equal networks with equal
        `about` and `cutouts` give equal files.

    Raises
    ------
    OtrainError
        tf2onnx is not installed or cannot convert the model, or the probabilities of the file differ from those of the
        model by more than `TOLERANCE`.
    CubeError
        The input or output of the model has another shape.
    """
    from otrain_core.io import atomic
    from otrain_core.networks import architecture

    _, height, width, n_channels = _shape(model)
    stage = next((layer for layer in model.layers if isinstance(layer, architecture.InputStage)), None)
    channels = list(stage.channels) if stage else ["difference", *(f"channel{k}" for k in range(2, n_channels + 1))]
    record: dict[str, Any] = {
        "format": FORMAT,
        "channels": channels,
        "size": height,
        "network": model.name,
        "normalise": stage.normalise if stage else "none",
        "n_parameters": int(model.count_params()),
        **(about or {}),
    }
    single = model
    if stage and architecture.precision_of(model) != "float32":
        single = architecture.rebuild(model, precision="float32")  # mixed precision is only for GPUs
    # Logits from raw, bright pixels lose digits in float32, so that the comparison would fail.
    brightest = 5.0 if record["normalise"] != "none" else 2.0
    probes = _probes(height, width, channels, cutouts, rng or np.random.default_rng(0), brightest)
    with atomic(path) as temporary:
        convert_model(single, temporary)
        expected = np.asarray(single.predict(probes, batch_size=256, verbose=0))
        found = _run(temporary, probes)
        undefined = np.isnan(found) & np.isnan(expected)
        difference = float(np.max(np.where(undefined, 0.0, np.abs(found - expected))))
        if not difference <= TOLERANCE:  # also if only one of them is NaN
            raise OtrainError(
                f"{path}: the probabilities of ONNX Runtime differ from those of Keras by {difference:.2g}"
            )
        # The difference depends on the machine, so it is not written: equal networks give equal files.
        record["checked"] = {"n": len(probes), "tolerance": TOLERANCE}
        write_metadata(temporary, record)
    return record | {"checked": {"n": len(probes), "max_difference": difference}}


def export_onnx_files(
    *,
    cube: str | Path,
    model: str | Path,
    train_record: str | Path,
    scores: str | Path,
    metrics: str | Path,
    onnx: str | Path,
    seed: int,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Write the network of a training as ONNX, and check it on cutouts of its cube.

    Parameters
    ----------
    cube, model, train_record, scores, metrics : path-like
        ``cube.npz``, ``model.keras``, ``train.json``, ``scores.csv`` and ``metrics.json``.
    onnx : path-like
        File to write.
    seed : int
        Seed for the choice of the cutouts for the check.
    recipe : mapping, optional
        How the cutouts were made (`otrain_core.plan.recipe.Recipe.record`), so that `otrain search` makes them in the same way.

    Raises
    ------
    OtrainError
        As `export_model`.
    """
    from otrain_core.cubes.cube_format import read_cube
    from otrain_core.io import read_json, read_table
    from otrain_core.networks.architecture import input_stage, load_model
    from otrain_core.networks.devices import check_seed

    check_seed(seed)

    arrays, network, rng = read_cube(cube, mmap=True), load_model(model), np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(arrays["labels"]))[:N_CHECKED])
    inputs = select_inputs(arrays, inputs=input_stage(network).channels, size=network.input_shape[1], rows=rows)
    about = model_record(read_json(metrics), read_json(train_record), arrays, read_table(scores))
    if recipe:
        about["recipe"] = dict(recipe)
    export_model(network, onnx, about=about, cutouts=inputs, rng=rng)


def export_file(model: str | Path, output: str | Path, *, threshold: float | None = None) -> None:
    """Write any Keras model as ONNX, with the records of its training if they are in the same folder.

    Parameters
    ----------
    model, output : path-like
        ``.keras`` or ``.h5`` file, and ``.onnx`` file to write.
    threshold : float, optional
        Used instead of the threshold in the records, 0 to 1.

    Raises
    ------
    CubeError, OtrainError
        As `otrain_core.networks.foreign_model.load_any_model` and `export_model`.
    ConfigError
        The threshold is not a number from 0 to 1.
    """
    from otrain_core.networks.foreign_model import load_any_model
    from otrain_core.results import read_record

    folder = Path(model).parent
    about = model_record(read_record(folder / "metrics.json"), read_record(folder / "train.json"))
    if threshold is not None:
        about["threshold"] = check_threshold(threshold)
    export_model(load_any_model(model), output, about=about)


def model_record(
    metrics: Mapping[str, Any],
    train: Mapping[str, Any],
    cube: Mapping[str, np.ndarray] | None = None,
    scores: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Make the metadata of a model from the records of its training.

    Parameters
    ----------
    metrics, train : mapping
        ``metrics.json`` and ``train.json``.
    cube : mapping of arrays, optional
        Cube on which the model was trained.
    scores : pandas.DataFrame, optional
        ``scores.csv``: index, image, label, score, set.

    Returns
    -------
    dict
        threshold, calibration, abstention, telescope, pipeline, experiment, protocol, threshold_rule, seed, commit,
        headline; training, if cube and scores are given (statistics of
        `otrain_core.classify.descriptors.training_statistics` for the training set, quantiles of the score by class for
        the scored set, and the expected share of wrong decisions per image for all images that were not trained on);
        optional and least_size of a network whose inputs were varied in training
        (`otrain_core.classify.classifier.Classifier`).
    """
    from otrain_core.classify.descriptors import doubt, image_values, thin
    from otrain_core.evaluation.calibrate import Calibration

    headline = metrics.get("headline") or {}
    kept = ("telescope", "pipeline", "experiment", "protocol", "threshold_rule")
    record: dict[str, Any] = {key: metrics.get(key, "") for key in kept}
    record |= {
        "seed": train.get("seed"),
        "commit": train.get("commit", ""),
        "threshold": headline.get("threshold"),
        "headline": {
            key: headline.get(key)
            for key in ("mcc", "mcc_low", "mcc_high", "recall", "fpr", "n_images", "n_true", "n_false")
        },
    }
    if metrics.get("calibration"):
        record["calibration"] = Calibration.from_record(metrics["calibration"]).to_record()
    if abstention := metrics.get("abstention"):
        names = {"low": "low", "high": "high", "threshold": "threshold", "coverage": "stated_coverage"}
        record["abstention"] = {name: abstention.get(key) for name, key in names.items()}
    options = train.get("options") or {}
    record |= _tolerated(options)
    if cube is None or scores is None or not options.get("inputs"):
        return record
    statistics = _training_part(cube, scores, options, scored_set=metrics.get("scored_set") or "test")
    if "images" in cube:
        calibration = Calibration.from_record(record["calibration"]) if "calibration" in record else Calibration()
        held_out = scores[scores["set"] != "train"]
        doubts = doubt(calibration.apply(held_out["score"].to_numpy(float)))
        for name, label in (("true", 1), ("false", 0)):
            members = (held_out["label"] == label).to_numpy()
            if members.any():
                by_image = image_values(doubts, held_out["image"].to_numpy(), np.mean, members)[1]
                statistics["images"].setdefault(name, {})["doubt"] = thin(by_image)
    return record | {"training": statistics}


def _tolerated(options: Mapping[str, Any]) -> dict[str, Any]:
    """Channels that may be missing according to the training, and the side of the smallest accepted cutouts [px]."""
    varied, inputs, size = (options.get(key) for key in ("vary_inputs", "inputs", "size"))
    shares = {"no_psf": ("psf",), "no_images": IMAGES, "no_mask": ("mask",)}
    found: dict[str, Any] = {}
    for key, names in shares.items():
        if varied and varied.get(key):
            found.setdefault("optional", []).extend(name for name in names if name in (inputs or ()))
    if varied and varied.get("pixels") and size:
        found["least_size"] = size - 2 * RIM
    return found


def _training_part(
    cube: Mapping[str, np.ndarray], scores: pd.DataFrame, options: Mapping[str, Any], *, scored_set: str
) -> dict[str, Any]:
    """Statistics of the training cutouts, and quantiles of the scores in the scored set."""
    from otrain_core.classify.descriptors import PROBABILITIES, describe, training_statistics

    train = scores[scores["set"] == "train"]
    rows, labels = train["index"].to_numpy(int), train["label"].to_numpy(int)
    wanted = list(options["inputs"])
    has_science = "science" in [str(name) for name in cube["channels"]]
    looked_at = wanted if "science" in wanted or not has_science else [*wanted, "science"]
    cutouts = select_inputs(cube, inputs=looked_at, size=options.get("size"), rows=rows)
    described = describe(cutouts, looked_at, seeing=np.asarray(cube["seeing"])[rows] if "seeing" in cube else None)
    images = np.asarray(cube["images"])[rows] if "images" in cube else None
    statistics = training_statistics(described, images, labels)
    statistics["n_true"] = int(np.sum(labels == 1))
    seen = scores[scores["set"] == scored_set]
    statistics["scores"] = {
        name: np.quantile(seen.loc[seen["label"] == label, "score"], PROBABILITIES).tolist()
        for name, label in (("true", 1), ("false", 0))
        if (seen["label"] == label).any()
    }
    return statistics


def _shape(model) -> tuple[int | None, int, int, int]:
    try:
        shape = tuple(model.input_shape)
        outputs = tuple(model.output_shape)
    except (AttributeError, ValueError):
        shape = outputs = ()
    if len(shape) != 4 or None in shape[1:] or shape[1] != shape[2]:
        raise CubeError(f"model {model.name}: must have one input of square cutouts (N, S, S, C), not {shape}")
    if len(outputs) != 2 or outputs[1] not in (1, 2):
        raise CubeError(f"model {model.name}: the output must be one or two probabilities, not shape {outputs}")
    return shape


def convert_model(model, path: Path, *, name: str = "cutouts") -> None:
    """Write the graph of a Keras model with one input, `name`, as ONNX."""
    try:
        import tf2onnx  # noqa: F401
    except ImportError:
        raise OtrainError("tf2onnx, which writes ONNX files, is not installed: pip install tf2onnx") from None
    from otrain_core.networks.architecture import keras

    batch = keras.InputSpec(shape=(None, *model.input_shape[1:]), dtype="float32", name=name)
    try:
        model.export(str(path), format="onnx", opset_version=OPSET, input_signature=[batch], verbose=False)
    except (ValueError, RuntimeError, NotImplementedError, TypeError) as error:
        raise OtrainError(f"model {model.name}: cannot be written as ONNX ({first_line(error)})") from None
    _ease_arcsinh(path)
    _make_repeatable(path)


def _ease_arcsinh(path: Path) -> None:
    """Replace arcsinh by a logarithm, which is ten times as fast in ONNX Runtime."""
    import onnx

    proto = onnx.load(str(path))
    graph = proto.graph
    nodes, count = [], 0
    for node in graph.node:
        if node.op_type != "Asinh":
            nodes.append(node)
            continue
        count += 1
        names = [f"arcsinh{count}_{k}" for k in range(8)]

        def add(kind: str, *inputs: str, output: str) -> str:
            nodes.append(onnx.helper.make_node(kind, inputs, [output], name=output))  # noqa: B023
            return output

        size = add("Abs", node.input[0], output=names[0])
        # The square of a large value would be infinite. It is limited, and the value itself replaces the root then.
        small = add("Min", size, "arcsinh_large", output=names[1])
        square = add("Mul", small, small, output=names[2])
        root = add("Sqrt", add("Add", square, "arcsinh_one", output=names[3]), output=names[4])
        total = add("Add", size, add("Max", size, root, output=names[5]), output=names[6])
        value = add("Log", total, output=names[7])
        add("Mul", value, add("Sign", node.input[0], output=f"{names[7]}_sign"), output=node.output[0])
    if count:
        del graph.node[:]
        graph.node.extend(nodes)
        for name, number in (("arcsinh_large", 1e15), ("arcsinh_one", 1.0)):
            graph.initializer.append(onnx.numpy_helper.from_array(np.array(number, np.float32), name))
        onnx.save(proto, str(path))


class _Named:
    """Nodes and constants of a graph, without duplicates and with names that depend only on the computation.

    Attributes
    ----------
    names : dict
        Maps old to new names; inputs and outputs of the graph keep their names.
    nodes, arrays : list
        Nodes and constants that are kept, in order.
    """

    def __init__(self, graph: Any):
        self.names = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}
        self.nodes: list[Any] = []
        self.arrays: list[Any] = []
        self._seen: dict[bytes, list[str]] = {}
        self._makers = {output: node for node in graph.node for output in node.output if output}
        self._constants = {array.name: array for array in graph.initializer}
        for value in graph.output:
            self._name_all(self._makers[value.name])

    def _name_all(self, last: Any) -> None:
        """Name nodes depth first, without recursion: a node is named once all its inputs have names."""
        waiting, done = [last], set()
        while waiting:
            node = waiting[-1]
            missing = [old for old in dict.fromkeys(node.input) if old not in self.names]  # without duplicates
            for old in missing:
                if old in self._constants:
                    self._name_constant(old)
            unmade = [self._makers[old] for old in missing if old not in self._constants]
            if unmade:
                waiting.append(unmade[0])
                continue
            waiting.pop()
            if id(node) not in done:
                done.add(id(node))
                self._name_node(node)

    def _name_constant(self, old: str) -> None:
        array = self._constants[old]
        array.ClearField("name")
        key = array.SerializeToString(deterministic=True)
        if key not in self._seen:
            self._seen[key] = [f"c{len(self.arrays)}"]
            self.arrays.append(array)
            array.name = self._seen[key][0]
        self.names[old] = self._seen[key][0]

    def _name_node(self, node: Any) -> None:
        names = self.names
        about = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        inputs = [names[old] for old in node.input]
        final = [old for old in node.output if names.get(old) == old and old]  # outputs of the graph keep their names
        key = repr((node.domain, node.op_type, inputs, len(node.output), about, final)).encode()
        if key in self._seen:
            names.update(zip(node.output, self._seen[key], strict=True))
            return
        number = len(self.nodes)
        outputs = [old if old in final else f"v{number}_{k}" if old else "" for k, old in enumerate(node.output)]
        names.update(zip(node.output, outputs, strict=True))
        self._seen[key] = outputs
        self.nodes.append(node)
        node.name = f"{node.op_type}{number}"
        node.ClearField("input")
        node.ClearField("output")
        node.ClearField("doc_string")
        if not node.domain:
            node.ClearField("domain")  # an empty domain and no domain mean the same
        node.input.extend(inputs)
        node.output.extend(outputs)


def _make_repeatable(path: Path) -> None:
    """Give the nodes of a graph reproducible names and a reproducible order; those of converters vary between runs.

    Duplicate computations are removed. A graph with graphs inside its operators is not changed.
    """
    import onnx

    proto = onnx.load(str(path))
    graph = proto.graph
    attributes = (attribute for node in graph.node for attribute in node.attribute)
    if any(item.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for item in attributes):
        return
    named = _Named(graph)
    for field, kept in (("node", named.nodes), ("initializer", named.arrays)):
        kept = [type(item).FromString(item.SerializeToString()) for item in kept]
        graph.ClearField(field)
        getattr(graph, field).extend(kept)
    graph.ClearField("value_info")
    graph.ClearField("doc_string")
    for value in (*graph.input, *graph.output):
        for name, length in zip(("N", "H", "W", "C"), value.type.tensor_type.shape.dim, strict=False):
            if length.dim_param:
                length.dim_param = name
    onnx.save(proto, str(path))


def _probes(height: int, width: int, channels, cutouts, rng: np.random.Generator, brightest: float) -> np.ndarray:
    """Random cutouts of many scales, with missing, infinite, constant and huge pixels, followed by the real ones."""
    n, n_channels = 256, len(channels)
    scale = 10.0 ** rng.uniform(-3, brightest, (n, 1, 1, 1))
    probes = (scale * rng.normal(rng.uniform(-20, 20, (n, 1, 1, 1)), 1.0, (n, height, width, n_channels))).astype("f4")
    if "psf" in channels:
        y, x = np.mgrid[:height, :width]
        distance = (y - height // 2) ** 2 + (x - width // 2) ** 2
        probes[..., channels.index("psf")] = np.exp(-distance / (2 * rng.uniform(0.6, 4, (n, 1, 1)) ** 2))
    for k, value in enumerate((np.nan, np.inf, -np.inf)):
        chosen = rng.random(probes.shape) < rng.uniform(0, 0.6, (n, 1, 1, 1))
        chosen[k % 4 :: 4] = False
        probes[chosen] = value
    probes[0], probes[1], probes[2, : height // 2] = np.nan, 0.0, np.inf
    probes[3], probes[4], probes[5] = 7.0, rng.choice([-1e30, 1e30], probes.shape[1:]), np.round(probes[5])
    return probes if cutouts is None else np.concatenate([probes, np.asarray(cutouts, dtype=np.float32)])


def _run(path: Path, cutouts: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: cutouts[k : k + 64]})[0] for k in range(0, len(cutouts), 64)]
    return np.concatenate(parts)


def write_metadata(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record to the metadata of an ONNX file, as JSON with the key `KEY`."""
    import onnx

    from otrain_core.io import plain_values

    proto = onnx.load(str(path))
    onnx.helper.set_model_props(proto, {KEY: json.dumps(plain_values(record), sort_keys=True, allow_nan=False)})
    proto.producer_name = "O'TRAIN"
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        onnx.save(proto, str(Path(folder, "model.onnx")))
        Path(folder, "model.onnx").replace(path)
