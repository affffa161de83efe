import json
import signal
import subprocess
import sys
import tempfile
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

from otrain_core.arrays import write_arrays
from otrain_core.classify import shipped as shipped_module
from otrain_core.cubes.inputs import select_inputs
from otrain_core.errors import ConfigError, CubeError, OtrainError
from otrain_core.evaluation.metrics import cross_entropy
from otrain_core.io import digest, read_json, read_table, write_table
from otrain_core.networks import architecture, loop, predict, train
from otrain_core.networks.checkpoint import Checkpoint
from otrain_core.plan.config import Experiment, FinetuneOptions
from tests.unit.synthetic_cube import make_cube, make_split
from tests.unit.tiny_onnx import write_tiny

pytestmark = pytest.mark.xdist_group("tensorflow")

TINY = {"epochs": 3, "batch_size": 32, "size": 15}


@pytest.fixture(scope="module")
def data():
    cube = make_cube(240, size=20)
    return cube, make_split(cube)


def fit(cube, split, *, seed, protocol="by-image", checkpoint=None, identity=(), **options):
    """Train with options of an experiment, on the difference unless they name other inputs."""
    return train.train_model(
        cube,
        split,
        experiment=Experiment.model_validate({"inputs": ["difference"], **options}),
        seed=seed,
        protocol=protocol,
        checkpoint=checkpoint,
        identity=identity,
    )


def scores_of(model, cube, size=15):
    return predict.score_cutouts(model, select_inputs(cube, inputs=["difference"], size=size))


