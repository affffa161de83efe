import numpy as np
import pytest

from otrain_core.errors import ConfigError, CubeError
from tests.unit.tiny_network import tiny_network

pytestmark = pytest.mark.xdist_group("tensorflow")  # TensorFlow is loaded once

CHANNELS = ("difference", "science", "reference", "mask")


@pytest.fixture(scope="module")
def networks():
    from otrain_core.networks import architecture as networks

    networks.keras.utils.set_random_seed(1)
    return networks


def cutouts(n=6, size=32, channels=1, seed=0):
    return np.random.default_rng(seed).normal(100, 5, (n, size, size, channels)).astype(np.float32)


def stage(networks, values, channels=("difference",), normalise="mad-asinh", centre=False):
    return np.asarray(networks.InputStage(channels=channels, normalise=normalise, centre=centre)(values))


def test_the_paper_network_is_exact(networks):
    model = tiny_network("paper", size=32)
    assert model.count_params() == 2_621_826
    kinds = [type(layer).__name__ for layer in model.layers if type(layer).__name__ not in ("InputLayer", "InputStage")]
    assert kinds == (
        ["Conv2D", "Conv2D", "AveragePooling2D", "Dropout", "Conv2D", "MaxPooling2D", "Dropout", "Conv2D", "Conv2D"]
        + ["MaxPooling2D", "Flatten", "Dense", "Dropout", "Dense", "Dense", "Softmax"]
    )
    filters = [layer.filters for layer in model.layers if isinstance(layer, networks.layers.Conv2D)]
    assert filters == [16, 32, 64, 128, 256]
    # 3x3 kernels at 32, 32, 16, 8 and 8 px, then 4096-512-256-2, two operations each.
    by_hand = 1024 * (9 * 16 + 144 * 32) + 256 * 288 * 64 + 64 * (576 * 128 + 1152 * 256) + 4096 * 512 + 512 * 256 + 512
    assert networks.flops(model) == 2 * by_hand


def test_otrain2_is_small_and_its_weights_do_not_depend_on_the_size(networks):
    models = {size: tiny_network("otrain2", size=size, normalise="mad-asinh") for size in (9, 15, 31, 32, 63)}
    assert len({model.count_params() for model in models.values()}) == 1
    assert models[32].count_params() < 160_000
    assert networks.flops(models[32]) < 0.2 * networks.flops(tiny_network("paper", size=32))
    for model in models.values():
        for layer in model.layers:
            if isinstance(layer, networks.layers.Conv2D):
                assert layer.output.shape[1] % 2 == 1, "the candidate has left the middle of the map"
    models[63].set_weights(models[32].get_weights())
    assert np.isfinite(models[63].predict(cutouts(size=63), verbose=0)).all()


@pytest.mark.parametrize(
    ("network", "normalise"),
    [
        ("paper", "none"),
        ("paper", "mad-asinh"),
        ("otrain2", "none"),
        ("otrain2", "mad-asinh"),
        ("otrain3", "mad-asinh"),
    ],
)
def test_missing_pixels_and_channels(networks, tmp_path, network, normalise):
    channels = ("difference", "science", "psf", "mask") if network == "otrain3" else CHANNELS
    model = tiny_network(network, size=20, channels=channels, normalise=normalise)
    values = cutouts(size=20, channels=4)
    values[0, :7] = np.nan
    values[1] = np.nan
    values[2, ..., 3] = 0
    values[3, ..., 0] = 7.0
    values[4, 3, 3, 0] = np.inf
    scores = model.predict(values, verbose=0)
    assert scores.shape == (6, 2) and np.isfinite(scores).all()
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-6)
    networks.save_model(model, tmp_path / "model.keras")
    loaded = networks.load_model(tmp_path / "model.keras")
    assert networks.input_stage(loaded).channels == list(channels)
    assert np.array_equal(loaded.predict(values, verbose=0), scores)


