from types import SimpleNamespace

import numpy as np
import pytest

from otrain_core.candidates.planes import PLANES, Planes
from otrain_core.networks.tiles import TARGETS
from tools.finder_peer import boxes_of, channels_of, found_in


def test_a_box_about_each_source():
    targets = np.zeros((20, 30, len(TARGETS)), "f4")
    targets[8, 12, TARGETS.index("heat")], targets[8, 12, TARGETS.index("dx")] = 1, 0.25
    targets[8, 13, TARGETS.index("heat")] = 0.7  # beside it
    assert boxes_of(targets, seeing=3.0) == pytest.approx(np.array([[6.75, 2.5, 18.75, 14.5]]))


def test_the_three_channels_that_it_takes():
    inputs = np.arange(2 * 3 * len(PLANES), dtype="f4").reshape(2, 3, -1)
    assert channels_of(inputs).shape == (3, 2, 3)
    np.testing.assert_array_equal(channels_of(inputs)[2], inputs[..., PLANES.index("difference")])


def test_boxes_become_positions():
    torch = pytest.importorskip("torch")

    def model(images):
        assert images[0].shape == (3, 20, 30)
        return [{"boxes": torch.tensor([[6.75, 2.5, 18.75, 14.5]]), "scores": torch.tensor([0.8])}]

    model.transform = SimpleNamespace()
    noise, mask = np.ones((20, 30), "f4"), np.zeros((20, 30), np.uint8)
    light = np.random.default_rng(1).normal(size=(20, 30)).astype("f4")
    planes = Planes.of(light, light, light, noise, mask, seeing=3.0)
    found = found_in(model, planes)
    assert (model.transform.min_size, model.transform.max_size) == (
        (80,),
        120,
    )  # an image is magnified as the tiles are
    assert found.iloc[0].to_dict() == pytest.approx({"x": 12.25, "y": 8.0, "score": 0.8})