def kill_in_second_epoch(monkeypatch, cube, split, *, checkpoint, options):
    """Start a training that is interrupted after its second epoch is saved."""
    write = loop.Loop._save

    def killed(self, epoch):
        write(self, epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop.Loop, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(cube, split, checkpoint=checkpoint, **options)


@pytest.mark.parametrize(("side", "size"), [(32, 15), (32, 24), (63, 32), (15, 15), (20, 11)])
def test_a_crop_keeps_the_candidate_at_its_pixel(side, size):
    stack = np.zeros((1, side, side, 2), np.float32)
    stack[0, side // 2, side // 2] = (1, 2)
    cube = {"cube": stack, "channels": np.array(["difference", "mask"])}
    got = select_inputs(cube, inputs=["mask"], size=size)
    assert got.shape == (1, size, size, 1) and got[0, size // 2, size // 2, 0] == 2


def test_wrong_inputs_are_refused(data):
    with pytest.raises(CubeError, match="channel 'template' is not in the cube .it has difference, science"):
        select_inputs(data[0], inputs=["template"], size=None)
    with pytest.raises(CubeError, match="33 px are needed, but those of the cube have 20"):
        select_inputs(data[0], inputs=["difference"], size=33)


def test_training_learns_and_repeats_itself(data):
    cube, split = data
    options = {"seed": 3, "epochs": 6, "batch_size": 16, "size": 15, "label_smoothing": 0.2}
    model, history, record = fit(cube, split, **options)
    assert list(history.columns) == list(loop.HISTORY)
    assert history["epoch"].tolist() == list(range(1, len(history) + 1))
    assert history["validation_loss"].iloc[-1] < history["validation_loss"].iloc[0]
    assert history["learning_rate"].iloc[0] == pytest.approx(1e-3)
    assert history["learning_rate"].iloc[-1] < 3e-4  # cosine
    assert record["kept_epoch"] == record["best_epoch"] == history["validation_loss"].idxmin() + 1
    assert record["n_train"] == (split["set"] == "train").sum()
    assert record["n_parameters"] == model.count_params()
    assert record["got_worse"] is False
    assert record["cutouts_per_second"] > 0 and "CPU" in record["device"]
    json.dumps(record)

    first = scores_of(model, cube)
    # The model that is returned is the epoch that was kept: its loss on validation is the lowest.
    validation = split.loc[split["set"] == "validation", "index"].to_numpy()
    p = np.where(cube["labels"][validation] == 1, first[validation], 1 - first[validation])
    loss = -0.9 * np.log(p) - 0.1 * np.log(1 - p)
    assert loss.mean() == pytest.approx(history["validation_loss"].min(), rel=1e-3)

    again, history_again, _ = fit(cube, split, **options)
    assert np.array_equal(scores_of(again, cube), first)
    drop = ["seconds"]
    pd.testing.assert_frame_equal(history.drop(columns=drop), history_again.drop(columns=drop))
    short = options | {"seed": 4, "epochs": 1}
    other, _, _ = fit(cube, split, **short)
    assert not np.array_equal(scores_of(other, cube), first)


@pytest.mark.parametrize("augment", [True, False])
def test_cutouts_read_from_a_file_give_the_same_weights(data, tmp_path, monkeypatch, augment):
    """Cutouts that do not fit in memory are read batch by batch, also when a training is resumed."""
    cube, split = data
    options = {"seed": 4, **TINY, "augment": augment, "inputs": ["difference", "mask"]}
    model, history, _ = fit(cube, split, **options)
    monkeypatch.setattr(train, "IN_MEMORY", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    with pytest.raises(FileNotFoundError):  # it is that folder which is written to
        fit(cube, split, **options)
    (tmp_path / "scratch").mkdir()
    kill_in_second_epoch(monkeypatch, cube, split, checkpoint=tmp_path / "checkpoint", options=options)
    again, history_again, record = fit(cube, split, checkpoint=tmp_path / "checkpoint", **options)
    assert record["resumed_at_epoch"] == 3
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), history_again.drop(columns="seconds"))
    assert all(map(np.array_equal, model.get_weights(), again.get_weights()))
    assert not list((tmp_path / "scratch").iterdir())


def test_test_and_unused_cutouts_do_not_touch_the_training(data):
    cube, split = data
    changed = {**cube, "cube": cube["cube"].copy(), "labels": cube["labels"].copy()}
    outside = split.loc[split["set"] == "test", "index"].to_numpy()
    changed["cube"][outside] = 1e6
    changed["labels"][outside] = 1 - changed["labels"][outside]
    histories = [fit(one, split, seed=1, **TINY)[1].drop(columns="seconds") for one in (cube, changed)]
    pd.testing.assert_frame_equal(*histories)


def test_the_paper_protocol_watches_the_test_set(data):
    cube, split = data
    paper = split.assign(set=split["set"].replace("validation", "train"))
    with pytest.raises(CubeError, match="set validation is empty"):
        fit(cube, paper, seed=1, **TINY)
    options = {"network": "paper", "normalise": "none", "augment": False, "schedule": "constant", "keep": "last"}
    _, history, record = fit(
        cube, paper, seed=1, protocol="random", epochs=2, batch_size=64, patience=0, class_weights=False, **options
    )
    assert record["validation_set"] == "test" and record["kept_epoch"] == 2
    assert history["learning_rate"].nunique() == 1


def test_a_smaller_training_set_is_drawn_and_ends_at_all_there_is(data, caplog):
    cube, split = data
    there = int((split["set"] == "train").sum())
    for asked, used in ((there // 2, there // 2), (there + 1, there)):
        assert fit(cube, split, seed=1, n_train=asked, **TINY)[2]["n_train"] == used
    assert (
        f"n_train: {there + 1} cutouts are requested, but the training set has only {there}: all are used"
        in caplog.text
    )


def test_patience_stops(data):
    cube, split = data
    _, history, record = fit(cube, split, seed=1, learning_rate=0.5, patience=2, epochs=30, size=15)
    assert len(history) < 30
    assert len(history) == record["best_epoch"] + 2


def test_an_interrupted_training_ends_as_it_would_have(data, tmp_path, monkeypatch):
    cube, split = data
    options = {"seed": 3, "network": "paper", **TINY, "epochs": 4}
    whole, history, _ = fit(cube, split, **options)
    save = loop.Loop._save

    def killed(self, epoch):
        save(self, epoch)
        if epoch == 2:
            (tmp_path / "checkpoint" / ".epoch3.half.npz").write_bytes(b"half")
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Loop, "_save", killed)
        fit(cube, split, checkpoint=tmp_path / "checkpoint", **options)
    resumed, resumed_history, record = fit(cube, split, checkpoint=tmp_path / "checkpoint", **options)
    assert record["resumed_at_epoch"] == 3
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), resumed_history.drop(columns="seconds"))
    assert np.array_equal(scores_of(resumed, cube), scores_of(whole, cube))
    assert not (tmp_path / "checkpoint").exists()


DIES = """
import json, os, signal, sys
import keras
from tests.unit.networks.test_train import fit as train
from tests.unit.synthetic_cube import make_cube, make_split

class Dies(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            os.kill(os.getpid(), signal.SIGKILL)

fit, epochs = keras.Model.fit, []

def fit_until_the_third_epoch(self, *args, **options):
    epochs.append(1)
    return fit(self, *args, **options | {"callbacks": [Dies()] if len(epochs) == 3 else None})

keras.Model.fit = fit_until_the_third_epoch
cube = make_cube(240, size=20)
train(cube, make_split(cube), checkpoint=sys.argv[1], **json.loads(sys.argv[2]))
"""


def test_a_killed_training_ends_as_it_would_have(data, tmp_path, root):
    """Killed in the middle of an epoch, with dropout, batch normalisation, cosine schedule and keep: best."""
    cube, split = data
    options, folder = {"seed": 3, **TINY, "epochs": 4}, tmp_path / "checkpoint"
    killed = subprocess.run(
        [sys.executable, "-c", DIES, str(folder), json.dumps(options)], cwd=root, capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert len(json.loads((folder / "state.json").read_text())["history"]) == 2
    resumed, resumed_history, record = fit(cube, split, checkpoint=folder, **options)
    whole, history, _ = fit(cube, split, **options)
    assert record["resumed_at_epoch"] == 3 and not folder.exists()
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), resumed_history.drop(columns="seconds"))
    assert all(map(np.array_equal, resumed.get_weights(), whole.get_weights()))


