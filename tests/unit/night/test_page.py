"""The page of a night: objects in order, light curves, hot pixels."""

from otrain_core.night.page import light_curve, night_objects


def detection(image, candid, *, found=None, x=10.0, y=10.0, probability=0.5, mag=18.0, real=1, undecided=0, hour=1):
    return {
        "image": image,
        "candid": candid,
        "object": found,
        "x": x,
        "y": y,
        "ra": 1.0,
        "dec": 2.0,
        "mag": mag,
        "snr": 9.0,
        "probability": probability,
        "real": real,
        "undecided": undecided,
        "time": f"2024-03-01T0{hour}:00:00",
    }


def test_what_is_seen_again_comes_first():
    items = [
        detection(1, "once", found=1, probability=0.99, x=50),
        detection(1, "a", found=2, probability=0.8, x=100),
        detection(2, "b", found=2, probability=0.9, x=100),
        detection(1, "bogus", found=3, probability=0.1, real=0, x=150),
        detection(1, "none", probability=0.95, x=200),
    ]
    objects = night_objects(items)
    assert [entry["best"]["candid"] for entry in objects] == ["b", "once", "none", "bogus"]
    assert [entry["n_images"] for entry in objects] == [2, 1, 1, 1]


def test_a_hot_pixel_keeps_its_place_on_the_detector():
    """The sky has moved between the images: one pixel, two places of the sky."""
    items = [
        detection(1, "hot1", found=1, x=300.0, probability=0.99),
        detection(2, "hot2", found=2, x=300.4, probability=0.99),
        detection(1, "source1", found=3, x=100.0, probability=0.6),
        detection(2, "source2", found=3, x=120.0, probability=0.6),
    ]
    objects = night_objects(items)
    assert [entry["fixed"] for entry in objects] == [False, True, True]
    assert objects[0]["n_images"] == 2


def test_a_source_on_an_unmoved_detector_is_no_hot_pixel():
    items = [detection(1, "a", found=1), detection(2, "b", found=1)]
    assert not night_objects(items)[0]["fixed"]


def test_light_curve():
    items = [detection(1, "a", mag=18.0, hour=1), detection(2, "b", mag=17.0, hour=3), detection(3, "c", mag=None)]
    points = light_curve(items)
    assert [point[:2] for point in points] == [(6.0, 54.0), (214.0, 6.0)]  # brighter is above
    assert points[1][2] == "2024-03-01T03:00:00: 17.00 mag"
    assert light_curve(items[:1]) == []
