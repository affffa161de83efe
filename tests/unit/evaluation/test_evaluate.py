import json

import numpy as np
import pandas as pd
import pytest

from otrain_core.arrays import write_arrays
from otrain_core.cubes.cube_format import kept_false_share
from otrain_core.errors import CubeError
from otrain_core.evaluation import evaluate
from otrain_core.evaluation.curves import CURVE_COLUMNS
from otrain_core.evaluation.groups import PROPERTIES
from otrain_core.evaluation.metrics import confusion, rates
from otrain_core.evaluation.thresholds import RULES, best_threshold
from otrain_core.io import read_json, read_table, write_json, write_table
from otrain_core.plan.config import EvaluateOptions
from tests.unit.synthetic_cube import make_cube, make_split


@pytest.fixture(scope="module")
def data():
    """A cube without pixels, and scores that are good on bright candidates and poor on faint ones."""
    cube = make_cube(3000, size=3)
    table = make_split(cube)[["index", "candid", "image", "label", "set"]]
    rng = np.random.default_rng(0)
    signal = np.where(cube["snr"] > 15, 3.0, 0.8) * (2.0 * table["label"] - 1)
    table["score"] = 1 / (1 + np.exp(-signal - rng.normal(0, 1, len(table))))
    return cube, table


def run(data, seed=0, bins=4, **options):
    cube, table = data
    section = EvaluateOptions(bootstrap=200, bins=bins)
    return evaluate.evaluate_scores(table, cube, rng=np.random.default_rng(seed), options=section, **options)


def test_the_headline_comes_from_test_and_the_threshold_from_validation(data):
    record, _ = run(data)
    validation, test = (data[1][data[1]["set"] == name] for name in ("validation", "test"))
    headline = record["headline"]
    assert headline["threshold"] == best_threshold(validation["label"], validation["score"], "platt")
    assert headline["n_images"] == test["image"].nunique()
    assert headline["n_true"] + headline["n_false"] == len(test) == sum(record["confusion"].values())
    wrong = (test["score"] >= headline["threshold"]) != (test["label"] == 1)
    assert headline["accuracy"] == pytest.approx(1 - wrong.mean())
    assert headline["mcc_low"] < headline["mcc"] < headline["mcc_high"]
    assert headline["fpr_at_stated_recall_low"] <= headline["fpr_at_stated_recall"]
    assert record["scored_set"] == "test" and record["threshold_set"] == "validation"


def test_labels_of_test_cannot_reach_threshold_or_calibration(data):
    cube, table = data
    flipped = table.copy()
    flipped.loc[flipped["set"] == "test", "label"] ^= 1
    one, other = run(data)[0], run((cube, flipped))[0]
    assert one["headline"]["threshold"] == other["headline"]["threshold"]
    assert one["calibration"]["slope"] == other["calibration"]["slope"]
    assert one["headline"]["mcc"] > 0 > other["headline"]["mcc"]


def test_the_random_protocol_tunes_and_scores_on_one_set(data):
    cube, table = data
    paper = (cube, table.assign(set=table["set"].replace("validation", "train")))
    with pytest.raises(CubeError, match="the validation set is empty"):
        run(paper)
    record, _ = run(paper, protocol="random")
    test = paper[1][paper[1]["set"] == "test"]
    assert record["threshold_set"] == record["scored_set"] == "test"
    best = best_threshold(test["label"], test["score"], "platt")
    assert record["headline"]["threshold"] == best
    assert "validation" not in record["accuracy_gap"]


def test_every_table_adds_up(data):
    record, _ = run(data, bins=3)
    test = data[1][data[1]["set"] == "test"]
    for name in PROPERTIES:
        assert len(record["bins"][name]) == 3
    assert sum(row["n_false"] for row in record["bins"]["snr"]) == record["headline"]["n_false"]
    recall = [row["recall"] for row in record["bins"]["snr"]]
    assert recall[0] < recall[-1], "faint candidates were made harder"
    assert {row["group"] for row in record["artefacts"]} == {"dipole", "cosmic", "blob"}
    assert sum(row["fp"] for row in record["artefacts"]) == record["confusion"]["fp"]
    assert sum(row["n_true"] + row["n_false"] for row in record["reasons"]) == len(test)
    assert set(record["thresholds"]) == set(RULES)
    assert record["accuracy_gap"]["train_minus_validation"] == pytest.approx(
        record["accuracy_gap"]["train"] - record["accuracy_gap"]["validation"]
    )
    json.dumps(record, default=float)