@pytest.mark.parametrize("change", [{"learning_rate": 2e-3}, {"identity": ["same pixels", "other code"]}], ids=str)
def test_a_checkpoint_of_another_training_is_ignored(data, tmp_path, monkeypatch, change):
    cube, split = data
    folder = tmp_path / "checkpoint"
    options = {"seed": 1, "identity": ["same pixels", "this code"], **TINY, "epochs": 2}
    save = loop.Loop._save

    def killed(self, epoch):
        save(self, epoch)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Loop, "_save", killed)
        fit(cube, split, checkpoint=folder, **options)
    assert (folder / "state.json").exists()
    _, history, record = fit(cube, split, checkpoint=folder, **options | change)
    assert record["resumed_at_epoch"] == 0 and len(history) == 2 and not folder.exists()


def write_inputs(folder, cube, split):
    """Write a cube and its split; the files of a training of them, by keyword of `train_files`."""
    write_arrays(folder / "cube.npz", cube)
    write_table(folder / "split.csv", split)
    names = {
        "cube": "cube.npz",
        "split": "split.csv",
        "model": "model.keras",
        "history": "history.csv",
        "record": "train.json",
    }
    return {key: folder / name for key, name in names.items()}


def test_files_of_a_training(data, tmp_path, monkeypatch):
    """A killed training is resumed from its checkpoint, unless the training code has changed."""
    cube, split = data
    files = write_inputs(tmp_path, cube, split)
    experiment = Experiment(inputs=["difference"], **TINY)
    save = loop.Loop._save

    def killed(self, epoch):
        save(self, epoch)
        raise KeyboardInterrupt

    def train_files(code):
        train.train_files(**files, experiment=experiment, seed=1, code=code)
        return read_json(files["record"])

    for code, epoch in (("a", 2), ("b", 0)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(loop.Loop, "_save", killed)
            train_files("a")
        assert (tmp_path / "model.checkpoint/state.json").exists()
        record = train_files(code)
        assert record["resumed_at_epoch"] == epoch and record["epochs"] == TINY["epochs"]
    assert record["cube_digest"] == digest(files["cube"]) and record["split_digest"] == digest(files["split"])
    assert "versions" in record and "mlflow_run" not in record
    assert len(read_table(files["history"])) == 3
    model = architecture.load_model(files["model"])
    assert np.array_equal(scores_of(model, cube), scores_of(fit(cube, split, seed=1, **TINY)[0], cube))
    assert not (tmp_path / "model.checkpoint").exists()


def test_a_model_that_cannot_be_written_does_not_cost_the_training(data, tmp_path, monkeypatch):
    cube, split = data
    files = write_inputs(tmp_path, cube, split)
    experiment = Experiment(inputs=["difference"], **TINY)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
        patch.setattr(architecture, "save_model", Mock(side_effect=OSError("No space left on device")))
        train.train_files(**files, experiment=experiment, seed=1)
    monkeypatch.setattr(loop.Loop, "epoch", lambda self, epoch: pytest.fail("trained again"))
    train.train_files(**files, experiment=experiment, seed=1)
    assert read_table(files["history"])["epoch"].tolist() == [1, 2, 3]
    model = architecture.load_model(files["model"])
    monkeypatch.undo()
    assert np.array_equal(scores_of(model, cube), scores_of(fit(cube, split, seed=1, **TINY)[0], cube))
    assert not (tmp_path / "model.checkpoint").exists()


def test_the_files_of_a_training_are_read_once(data, tmp_path, monkeypatch):
    """The digest in the record is also used for the checkpoint."""
    cube, split = data
    write_arrays(tmp_path / "cube.npz", cube)
    write_table(tmp_path / "split.csv", split)
    hashed = []
    monkeypatch.setattr(train, "digest", lambda path: hashed.append(path) or "0")
    files = {name: tmp_path / name for name in ("model", "history", "record")}
    files["model"] = tmp_path / "model.keras"
    files["history"] = tmp_path / "history.csv"
    experiment = Experiment(inputs=["difference"], **TINY | {"epochs": 1})
    train.train_files(cube=tmp_path / "cube.npz", split=tmp_path / "split.csv", **files, experiment=experiment, seed=1)
    assert hashed == [tmp_path / "cube.npz", tmp_path / "split.csv"]


def test_two_trainings_on_one_checkpoint_are_refused(data, tmp_path):
    other = Checkpoint(tmp_path / "checkpoint", "of another run")
    with pytest.raises(ConfigError, match="checkpoint: another training writes its checkpoint here"):
        fit(*data, seed=1, checkpoint=tmp_path / "checkpoint", **TINY)
    other.release()


def test_a_network_reads_the_numbers_of_the_image(data, tmp_path):
    """The classes differ only in the seeing: flips do not change it, and a saved model still reads it."""
    cube, split = data
    rng = np.random.default_rng(0)
    seeing = np.where(cube["labels"] == 1, 5.0, 2.0)
    told = {**cube, "cube": rng.normal(size=cube["cube"].shape).astype(np.float32), "seeing": seeing}
    options = {"seed": 1, "inputs": ["seeing", "difference"], "epochs": 8, "batch_size": 16, "size": 15}
    model, _, record = fit(told, split, **options)
    architecture.save_model(model, tmp_path / "model.keras")
    loaded = architecture.load_model(tmp_path / "model.keras")
    scores = {}
    for name, column in (("right", seeing), ("swapped", 7 - seeing), ("unknown", seeing * np.nan)):
        inputs = select_inputs({**told, "seeing": column}, inputs=options["inputs"], size=15)
        scores[name] = predict.score_cutouts(loaded, inputs)
    test = (split["set"] == "test").to_numpy()
    assert np.mean((scores["right"] > 0.5) == (cube["labels"] == 1), where=test) > 0.95
    assert np.mean((scores["swapped"] > 0.5) == (cube["labels"] == 1), where=test) < 0.05
    assert np.isfinite(scores["unknown"]).all() and record["options"]["inputs"] == ["seeing", "difference"]


def test_lower_precision(data, tmp_path):
    cube, split, precision = *data, "mixed_bfloat16"
    options = {"seed": 1, "epochs": 2, "batch_size": 16, "size": 15, "precision": precision}
    model, history, record = fit(cube, split, **options)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] and record["options"]["precision"] == precision
    architecture.save_model(model, tmp_path / "model.keras")
    loaded, scores = architecture.load_model(tmp_path / "model.keras"), scores_of(model, cube)
    assert scores.dtype == np.float32 and np.array_equal(scores_of(loaded, cube), scores)
    assert all(weight.dtype == np.float32 for weight in loaded.get_weights())
    assert architecture.precision_of(loaded) == precision


