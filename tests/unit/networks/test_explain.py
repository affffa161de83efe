import numpy as np
import pandas as pd
import pytest

from otrain_core.errors import ConfigError, CubeError
from otrain_core.evaluation.metrics import OUTCOMES
from otrain_core.networks import explain, neighbours
from tests.unit.synthetic_cube import make_cube, make_split

pytestmark = pytest.mark.xdist_group("tensorflow")


@pytest.fixture(scope="module")
def networks():
    from otrain_core.networks import architecture as networks

    networks.keras.utils.set_random_seed(2)
    return networks


@pytest.fixture(scope="module", params=["paper", "otrain2"])
def model(networks, request):
    return networks.build_network(request.param, size=20, normalise="mad-asinh")


def cutouts(n=8):
    return make_cube(n, size=20)["cube"][..., :1]


def test_the_map_is_of_the_last_convolution(model):
    found = explain.grad_cam(model, cutouts())
    expected = {"paper": ("conv5", (8, 5, 5)), "otrain2": ("relu5", (8, 5, 5))}[model.name]
    assert (str(found["layer"]), found["maps"].shape) == expected
    assert found["resized"].shape == (8, 20, 20)
    assert np.allclose(found["maps"].max(axis=(1, 2)), 1), "a map is blank"
    assert found["maps"].min() >= 0 and np.isfinite(found["resized"]).all()
    named = explain.grad_cam(model, cutouts(), layer="conv2")
    assert named["maps"].shape[1] > 5


def test_weights_are_the_mean_derivatives(model, networks):
    """Against finite differences: features shifted as a whole, everything behind the layer run again."""
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
    """p (1 - p) scales all weights alike, so the maps agree; where p is 1 only the logit has a map."""
    values = cutouts()
    logit, softmax = (explain.grad_cam(model, values, output=output) for output in explain.OUTPUTS)
    assert np.allclose(logit["maps"], softmax["maps"], atol=1e-3)
    sure = networks.keras.models.clone_model(model)
    weights = model.get_weights()
    weights[-2], weights[-1] = weights[-2] * 1e4, weights[-1] * 1e4
    sure.set_weights(weights)
    assert np.allclose(explain.grad_cam(sure, values)["maps"].max(axis=(1, 2)), 1)


def test_a_map_that_would_be_blank_says_so(networks):
    """All features speak against the class that is called: Selvaraju's map is 0 everywhere."""
    model = networks.build_network("paper", size=20)
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
            explain.grad_cam(model, cutouts(1), layer=name)


def test_no_cutouts_are_refused(model):
    with pytest.raises(CubeError, match="no cutouts to explain"):
        explain.grad_cam(model, cutouts()[:0])


def test_central_energy_of_known_maps():
    flat, point = np.ones((21, 21)), np.zeros((21, 21))
    point[10, 10] = 3
    share, area = explain.central_energy(np.stack([flat, point, 0 * flat]), [4, 4, 4])
    assert share[0] == pytest.approx(area[0]) == pytest.approx(np.pi * 16 / 441, rel=0.05)
    assert share[1] == 1 and np.isnan(share[2])


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
        model, cube, scores, threshold=0.5, rng=np.random.default_rng(0), n_cutouts=2
    )
    assert arrays["kind"].tolist() == [kind for kind in OUTCOMES for _ in range(2)]
    assert np.array_equal(arrays["cutouts"], cube["cube"][arrays["index"]][..., :1], equal_nan=True)
    assert set(scores.loc[scores["index"].isin(arrays["index"]), "set"]) == {"test"}
    assert not any(array.dtype.hasobject for array in arrays.values())
    assert record["all"]["n"] == (scores["set"] == "test").sum()
    assert 0 < record["all"]["energy_of_flat_map"] < 0.5
    assert arrays["summary_n"][-1] == record["all"]["n"]


