import numpy as np
import pandas as pd
import pytest

from otrain_core.arrays import read_stack, write_arrays
from otrain_core.errors import ConfigError, CubeError
from otrain_core.evaluation.metrics import OUTCOMES
from otrain_core.figures.galleries import draw_grad_cam
from otrain_core.io import read_json, read_table, write_json, write_table
from otrain_core.networks import architecture, explain
from otrain_core.plan.config import ExplainOptions
from tests.unit.synthetic_cube import make_cube, make_split
from tests.unit.tiny_network import tiny_network

pytestmark = pytest.mark.xdist_group("tensorflow")


@pytest.fixture(scope="module")
def networks():
    from otrain_core.networks import architecture as networks

    networks.keras.utils.set_random_seed(2)
    return networks


@pytest.fixture(scope="module", params=["paper", "otrain2"])
def model(networks, request):
    return tiny_network(request.param, size=20, normalise="mad-asinh")


def cutouts(n=8):
    return make_cube(n, size=20)["cube"][..., :1]


def test_the_map_is_of_the_last_convolution(model):
    found = explain.grad_cam(model, cutouts())
    expected = {"paper": ("conv5", (8, 5, 5)), "otrain2": ("relu5", (8, 5, 5))}[model.name]
    assert (str(found["layer"]), found["maps"].shape) == expected
    assert found["resized"].shape == (8, 20, 20)
    assert np.allclose(found["maps"].max(axis=(1, 2)), 1), "a map is blank"
    assert found["maps"].min() >= 0 and np.isfinite(found["resized"]).all()
    named = explain.grad_cam(model, cutouts(), options=ExplainOptions(layer="conv2"))
    assert named["maps"].shape[1] > 5


def test_weights_are_the_mean_derivatives(model, networks):
    """Compare with finite differences: shift the features as a whole and run the layers that follow again."""
    values = cutouts(3)
    found = explain.grad_cam(model, values)
    layer = model.get_layer(str(found["layer"]))
    front = networks.keras.Model(model.input, layer.output)
    behind = networks.keras.Model(layer.output, model.get_layer("logits").output)
    features = np.asarray(front(values), dtype=np.float32)
    sign = np.where(found["called"] == 1, 1, -1)

    def margin(x):
        logits = np.asarray(behind(x), dtype=np.float64)
        return sign * (logits[:, 1] - logits[:, 0])

    step = 3e-4
    for k in (0, 7):
        up, down = features.copy(), features.copy()
        up[..., k] += step
        down[..., k] -= step
        slope = (margin(up) - margin(down)) / (2 * step) / features[0, ..., 0].size
        assert np.allclose(slope, found["weights"][:, k], rtol=0.15, atol=2e-4)


def test_softmax_maps_are_the_logit_maps_until_they_saturate(model, networks):
    """p (1 - p) scales all weights equally, so that the maps agree; if p is 1, only the logit gives a map."""
    values = cutouts()
    logit, softmax = (
        explain.grad_cam(model, values, options=ExplainOptions(output=output)) for output in ("logit", "softmax")
    )
    assert np.allclose(logit["maps"], softmax["maps"], atol=1e-3)
    sure = networks.keras.models.clone_model(model)
    weights = model.get_weights()
    weights[-2], weights[-1] = weights[-2] * 1e4, weights[-1] * 1e4
    sure.set_weights(weights)
    assert np.allclose(explain.grad_cam(sure, values)["maps"].max(axis=(1, 2)), 1)


def test_a_map_that_would_be_blank_says_so(networks):
    """All features are evidence against the chosen class: the map of Selvaraju et al. is 0 everywhere."""
    model = tiny_network("paper", size=20)
    weights = [np.abs(w) for w in model.get_weights()]
    weights[-2] = np.stack([np.full(256, 1.0), np.full(256, -1.0)], axis=1)  # features raise False
    weights[-1] = np.array([-1e30, 1e30])  # the bias calls True
    model.set_weights(weights)
    found = explain.grad_cam(model, np.abs(cutouts(2)))
    assert found["called"].tolist() == [1, 1] and found["fallback"].all()
    assert np.allclose(found["maps"].max(axis=(1, 2)), 1)


def test_unknown_layers_are_told_what_there_is(model):
    for name in ("conv9", "logits"):
        with pytest.raises(ConfigError, match=f"explain.layer: '{name}' is not a convolution .* conv1, conv2"):
            explain.grad_cam(model, cutouts(1), options=ExplainOptions(layer=name))


def test_no_cutouts_are_refused(model):
    with pytest.raises(CubeError, match="no cutouts to explain"):
        explain.grad_cam(model, cutouts()[:0])