def test_mad_asinh_is_what_it_says(networks):
    values = cutouts(n=4, size=15)
    values[0, :4] = np.nan
    got = stage(networks, values)
    for one, found in zip(values, got, strict=True):
        median = np.nanmedian(one)
        mad = np.nanmedian(np.abs(one - median))
        assert np.allclose(found, np.nan_to_num(np.arcsinh((one - median) / mad)), atol=1e-4)
    # Neither the sky level nor the gain matters.
    assert np.allclose(stage(networks, 30 * values - 500), got, atol=2e-3)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_mad_of_zero_is_harmless(networks, scale):
    flat = np.zeros((2, 15, 15, 1), np.float32)
    flat[1, 7, 7] = scale  # more than half of the pixels alike
    got = stage(networks, flat)
    assert np.all(got[0] == 0)
    assert np.isfinite(got).all() and got[1, 7, 7, 0] == pytest.approx(np.arcsinh(225 / (1 + 0)), rel=0.02)


def test_mask_becomes_a_flag_and_raw_stays_raw(networks):
    values = cutouts(n=2, size=10, channels=2)
    values[..., 1] = 0
    values[0, 2, 3, 1] = 20  # several bits
    values[0, 4, 4] = np.nan
    for normalise in ("none", "mad-asinh"):
        got = stage(networks, values, ("difference", "mask"), normalise)
        assert set(np.unique(got[..., 1])) == {0.0, 1.0}
        assert np.argwhere(got[..., 1]).tolist() == [[0, 2, 3], [0, 4, 4]]
    raw = stage(networks, values, ("difference", "mask"), "none")
    assert np.array_equal(raw[..., 0], np.nan_to_num(values[..., 0]))


@pytest.mark.parametrize("normalise", ["none", "mad-asinh"])
def test_planes_of_one_number(networks, normalise):
    values = cutouts(n=5, size=10, channels=3)
    values[..., 0] = np.array([3.0, 6.0, np.nan, -1.0, 1e9])[:, None, None]
    usual = {"seeing": 3.0, "pixel_scale": 1.0}
    values[..., 2] = 0.5
    names = ("seeing", "difference", "pixel_scale")
    got = np.asarray(networks.InputStage(channels=names, normalise=normalise, usual=usual)(values))
    assert np.allclose(got[..., 0].reshape(5, -1).T, [0, np.log(2), 0, 0, 3], atol=1e-6)
    assert np.allclose(got[..., 2], np.log(0.5))
    assert np.array_equal(got[..., 1:2], stage(networks, values[..., 1:2], normalise=normalise))


@pytest.mark.parametrize("network", ["paper", "otrain2"])
def test_only_the_middle_of_a_network_is_of_lower_precision(networks, network):
    precision = "mixed_bfloat16"
    model = tiny_network(network, size=15, normalise="mad-asinh", precision=precision)
    types = {layer.name: layer.compute_dtype for layer in model.layers}
    ends = [types.pop(name) for name in ("cutouts", "input_stage", "logits", "probabilities")]
    assert ends == ["float32"] * 4 and set(types.values()) == {"bfloat16"}
    assert {str(weight.dtype) for weight in model.get_weights()} == {"float32"}
    assert networks.keras.config.dtype_policy().name == "float32"  # of what is built next
    assert networks.precision_of(model) == networks.precision_of(networks.without_input_stage(model)) == precision
    assert networks.precision_of(tiny_network(network, size=15)) == "float32"


def test_science_and_reference_in_the_unit_of_the_difference(networks):
    channels = ["science", "difference", "reference", "psf"]
    values = cutouts(n=4, channels=4, seed=3)
    values[..., 0] *= 10
    values[..., 3] = np.exp(-np.sum((np.mgrid[:32, :32] - 16) ** 2, axis=0) / 6)
    values[0, 16, 16, 0] += 4000
    values[1, ..., 2], values[2, :16, :, 1] = np.nan, np.nan
    layer = networks.InputStage(channels=channels, normalise="mad-asinh", matched=True)
    got = np.asarray(layer(values))
    assert got.shape == (4, 32, 32, 5) and np.isfinite(got).all()
    sampled = values[0, ::2, ::2]
    unit = np.median(np.abs(sampled[..., 1] - np.median(sampled[..., 1])))
    expected = np.arcsinh((values[0, ..., :3] - np.median(sampled[..., :3], axis=(0, 1))) / unit)
    np.testing.assert_allclose(got[0, ..., :3], expected, rtol=1e-3, atol=1e-3)
    assert not got[1, ..., 2].any() and not got[2, :16, :, 1].any()
    again = networks.InputStage.from_config(layer.get_config())
    assert np.array_equal(np.asarray(again(values)), got)
    for factor in (1e-3, 1e4):  # units do not matter
        np.testing.assert_allclose(np.asarray(layer(values * np.float32(factor))), got, atol=2e-3)