def test_compilation_is_asked_for(data, monkeypatch):
    """Keras cannot compile deterministic operations; it logs this and continues without compilation."""
    from tensorflow.python.framework import config

    assert architecture.keras.backend.backend() == "tensorflow"
    enabled, compiled = config.is_op_determinism_enabled(), []
    options = TINY | {"epochs": 1}
    monkeypatch.setattr(loop.Loop, "got_worse", lambda self: compiled.append(self.model.jit_compile))
    try:
        for jit_compile in (True, "auto"):
            config.disable_op_determinism()
            fit(*data, seed=1, jit_compile=jit_compile, **options)
            compiled.append(config.is_op_determinism_enabled())
    finally:
        config.enable_op_determinism() if enabled else config.disable_op_determinism()
    assert compiled == [True, False, False, True]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda cube, split: cube["labels"].fill(1), "train has .* True and 0 False"),
        (lambda cube, split: split.drop(split.index[split["set"] == "train"], inplace=True), "0 True and 0 False"),
        (
            lambda cube, split: split.drop(split.index[split["set"] == "validation"], inplace=True),
            "set validation is empty",
        ),
        (lambda cube, split: split.__setitem__("index", split["index"] + 1000), "indices that are not in the cube"),
    ],
)
def test_bad_splits_are_refused(data, change, match):
    cube, split = {**data[0], "labels": data[0]["labels"].copy()}, data[1].copy()
    change(cube, split)
    with pytest.raises(CubeError, match=match):
        fit(cube, split, seed=1, **TINY)


