"""What is found, assumed and missing of a detector."""

from dataclasses import replace

import numpy as np
import pytest

from otrain_core.project.look import Frame
from otrain_core.project.measure import Measured
from otrain_core.project.settle import Camera, cameras_of, settle_detector

FRAME = Frame(
    "a.fit", "science", telescope="T1", camera="Cam", filter="R", exposure=60.0, time="2026-01-01T20:00:00.000"
)
LOOK = Measured(fwhm=3.0, stars=50, level=900.0, noise=25.0, highest=40_000.0, piled=False)


def values(frames, look=LOOK, calibration=None):
    camera = Camera("T1", frames)
    return {value.key: value for value in settle_detector(camera, {frames[0].path: look}, calibration or {})}


def test_headers_are_found():
    numbers = {"gain": ("EGAIN", 1.6), "read_noise": ("RDNOISE", 7.0), "saturation": ("SATURATE", 50_000.0)}
    found = values([replace(FRAME, numbers=numbers, scale=1.24, scale_from="WCS", wcs="header")])
    assert {key: (value.value, value.state) for key, value in found.items()} == {
        "pixel_scale": (1.24, "found"),
        "gain": (1.6, "found"),
        "read_noise": (7.0, "found"),
        "saturation": (50_000.0, "found"),
        "filter": ("R", "found"),
        "time": ("2026-01-01T20:00 to 2026-01-01T20:00", "found"),
        "WCS": ("1 frames", "found"),
    }


def test_values_missing_in_the_headers_are_assumed_with_a_reason():
    found = values([replace(FRAME, filter="", time="")])
    assert found["gain"].state == "assumed" and found["gain"].value == pytest.approx(1.508, abs=0.01)
    assert "noise of the sky" in found["gain"].because
    assert (found["read_noise"].value, found["saturation"].value) == (8.0, 65535.0)
    assert found["filter"].value == "clear" and found["pixel_scale"].value == 1.0
    assert found["time"].state == found["WCS"].state == "missing"


def test_a_gain_that_is_a_camera_setting_is_ignored():
    found = values([replace(FRAME, numbers={"gain": ("GAIN", 120.0)})])
    assert found["gain"].state == "assumed" and found["gain"].value == pytest.approx(1.508, abs=0.01)
    assert "setting" in found["gain"].because


def test_a_bias_in_the_sky_gives_no_gain():
    look = replace(LOOK, level=360.0, noise=1.2, highest=4095.0, piled=True)
    found = values([FRAME], look)
    assert found["saturation"].value == 4095.0 and found["saturation"].state == "found"
    assert found["gain"].value == pytest.approx(100_000 / 4095, abs=0.01)


@pytest.mark.parametrize(
    "highest, range_",
    [(3000.0, 4095), (20_568.6, 65535), (0.9, 65535), (80_000.0, 80_000)],
)
def test_without_saturated_pixels_the_range_of_the_camera_is_assumed(highest, range_):
    value = values([FRAME], replace(LOOK, highest=highest))["saturation"]
    assert value.state == "assumed" and value.value == range_


def test_dark_frames_give_the_read_noise():
    numbers = {"gain": ("EGAIN", 2.0)}
    found = values([replace(FRAME, numbers=numbers)], calibration={"d.fit": replace(LOOK, noise=4.0)})
    assert found["read_noise"].value == 8.0 and "1 dark" in found["read_noise"].because


def test_telescopes_cameras_and_binnings_are_distinguished():
    frames = [
        FRAME,
        replace(FRAME, path="b.fit", binning=2),
        replace(FRAME, path="c.fit", telescope="", camera="Old Cam"),
        replace(FRAME, path="d.fit", telescope="T2", camera="A"),
        replace(FRAME, path="e.fit", telescope="T2", camera="B"),
        replace(FRAME, path="f.fit", kind="dark", telescope="T3"),
    ]
    assert [camera.name for camera in cameras_of(frames, fallback="x")] == ["Old_Cam", "T1", "T1-bin2", "T2-A", "T2-B"]


def test_a_stack_without_names_goes_with_the_only_telescope():
    stack = Frame("stack.fit", "stack", ra=np.nan)
    (camera,) = cameras_of([FRAME, stack], fallback="x")
    assert camera.stacks == [stack]


def test_a_name_that_no_telescope_may_have_is_changed():
    frames = [replace(FRAME, telescope="", camera=""), replace(FRAME, path="b.fit", telescope="paper")]
    assert [camera.name for camera in cameras_of(frames, fallback="images")] == ["images-telescope", "paper-telescope"]
