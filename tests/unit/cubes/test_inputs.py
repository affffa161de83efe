from typing import get_args

import numpy as np
import pytest

from otrain_core.candidates import cutouts
from otrain_core.cubes.inputs import SAMPLING, input_blocks, select_inputs
from otrain_core.errors import ConfigError, CubeError
from otrain_core.plan import config


def cube(n=4, side=9):
    rng = np.random.default_rng(0)
    return {
        "cube": rng.normal(size=(n, side, side, 2)).astype(np.float32),
        "channels": np.array(["difference", "mask"]),
        "pixel_scale": np.linspace(0.5, 2, n),
        "seeing": np.array([2.0, np.nan, 4.0, 5.0]),
    }


def test_planes_are_in_the_order_of_the_inputs():
    arrays = cube()
    got = select_inputs(arrays, inputs=["seeing", "mask", "pixel_scale", "difference"], size=5)
    assert got.shape == (4, 5, 5, 4) and got.dtype == np.float32
    for k, name in ((0, "seeing"), (2, "pixel_scale")):
        assert np.array_equal(got[..., k], np.broadcast_to(arrays[name].astype("f4")[:, None, None], (4, 5, 5)), True)
    plain = select_inputs(arrays, inputs=["mask", "difference"], size=5)
    assert np.array_equal(got[..., [1, 3]], plain)


def test_blocks_are_parts_of_the_whole():
    arrays, wanted = cube(), {"inputs": ["seeing", "difference"], "size": 5}
    rows = np.array([3, 0, 2])
    blocks = list(input_blocks(arrays, rows=rows, block=2, **wanted))
    assert [len(block) for block in blocks] == [2, 1]
    whole = select_inputs(arrays, **wanted)
    assert np.array_equal(np.concatenate(blocks), whole[rows], True)
    assert np.array_equal(np.concatenate(list(input_blocks(arrays, block=3, **wanted))), whole, True)
    assert np.array_equal(select_inputs(arrays, rows=np.array([True, False, True, False]), **wanted), whole[::2], True)


@pytest.mark.parametrize("inputs", [["difference"], ["pixel_scale", "difference", "seeing"]])
def test_planes_follow_the_selected_rows(inputs):
    arrays, rows = cube(), np.array([3, 0])
    whole = select_inputs(arrays, inputs=inputs, size=7)
    assert np.array_equal(select_inputs(arrays, inputs=inputs, size=7, rows=rows), whole[rows], equal_nan=True)


def test_inputs_that_the_cube_lacks_are_refused():
    arrays = cube()
    with pytest.raises(ConfigError, match="at least one channel of pixels is needed, found seeing, pixel_scale"):
        select_inputs(arrays, inputs=["seeing", "pixel_scale"], size=None)
    del arrays["seeing"]  # not the same as NaN: a network that reads it would be told nothing at all
    with pytest.raises(CubeError, match="lacks the column 'seeing'"):
        select_inputs(arrays, inputs=["difference", "seeing"], size=None)


def test_the_configuration_allows_these_inputs_and_no_others():
    assert get_args(config.Input) == (*cutouts.CHANNELS, *SAMPLING)
    experiment = {"experiments": {"e": {"inputs": ["seeing"]}}, "run": {"experiments": ["e"]}}
    with pytest.raises(ConfigError, match="inputs.*at least one of difference, science"):
        config.load_config(experiment)
    experiment["experiments"]["e"]["inputs"] = ["mask", "seeing"]
    config.load_config(experiment)
