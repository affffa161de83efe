from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from otrain_core.candidates.measure import SIGMA
from otrain_core.candidates.planes import Field, Planes
from otrain_core.evaluation.cuts import FixedCuts
from otrain_core.evaluation.found import Judged
from otrain_core.images.frames import MASK_MISSING
from otrain_core.plan.config import EvaluateOptions
from otrain_core.plan.pipelines import CrossmatchOptions, Pipeline
from otrain_core.plan.recipe import Recipe
from otrain_core.plan.telescopes import Detector
from otrain_core.studies import finder as module
from otrain_core.studies.finder import CUTS, FINDER, MAIN, THRESHOLD, WITHOUT, Judges, scenes

SEEING = 3.0


class Gaussian:
    def stamp(self, x, y):
        x0, y0 = int(np.floor(x + 0.5)) - 7, int(np.floor(y + 0.5)) - 7
        place = np.arange(15)
        stamp = np.exp(-((y0 + place - y)[:, None] ** 2 + (x0 + place - x) ** 2) / (2 * (SIGMA * SEEING) ** 2))
        return stamp / stamp.sum(), y0, x0


@pytest.fixture
def raw():
    rng = np.random.default_rng(3)
    reference, diff = rng.normal(0, 2, (2, 200, 240)).astype("f4")
    mask = np.zeros((200, 240), np.uint8)
    mask[50, 60] = 4
    return {
        "science": reference + diff,
        "reference": reference,
        "diff": diff,
        "noise": np.full((200, 240), 2, "f4"),
        "mask": mask,
    }


@pytest.fixture
def field(raw):
    planes = Planes.of(raw["science"], raw["reference"], raw["diff"], raw["noise"], raw["mask"], seeing=SEEING)
    columns = ["x", "y", "flux", "snr", "limit", "kind", "real", "usable"]
    rows = [(100.0, 100.0, 90.0, 7.0, 0.1, "random", False, True), (180.0, 40.0, 90.0, 7.0, 0.1, "random", False, True)]
    return Field("i", planes, pd.DataFrame(rows, columns=columns), Gaussian(), Gaussian())


def judges(find, classifier=None):
    recipe = Recipe(Pipeline(), Detector())
    cuts = FixedCuts(snr_min=5, fwhm_low=0.5, fwhm_high=1.5, negative_max=0.2)
    return Judges(SimpleNamespace(find=find), classifier, cuts, recipe, CrossmatchOptions(), 4.0)


def test_every_scene_gives_planes_of_the_image(field, raw):
    for name, scene in scenes().items():
        planes, sources = scene(field, {key: plane.copy() for key, plane in raw.items()}, np.random.default_rng(1))
        assert set(planes) <= {"diff", "science", "reference", "mask", "noise"}, name
        assert all(plane.shape == (200, 240) for plane in planes.values()), name
        assert len(sources) >= 2, name


def test_scenes_do_what_they_say(field, raw):
    found = {name: scene(field, raw, np.random.default_rng(1)) for name, scene in scenes().items()}
    assert found["as they are"][0] == {}
    half, sources = found["half of the image missing"]
    assert np.all(half["mask"][:, :120] == MASK_MISSING) and np.isnan(half["diff"][:, :120]).all()
    assert sources["usable"].tolist() == [False, True]
    lost = found["mask lost, its pixels 0"][0]
    assert not lost["mask"].any() and lost["diff"][50, 60] == 0 and lost["diff"][50, 61] == raw["diff"][50, 61]
    trail = found["satellite trail"][0]
    np.testing.assert_allclose(trail["diff"] - raw["diff"], trail["science"] - raw["science"], atol=1e-4)
    assert (trail["diff"] - raw["diff"]).max() == pytest.approx(20, rel=0.05)