def test_central_energy_of_known_maps():
    flat, point = np.ones((21, 21)), np.zeros((21, 21))
    point[10, 10] = 3
    share, area = explain.central_energy(np.stack([flat, point, 0 * flat, flat]), [4, 4, 4, np.nan])
    assert share[0] == pytest.approx(area[0]) == pytest.approx(np.pi * 16 / 441, rel=0.05)
    assert share[1] == 1 and np.isnan(share[2:]).all()
    assert np.isnan(area).tolist() == [False, False, False, True]


def test_wrong_decisions_come_worst_first():
    scores = pd.DataFrame(
        {
            "index": [10, 11, 12, 13, 14, 15],
            "label": [1, 1, 0, 0, 0, 1],
            "score": [0.9, 0.3, 0.7, 0.95, 0.1, 0.2],
            "set": ["test"] * 5 + ["train"],
        }
    )
    chosen = explain.choose_cutouts(scores, 0.5, n=2, rng=np.random.default_rng(0))
    assert {kind: rows.tolist() for kind, rows in chosen.items()} == {
        "right True": [10],
        "right False": [14],
        "wrong True": [11],
        "wrong False": [13, 12],
    }


def test_explaining_a_model_gathers_maps_and_numbers(model):
    cube = make_cube(200, size=20)
    scores = make_split(cube)[["index", "candid", "image", "label", "set"]]
    scores["score"] = np.random.default_rng(0).random(200)
    arrays, record = explain.explain_model(
        model, cube, scores, threshold=0.5, rng=np.random.default_rng(0), options=ExplainOptions(n_cutouts=2)
    )
    assert arrays["kind"].tolist() == [kind for kind in OUTCOMES for _ in range(2)]
    assert np.array_equal(arrays["cutouts"], cube["cube"][arrays["index"]][..., :1], equal_nan=True)
    assert set(scores.loc[scores["index"].isin(arrays["index"]), "set"]) == {"test"}
    assert not any(array.dtype.hasobject for array in arrays.values())
    assert record["all"]["n"] == (scores["set"] == "test").sum()
    assert 0 < record["all"]["energy_of_flat_map"] < 0.5
    assert arrays["summary_n"][-1] == record["all"]["n"]


def test_planes_of_one_number_are_explained(networks, monkeypatch):
    """The first input is a constant plane, and the precision is mixed; the gallery shows an image."""
    from otrain_core.figures.galleries import GradCamGallery

    names = ["seeing", "difference"]
    reads = tiny_network("otrain2", size=20, channels=names, normalise="mad-asinh", precision="mixed_bfloat16")
    cube = make_cube(80, size=20)
    split = make_split(cube)
    scores = split[["index", "candid", "image", "label", "set"]].assign(score=np.linspace(0, 1, 80))
    arrays, record = explain.explain_model(
        reads, cube, scores, threshold=0.5, rng=np.random.default_rng(0), options=ExplainOptions(n_cutouts=2)
    )
    seeing = cube["seeing"][arrays["index"]].astype(np.float32)
    assert np.array_equal(arrays["cutouts"][..., 0], np.broadcast_to(seeing[:, None, None], (len(seeing), 20, 20)))
    assert 0 < record["all"]["energy_within_fwhm"] < 1
    drawn = []
    monkeypatch.setattr("otrain_core.figures.galleries._show", lambda ax, cutout: drawn.append(np.nanstd(cutout)))
    GradCamGallery.from_arrays(arrays).plot(per_kind=1)
    assert drawn and min(drawn) > 0


def test_files_of_an_explanation(model, tmp_path):
    cube = make_cube(120, size=20)
    scores = make_split(cube)[["index", "candid", "image", "label", "set"]]
    write_arrays(tmp_path / "cube.npz", cube)
    write_table(tmp_path / "scores.csv", scores.assign(score=np.linspace(0, 1, 120)))
    write_json(tmp_path / "metrics.json", {"headline": {"threshold": 0.6}})
    architecture.save_model(model, tmp_path / "model.keras")
    names = {"model": "model.keras", "cube": "cube.npz", "scores": "scores.csv", "metrics": "metrics.json"}
    names |= {"gradcam": "maps.npz", "figure": "maps.png", "neighbours": "tried.csv", "record": "explain.json"}
    files = {name: tmp_path / file for name, file in names.items()}
    explain.explain_files(**files, draw=draw_grad_cam, options=ExplainOptions(n_cutouts=1), seed=1)
    record, maps = read_json(files["record"]), read_stack(files["gradcam"])
    assert record["threshold"] == 0.6 and record["all"]["n"] == (scores["set"] == "test").sum()
    assert record["neighbours"]["all"]["n"] == len(read_table(files["neighbours"])) == record["all"]["n"]
    assert len(maps["maps"]) == len(maps["kind"]) <= 4 and files["figure"].stat().st_size > 5000
