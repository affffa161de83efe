"""Tests of the classifier: scores, decisions, reasons, streaming, and input that is refused."""

import subprocess
import sys

import numpy as np
import pytest

from otrain_core.classify.classifier import Classifier
from otrain_core.classify.descriptors import describe, training_statistics
from otrain_core.errors import ConfigError, CubeError
from tests.unit.tiny_onnx import write_tiny


@pytest.fixture
def classifier(tmp_path):
    return Classifier.load(write_tiny(tmp_path / "model.onnx"))


def _cutouts(logits, size=9):
    cutouts = np.zeros((len(logits), size, size), np.float32)
    cutouts[:, size // 2, size // 2] = logits
    return cutouts


def _sigmoid(z):
    return 1 / (1 + np.exp(-np.asarray(z, dtype=float)))


def test_probability_decision_and_abstention(classifier):
    logits = np.array([-3.0, -0.1, 0.3, 0.5, 3.0])
    found = classifier.classify(_cutouts(logits))
    assert np.allclose(found["score"], _sigmoid(logits), atol=1e-6)
    assert np.allclose(found["probability"], _sigmoid(2 * logits), atol=1e-5)
    assert found["real"].tolist() == [False, False, False, True, True]
    assert found["undecided"].tolist() == [False, True, True, True, False]
    assert found["reason"].tolist() == [""] * 5


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_all_ways_in_give_the_same(tmp_path, batch):
    classifier = Classifier.load(write_tiny(tmp_path / "model.onnx", channels=("difference", "psf")))
    rng = np.random.default_rng(1)
    difference, psf = rng.normal(size=(2, 10, 9, 9)).astype(np.float32)
    expected = _sigmoid(difference[:, 4, 4])
    joined = np.stack([difference, psf], axis=-1)
    wide = np.pad(joined, ((0, 0), (3, 2), (3, 2), (0, 0)))  # 14 px: the candidate is in pixel 7
    cube = {"cube": joined[..., ::-1], "channels": np.array(["psf", "difference"]), "labels": np.ones(10)}
    ways = [joined, wide, {"difference": difference, "psf": psf}, {"difference": difference}, cube, difference]
    ways += [iter([joined[:4], joined[4:]]), ({"difference": plane[None]} for plane in difference)]
    for way in ways:
        assert np.allclose(classifier.score(way, batch=batch), expected, atol=1e-6)
    assert classifier.score(joined[:0]).shape == classifier.classify([])["real"].shape == (0,)


def test_masked_pixels_are_missing(tmp_path):
    classifier = Classifier.load(write_tiny(tmp_path / "model.onnx", channels=("difference", "psf")))
    cutouts, psf = _cutouts([0.5, 2.0]), np.ones((2, 9, 9), np.float32)
    cutouts[:, 0, 0] = 1e6  # a bad pixel that is masked
    masked, void = np.ma.masked_greater(cutouts, 1e5), np.where(cutouts > 1e5, np.nan, cutouts)
    stack = np.ma.stack([masked, np.ma.asarray(psf)], axis=-1)
    expected = classifier.classify({"difference": void, "psf": psf})
    assert expected["missing"] == pytest.approx([1 / 81, 1 / 81])
    cube = {"cube": stack, "channels": ["difference", "psf"]}
    for way in (stack, {"difference": masked, "psf": psf}, cube, iter([stack[:1], stack[1:]])):
        found = classifier.classify(way)
        assert found["missing"] == pytest.approx(expected["missing"])
        assert np.array_equal(found["score"], expected["score"], equal_nan=True)


def test_a_cutout_without_a_score_is_undecided(classifier):
    cutouts = _cutouts([3.0, 3.0])
    cutouts[0] = np.nan
    found = classifier.classify(cutouts)
    assert np.isnan(found["score"][0]) and np.isnan(found["probability"][0])
    assert found["real"].tolist() == [False, True] and found["undecided"].tolist() == [True, False]
    assert found["reason"].tolist() == ["the model gives no score", ""]


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("batch", [2, 64])
def test_as_many_seeings_as_cutouts_are_needed(classifier, n, batch):
    with pytest.raises(CubeError, match="seeing"):
        classifier.classify(_cutouts([1.0, 1.0, 1.0]), seeing=np.full(n, 3.0), batch=batch)
    with pytest.raises(CubeError, match="seeing"):
        classifier.classify({"difference": _cutouts([1.0, 1.0, 1.0]), "seeing": np.full(n, 3.0)}, batch=batch)


@pytest.mark.parametrize("cutouts", ["cube.npz", None, 3])
def test_what_holds_no_cutouts_is_refused(classifier, cutouts):
    with pytest.raises(CubeError, match="cutouts: must be arrays"):
        classifier.classify(cutouts)


def test_a_missing_psf_is_reported(tmp_path):
    classifier = Classifier.load(write_tiny(tmp_path / "model.onnx", channels=("difference", "psf")))
    assert classifier.classify(_cutouts([1.0]))["reason"][0].startswith("no PSF given")


ALL = ("difference", "psf", "science", "reference")


def test_inputs_that_a_model_does_without_may_be_missing(tmp_path):
    about = {"optional": ["psf", "science", "reference"]}
    classifier = Classifier.load(write_tiny(tmp_path / "model.onnx", channels=ALL, about=about))
    logits = np.array([-0.5, 0.2])
    found = classifier.classify(_cutouts(logits))
    assert np.allclose(found["score"], _sigmoid(logits), atol=1e-6) and not any(found["reason"])
    planes = {name: _cutouts(logits) for name in ALL} | {"psf": np.full((2, 9, 9), np.nan)}
    assert np.allclose(classifier.score(planes), _sigmoid(logits), atol=1e-6)


def test_inputs_that_a_model_needs_are_asked_for(tmp_path):
    classifier = Classifier.load(write_tiny(tmp_path / "model.onnx", channels=ALL, about={"optional": ["science"]}))
    with pytest.raises(CubeError, match="channel 'reference' is not in the cube"):
        classifier.score(_cutouts([1.0]))
    planes = {"difference": _cutouts([1.0]), "reference": np.full((1, 9, 9), np.nan)}
    reasons = classifier.classify(planes)["reason"][0]
    assert "no PSF given" in reasons and "no reference given" in reasons and "science" not in reasons


def test_smaller_cutouts_get_a_rim_of_missing_pixels(tmp_path):
    rng = np.random.default_rng(1)
    train = rng.normal(0, 5, (500, 10, 10, 1)).astype(np.float32)
    about = {"least_size": 8, "training": training_statistics(describe(train, ["difference"]))}
    classifier = Classifier.load(write_tiny(tmp_path / "model.onnx", size=10, about=about))
    for size in (8, 9, 10, 13):
        cutouts = rng.normal(0, 5, (4, size, size)).astype(np.float32)
        found = classifier.classify(cutouts)
        assert np.allclose(found["score"], _sigmoid(cutouts[:, size // 2, size // 2]), atol=1e-5)
        assert not found["missing"].any()  # the padding does not count
    with pytest.raises(CubeError, match="cutouts of 10 px are needed, but those of the cube have 7 px"):
        classifier.score(np.zeros((2, 7, 7), np.float32))


def test_reason_where_the_cutouts_are_unlike_the_training_set(tmp_path):
    rng = np.random.default_rng(1)
    train = rng.normal(0, 5, (500, 9, 9, 1)).astype(np.float32)
    statistics = training_statistics(describe(train, ["difference"], seeing=rng.uniform(2, 3, 500)))
    classifier = Classifier.load(write_tiny(tmp_path / "model.onnx", about={"training": statistics}))
    new = rng.normal(0, 5, (4, 9, 9, 1)).astype(np.float32)
    new[1] *= 20
    reasons = classifier.classify(new, seeing=[2.5, 2.5, 5.0, np.nan], batch=3)["reason"]
    assert reasons[0] == reasons[3] == ""
    assert reasons[1].startswith("noise") and reasons[2].startswith("seeing 5 px (training 2 to 3)")
    assert classifier.classify(new, seeing=9.0)["reason"][0].startswith("seeing")


def test_another_threshold(tmp_path):
    path = write_tiny(tmp_path / "model.onnx", about={"threshold": None})
    with pytest.raises(CubeError, match="no threshold of its own"):
        Classifier.load(path).classify(_cutouts([0.0]))
    found = Classifier.load(path, threshold=0.2).classify(_cutouts([-1.0, -2.0]))
    assert found["real"].tolist() == [True, False] and not found["undecided"].any()


@pytest.mark.parametrize("threshold", [float("nan"), -0.1, 1.5, float("inf"), "half"])
def test_a_threshold_outside_0_to_1_is_refused(tmp_path, threshold):
    path = write_tiny(tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match=rf"^threshold: must be a number from 0 to 1, not {threshold}$"):
        Classifier.load(path, threshold=threshold)
    for threshold in (0, 1):
        assert Classifier.load(path, threshold=threshold).threshold == threshold


def test_wrong_cutouts_are_refused(classifier):
    with pytest.raises(CubeError, match="cutouts of 9 px are needed, but those of the cube have 5 px"):
        classifier.score(np.zeros((2, 5, 5), np.float32))
    with pytest.raises(CubeError, match="do not fit the channels"):
        classifier.score(np.zeros((2, 9, 9, 3), np.float32))
    with pytest.raises(CubeError, match=r"all channels must have one shape"):
        classifier.score({"difference": np.zeros((2, 9, 9)), "science": np.zeros((3, 9, 9))})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b"\x80\x04not a model"), "not a readable ONNX model"),
        (lambda path: write_tiny(path, metadata=False), "has no metadata of O'TRAIN"),
        (lambda path: write_tiny(path, about={"format": 99}), "does not know format 99"),
        (lambda path: write_tiny(path, about={"calibration": {"slope": "steep"}}), "metadata cannot be used"),
    ],
)
def test_bad_models_are_refused(tmp_path, make, message):
    make(tmp_path / "model.onnx")
    with pytest.raises(CubeError, match=message):
        Classifier.load(tmp_path / "model.onnx")