def test_a_loss_that_is_not_a_number_stops_the_training(data):
    cube, split = data
    huge = {**cube, "cube": cube["cube"] * np.float32(1e30)}
    with pytest.raises(CubeError, match="loss became .* in epoch 1: lower learning_rate"):
        fit(huge, split, seed=1, network="paper", normalise="none", augment=False, **TINY)


def test_a_missing_gpu_is_told(data):
    with pytest.raises(ConfigError, match="require_gpu: true, but no GPU is available"):
        fit(*data, seed=1, require_gpu=True, **TINY)


@pytest.mark.parametrize(
    ("n", "min_batches", "expected"), [(6000, 32, 128), (2000, 32, 48), (500, 32, 16), (20, 32, 16), (500, 1, 128)]
)
def test_few_cutouts_are_dealt_in_small_batches(n, min_batches, expected):
    assert train._fewer(128, n, min_batches) == expected


def test_too_few_cutouts_are_refused_before_any_training(data, tmp_path):
    """Four of each class in train, and no False in validation: the message gives the missing numbers."""
    cube, split = data
    kept = [split.index[(split["set"] == "train") & (split["label"] == label)][:4] for label in (0, 1)]
    kept.append(split.index[(split["set"] == "validation") & (split["label"] == 1)])
    write_arrays(tmp_path / "cube.npz", cube)
    write_table(tmp_path / "split.csv", split.loc[np.concatenate(kept)])
    files = {name: tmp_path / name for name in ("model", "history", "record")}
    files |= {"cube": tmp_path / "cube.npz", "split": tmp_path / "split.csv"}
    with pytest.raises(CubeError, match="1 True in train, 1 False in train, 1 False in validation are missing"):
        train.train_files(**files, experiment=Experiment(inputs=["difference"]), seed=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cube.npz", "split.csv"]
    train.check_enough(cube["labels"], split, validation_set="validation", least=10)
    train.check_enough(
        cube["labels"], split.assign(set=split["set"].replace("validation", "unused")), validation_set="test", least=10
    )


def test_cutouts_that_are_too_small_are_refused_before_any_training(data):
    cube, split = data
    small = cube | {"cube": cube["cube"][:, 6:14, 6:14]}
    with pytest.raises(ConfigError, match="at least 9 x 9 pixels, not 8 x 8"):
        fit(small, split, seed=1, epochs=1)


def test_varied_inputs_are_drawn_anew_in_every_epoch_and_repeat_themselves(data, tmp_path, monkeypatch):
    cube, split = data
    drawn = []
    vary = train.vary_inputs

    def noted(cutouts, *args, **kwargs):
        drawn.append(vary(cutouts, *args, **kwargs).copy())
        return drawn[-1]

    monkeypatch.setattr(train, "vary_inputs", noted)
    options = {"seed": 2, **TINY, "inputs": ["difference", "science"], "vary_inputs": {"no_images": 0.5, "pixels": 0.2}}
    model, history, record = fit(cube, split, **options)
    assert record["options"]["vary_inputs"]["no_images"] == 0.5
    _, *epochs = drawn  # the first is validation
    lacking = [np.isnan(block[..., 1]).all(axis=(1, 2)) for block in epochs]
    assert len(epochs) == 3 and all(0.2 < np.mean(rows) < 0.7 for rows in lacking)
    assert not np.array_equal(lacking[0], lacking[1])
    # A training that goes on from its checkpoint, its cutouts in a file, ends at the same weights.
    monkeypatch.setattr(train, "IN_MEMORY", 0)
    kill_in_second_epoch(monkeypatch, cube, split, checkpoint=tmp_path / "c", options=options)
    again, _, record = fit(cube, split, checkpoint=tmp_path / "c", **options)
    assert record["resumed_at_epoch"] == 3
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5])
def test_impossible_seeds_are_refused(data, seed):
    with pytest.raises(ConfigError, match="seed: must be a whole number from 0 to 4294967295, not"):
        fit(*data, seed=seed, **TINY)


