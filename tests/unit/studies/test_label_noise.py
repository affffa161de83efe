import inspect

import numpy as np
import pandas as pd
import pytest

from otrain_core.arrays import write_arrays
from otrain_core.cubes.inputs import select_inputs
from otrain_core.errors import CubeError
from otrain_core.io import read_json, read_table, write_table
from otrain_core.networks import train
from otrain_core.plan.config import Experiment, LabelNoiseOptions
from otrain_core.studies import label_noise
from tests.unit.synthetic_cube import make_cube, make_split

SMALL = Experiment(inputs=["difference"], size=17)


@pytest.fixture
def linear(monkeypatch):
    """A fast stand-in for the network: the brightest pixels against each other, weighed by scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    seen = []

    def features(cutouts):
        middle = np.nan_to_num(cutouts[:, 5:12, 5:12, 0]).reshape(len(cutouts), -1)
        ordered = np.sort(middle / np.abs(middle).max(axis=1)[:, None], axis=1)[:, [0, 24, -12, -8, -5, -3, -2]]
        return np.concatenate([ordered, ordered**2], axis=1)

    def stand_in(cube, split, **options):
        inspect.signature(train.train_model).bind(cube, split, **options)
        rows = {
            name: split.loc[split["set"] == name, "index"].to_numpy(int) for name in ("train", "validation", "test")
        }
        assert rows["train"].size and rows["validation"].size
        seen.append(rows)
        cutouts = select_inputs(cube, inputs=["difference"], size=options["experiment"].size)
        model = LogisticRegression(C=10, max_iter=300).fit(
            features(cutouts[rows["train"]]), cube["labels"][rows["train"]]
        )
        return model, None, {}

    def score_rows(model, cube, rows):
        return model.predict_proba(features(select_inputs(cube, inputs=["difference"], size=17, rows=rows)))[:, 1]

    monkeypatch.setattr(label_noise, "train_model", stand_in)
    monkeypatch.setattr(label_noise, "score_rows", score_rows)
    return seen


@pytest.fixture(scope="module")
def data():
    cube = make_cube(800, size=17)
    return cube, make_split(cube)


def test_folds_keep_images_together_and_leave_test_alone(data):
    _, split = data
    fold = label_noise.deal_folds(split, folds=4, rng=np.random.default_rng(0))
    used = split["set"] != "test"
    assert np.array_equal(fold >= 0, used)
    assert split[used].groupby("image").apply(lambda part: fold[part.index].min() == fold[part.index].max()).all()
    sizes = np.bincount(fold[used])
    assert sizes.size == 4 and sizes.min() > 0.15 * used.sum()
    again = label_noise.deal_folds(split, folds=4, rng=np.random.default_rng(0))
    assert np.array_equal(fold, again)
    with pytest.raises(CubeError, match="40 folds by image need 40 images in train and validation, not 15"):
        label_noise.deal_folds(split, folds=40, rng=np.random.default_rng(0))


def test_images_of_one_field_stay_together_where_there_are_fields_enough(data):
    _, split = data
    number = split["image"].str[1:].astype(int)
    paired = split.assign(field="f" + (number // 2).astype(str), set="train")
    fold = label_noise.deal_folds(paired, folds=4, rng=np.random.default_rng(0))
    assert all(len(set(fold[part.index])) == 1 for _, part in paired.groupby("field"))
    one = split.assign(field="f")
    assert len(set(label_noise.deal_folds(one, folds=4, rng=np.random.default_rng(0)))) == 5


def test_scores_come_from_networks_that_saw_none_of_the_image(data, linear):
    cube, split = data
    scores = label_noise.out_of_fold_scores(
        cube, split, rng=np.random.default_rng(0), seed=1, folds=4, experiment=SMALL
    )
    images = np.asarray(cube["images"])
    assert len(linear) == 4
    for number, rows in enumerate(linear):
        scored = set(scores.loc[scores["fold"] == number, "image"])
        learned = {name: set(images[index]) for name, index in rows.items()}
        assert not scored & (learned["train"] | learned["validation"]), "an image was scored by a network that saw it"
        assert not learned["train"] & learned["validation"]
        assert set(split.loc[split["set"] == "test", "image"]).isdisjoint(learned["train"] | learned["validation"])
    assert set(scores["set"]) == {"train", "validation"} and scores["score"].between(0, 1).all()
    assert np.array_equal(scores["label"], cube["labels"][scores["index"]])
    # Validation may be one image, all of it in one fold: the next fold then watches.
    lone = split.assign(set=split["set"].where(split["set"] != "validation", "train"))
    lone.loc[lone["image"] == lone["image"].iloc[0], "set"] = "validation"
    label_noise.out_of_fold_scores(cube, lone, rng=np.random.default_rng(0), seed=1, folds=4, experiment=SMALL)


def test_suspects_and_their_gallery(data):
    cube, split = data
    table = split[split["set"] != "test"]
    rng = np.random.default_rng(0)
    wrong = table["index"].to_numpy()[[5, 60, 100, 101, 102, 103]]
    score = np.where(cube["labels"] == 1, 0.9, 0.1) + rng.uniform(-0.05, 0.05, 800)
    score[wrong] = np.where(cube["labels"][wrong] == 1, 0.03, 0.97)
    scores = table[["index", "candid", "image", "label", "set"]].assign(fold=0, score=score[table["index"]])
    suspects, record = label_noise.find_suspects({**cube, "ra": np.arange(800.0)}, scores)
    assert set(suspects["index"].head(6)) == set(wrong) and suspects["rank"].tolist() == list(range(1, len(table) + 1))
    assert np.array_equal(suspects["ra"], suspects["index"]), "columns of the cube went to other rows"
    assert np.array_equal(suspects["label"], cube["labels"][suspects["index"]])
    assert record["n_suspected"] == suspects["suspected"].sum() == 6
    gallery, channels = label_noise.suspect_gallery(cube, suspects, n=3)
    assert channels == ["difference", "science", "reference"]
    for name, value in (("labelled False", 0), ("labelled True", 1)):
        first = gallery.rows[name][0]
        assert cube["labels"][first] == value and gallery.panels[name].shape == (9, 17, 17)
        assert np.array_equal(gallery.panels[name][1], cube["cube"][first][..., 1], equal_nan=True)
    assert gallery.captions["labelled False"][1] == "science"
    assert gallery.plot(columns=3).figure_ is not None
    plain = {**cube, "cube": cube["cube"][..., 2:3], "channels": np.array(["reference"])}
    assert label_noise.suspect_gallery(plain, suspects)[1] == ["reference"]


def test_a_trial_measures_flips_on_labels_that_training_never_saw(data, linear):
    cube, split = data
    before = cube["labels"].copy()
    options = LabelNoiseOptions(flip_fraction=0.1)
    trial = label_noise.flip_trial(cube, split, rng=np.random.default_rng(0), options=options, experiment=SMALL, seed=1)
    assert np.array_equal(cube["labels"], before), "the labels of the cube were changed"
    assert len(linear) == 7
    n_used = (split["set"] != "test").sum()
    assert trial["found"]["n_flipped"] == pytest.approx(0.1 * n_used, abs=1)
    assert trial["found"]["recall_at_precision_80"] > 0.4
    assert trial["mcc_clean"] > 0.6 and trial["mcc_loss"] == trial["mcc_clean"] - trial["mcc_flipped"]
    cleaned = np.concatenate([linear[6][name] for name in ("train", "validation")])
    assert len(cleaned) == n_used - trial["noise"]["n_suspected"]
    assert np.array_equal(linear[6]["test"], linear[4]["test"])


def test_files_of_the_suspects(data, linear, tmp_path):
    cube, split = data
    write_arrays(tmp_path / "cube.npz", cube)
    write_table(tmp_path / "split.csv", split)
    names = {"suspects": "suspects.csv", "figure": "suspects.png", "record": "label_noise.json"}
    files = {key: tmp_path / name for key, name in names.items()}
    label_noise.label_noise_files(
        cube=tmp_path / "cube.npz",
        split=tmp_path / "split.csv",
        **files,
        experiment=SMALL,
        options=LabelNoiseOptions(n_cutouts=4, flip_fraction=0.1),
        seed=1,
    )
    table, record = read_table(files["suspects"]), read_json(files["record"])
    assert isinstance(table, pd.DataFrame) and len(table) == record["n"] == (split["set"] != "test").sum()
    assert {"rank", "candid", "image", "label", "score", "p_wrong", "suspected"} <= set(table)
    assert record["trial"]["fraction"] == 0.1 and record["telescope"] == "tiny"
    assert files["figure"].stat().st_size > 10_000
