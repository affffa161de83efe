"""Pictures of the labelling page: cutouts as PNG, and Grad-CAM maps from a process of their own."""

import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from otrain_core.labelling import maps
from otrain_core.labelling.maps import GradCamMaps, cutout_png, grey_levels, map_png
from tests.unit.tiny_network import tiny_network

CUTOUT = np.arange(81, dtype=np.float32).reshape(9, 9)


def picture(png):
    """Pixels (9, 9, 3) of a picture, first row of the cutout first."""
    return np.asarray(Image.open(io.BytesIO(png)))[::-1].astype(int)


def until(get):
    """What a call returns once it returns something."""
    end = time.monotonic() + 60
    while (found := get()) is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def test_grey_levels_rise_with_the_pixels_and_missing_ones_are_black():
    cutout = CUTOUT.copy()
    cutout[4, 4], cutout[0, 0], cutout[8, 8] = np.nan, -1e6, 1e6
    levels = grey_levels(cutout)
    assert levels.dtype == np.uint8
    assert (levels[4, 4], levels[0, 0], levels[8, 8]) == (0, 0, 255)
    known = levels[np.isfinite(cutout)].astype(int)
    assert (np.diff(known) >= 0).all() and 0 < known[1] < known[-2] < 255


def test_a_cutout_is_grey_and_tinted_where_pixels_are_missing():
    cutout = CUTOUT.copy()
    cutout[0, 3] = np.inf
    found = picture(cutout_png(cutout))
    assert found.shape == (9, 9, 3) and tuple(found[0, 3]) == maps.MISSING
    assert (found[8] == grey_levels(cutout)[8][:, None]).all()


def test_a_map_is_half_of_its_picture():
    heat = np.zeros((9, 9), np.float32)
    heat[2, 6] = 1
    found, alone = picture(map_png(CUTOUT, heat)), picture(cutout_png(CUTOUT))
    assert np.abs(found[7, 1] - alone[7, 1] / 2).max() <= 3  # no heat: black
    np.testing.assert_allclose(found[2, 6], alone[2, 6] / 2 + np.array([252, 255, 164]) / 2, atol=2)


def answering(pipe):
    """Process that says how many cutouts it was given at once."""
    while True:
        wanted = pipe.recv()
        pipe.send([{"called": len(wanted)}] * len(wanted))


def dying(pipe):
    pipe.recv()
    os._exit(3)


def test_maps_come_later_and_are_kept(monkeypatch):
    monkeypatch.setattr(maps, "_compute", answering)
    page = GradCamMaps()
    assert page.get("a", Path("model.keras"), {"cube": CUTOUT}) is None
    found = until(lambda: page.get("a", Path("model.keras"), {"cube": CUTOUT}))
    assert found == {"called": 1}
    assert page.get("a", Path("other.keras"), {"cube": CUTOUT}) is found


def test_a_process_that_ends_is_told_and_started_again(monkeypatch):
    monkeypatch.setattr(maps, "_compute", dying)
    page = GradCamMaps()
    found = until(lambda: page.get("a", Path("model.keras"), {"cube": CUTOUT}))
    assert found["error"].startswith("the process of Grad-CAM ended")
    monkeypatch.setattr(maps, "_compute", answering)
    assert until(lambda: page.get("b", Path("model.keras"), {"cube": CUTOUT})) == {"called": 1}


def test_a_process_that_cannot_start_is_told(monkeypatch):
    monkeypatch.setattr(maps.multiprocessing.context.SpawnContext, "Pipe", lambda _: None)
    page = GradCamMaps()
    found = until(lambda: page.get("a", Path("model.keras"), {"cube": CUTOUT}))
    assert found["error"].startswith("the process of Grad-CAM ended (cannot unpack")


def test_a_network_that_sees_less_than_the_cutout(tmp_path):
    from otrain_core.networks.architecture import save_model

    save_model(tiny_network("otrain2", size=17, normalise="mad-asinh"), tmp_path / "model.keras")
    rng = np.random.default_rng(1)
    cutouts = [
        {"cube": rng.normal(0, 5, (1, 21, 21, 1)).astype(np.float32), "channels": np.array(["difference"])}
        for _ in range(2)
    ]
    found = maps._maps_of({}, tmp_path / "model.keras", cutouts)
    assert len(found) == 2
    for one in found:
        assert one["map"].shape == (21, 21) and one["called"] in (0, 1)
        assert (one["map"][:2] == 0).all() and (one["map"][:, -2:] == 0).all()
        assert np.isfinite(one["map"]).all() and one["map"].max() <= 1


@pytest.mark.parametrize("content", [None, b"no network"])
def test_a_network_that_cannot_be_read_is_told_in_place_of_maps(tmp_path, content):
    path = tmp_path / "model.keras"
    if content:
        path.write_bytes(content)
    found = maps._maps_of({}, path, [{"cube": CUTOUT[None, ..., None]}] * 2)
    assert len(found) == 2 and all(0 < len(one["error"]) <= 200 for one in found)