def test_false_alarms_undo_balancing_and_unused_parts(data):
    cube, table = data
    plain = run(data)[0]["headline"]
    assert plain["false_alarms_per_image"] == pytest.approx(run(data)[0]["confusion"]["fp"] / plain["n_images"])
    thinned = run(data, kept_false=0.25)[0]["headline"]
    assert thinned["false_alarms_per_image"] == pytest.approx(4 * plain["false_alarms_per_image"])
    assert thinned["false_alarms_per_image_high"] == pytest.approx(4 * plain["false_alarms_per_image_high"])
    # Half of the cutouts of the test images lie on sky that belongs to no set.
    unused = table.copy()
    unused.loc[(unused["set"] == "test") & (unused["index"] % 2 == 0), "set"] = "unused"
    share = evaluate.scored_false_share(unused)
    assert share == pytest.approx(0.5, abs=0.06)
    assert kept_false_share({"n_false": 30, "n_labelled_false": 120}) == 0.25
    assert kept_false_share({}) == 1


def test_what_the_cuts_reach_and_what_is_gained_stands_in_the_headline(data):
    record, _ = run(data)
    headline, cuts = record["headline"], record["baseline"]
    assert headline["baseline_mcc"] == cuts["mcc"] and headline["gain"] == pytest.approx(headline["mcc"] - cuts["mcc"])
    assert headline["gain_low"] < headline["gain"] < headline["gain_high"]
    assert record["interval"] == "images" and headline["sky_unknown"] == 0
    assert run(data, sky_unknown=True)[0]["headline"]["sky_unknown"] == 1


def test_the_shipped_model_is_scored_on_the_same_cutouts(data):
    cube, table = data
    other = pd.DataFrame({"index": table["index"], "score": table["score"] ** 2, "threshold": 0.25})
    record, _ = run(data, shipped=other.sample(frac=1, random_state=1))
    headline, shipped = record["headline"], record["shipped"]
    squared = run((cube, table.assign(score=table["score"] ** 2)))[0]["headline"]
    assert shipped["auc"] == squared["auc"] and shipped["n_true"] == headline["n_true"]
    test = table[table["set"] == "test"]
    ours, theirs = (
        rates(**confusion(test["label"], test["score"], value))["mcc"] for value in (headline["threshold"], 0.5)
    )
    assert headline["shipped_mcc"] == shipped["mcc"] == pytest.approx(theirs)
    assert headline["shipped_gain"] == pytest.approx(ours - theirs)
    assert headline["shipped_gain_low"] <= headline["shipped_gain"] <= headline["shipped_gain_high"]
    without = run(data)[0]
    assert without["shipped"] == {} and np.isnan(without["headline"]["shipped_mcc"])
    assert without["headline"]["mcc_low"] == headline["mcc_low"]  # the draws before do not change
    assert run(data, shipped=other[:0])[0]["shipped"] == {}
    with pytest.raises(CubeError, match="belong to another cube: run the step `shipped` again"):
        run(data, shipped=other[:50])


def test_purity_without_an_accepted_false_is_not_known(data):
    cube, table = data
    kept = (table["set"] != "test") | (table["image"] == table.loc[table["set"] == "test", "image"].iloc[0])
    perfect = table[kept].assign(score=np.where(table.loc[kept, "label"] == 1, 0.9, 0.1))
    record, _ = run((cube, perfect))
    purity = record["purity"]["1 % real"]
    assert record["interval"] == "counts" and record["headline"]["fpr"] == 0
    assert np.isnan(purity["value"]) and 0 < purity["low"] < 0.5 and purity["high"] == 1
    open_ = run(data)[0]["purity"]["1 % real"]
    assert open_["low"] < open_["value"] < open_["high"] < 1


def test_a_cube_without_properties_is_evaluated_all_the_same(data):
    cube, table = data
    bare = {"cube": cube["cube"], "labels": cube["labels"]}
    record, curves = run((bare, table))
    assert np.isnan(record["baseline"]["mcc"]) and record["headline"]["mcc"] > 0.5
    assert all(rows == [] for rows in record["bins"].values())
    assert set(curves.loc[curves["curve"] == "roc", "bin"]) == {""}


def test_one_class_in_validation_is_one_sentence(data):
    cube, table = data
    one = table[(table["set"] != "validation") | (table["label"] == 1)]
    with pytest.raises(CubeError, match="no threshold can be set from .* True and 0 False"):
        run((cube, one))


def test_curves_hold_what_the_record_says(data):
    record, curves = run(data)
    assert list(curves.columns) == list(CURVE_COLUMNS)
    roc = curves[(curves["curve"] == "roc") & (curves["bin"] == "")]
    assert np.trapezoid(roc["y"], roc["x"]) == pytest.approx(record["headline"]["auc"])
    assert curves.loc[curves["curve"] == "roc", "bin"].nunique() == 5
    mcc = curves[curves["curve"] == "mcc"]
    near = mcc.iloc[(mcc["x"] - record["headline"]["threshold"]).abs().argsort()[:1]]
    assert near["y"].item() == pytest.approx(record["headline"]["mcc"], abs=0.02)
    assert len(curves) < 5000