def test_the_centred_stage_keeps_the_candidate_in_the_middle(networks):
    for size in (14, 15):
        values = np.zeros((1, size, size, 1), np.float32)
        values[0, size // 2, size // 2] = 1
        got = stage(networks, values, normalise="none", centre=True)[0, ..., 0]
        assert got.shape == (size - 1 + size % 2,) * 2 and got[got.shape[0] // 2, got.shape[1] // 2] == 1


def test_the_stage_commutes_with_turns(networks):
    values = cutouts(n=3, size=21)
    values[:, :2] = np.nan
    turned = np.rot90(values, 1, axes=(1, 2))
    assert np.array_equal(stage(networks, turned), np.rot90(stage(networks, values), 1, axes=(1, 2)))


def test_the_body_is_the_model_without_its_stage(networks):
    model = tiny_network("otrain2", size=32, normalise="mad-asinh")
    values = cutouts()
    inner = np.asarray(networks.input_stage(model)(values))
    assert np.allclose(networks.without_input_stage(model).predict(inner, verbose=0), model.predict(values, verbose=0))


def test_cutouts_that_are_too_small_are_refused():
    with pytest.raises(ConfigError, match="at least 9 x 9 pixels, not 8 x 8"):
        tiny_network("paper", size=8)
    assert tiny_network("paper", size=9).input_shape == (None, 9, 9, 1)


def test_the_same_weights_for_another_size_or_precision(networks):
    model = tiny_network("otrain2", size=20, channels=["difference", "seeing"], precision="mixed_bfloat16")
    for changed, size, precision in (({"size": 13}, 13, "mixed_bfloat16"), ({"precision": "float32"}, 20, "float32")):
        other = networks.rebuild(model, **changed)
        assert other.input_shape[1] == size and networks.precision_of(other) == precision
        assert networks.input_stage(other).usual == {"seeing": 3.0}
        assert all(map(np.array_equal, other.get_weights(), model.get_weights()))
    with pytest.raises(ValueError, match="shape"):
        networks.rebuild(tiny_network("paper", size=24), size=15)


def test_an_unreadable_model_is_one_sentence(networks, tmp_path):
    (tmp_path / "model.keras").write_bytes(b"not a model")
    for name in ("model.keras", "absent.keras"):
        with pytest.raises(CubeError, match="not a readable Keras model"):
            networks.load_model(tmp_path / name)


@pytest.mark.parametrize("n", [9, 10, 441, 1024])
def test_the_median_is_that_of_the_valid_pixels(networks, n):
    rng = np.random.default_rng(n)
    values = np.concatenate([rng.normal(size=(60, 2, n)), rng.integers(-2, 3, (60, 2, n))]).astype(np.float32)
    valid = rng.random(values.shape) < rng.uniform(0.01, 1.2, (120, 2, 1))
    valid[0] = False
    tensors = (networks.ops.convert_to_tensor(array) for array in (np.where(valid, values, 0), valid))
    count = networks.ops.convert_to_tensor(valid.sum(-1, keepdims=True).astype(np.float32))
    found = np.asarray(networks._median(*tensors, count))[..., 0]
    rows = valid.any(-1)
    assert np.array_equal(found[rows], np.nanmedian(np.where(valid, values, np.nan)[rows], axis=-1))
    assert (found[~rows] == 0).all()
