import re

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.errors import ImageError
from otrain_core.images.detector import Settled, mark_settled, parse_unit, photon_transfer, settle, sky_noise
from otrain_core.plan.telescopes import Detector

READ_NOISE = 6.0


def frame(gain=1.5, sky=300.0, factor=1.0, bias=0.0, seed=1, shape=(256, 256)):
    """Poisson sky of `sky` electrons and read noise, in ADU times `factor`."""
    rng = np.random.default_rng(seed)
    electrons = rng.poisson(sky, shape) + rng.normal(0, READ_NOISE, shape)
    return ((electrons / gain + bias) * factor).astype(np.float32)


def header(**cards):
    cards = {"RDNOISE": READ_NOISE, "EXPTIME": 60.0} | cards
    return fits.Header({key: value for key, value in cards.items() if value is not None})


def settled(data, detector=None, **cards):
    return settle(data, header(**cards), detector or Detector(), image="a")


@pytest.mark.parametrize("gain", [0.25, 0.75, 1.5, 12.0])
def test_the_noise_of_the_sky_tells_the_gain(gain):
    level, sigma = sky_noise(frame(gain))
    assert level == pytest.approx(300 / gain, rel=0.01)
    assert sigma == pytest.approx(np.sqrt(300 + READ_NOISE**2) / gain, rel=0.03)
    assert photon_transfer(level, sigma, READ_NOISE) == pytest.approx(gain, rel=0.06)


def test_whole_numbers_stars_and_slopes_do_not_change_it():
    rows, columns = np.mgrid[:256, :256]
    data = np.round(frame(12.0) + 0.01 * columns)
    data[rows % 16 == 3] += np.where(columns[rows % 16 == 3] % 16 == 5, 900, 0)
    level, sigma = sky_noise(data)
    assert photon_transfer(level, sigma, READ_NOISE) == pytest.approx(12, rel=0.15)


def test_a_subtracted_sky_tells_nothing():
    assert np.isnan(photon_transfer(*sky_noise(frame() - 200), READ_NOISE))
    assert np.isnan(sky_noise(np.full((64, 64), np.nan)))[0]


@pytest.mark.parametrize(
    ("cards", "detector", "gain"),
    [
        ({"GAIN": 1.5}, {}, 1.5),
        ({"GAIN": "1,5"}, {}, 1.5),
        ({"GAIN": "1.5 e-/ADU"}, {}, 1.5),
        ({"GAIN": 0, "EGAIN": 1.5}, {}, 1.5),
        ({"GAIN": 0}, {"gain": 1.5}, 1.5),
        ({"GAIN": "high"}, {"gain": 1.5}, 1.5),
        ({"GAIN": -1.0}, {"gain": 1.5}, 1.5),
        ({"GAIN": 139, "EGAIN": 1.5}, {}, 1.5),
        ({"GAIN": 139, "CVF": 1.5}, {}, 1.5),
        ({"GAIN": 139}, {"gain": 1.5}, 1.5),
        ({"GAIN1": 1.5}, {}, 1.5),
        ({"GAIN": 2.0}, {"gain": 1.5}, 2.0),
        ({"GAIN": 2.0}, {"gain": 1.5, "wins": "config"}, 1.5),
        ({"GAIN": 2.0, "SLOPE": 1.25}, {"gain": 1.5, "header": {"gain": "SLOPE"}}, 1.25),
        ({}, {"gain": 1.5}, 1.5),
    ],
)
def test_gain(cards, detector, gain):
    assert settled(frame(), Detector(**detector), **cards).gain == gain


def test_a_whole_gain_that_the_noise_confirms_is_one():
    """A stack of 64 frames, whose gain the telescope does not know."""
    data = frame(64.0, sky=64 * 300.0)
    assert settled(data, Detector(gain=1.0), GAIN=64).gain == 64
    assert settled(data - 300, Detector(gain=1.0), GAIN=64, NCOMBINE=64).gain == 64


def test_a_setting_of_the_camera_alone_is_refused():
    with pytest.raises(
        ImageError, match=r"image a: GAIN: 139 is not the gain .* corresponds to 1\.[45].*detector\.gain"
    ):
        settled(frame(), GAIN=139)
    with pytest.raises(ImageError, match=r"image a: GAIN: no gain in the header \(its GAIN 0 cannot be used\)"):
        settled(frame(), GAIN=0)


