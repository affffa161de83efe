"""Seeing and saturation of frames."""

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.project.look import Frame
from otrain_core.project.measure import measure
from tests.unit.project.frames import write_frame


def test_seeing_noise_and_gain_of_a_frame(tmp_path):
    write_frame(tmp_path / "a.fit", fwhm=3.5)
    found = measure([Frame("a.fit", "science")], tmp_path)["a.fit"]
    assert found.fwhm == pytest.approx(3.5, rel=0.15)
    assert 12 <= found.stars <= 30
    assert found.level == pytest.approx(800, rel=0.01)
    assert found.transfer(4.0) == pytest.approx(2.0, rel=0.1)
    assert not found.piled


def test_saturated_pixels_pile_up(tmp_path):
    data = fits.getdata(write_frame(tmp_path / "a.fit"))
    fits.PrimaryHDU(np.minimum(data, 2500)).writeto(tmp_path / "b.fit")
    found = measure([Frame("b.fit", "science")], tmp_path)["b.fit"]
    assert found.piled and found.highest == 2500


def test_evenly_spaced_frames_are_measured_and_unreadable_ones_are_logged(tmp_path, caplog):
    frames = []
    for k in range(7):
        write_frame(tmp_path / f"{k}.fit", shape=(80, 80))
        frames.append(Frame(f"{k}.fit", "science"))
    (tmp_path / "3.fit").write_text("broken")
    assert list(measure(frames, tmp_path, most=3)) == ["0.fit", "6.fit"]
    (message,) = caplog.messages
    assert message.startswith("image 3.fit: path: ") and message.endswith("(not measured)")


def test_a_frame_of_missing_pixels_is_named(tmp_path, caplog):
    fits.PrimaryHDU(np.full((80, 80), np.nan, np.float32)).writeto(tmp_path / "a.fit")
    assert measure([Frame("a.fit", "science")], tmp_path) == {}
    assert caplog.messages == ["image a.fit: data: all pixels are NaN (not measured)"]