def test_a_model_that_names_a_file_beside_it_is_refused(tmp_path):
    """External weights could be any file on the machine of the user."""
    import onnx

    path = write_tiny(tmp_path / "model.onnx")
    proto = onnx.load(str(path))
    weight = proto.graph.initializer[0]
    (tmp_path / "secret").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", str(tmp_path / "secret")), ("offset", "0"), ("length", "24")):
        weight.external_data.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(CubeError, match="keeps its weights in other files"):
        Classifier.load(path)


def test_nothing_heavy_is_imported(tmp_path):
    path = write_tiny(tmp_path / "model.onnx")
    code = (
        "import sys\nfrom otrain_core.classify.classifier import Classifier\nimport numpy as np\n"
        f"c = Classifier.load({str(path)!r})\nc.classify(np.zeros((3, 9, 9), np.float32))\n"
        "heavy = {'pandas', 'scipy', 'tensorflow', 'keras', 'sklearn', 'matplotlib', 'mlflow', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_that_answers_with_another_number_of_rows_is_refused(tmp_path):
    model = Classifier.load(write_tiny(tmp_path / "model.onnx"))

    class Three:
        def run(self, names, feed, options):
            return [np.full((3, 2), 0.5, np.float32)]

    model._session = Three()
    with pytest.raises(CubeError, match=r"float32 \(3, 2\) for 5 cutouts"):
        model.score(_cutouts(np.zeros(5)))


@pytest.mark.parametrize(
    "about",
    [
        {"threshold": float("nan")},
        {"threshold": 2},
        {"size": 0},
        {"size": 10**9},
        {"channels": []},
        {"calibration": 3},
        {"abstention": [1]},
    ],
)
def test_metadata_that_cannot_be_used(tmp_path, about):
    path = write_tiny(tmp_path / "model.onnx", about=about)
    with pytest.raises(CubeError, match="its metadata cannot be used"):
        Classifier.load(path)