def test_memory_that_does_not_suffice_is_one_sentence(data, monkeypatch):
    from tensorflow.errors import ResourceExhaustedError

    def exhausted(self):
        raise ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[128,12,15,15]")

    monkeypatch.setattr(loop.Loop, "run", exhausted)
    with pytest.raises(OtrainError, match="not enough memory for batches of 16 cutouts of 15 px; lower batch_size"):
        fit(*data, seed=1, **TINY)


def test_a_network_trained_with_images_missing_does_without_them(data):
    """The classes differ most in the reference, and also in the difference: only with missing references are both used."""
    cube, split = data
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=cube["cube"].shape).astype(np.float32)
    true = cube["labels"] == 1
    pixels[true, 9:12, 9:12, 2] += 12
    pixels[true, 9:12, 9:12, 0] += 3
    told = {**cube, "cube": pixels}
    options = {"seed": 1, "inputs": ["difference", "reference"], "epochs": 6, "batch_size": 16, "size": 15}
    without = {**told, "cube": pixels.copy()}
    without["cube"][..., 2] = np.nan
    right = {}
    for share in (0.0, 0.5):
        model = fit(told, split, **options, vary_inputs={"no_images": share})[0]
        test = split.loc[split["set"] == "test", "index"].to_numpy(int)
        right[share] = np.mean((predict.score_rows(model, without, test) > 0.5) == true[test])
    assert right[0.5] > 0.9 and right[0.5] > right[0.0] + 0.05


@pytest.fixture
def shipped(tmp_path_factory, monkeypatch):
    """An untrained network instead of the shipped one."""
    folder = tmp_path_factory.mktemp("shipped")
    monkeypatch.setattr(shipped_module, "FOLDER", folder)
    write_tiny(folder / "universal.onnx", size=15)
    architecture.keras.utils.set_random_seed(3)
    network = architecture.build_network(Experiment(inputs=["difference"]), size=15)
    architecture.save_model(network, folder / "universal.keras")
    return network


def test_files_of_a_fine_tuning(data, tmp_path, shipped):
    cube, split = data
    write_arrays(tmp_path / "cube.npz", cube)
    write_table(tmp_path / "split.csv", split)
    train.train_files(
        cube=tmp_path / "cube.npz",
        split=tmp_path / "split.csv",
        model=tmp_path / "model.keras",
        history=tmp_path / "history.csv",
        record=tmp_path / "train.json",
        experiment=Experiment(start="universal"),
        seed=1,
        finetune=FinetuneOptions(epochs=3, learning_rate=3e-3, folds=2, steps=[1.0]),
    )
    record, history = read_json(tmp_path / "train.json"), read_table(tmp_path / "history.csv")
    assert record["adapted"]["from"] == "universal" and record["adapted"]["step"] == 1
    assert record["n_train"] == record["adapted"]["n_labels"] == (split["set"] == "train").sum()
    assert record["options"]["inputs"] == ["difference"] and record["options"]["size"] == 15
    assert len(history) == record["epochs"] == 3 and history["validation_loss"].notna().all()
    tuned, test = architecture.load_model(tmp_path / "model.keras"), split.loc[split["set"] == "test", "index"]
    losses = [cross_entropy(cube["labels"][test], scores_of(m, cube)[test]).mean() for m in (tuned, shipped)]
    assert losses[0] < losses[1]


def test_fine_tuning_without_a_true_leaves_the_network(data, shipped):
    cube, split = data
    few = split.assign(set=split["set"].where((split["set"] != "train") | (split["label"] == 0), "unused"))
    model, history, record = train.finetune_model(
        cube, few, experiment=Experiment(start="universal"), options=None, seed=1
    )
    assert record["adapted"]["step"] == 0 and record["n_train_true"] == 0
    assert len(history) == 1 and history["learning_rate"].item() == 0
    assert np.array_equal(model.get_layer("conv1").get_weights()[0], shipped.get_layer("conv1").get_weights()[0])