def test_the_bootstrap_is_seeded(data):
    assert run(data, seed=4)[0]["headline"] == run(data, seed=4)[0]["headline"]
    assert run(data, seed=4)[0]["headline"]["mcc_low"] != run(data, seed=5)[0]["headline"]["mcc_low"]


def _real_stars(cube):
    """The True of a cube once more, as if they were real stars."""
    true = cube["labels"] == 1
    part = {key: value[true] if np.shape(value)[:1] == true.shape else value for key, value in cube.items()}
    return part | {"kinds": np.full(true.sum(), "removed")}


@pytest.mark.xdist_group("tensorflow")
def test_train_evaluate_and_explain_scripts(tmp_path):
    """From a cube on disk to scores, metrics, curves and Grad-CAM, with a channel order of their own."""
    from otrain_core.figures.galleries import draw_grad_cam
    from otrain_core.networks.architecture import load_model
    from otrain_core.networks.explain import explain_files
    from otrain_core.networks.predict import score_cube, score_real_stars
    from otrain_core.networks.train import train_files
    from otrain_core.plan.config import Experiment, ExplainOptions

    path = {name: tmp_path / name for name in ("cube.npz", "cube.json", "split.csv", "model.keras", "train.json")}
    cube = make_cube(240, size=20)
    write_arrays(path["cube.npz"], cube)
    write_json(tmp_path / "split.json", {"sky": "positions"})
    write_json(path["cube.json"], {"n_false": 120, "n_labelled_false": 240})
    write_arrays(tmp_path / "real_stars.npz", _real_stars(cube))
    write_table(path["split.csv"], make_split(cube)[lambda split: split["index"] > 3])
    experiment = Experiment(epochs=3, size=15, batch_size=32, inputs=["mask", "difference"])
    train_files(
        cube=path["cube.npz"],
        split=path["split.csv"],
        model=path["model.keras"],
        history=tmp_path / "history.csv",
        record=path["train.json"],
        experiment=experiment,
        seed=1,
        protocol="by-image",
    )
    record = read_json(path["train.json"])
    assert record["options"]["inputs"] == ["mask", "difference"] and len(record["cube_digest"]) == 64
    assert record["train_seconds"] > 0 and "versions" in record
    assert sorted(p.name for p in tmp_path.iterdir() if "checkpoint" in p.name) == []

    evaluate.evaluate_files(
        cube=path["cube.npz"],
        cube_record=path["cube.json"],
        real_stars=tmp_path / "real_stars.npz",
        split=path["split.csv"],
        split_record=tmp_path / "split.json",
        model=path["model.keras"],
        train_record=path["train.json"],
        scores=tmp_path / "scores.csv",
        metrics=tmp_path / "metrics.json",
        curves=tmp_path / "curves.csv",
        load_model=load_model,
        score_cube=score_cube,
        score_real_stars=score_real_stars,
        options=EvaluateOptions(bootstrap=100),
        threshold_rule="gmean",
        seed=1,
        protocol="by-image",
        experiment_name="tiny",
    )
    scores, result = read_table(tmp_path / "scores.csv"), read_json(tmp_path / "metrics.json")
    assert list(scores.columns) == ["index", "candid", "image", "label", "sign", "score", "set"]
    assert scores["set"].iloc[:4].tolist() == ["unused"] * 4 and len(scores) == 240
    assert result["experiment"] == "tiny" and result["headline"]["train_seconds"] == record["train_seconds"]
    assert result["data"]["kept_false"] == 0.5
    test_images = set(scores.loc[scores["set"] == "test", "image"])
    injected = np.isin(cube["images"], list(test_images)) & (cube["labels"] == 1) & np.isfinite(cube["mags"])
    assert result["headline"]["n_real"] == result["reality"]["n_real"] == injected.sum() > 0
    # The same cutouts on both sides, but for the few that no set has: hardly a gap.
    assert result["headline"]["reality_gap"] == pytest.approx(0, abs=0.05)

    for output in ("logit", "softmax"):
        explain_files(
            model=path["model.keras"],
            cube=path["cube.npz"],
            scores=tmp_path / "scores.csv",
            metrics=tmp_path / "metrics.json",
            gradcam=tmp_path / f"{output}.npz",
            figure=tmp_path / f"{output}.png",
            draw=draw_grad_cam,
            options=ExplainOptions(output=output, n_cutouts=3),
            seed=1,
        )
        assert (tmp_path / f"{output}.png").stat().st_size > 10_000