def test_planes_of_one_number_are_explained_and_stay(networks, monkeypatch):
    """Read first, and in lower precision: the gallery shows pixels, and no neighbour is sought in the seeing."""
    from otrain_core.figures.galleries import GradCamGallery

    names = ["seeing", "difference"]
    reads = networks.build_network(
        "otrain2", size=20, channels=names, normalise="mad-asinh", precision="mixed_bfloat16"
    )
    cube = make_cube(80, size=20)
    split = make_split(cube)
    scores = split[["index", "candid", "image", "label", "set"]].assign(score=np.linspace(0, 1, 80))
    arrays, record = explain.explain_model(
        reads, cube, scores, threshold=0.5, rng=np.random.default_rng(0), n_cutouts=2
    )
    seeing = cube["seeing"][arrays["index"]].astype(np.float32)
    assert np.array_equal(arrays["cutouts"][..., 0], np.broadcast_to(seeing[:, None, None], (len(seeing), 20, 20)))
    assert 0 < record["all"]["energy_within_fwhm"] < 1
    drawn = []
    monkeypatch.setattr("otrain_core.figures.galleries._show", lambda ax, cutout: drawn.append(np.nanstd(cutout)))
    GradCamGallery.from_arrays(arrays).plot(per_kind=1)
    assert drawn and min(drawn) > 0

    removed, remove = [], neighbours.remove_patch
    monkeypatch.setattr(neighbours, "remove_patch", lambda *a, **b: removed.append(a[0].std()) or remove(*a, **b))
    rng = np.random.default_rng(0)
    table, _ = neighbours.neighbour_test(reads, cube, scores, threshold=0.5, rng=rng, n_sigma=2.0)
    assert table["distance"].notna().any() and np.nanmin(removed) > 0


def source(size, x, y, fwhm, flux, *, noise=1.0, seed=0):
    rows, columns = np.mgrid[:size, :size]
    sigma = fwhm / 2.3548
    shape = np.exp(-0.5 * ((columns - x) ** 2 + (rows - y) ** 2) / sigma**2) / (2 * np.pi * sigma**2)
    return (flux * shape + np.random.default_rng(seed).normal(50, noise, (size, size))).astype(np.float32)


def neighbour_of(cutout, fwhm=3.0, n_sigma=5.0):
    return neighbours.find_neighbour(neighbours.significance_map(cutout, fwhm), fwhm, n_sigma=n_sigma)


def test_a_neighbour_is_a_peak_beyond_two_fwhm():
    centre = source(31, 15, 15, 3, 3000)
    assert neighbour_of(centre) is None, "the candidate or its wing was taken for a neighbour"
    assert neighbour_of(source(31, 18, 17, 3, 3000)) is None
    beside = centre + source(31, 24, 6, 3, 400, noise=0) - 50
    assert neighbour_of(beside) == (24, 6)
    assert neighbour_of(beside + source(31, 4, 20, 3, 900, noise=0) - 50) == (4, 20), "not the brightest"
    with_hole = beside.copy()
    with_hole[:, :3] = np.nan
    assert neighbour_of(with_hole) == (24, 6)
    assert neighbour_of(beside, fwhm=np.nan) is None and neighbour_of(beside, fwhm=12) is None
    assert neighbour_of(np.zeros((31, 31))) is None and neighbour_of(np.full((31, 31), np.nan)) is None


def test_noise_alone_has_few_neighbours():
    rng = np.random.default_rng(3)
    found = [neighbour_of(rng.normal(0, 1, (31, 31))) is not None for _ in range(300)]
    assert np.mean(found) < 0.02


def test_a_removed_patch_looks_like_its_surroundings():
    both = source(31, 24, 6, 3, 2000) + source(31, 15, 15, 3, 5000, noise=0) - 50
    both[5, 23] = np.nan
    changed, flux = neighbours.remove_patch(both, 24, 6, 3, rng=np.random.default_rng(1))
    rows, columns = np.mgrid[:31, :31]
    patch = np.hypot(columns - 24, rows - 6) <= 4.5
    assert np.array_equal(changed[~patch], both[~patch]) and np.isnan(changed[5, 23])
    assert flux == pytest.approx(2000, rel=0.1)
    assert np.nanmean(changed[patch]) == pytest.approx(50, abs=1) and 0.6 < np.nanstd(changed[patch]) < 1.6
    assert np.isnan(neighbours.remove_patch(np.full((9, 9), np.nan), 4, 4, 2, rng=np.random.default_rng(0))[1])