def test_pairs_are_equal_and_as_far_apart_as_is_said(field, raw):
    planes, sources = scenes()["pairs 1.5 FWHM apart"](field, raw, np.random.default_rng(1))
    added = sources[sources["kind"].str.startswith("pair")]
    assert len(added) >= 4 and (added.groupby("kind").size() == 2).all()
    for _, two in added.groupby("kind"):
        assert np.hypot(*(two[["x", "y"]].diff().iloc[1])) == pytest.approx(1.5 * SEEING)
        assert two["flux"].nunique() == 1 and two["snr"].between(12, 50).all()
    assert (planes["diff"] - raw["diff"]).sum() == pytest.approx(added["flux"].sum(), rel=0.02)
    np.testing.assert_allclose(planes["science"] - raw["science"], planes["diff"] - raw["diff"], atol=1e-3)


def test_a_pair_counts_where_both_are_found():
    table = pd.DataFrame(
        {
            "image": "i",
            "kind": ["pair0", "pair0", "pair1", "pair1", "random"],
            "snr": 20.0,
            "score": [0.9, 0.8, 0.9, -np.inf, 0.1],
            "real": False,
        }
    )
    found = module._of_scene([Judged(table, np.array([0.6, 0.2]))], 0.5, pairs=True)
    assert found == {"n": 2, "completeness": 0.5, "false_alarms": 1.0}
    edges = table.assign(snr=[5.0, 10.0, 7.0, 7.0, 7.0], real=[False, False, False, False, True])
    assert module._of_scene([Judged(edges, np.empty(0))], 0.5, pairs=False)["n"] == 3  # 5 belongs to it, 10 does not


def test_pairs_are_set_down_in_an_image_without_sources(field, raw):
    _, sources = scenes()["pairs 2 FWHM apart"](
        replace(field, sources=field.sources[:0]), raw, np.random.default_rng(1)
    )
    assert len(sources) >= 4


def test_with_and_without_the_difference(field):
    def find(planes, threshold):
        score = 0.9 if planes.difference is not None else 0.3
        return pd.DataFrame({"x": [100.2], "y": [100.0], "score": [score], "snr": [6.5]})

    found = judges(find).by_finder(field)
    assert found[FINDER].sources["score"].tolist() == [0.9, -np.inf]
    assert found[WITHOUT].sources["score"].tolist() == [0.3, -np.inf]


def labelled():
    columns = ["candid", "x", "y", "snr", "fwhm", "seeing", "negative"]
    rows = [
        ("a", 100.0, 100.0, 8, 3.0, 3.0, 0.0),
        ("b", 180.0, 40.0, 6, 9.0, 3.0, 0.0),
        ("c", 60.0, 60.0, 12, 3.0, 3.0, 0.5),
    ]
    return pd.DataFrame(rows, columns=columns)


def test_chain_is_judged_by_snr_cuts_and_classifier(field):
    scorer = SimpleNamespace(classify=lambda stack: {"score": np.array([0.2, 0.7])})
    stack = {"candid": np.array(["c", "a"]), "stack": np.zeros((2, 9, 9, 1))}
    found = judges(None, scorer).by_chain(labelled(), stack, field)
    assert found[THRESHOLD].sources["score"].tolist() == [8, 6] and found[THRESHOLD].false.tolist() == [12]
    assert found[CUTS].sources["score"].tolist() == [8, -np.inf] and found[CUTS].false.size == 0
    assert found[module.CHAIN].sources["score"].tolist() == [0.7, -np.inf]
    assert found[module.CHAIN].false.tolist() == [0.2]


def test_position_error_in_units_of_the_limit():
    rng = np.random.default_rng(1)
    images = []
    for _ in range(30):
        errors = rng.normal(0, 0.2, (40, 2))
        table = pd.DataFrame({"score": 1.0, "snr": 10.0, "limit": 0.2, "distance": np.hypot(*errors.T)})
        images.append(Judged(table.assign(found_snr=11.0, kind="random", real=False), np.empty(0)))
    row = module._precision({FINDER: images}, EvaluateOptions(bootstrap=200), rng).iloc[0]
    assert row["n"] == 1200 and row["position_ratio"] == pytest.approx(1, abs=0.06)
    assert row["position_ratio_low"] < 1 < row["position_ratio_high"]
    assert row["flux_bias"] == pytest.approx(np.log(1.1)) and row["flux_scatter"] == pytest.approx(0)
    assert MAIN == (5.0, 10.0)
