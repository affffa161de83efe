"""Context of a candidate: from its image, from catalogues, and from the other images of its night."""

import numpy as np
import pandas as pd
import pytest

from otrain_core.errors import ConfigError
from otrain_core.images.frames import MASK_SATURATED
from otrain_core.night.context import (
    IMAGE_COLUMNS,
    Catalogues,
    detections_of,
    footprint,
    image_context,
    is_fixed,
    mjd,
    night_context,
    object_name,
)
from otrain_core.night.ledger import Ledger, with_more
from otrain_core.sky import catalogue
from tests.unit.night.detections import detection, images, store
from tests.unit.synthetic_difference import tangential

SEEING = 2.5


def planes(shape=(120, 150)):
    """A reference with one star at (60, 50) of 1e4 ADU, and a saturated pixel at (100, 80)."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    star = np.exp(-0.5 * ((x - 60) ** 2 + (y - 50) ** 2) / (SEEING / 2.355) ** 2)
    reference = (1e4 * star / star.sum()).astype(np.float32)
    reference[5, 5] = np.nan
    mask = np.zeros(shape, np.uint8)
    mask[80, 100] = MASK_SATURATED
    return {"reference": reference, "noise": np.full(shape, 5, np.float32), "mask": mask}


def around(x, y, **options):
    table = {"x": np.array(x, float), "y": np.array(y, float)}
    table |= {name: options.pop(name, np.full(len(x), np.nan)) for name in ("ra", "dec")}
    return image_context(table, planes(), image="a", seeing=SEEING, pixel_scale=2.0, zero_point=25.0, **options)


def test_sources_of_the_reference_and_distances():
    found = around([63.0, 149.0, 100.0], [50.0, 110.0, 83.0])
    assert list(found) == list(IMAGE_COLUMNS)
    assert found["source_distance"][0] == pytest.approx(6.0, abs=0.1) and np.isnan(found["source_distance"][1])
    assert found["source_mag"][0] == pytest.approx(25 - 2.5 * np.log10(1e4), abs=0.1)
    assert found["saturated_distance"].tolist() == pytest.approx([np.hypot(37, 30), np.hypot(49, 30), 3.0])
    assert found["edge_distance"].tolist() == [50.5, 0.5, 36.5]
    assert np.isnan(found["source_ra"]).all() and (found["known"] == "").all()


def test_the_source_of_the_reference_has_its_place_on_the_sky():
    wcs = tangential(2.0)
    found = around([63.0], [50.0], wcs=wcs)
    assert found["source_ra"][0] == pytest.approx(float(wcs.pixel_to_world(60, 50).ra.deg), abs=1e-5)


def test_no_candidates_and_nothing_saturated():
    empty = around([], [])
    assert all(len(values) == 0 for values in empty.values())
    table = {"x": np.array([5.0]), "y": np.array([5.0])}
    clean = planes() | {"mask": np.zeros((120, 150), np.uint8)}
    found = image_context(table, clean, image="a", seeing=SEEING, pixel_scale=2.0, zero_point=25.0)
    assert np.isnan(found["saturated_distance"][0])


def test_known_objects_and_stars(monkeypatch):
    known = pd.DataFrame({"name": ["V1", "far"], "ra": [10.001, 11.0], "dec": [20.0, 20.0], "kind": ["variable"] * 2})
    stars = pd.DataFrame({"ra": [10.0], "dec": [20.001], "mag": [15.5], "kind": ["star"]})
    monkeypatch.setattr(catalogue, "known_objects", lambda source, field, cache: known)
    monkeypatch.setattr(catalogue, "star_catalogue", lambda source, field, cache: stars)
    where = {"ra": np.array([10.0, 30.0]), "dec": np.array([20.0, 20.0])}
    found = around([10, 20], [10, 20], **where, field=object(), catalogues=Catalogues(known="vsx", stars="gaia"))
    assert found["known"].tolist() == ["V1", ""] and found["known_kind"].tolist() == ["variable", ""]
    assert found["known_distance"][0] == pytest.approx(3.6 * np.cos(np.radians(20)), abs=1e-3)
    assert found["star_distance"][0] == pytest.approx(3.6, abs=1e-3) and np.isnan(found["star_distance"][1])
    assert found["star_mag"][0] == 15.5 and found["star_kind"].tolist() == ["star", ""]


def test_a_service_without_an_answer_leaves_its_columns_empty(monkeypatch, caplog):
    def silent(source, field, cache):
        raise ConfigError("vsx: no answer")

    monkeypatch.setattr(catalogue, "known_objects", silent)
    where = {"ra": np.array([10.0]), "dec": np.array([20.0])}
    found = around([10], [10], **where, field=object(), catalogues=Catalogues(known="vsx"))
    assert found["known"][0] == "" and "vsx: no answer" in caplog.text


def test_an_empty_catalogue(monkeypatch):
    none = pd.DataFrame({"name": [], "ra": [], "dec": [], "kind": []}).astype({"ra": float, "dec": float})
    monkeypatch.setattr(catalogue, "known_objects", lambda source, field, cache: none)
    where = {"ra": np.array([10.0]), "dec": np.array([20.0])}
    found = around([10], [10], **where, field=object(), catalogues=Catalogues(known="vsx"))
    assert found["known"][0] == "" and np.isnan(found["known_distance"][0])


def test_images_that_show_an_object_and_those_that_cover_it():
    items = [detection(1, "a"), detection(2, "b"), detection(3, "c", object=2, ra=12.0, object_ra=12.0)]
    found = night_context(items, images())
    assert found["n_images"].tolist() == [2, 2, 1]
    assert found["n_covered"].tolist() == [3, 3, 1]  # the third is outside all footprints
    assert found["object_name"].tolist() == ["J004000.00+200000.0"] * 2 + ["J004800.00+200000.0"]


@pytest.mark.parametrize("pairs", [1, 4, 1000])
def test_a_hot_pixel_keeps_its_place_on_the_detector(monkeypatch, pairs):
    """The field moves between the images: a hot pixel is at three sky positions, a source at one."""
    items = [detection(k, f"hot{k}", object=k, x=300 + 0.2 * k, y=7.0) for k in (1, 2, 3)]
    items += [detection(k, f"star{k}", object=9, x=100.0 + 20 * k) for k in (1, 2, 3)]
    monkeypatch.setattr("otrain_core.night.context.PAIRS", pairs)  # also when the pairs are processed in parts
    context = night_context(items, images())
    for k, item in enumerate(items):
        item.update({name: values[k] for name, values in context.items()})
    assert context["n_detector"].tolist() == [3, 3, 3, 1, 1, 1]
    assert [is_fixed(item) for item in items] == [True] * 3 + [False] * 3


def test_on_a_detector_that_does_not_move_nothing_is_fixed():
    context = night_context([detection(1, "a"), detection(2, "b")], images())
    assert context["n_detector"].tolist() == [1, 1]


def test_motion_of_an_object_and_its_error():
    step = 1 / 3600  # 1 arcsec north in ten minutes
    items = [detection(k, f"c{k}", dec=20 + step * k, snr=1000.0) for k in (1, 2, 3)]
    found = night_context(items, images())
    assert found["motion"] == pytest.approx([6.0] * 3, rel=1e-3)
    assert found["motion_error"][0] == pytest.approx(
        0.2 * 5.0 / np.sqrt(2) * 6, rel=1e-3
    )  # the first and last image are 10 min from the middle one
    assert np.isnan(night_context(items[:1], images())["motion"][0])


@pytest.mark.filterwarnings("error")
def test_a_detection_without_a_signal_to_noise_ratio_has_no_part_in_the_motion():
    items = [detection(k, f"c{k}", dec=20 + k / 3600, snr=1000.0) for k in (1, 2, 3)]
    far = detection(4, "unknown", dec=21.0, snr=np.nan)
    assert night_context([*items, far], images(4))["motion"] == pytest.approx([6.0] * 4, rel=1e-3)
    assert np.isnan(night_context([items[0], far], images(4))["motion"]).all()


def test_around_an_image_there_is_all_that_its_columns_depend_on():
    ledger, rng = Ledger(":memory:"), np.random.default_rng(1)
    for image in range(1, 7):
        items = [
            detection(image, f"{image}-{k}", ra=10 + 0.01 * k if k < 3 else 10 + rng.uniform(1, 9), x=30.0 * k, y=5.0)
            for k in range(6)
        ]
        store(ledger, image, items, night="n")
    whole = {item["candid"]: item for item in detections_of(ledger, "n") if item["image"] == 4}
    part = detections_of(ledger, "n", around=4)
    assert repr([item for item in part if item["image"] == 4]) == repr(list(whole.values()))
    assert {item["n_images"] for item in whole.values()} == {1, 6} and whole["4-4"]["n_detector"] == 6
    plain = detections_of(ledger, "n", around=4, plain=True)
    assert {item["candid"] for item in plain} == {item["candid"] for item in part} and "fwhm" not in plain[0]
    assert with_more(plain[0])["fwhm"] == part[0]["fwhm"]


def test_without_places_on_the_sky_nothing_is_joined():
    items = [detection(k, f"c{k}", object=None, ra=None, dec=None) for k in (1, 2)]
    found = night_context(items, images())
    assert found["n_images"].tolist() == [1, 1] and found["object_name"].tolist() == ["", ""]
    assert found["n_detector"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("ra", "dec", "name"),
    [
        (10.0, 20.0, "J004000.00+200000.0"),
        (359.99999, -0.5, "J235959.99-003000.0"),
        (187.70593, 12.3911, "J123049.42+122327.9"),
    ],
)
def test_names_are_cut_off_not_rounded(ra, dec, name):
    assert object_name(ra, dec) == name


def test_times():
    assert mjd("2000-01-01T12:00:00") == 51544.5 and np.isnan(mjd("")) and np.isnan(mjd(None))
    assert mjd("2000-01-01T12:00:00+00:00") == 51544.5


def test_the_footprint_goes_around():
    corners = np.array(footprint(tangential(2.0), (60, 80)))
    assert corners.shape == (4, 2)
    sides = np.hypot(*((np.roll(corners, -1, axis=0) - corners) * [np.cos(np.radians(corners[0, 1])), 1]).T) * 3600
    assert sides == pytest.approx([80, 60, 80, 60], rel=1e-3)