def test_what_the_noise_contradicts_is_told():
    assert settled(frame(), GAIN=1.5).notes == ()
    (note,) = settled(frame(), GAIN=3.0).notes
    assert note.startswith("gain 3 electron/ADU: the sky has a noise of 12.") and "the gain is too large" in note
    (note,) = settled(frame(bias=1000.0), GAIN=1.5).notes
    assert re.search(r"it contains a bias of about (1e\+03|1\.0\de\+03|99\d) ADU", note)
    (note,) = settled(frame(), Detector(gain=1.5), GAIN="high").notes
    assert note == "GAIN 'high' is not a usable number and is ignored"
    assert any("looks like the setting" in note for note in settled(frame(), Detector(gain=1.5), GAIN=139).notes)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("ADU", "adu"),
        ("counts", "adu"),
        ("DN", "adu"),
        ("adu/s", "adu/s"),
        ("ADU s-1", "adu/s"),
        ("count / sec", "adu/s"),
        ("cps", "adu/s"),
        ("electron", "electron"),
        ("e-", "electron"),
        ("e-/s", "electron/s"),
        ("ELECTRONS/S", "electron/s"),
        ("electron s**-1", "electron/s"),
        ("Jy", None),
        ("MJy/sr", None),
        ("nanomaggy", None),
    ],
)
def test_units(text, unit):
    assert parse_unit(text) == unit


def test_rates_become_counts_of_the_exposure():
    one = settled(frame(factor=1 / 60), GAIN=1.5, BUNIT="adu/s", SATURATE=1000.0, MAGZP=20.0)
    assert (one.factor, one.gain, one.saturation) == (60, 1.5, 60000)
    assert one.zero_point == pytest.approx(20 + 2.5 * np.log10(60)) and one.notes == ()
    same = settled(frame(factor=1 / 60), Detector(unit="adu/s", saturation=6e4), GAIN=1.5)
    assert (same.factor, same.saturation) == (60, 60000)
    with pytest.raises(ImageError, match="image a: BUNIT: the pixels are in adu/s, but the header has no exposure"):
        settled(frame(factor=1 / 60), GAIN=1.5, BUNIT="adu/s", EXPTIME=None)


def test_electrons_have_gain_one():
    one = settled(frame(factor=1.5), GAIN=1.5, BUNIT="electron", SATURATE=9e4)
    assert (one.factor, one.gain, one.saturation, one.notes) == (1, 1, 9e4, ())
    assert settled(frame(factor=1.5), Detector(saturation=6e4, gain=1.5), BUNIT="electron").saturation == 9e4
    assert settled(frame(factor=1.5 / 60), BUNIT="electron/s").factor == 60


def test_the_chosen_gain_converts_the_saturation_of_the_telescope_to_electrons():
    telescope = {"saturation": 6e4, "gain": 1.5}
    assert (
        settled(frame(factor=1.5), Detector(**telescope, wins="config"), GAIN=139, BUNIT="electron").saturation == 9e4
    )
    named = Detector(saturation=6e4, header={"gain": "TRUEGAIN"})
    assert settled(frame(factor=1.5), named, GAIN=139, TRUEGAIN=1.5, BUNIT="electron").saturation == 9e4


def test_fractions_of_the_full_scale_become_adu():
    one = settled(frame(factor=1 / 65535), GAIN=1.5, SATURATE=0.92)
    assert (one.factor, one.gain) == (65535, 1.5) and one.saturation == pytest.approx(0.92 * 65535)
    assert one.notes == ("the pixels are scaled to 0..1: it is assumed that 1.0 is 65535 ADU",)
    assert settled(frame(factor=1 / 65535), Detector(saturation=6e4), GAIN=1.5).saturation == 6e4


def test_rates_without_a_unit_are_refused_and_the_unit_is_named():
    with pytest.raises(ImageError, match=r"image a: BUNIT: the unit .* not stated.*counts per second.*detector.unit"):
        settled(frame(factor=1 / 60), GAIN=1.5)
    assert settled(frame(factor=1 / 60), Detector(unit="adu"), GAIN=1.5).factor == 1
    assert settled(np.round(frame(60 * 1.5)), GAIN=1.5).factor == 1  # whole numbers are counts


def test_an_unknown_unit_is_told():
    assert settled(frame(), GAIN=1.5, BUNIT="Jy").notes[0].startswith("BUNIT 'Jy' is not a unit of counts")


def test_a_text_as_zero_point_is_read():
    assert settled(frame(), GAIN=1.5, MAGZP="25.3").zero_point == 25.3
    assert np.isnan(settled(frame(), GAIN=1.5).zero_point)


def test_what_was_settled_is_read_alike():
    cards = header(EGAIN=0.75, GAIN=139, BUNIT="adu/s", SATURATE=1000.0, MAGZP=20.0, READNOIS=5.0)
    detector = Detector(gain=3.0, saturation=5e4, wins="header", unit="adu/s", header={"gain": "OTHER"})
    cards["OTHER"] = 0.5
    data = frame(0.5, factor=1 / 60)
    first = settle(data, cards, detector, image="a")
    mark_settled(cards, first, filter="r", time="2024-03-01T02:03:04.500", seconds=60.0)
    again = settle(data * 60, cards, detector, image="a")
    assert again == Settled(1.0, first.gain, first.read_noise, first.saturation, first.zero_point)
    assert (first.gain, first.read_noise, first.saturation) == (0.5, 6.0, 60000)
    assert cards["FILTER"] == "r" and cards["BUNIT"] == "adu" and "EGAIN" not in cards