def test_scores_without_the_neighbour(networks):
    """A network that sums what it sees knows the neighbour's flux; a cutout without neighbour has NaN."""
    keras = networks.keras
    pixels = keras.Input((21, 21, 1))
    stage = networks.InputStage(channels=["difference"], normalise="none")
    total = keras.layers.Dense(2)(keras.layers.Flatten()(stage(pixels)))
    model = keras.Model(pixels, keras.layers.Softmax()(total))
    weights = np.zeros((441, 2))
    weights[:, 1] = 1e-3
    model.set_weights([weights, np.array([0, -23.0])])
    lone = source(21, 10, 10, 3, 500)
    pair = lone + source(21, 17, 4, 3, 2000, noise=0) - 50
    triple = pair + source(21, 3, 16, 3, 1500, noise=0) - 50
    cube = {"cube": np.stack([lone, pair, triple, pair])[..., None], "channels": np.array(["difference"])}
    cube |= {"labels": np.array([1, 0, 0, 0]), "fwhms": np.full(4, 9.0), "seeing": np.array([3, 3, np.nan, 3])}
    cube["fwhms"][2] = 3  # where the seeing is not known, the candidate's own FWHM counts
    scores = pd.DataFrame({"index": range(4), "candid": list("abcd"), "image": "i", "label": cube["labels"]})
    scores["score"], scores["set"] = model.predict(cube["cube"], verbose=0)[:, 1], ["test"] * 3 + ["train"]
    table, record = neighbours.neighbour_test(model, cube, scores, threshold=0.5, rng=np.random.default_rng(0))
    assert tuple(table.columns) == neighbours.NEIGHBOUR_COLUMNS
    assert table["candid"].tolist() == ["a", "b", "c"], "only test is tried"
    nothing = list(neighbours.NEIGHBOUR_COLUMNS[6:])
    assert table.loc[0, nothing].isna().all() and table.loc[1, nothing].notna().all()
    assert table.loc[1, "distance"] == pytest.approx(np.hypot(7, 6)) and table.loc[1, "neighbour_snr"] > 20
    assert table.loc[1, "score_before"] == pytest.approx(scores.loc[1, "score"], abs=1e-5)
    assert table.loc[1, "logit_change"] == pytest.approx(-2, rel=0.1)
    assert table.loc[1, "logit_change"] == pytest.approx(-1e-3 * table.loc[1, "neighbour_flux"], abs=0.05)
    assert abs(table.loc[1, "logit_control"] - table.loc[1, "logit_before"]) < 0.1
    assert np.isnan(table.loc[2, "logit_control"]), "another source stands opposite the neighbour"
    assert record["all"]["n"] == 3 and record["all"]["n_neighbours"] == 2
    assert record["right True"]["n_neighbours"] == 0 and np.isnan(record["right True"]["decisions_changed"])
    assert record["all"]["decisions_changed"] == 0.5, "b falls below the threshold, c stays above it"


def test_neighbours_of_a_network_with_all_channels(networks):
    model = networks.build_network("otrain2", size=20, channels=["mask", "difference", "science"])
    cube = make_cube(60, size=20)
    cube["cube"][:20, 2:6, 2:6, :3] += 1000
    scores = make_split(cube)[["index", "candid", "image", "label"]].assign(score=0.5, set="test")
    table, _ = neighbours.neighbour_test(model, cube, scores, threshold=0.5, rng=np.random.default_rng(0))
    assert table["distance"].iloc[:20].notna().sum() > 5
    with pytest.raises(CubeError, match="set test is empty"):
        neighbours.neighbour_test(model, cube, scores.assign(set="tune"), threshold=0.5, rng=np.random.default_rng(0))
