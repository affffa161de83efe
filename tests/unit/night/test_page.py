"""Page of a night: order of the objects, light curves, hot pixels."""

import numpy as np

from otrain_core.night.ledger import Ledger
from otrain_core.night.page import _covered, _groups, _model_words, light_curve, night_objects, write_index, write_page
from tests.unit.night.detections import detection as found
from tests.unit.night.detections import images, store


def detection(
    image, candid, *, found=None, x=10.0, y=10.0, probability=0.5, mag=18.0, real=1, undecided=0, hour=1, n_detector=1
):
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
        "n_detector": n_detector,
        "n_images": 1,
        "n_covered": 1,
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
    assert [entry["n_real"] for entry in objects] == [2, 1, 1, 0]


def test_what_is_called_real_once_comes_after_what_is_called_so_twice():
    items = [detection(k, f"edge{k}", found=1, probability=0.99, real=int(k == 1)) for k in (1, 2, 3)]
    items += [detection(k, f"new{k}", found=2, probability=0.7, undecided=int(k == 3)) for k in (1, 2, 3)]
    groups = _groups(night_objects(items))
    assert [(title, [entry["n_real"] for entry in found]) for title, found in groups if found] == [
        ("Called real in two or more images", [2]),
        ("Called real in one image", [1]),
    ]


def test_the_undecided_stand_apart_from_the_bogus():
    items = [detection(1, "no", found=1, real=0), detection(1, "open", found=2, undecided=1)]
    groups = {title: [entry["best"]["candid"] for entry in found] for title, found in _groups(night_objects(items))}
    assert groups["Undecided"] == ["open"] and groups["Called bogus"] == ["no"]


def test_what_is_fixed_on_the_detector_comes_last():
    items = [
        detection(1, "hot", found=1, probability=0.99, n_detector=3),
        detection(2, "source", found=2, probability=0.6),
    ]
    objects = night_objects(items)
    assert [(entry["best"]["candid"], entry["fixed"]) for entry in objects] == [("source", False), ("hot", True)]


def test_light_curve():
    items = [found(1, "a", mag=18.0, magerr=0.1), found(2, "b", mag=17.0, magerr=0.1), found(3, "c", mag=None)]
    curve = light_curve(items, images())
    assert [point[:3] for point in curve["points"]] == [(7.0, 67.5, 5.5), (223.0, 12.5, 5.5)]  # bright is at the top
    assert curve["points"][1][3] == "2024-03-01T02:10:00: 17.00 +- 0.10 mag" and curve["limits"] == []
    assert [curve[name] for name in ("bright", "faint", "start", "end")] == ["16.90", "18.10", "02:00", "02:10"]
    flat = light_curve([found(k, str(k), mag=18.0, magerr=0.01) for k in (1, 2)], images()[:2])
    assert [point[1] for point in flat["points"]] == [40.0, 40.0]  # in the middle of an axis of 0.1 mag
    assert (flat["bright"], flat["faint"]) == ("17.95", "18.05")
    assert light_curve(items[:1], images()[:1]) is None


def test_images_without_a_detection_give_their_limit():
    curve = light_curve([found(1, "a", mag=18.0, magerr=0.1)], images())
    assert [point[0] for point in curve["limits"]] == [115.0, 223.0] and len(curve["points"]) == 1
    assert curve["limits"][0][2] == "2024-03-01T02:10:00: not found, limit 20.50 mag"
    entries = [{"detections": [found(1, "a", mag=18.0, object_ra=ra)]} for ra in (10.0, 50.0, None)]
    assert [len(covered) for covered in _covered(entries, images())] == [3, 0, 0]
    assert light_curve([found(1, "a", mag=18.0, time="")], images()) is None


def test_the_page_tells_what_stands_around(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    item = found(1, "a", mag=18.0, known="V1", known_kind="variable", known_distance=3.0, saturated_distance=12.0)
    store(ledger, 1, [item])
    write_page(tmp_path, "2024-02-29", ledger, about={}, false_alarms=0.01)
    page = (tmp_path / "index.html").read_text()
    assert "No stamps are kept" in page and "<img" not in page
    (tmp_path / "stamps").mkdir()
    (tmp_path / "stamps/a.png").write_bytes(b"")
    write_page(tmp_path, "2024-02-29", ledger, about={}, false_alarms=0.01)
    page = (tmp_path / "index.html").read_text()
    assert 'src="stamps/a.png"' in page
    assert "<b>V1</b> (variable) at 3.0 arcsec" in page and "saturated pixel 12 px away" in page
    assert "seen in 1 of 1 image that shows the position" in page and "J004000.00+200000.0" in page


def test_unknown_numbers_are_shown_as_a_dash(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    store(ledger, 1, [found(1, "a", probability=np.nan, snr=np.nan, real=0, undecided=1)])
    write_page(tmp_path, "2024-02-29", ledger, about={}, false_alarms=0.01)
    page = (tmp_path / "index.html").read_text()
    assert "probability –, S/N –<br>" in page and "nan" not in page.lower().replace("instr", "")


def test_a_detection_without_a_probability_is_never_the_best():
    items = [detection(k, name, found=1, probability=p) for k, (name, p) in enumerate([("a", np.nan), ("b", 0.6)])]
    items += [detection(3, "unknown", found=2, probability=np.nan), detection(3, "known", found=3, probability=0.1)]
    for order in (items, items[::-1]):
        assert [entry["best"]["candid"] for entry in night_objects(order)] == ["b", "known", "unknown"]


def test_the_index_names_the_file_and_the_reason_without_its_path(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    number, name = ledger.begin("1", path="/incoming/broken.fits", name="broken")
    ledger.refuse(number, "/incoming/broken.fits: image broken: path: /incoming/broken.fits: not a readable FITS image")
    write_index(tmp_path, ledger)
    page = (tmp_path / "index.html").read_text()
    assert 'title="/incoming/broken.fits">broken.fits</td><td class="w">not a readable FITS image</td>' in page


def test_the_model_in_words():
    assert _model_words({"telescope": "TCA", "pipeline": "builtin", "experiment": "otrain2", "seed": 0}) == (
        "TCA, otrain2, seed 0"
    )
    assert _model_words({"telescope": "pool-drawn", "pipeline": "all"}).startswith("trained on simulated telescopes")
    assert _model_words({}) == "unnamed"
