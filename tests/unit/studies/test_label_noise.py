import inspect

import numpy as np
import pandas as pd
import pytest

from otrain_core.errors import CubeError
from otrain_core.networks import train
from otrain_core.plan.config import Experiment
from otrain_core.studies import label_flips, label_noise
from tests.unit.synthetic_cube import make_cube, make_split


def noisy_scores(n=4000, seed=0, *, strength=4.0, shift=0.0):
    """True labels, the same with a tenth flipped, what was flipped, scores of a network that knows the truth."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 2)
    score = 0.9 / (1 + np.exp(-rng.normal(strength * (2 * labels - 1) + shift, 2))) + 0.05
    return labels, *label_flips.flip_labels(labels, rng, 0.1), score


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
        rows = {name: split.loc[split["set"] == name, "index"].to_numpy(int) for name in ("train", "tune", "test")}
        assert rows["train"].size and rows["tune"].size
        seen.append(rows)
        cutouts = train.select_inputs(cube, inputs=["difference"], size=options.get("size"))
        model = LogisticRegression(C=10, max_iter=300).fit(
            features(cutouts[rows["train"]]), cube["labels"][rows["train"]]
        )
        return model, None, {}

    for module in (label_noise, label_flips):
        monkeypatch.setattr(module, "train_model", stand_in)
    monkeypatch.setattr(
        label_noise,
        "score_cutouts",
        lambda model, blocks: np.concatenate([model.predict_proba(features(block))[:, 1] for block in blocks]),
    )
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
    with pytest.raises(CubeError, match="40 folds by image need 40 images in train and tune, not 15"):
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
    scores = label_noise.out_of_fold_scores(cube, split, rng=np.random.default_rng(0), seed=1, folds=4, size=17)
    images = np.asarray(cube["images"])
    assert len(linear) == 4
    for number, rows in enumerate(linear):
        scored = set(scores.loc[scores["fold"] == number, "image"])
        learned = {name: set(images[index]) for name, index in rows.items()}
        assert not scored & (learned["train"] | learned["tune"]), "an image was scored by a network that saw it"
        assert not learned["train"] & learned["tune"]
        assert set(split.loc[split["set"] == "test", "image"]).isdisjoint(learned["train"] | learned["tune"])
    assert set(scores["set"]) == {"train", "tune"} and scores["score"].between(0, 1).all()
    assert np.array_equal(scores["label"], cube["labels"][scores["index"]])
    # Tune may be one image, all of it in one fold: the next fold then watches.
    lone = split.assign(set=split["set"].where(split["set"] != "tune", "train"))
    lone.loc[lone["image"] == lone["image"].iloc[0], "set"] = "tune"
    label_noise.out_of_fold_scores(cube, lone, rng=np.random.default_rng(0), seed=1, folds=4, size=17)


def test_the_confident_joint_is_that_of_confident_learning():
    """Counted by hand: bars are the class means 0.7 (False) and 0.6 (True)."""
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    scores = np.array([0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.5, 0.1])
    # Given False: three sure False, one sure True. Given True: two sure True, one sure of nothing, one sure False.
    expected = np.array([[3.0, 1.0], [4 / 3, 8 / 3]])
    assert label_noise.confident_joint(labels, scores) == pytest.approx(expected)
    with pytest.raises(CubeError, match="one class alone"):
        label_noise.confident_joint([1, 1], [0.2, 0.9])


def test_the_probability_of_a_wrong_label_can_be_taken_at_its_word():
    labels, given, flipped, score = noisy_scores()
    p_wrong, noise = label_noise.probability_wrong(given, score)
    assert ((p_wrong >= 0) & (p_wrong <= 1)).all()
    for low, high in ((0, 0.1), (0.1, 0.6), (0.6, 1.01)):
        inside = (p_wrong >= low) & (p_wrong < high)
        assert flipped[inside].mean() == pytest.approx(p_wrong[inside].mean(), abs=0.15)
    # The network's own errors count as noise: upper limits, not far off.
    assert 0.09 < noise["false_called_true"] < 0.15 and 0.09 < noise["true_called_false"] < 0.15
    assert flipped[p_wrong > 0.5].mean() > 0.85


@pytest.mark.parametrize("ranking", label_noise.RANKINGS)
def test_every_ranking_finds_flips(ranking):
    _, given, flipped, score = noisy_scores()
    found = label_flips.measure_flips(flipped, label_noise.label_quality(given, score, ranking=ranking))
    assert found["recall_at_precision_80"] > 0.85 and found["average_precision"] > 0.9
    with pytest.raises(ValueError, match="ranking must be one of"):
        label_noise.label_quality(given, score, ranking="loss")


def test_the_margin_allows_for_a_network_that_prefers_a_class():
    _, given, flipped, score = noisy_scores(strength=2.5, shift=1.5)
    recall = {
        ranking: label_flips.measure_flips(flipped, label_noise.label_quality(given, score, ranking=ranking))[
            "recall_at_precision_80"
        ]
        for ranking in label_noise.RANKINGS
    }
    assert recall["margin"] > recall["self-confidence"] + 0.1


def test_flips_are_a_share_of_each_class():
    labels = np.r_[np.zeros(300), np.ones(100)].astype(np.uint8)
    given, flipped = label_flips.flip_labels(labels, np.random.default_rng(0), 0.1)
    assert flipped[:300].sum() == 30 and flipped[300:].sum() == 10 and given.dtype == np.uint8
    assert np.array_equal(given != labels, flipped) and labels.sum() == 100
    assert not label_flips.flip_labels(labels, np.random.default_rng(0), 0)[1].any()
    with pytest.raises(ValueError, match="below 0.5"):
        label_flips.flip_labels(labels, np.random.default_rng(0), 0.5)


def test_flips_found_counted_by_hand():
    flipped = np.array([1, 1, 1, 0, 1, 0, 0, 0, 1, 0], dtype=bool)  # most suspect first
    found = label_flips.measure_flips(flipped, np.arange(10.0), np.arange(10) < 4)
    assert found["recall_at_precision_80"] == 0.8  # five names, four flips
    assert (found["n_suspected"], found["precision"], found["recall"]) == (4, 0.75, 0.6)
    assert found["average_precision"] == pytest.approx((1 + 1 + 1 + 4 / 5 + 5 / 9) / 5)
    tied = label_flips.measure_flips(flipped, np.zeros(10))
    assert tied["recall_at_precision_80"] == 0, "a cut cannot part equal values"
    none = label_flips.measure_flips(np.zeros(4, bool), np.arange(4), np.zeros(4, bool))
    assert np.isnan(none["recall"]) and none["recall_at_precision_80"] == 0


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
    gallery = label_noise.suspect_gallery(cube, suspects, n=3)
    assert gallery.channels == ["difference", "science", "reference"]
    for name, value in (("labelled False", 0), ("labelled True", 1)):
        first = gallery.rows[name][0]
        assert cube["labels"][first] == value and gallery.panels[name].shape == (9, 17, 17)
        assert np.array_equal(gallery.panels[name][1], cube["cube"][first][..., 1], equal_nan=True)
    assert gallery.captions["labelled False"][1] == "science"
    assert gallery.plot(columns=3).figure_ is not None
    plain = {**cube, "cube": cube["cube"][..., 2:3], "channels": np.array(["reference"])}
    assert label_noise.suspect_gallery(plain, suspects).channels == ["reference"]


def test_a_trial_measures_flips_on_labels_that_training_never_saw(data, linear):
    cube, split = data
    before = cube["labels"].copy()
    trial = label_flips.flip_trial(cube, split, rng=np.random.default_rng(0), seed=1, size=17, folds=4)
    assert np.array_equal(cube["labels"], before), "the labels of the cube were changed"
    assert len(linear) == 7
    n_used = (split["set"] != "test").sum()
    assert trial["found"]["margin"]["n_flipped"] == pytest.approx(0.1 * n_used, abs=1)
    assert trial["found"]["margin"]["recall_at_precision_80"] > 0.4
    assert trial["mcc_clean"] > 0.6 and trial["mcc_loss"] == trial["mcc_clean"] - trial["mcc_flipped"]
    cleaned = np.concatenate([linear[6][name] for name in ("train", "tune")])
    assert len(cleaned) == n_used - trial["noise"]["n_suspected"]
    assert np.array_equal(linear[6]["test"], linear[4]["test"])


def test_the_script_writes_what_the_rule_promises(data, linear, tmp_path):
    from otrain_core.arrays import write_arrays
    from otrain_core.io import read_json, read_table, write_table
    from scripts.studies import label_noise as script

    cube, split = data
    write_arrays(tmp_path / "cube.npz", cube)
    write_table(tmp_path / "split.csv", split)
    names = {"suspects": "suspects.csv", "figure": "suspects.png", "record": "label_noise.json"}
    files = {key: tmp_path / name for key, name in names.items()}
    script.main(
        cube=tmp_path / "cube.npz",
        split=tmp_path / "split.csv",
        **files,
        experiment=Experiment(size=17).model_dump(),
        options={"folds": 4, "ranking": "margin", "n_cutouts": 4, "flip_fraction": 0.1},
        seed=1,
    )
    table, record = read_table(files["suspects"]), read_json(files["record"])
    assert isinstance(table, pd.DataFrame) and len(table) == record["n"] == (split["set"] != "test").sum()
    assert {"rank", "candid", "image", "label", "score", "p_wrong", "suspected"} <= set(table)
    assert record["trial"]["fraction"] == 0.1 and record["telescope"] == "tiny"
    assert files["figure"].stat().st_size > 10_000
