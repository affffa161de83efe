import numpy as np
import pytest
from astropy.io import fits

from otrain_core.errors import ImageError
from otrain_core.images.fill import check_mosaic, fill_values

ROWS, COLUMNS = np.mgrid[:200, :240]


def sky(seed=1):
    return np.random.default_rng(seed).normal(300, 15, (200, 240)).astype(np.float32)


VOIDS = {
    "wedge": COLUMNS + 0.4 * ROWS < 60,
    "strip of two columns": COLUMNS >= 238,
    "rows": ROWS < 7,
    "one column and one row": (COLUMNS < 1) | (ROWS > 198),
    "block inside": (np.abs(COLUMNS - 90) < 15) & (np.abs(ROWS - 70) < 20),
    "disc inside": np.hypot(COLUMNS - 90, ROWS - 70) < 8,
    "turned frame": (COLUMNS + 0.1 * ROWS < 12) | (ROWS - 0.1 * COLUMNS > 190),
}


@pytest.mark.parametrize("name", VOIDS)
@pytest.mark.parametrize("value", [0.0, -999.0, 17.5])
def test_constant_borders_are_no_data(name, value):
    data, void = sky(), VOIDS[name]
    data[void] = value
    found = fill_values(data, saturation=6e4)
    assert found[void].all()
    about = found & ~void
    away = np.array([(~void[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]).all() for y, x in np.argwhere(about)])
    assert not away.any()  # at most two pixels beyond
    assert found.sum() < void.sum() + 2 * 2 * 440


@pytest.mark.parametrize(
    "kind", ["noise", "clipped", "whole numbers", "few levels", "zeros inside", "bleeding", "constant"]
)
def test_data_stay_data(kind):
    data = sky()
    if kind == "whole numbers":
        data = np.round(data / 10)
    elif kind == "clipped":
        data = np.maximum(data - 300, 0)
    elif kind == "few levels":
        data = np.round(np.random.default_rng(2).normal(3, 0.25, data.shape)).astype(np.float32)
    elif kind == "zeros inside":
        data[:, 120] = 0  # a dead column
        data[40:43, 20:80] = 0
        data[60:69, 30:39] = 0
    elif kind == "bleeding":
        data[0:40, 100:140] = 6e4
    elif kind == "constant":
        data[:] = 7
    assert not fill_values(data, saturation=6e4).any()
    if kind == "bleeding":
        assert not fill_values(data).any()


def test_a_value_of_the_configuration_is_a_fill_value_everywhere():
    data = sky()
    data[50:55, 60:100:4] = -32768
    assert fill_values(data, fill=-32768.0).sum() == 50


def test_missing_pixels_are_left():
    data = sky()
    data[:10] = np.nan
    data[:, :30] = 0
    found = fill_values(data)
    assert found[20:, :30].all() and not found[:, 33:].any()


def bayer(pattern=(0.55, 1, 1, 0.7)):
    data = sky()
    for k, factor in enumerate(pattern):
        data[k // 2 :: 2, k % 2 :: 2] *= factor
    return data


def test_a_raw_colour_frame_is_refused():
    with pytest.raises(
        ImageError, match=r"image a: BAYERPAT: this is a raw frame of a colour camera \(RGGB\).*debayer"
    ):
        check_mosaic(bayer(), fits.Header({"BAYERPAT": "RGGB"}), image="a")
    check_mosaic(sky(), fits.Header({"BAYERPAT": "RGGB"}), image="a")  # one colour, whose header kept the card
    check_mosaic(bayer(), fits.Header(), image="a")


@pytest.mark.parametrize("value", [-999.0, 300.0])
def test_a_fill_value_far_from_the_sky_is_one_wherever_it_stands(value):
    data, void = sky(), VOIDS["block inside"]
    data[void], data[:, 200] = value, value
    found = fill_values(data, saturation=6e4)
    assert found[void].all()
    assert found[:, 200].all() == (value == -999.0)
