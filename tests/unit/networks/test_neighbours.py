import numpy as np
import pandas as pd
import pytest

from otrain_core.errors import CubeError
from otrain_core.networks import neighbours
from tests.unit.synthetic_cube import make_cube, make_split
from tests.unit.tiny_network import tiny_network

pytestmark = pytest.mark.xdist_group("tensorflow")


@pytest.fixture(scope="module")
def networks():
    from otrain_core.networks import architecture as networks

    networks.keras.utils.set_random_seed(2)
    return networks


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
    """The output of a network that sums its input changes by the flux of the neighbour; without a neighbour it is NaN."""
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
    table, record = neighbours.neighbour_test(
        model, cube, scores, threshold=0.5, rng=np.random.default_rng(0), n_sigma=5.0
    )
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
    model = tiny_network("otrain2", size=20, channels=["mask", "difference", "science"])
    cube = make_cube(60, size=20)
    cube["cube"][:20, 2:6, 2:6, :3] += 1000
    scores = make_split(cube)[["index", "candid", "image", "label"]].assign(score=0.5, set="test")
    table, _ = neighbours.neighbour_test(model, cube, scores, threshold=0.5, rng=np.random.default_rng(0), n_sigma=5.0)
    assert table["distance"].iloc[:20].notna().sum() > 5
    with pytest.raises(CubeError, match="set test is empty"):
        neighbours.neighbour_test(
            model, cube, scores.assign(set="validation"), threshold=0.5, rng=np.random.default_rng(0), n_sigma=5.0
        )


def test_no_neighbour_is_sought_in_the_seeing(networks, monkeypatch):
    reads = tiny_network(size=20, channels=["seeing", "difference"], normalise="mad-asinh", precision="mixed_bfloat16")
    cube = make_cube(80, size=20)
    scores = make_split(cube)[["index", "candid", "image", "label", "set"]].assign(score=np.linspace(0, 1, 80))
    removed, remove = [], neighbours.remove_patch
    monkeypatch.setattr(neighbours, "remove_patch", lambda *a, **b: removed.append(a[0].std()) or remove(*a, **b))
    rng = np.random.default_rng(0)
    table, _ = neighbours.neighbour_test(reads, cube, scores, threshold=0.5, rng=rng, n_sigma=2.0)
    assert table["distance"].notna().any() and np.nanmin(removed) > 0
