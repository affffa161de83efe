import numpy as np
import pytest

from otrain_core.candidates.planes import PLANES
from otrain_core.classify.finder import MAPS, Finder
from otrain_core.networks.finder import build_finder, export_finder, finder_loss, reach
from otrain_core.networks.tiles import TARGETS
from otrain_core.plan.finder import FinderOptions

OPTIONS = FinderOptions(filters=4, dilations=[1, 2, 1])


@pytest.fixture(scope="module")
def model():
    from otrain_core.networks.architecture import keras

    keras.utils.set_random_seed(3)
    network = build_finder(OPTIONS)
    rng = np.random.default_rng(1)  # the head begins with zeros
    network.set_weights([rng.normal(0, 0.3, array.shape) for array in network.get_weights()])
    return network


def test_one_map_of_the_size_of_the_image_for_each_output(model):
    assert model.output_shape == (None, None, None, len(MAPS))
    assert model.predict_on_batch(np.zeros((1, 20, 31, len(PLANES)), "f4")).shape == (1, 20, 31, len(MAPS))


def test_maps_depend_on_pixels_within_the_reach_alone(model):
    image = np.random.default_rng(0).normal(size=(1, 33, 33, len(PLANES))).astype("f4")
    base, radius = model.predict_on_batch(image), reach(OPTIONS.dilations)
    image[0, 16, 16] += 5
    changed = np.abs(model.predict_on_batch(image) - base).max(axis=(0, 3)) > 0
    rows, columns = np.nonzero(changed)
    assert radius == 4
    assert rows.min() >= 16 - radius and rows.max() <= 16 + radius and columns.max() <= 16 + radius
    assert np.ptp(rows) > radius  # and it sees more than one half of it


def test_an_untrained_network_finds_nothing():
    maps = build_finder(OPTIONS).predict_on_batch(np.zeros((1, 9, 9, len(PLANES)), "f4"))
    np.testing.assert_allclose(1 / (1 + np.exp(-maps[..., 0])), 0.01, rtol=1e-4)


def loss(heat, *, target):
    from otrain_core.networks.architecture import ops

    maps = np.zeros((1, 1, 1, len(MAPS)), "f4")
    maps[..., MAPS.index("heat")] = heat
    targets = np.zeros((1, 1, 1, len(TARGETS)), "f4")
    targets[..., TARGETS.index("heat")], targets[..., TARGETS.index("counts")] = target, 1
    return float(ops.convert_to_numpy(finder_loss(targets, maps))) - 0.05 * np.log(2)  # the footprint's part


def test_loss_of_the_heat_is_the_focal_loss():
    assert loss(0.0, target=1.0) == pytest.approx(0.25 * np.log(2), rel=1e-5)
    assert loss(0.0, target=0.0) == pytest.approx(0.25 * np.log(2), rel=1e-5)
    assert loss(0.0, target=0.5) == pytest.approx(0.5**4 * 0.25 * np.log(2), rel=1e-5)


def test_pixels_that_do_not_count_have_no_loss():
    targets, maps = np.zeros((1, 4, 4, len(TARGETS)), "f4"), np.full((1, 4, 4, len(MAPS)), 3, "f4")
    assert float(finder_loss(targets, maps)) == 0


def test_export_gives_the_maps_of_the_network(model, tmp_path):
    probes = np.random.default_rng(5).normal(size=(2, 24, 24, len(PLANES))).astype("f4")
    path = tmp_path / "finder.onnx"
    export_finder(model, path, options=OPTIONS, about={"threshold": 0.3}, probes=probes)
    finder = Finder(path)
    assert finder.threshold == 0.3
    assert finder.about["reach"] == 4
    found = finder._session.run(None, {finder._input: probes[:, :11]})[0]  # another shape than that of the check
    np.testing.assert_allclose(found, model.predict_on_batch(probes[:, :11]), atol=1e-4)
