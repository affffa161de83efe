from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from otrain_core.candidates.measure import SIGMA
from otrain_core.candidates.planes import Field, Planes, add_limits
from otrain_core.classify.finder import Finder
from otrain_core.errors import CubeError
from otrain_core.evaluation.found import judge
from otrain_core.images.pixels import add_stamp
from otrain_core.networks import train_finder as module
from otrain_core.networks.tiles import TileImage
from otrain_core.networks.train_finder import train_finder, train_finder_files, tuned_threshold
from otrain_core.plan.finder import FinderOptions
from otrain_core.plan.pipelines import CrossmatchOptions

SEEING = 3.0
TINY = FinderOptions(
    filters=6,
    dilations=[1, 2, 1],
    tile=48,
    batch_size=4,
    steps=60,
    check_every=20,
    learning_rate=1e-2,
    drop_difference=0.0,
    shift_reference=0.0,
)


class Gaussian:
    def stamp(self, x, y):
        x0, y0 = int(np.floor(x + 0.5)) - 7, int(np.floor(y + 0.5)) - 7
        place = np.arange(15)
        stamp = np.exp(-((y0 + place - y)[:, None] ** 2 + (x0 + place - x) ** 2) / (2 * (SIGMA * SEEING) ** 2))
        return stamp / stamp.sum(), y0, x0


def make_field(seed):
    """An image of noise with sources of S/N about 20."""
    rng = np.random.default_rng(seed)
    reference, difference = rng.normal(0, 1, (2, 96, 96)).astype("f4")
    rows = [(x, y) for x in (24.0, 48.0, 72.0) for y in (24.0, 48.0, 72.0)] + rng.uniform(-4, 4, (9, 2))
    table = pd.DataFrame(rows, columns=["x", "y"])
    table = table.assign(flux=rng.uniform(80, 120, 9), kind="random", real=False, usable=True)
    for row in table.itertuples():
        stamp, y0, x0 = Gaussian().stamp(row.x, row.y)
        add_stamp(difference, (row.flux * stamp).astype("f4"), y0, x0)
    noise, mask = np.ones((96, 96), "f4"), np.zeros((96, 96), np.uint8)
    planes = Planes.of(reference + difference, reference, difference, noise, mask, seeing=SEEING, image="i")
    return Field(f"i{seed}", planes, add_limits(table, planes, Gaussian()), Gaussian(), Gaussian())


@pytest.fixture(scope="module")
def images():
    return {"train": [TileImage(make_field(k)) for k in range(3)], "validation": [TileImage(make_field(9))]}


@pytest.fixture(scope="module")
def trained(images):
    return train_finder(images, options=TINY, seed=1)


def test_a_tiny_network_learns_to_find(images, trained, tmp_path):
    from otrain_core.networks.finder import export_finder

    model, history, record = trained
    assert history["validation_loss"].iloc[-1] < 0.5 * 16  # an untrained one has about 16
    assert record["kept_epoch"] == history["validation_loss"].idxmin() + 1 and record["n_train_images"] == 3
    path = tmp_path / "finder.onnx"
    probes = images["validation"][0].field.planes.inputs(1.0)[None, :32, :32]
    export_finder(model, path, options=TINY, about={"threshold": 0.02}, probes=probes)
    finder, field = Finder(path), make_field(77)
    threshold = tuned_threshold(finder, [images["validation"][0].field], TINY, CrossmatchOptions())
    assert 0.02 <= threshold < 1
    found = finder.find(field.planes, threshold=threshold)
    judged = judge(found, field, options=CrossmatchOptions(), least_snr=4)
    assert np.isfinite(judged.sources["score"]).sum() >= 7  # of 9
    assert judged.false.size <= 3


def test_a_training_that_was_stopped_ends_as_it_would_have(images, trained, tmp_path, monkeypatch):
    look = module._until_look

    def stops(*arguments, **options):
        if options["look"] == 3:
            raise KeyboardInterrupt
        return look(*arguments, **options)

    monkeypatch.setattr(module, "_until_look", stops)
    with pytest.raises(KeyboardInterrupt):
        train_finder(images, options=TINY, seed=1, checkpoint=tmp_path / "state", identity="a")
    monkeypatch.setattr(module, "_until_look", look)
    model, history, _ = train_finder(images, options=TINY, seed=1, checkpoint=tmp_path / "state", identity="a")
    assert len(history) == 3 and not (tmp_path / "state").exists()
    for one, other in zip(model.get_weights(), trained[0].get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_learning_rate_rises_then_falls():
    rates = [module._rate(step, TINY) for step in range(60)]
    assert rates[0] < rates[2] == 1e-2 and rates[-1] < 1e-4 and np.all(np.diff(rates[3:]) < 0)


def test_a_loss_that_is_not_finite_ends_the_training(images):
    with pytest.raises(CubeError, match=r"lower finder.learning_rate"):
        train_finder(images, options=TINY.model_copy(update={"learning_rate": 1e30}), seed=1)


def test_a_validation_loss_that_is_not_finite_ends_the_training(images):
    model = SimpleNamespace(
        optimizer=SimpleNamespace(learning_rate=0.0),
        train_on_batch=lambda *batch: 1.0,
        test_on_batch=lambda *batch: float("nan"),
    )
    with pytest.raises(CubeError, match="the validation loss became nan in step 19: lower finder.learning_rate"):
        module._until_look(model, images, TINY, 48, look=1, seed=1)


def test_a_cube_without_its_differences_is_refused(tmp_path):
    split = tmp_path / "split.csv"
    split.write_text("index,candid,image,label,set\n0,a,i1,1,train\n1,b,i2,1,validation\n")
    with pytest.raises(CubeError, match="no image of the set train has its difference image"):
        train_finder_files(
            cube=tmp_path,
            split=split,
            onnx=tmp_path / "finder.onnx",
            history=tmp_path / "finder.csv",
            record=tmp_path / "finder.json",
            options=TINY,
            crossmatch=CrossmatchOptions(),
            seed=1,
        )
