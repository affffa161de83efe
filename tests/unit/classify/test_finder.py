import json

import numpy as np
import pandas as pd
import pytest

from otrain_core.candidates.planes import Planes
from otrain_core.classify.finder import MAPS, Finder, footprints, load_finder, peaks, to_coco
from otrain_core.errors import ConfigError
from otrain_core.plan.finder import FinderOptions
from otrain_core.plan.pipelines import DetectOptions
from tests.unit.tiny_onnx import write_tiny_finder

OPTIONS = FinderOptions(filters=4, dilations=[1, 2, 1])


@pytest.fixture(scope="module")
def finder(tmp_path_factory):
    """A network with random weights."""
    from otrain_core.networks.finder import build_finder, export_finder

    network, rng = build_finder(OPTIONS), np.random.default_rng(1)
    network.set_weights([rng.normal(0, 0.3, array.shape) for array in network.get_weights()])
    path = tmp_path_factory.mktemp("finder") / "finder.onnx"
    probes = rng.normal(size=(1, 20, 20, 7)).astype("f4")
    export_finder(network, path, options=OPTIONS, about={"threshold": 0.1}, probes=probes)
    return Finder(path)


@pytest.fixture(scope="module")
def planes():
    rng = np.random.default_rng(0)
    science, reference = rng.normal(0, 5, (2, 61, 83)).astype("f4")
    mask = np.zeros((61, 83), np.uint8)
    mask[20:24, 30:33] = 2
    return Planes.of(science, reference, science - reference, np.full((61, 83), 7, "f4"), mask, seeing=3.0)


@pytest.mark.parametrize("tile", [1000, 32, 17])
def test_maps_have_no_seams(finder, planes, tile):
    whole = finder.maps(planes, tile=100)
    for name, found in finder.maps(planes, tile=tile).items():
        np.testing.assert_allclose(found, whole[name], atol=2e-5, err_msg=name)


def test_an_image_and_the_image_turned_give_the_same(finder, planes):
    back = (slice(None, None, -1), slice(None, None, -1))
    found, turned = finder.maps(planes), finder.maps(planes.cut(*back))
    for name in MAPS:
        sign = -1 if name in ("dx", "dy") else 1
        np.testing.assert_allclose(turned[name][back], sign * found[name], atol=2e-5, err_msg=name)
    assert np.ptp(found["dx"]) > 0.1


def test_the_same_sources_whatever_the_tiles(finder, planes):
    found = [finder.find(planes, tile=tile).round(3) for tile in (24, 200)]
    assert len(found[0]) > 5
    pd.testing.assert_frame_equal(*found, atol=2e-3)
    assert found[0]["score"].is_monotonic_decreasing and found[0]["score"].min() >= 0.1


def test_a_threshold_that_is_not_a_number_is_refused(finder, planes):
    with pytest.raises(ConfigError, match="threshold: must be a number from 0 to 1, not nan"):
        finder.find(planes, threshold=float("nan"))


def test_both_signs_are_two_passes(finder, planes):
    both = finder.find(planes, both_signs=True)
    assert set(both["sign"]) == {1, -1}
    alone = finder.find(planes.swapped())
    pd.testing.assert_frame_equal(both[both["sign"] == -1].reset_index(drop=True)[["x", "y"]], alone[["x", "y"]])


def maps(shape=(20, 24)):
    return {name: np.zeros(shape, "f4") for name in MAPS}


def test_peaks_have_offset_score_and_snr():
    some = maps()
    some["heat"][8, 10], some["heat"][8, 11], some["heat"][3, 3] = 0.9, 0.8, 0.05
    some["dx"][8, 10], some["dy"][8, 10], some["log_snr"][8, 10] = 0.25, -0.5, np.log(12)
    table = peaks(some, np.zeros((20, 24), bool), threshold=0.1)
    assert len(table) == 1
    assert table.iloc[0].to_dict() == pytest.approx({"x": 10.25, "y": 7.5, "score": 0.9, "snr": 12}, rel=1e-5)


def test_no_peak_on_a_bad_pixel_and_one_of_two_at_a_place():
    some, bad = maps(), np.zeros((20, 24), bool)
    some["heat"][8, 10], some["heat"][15, 15], some["heat"][15, 17] = 0.9, 0.7, 0.8
    some["dx"][15, 15], some["dx"][15, 17] = 0.9, -0.9
    bad[8, 10] = True
    table = peaks(some, bad, threshold=0.1)
    assert table["score"].tolist() == pytest.approx([0.8])


def test_footprints_in_the_form_of_coco():
    some = maps()
    some["footprint"][4:7, 9:11] = 0.9
    some["footprint"][15, 2] = 0.9  # far from all sources
    sources = pd.DataFrame({"x": [9.2, 20.0], "y": [5.0, 12.0], "score": [0.9, 0.4]})
    pixels = footprints(some, sources, seeing=3.0)
    assert len(pixels[0]) == 6 and pixels[1].tolist() == [[12, 20]]
    coco = to_coco(sources, pixels, image="a.fits", shape=(20, 24))
    first = coco["annotations"][0]
    assert first["bbox"] == [9, 4, 2, 3] and first["area"] == 6
    assert first["segmentation"] == {"size": [20, 24], "counts": [9 * 20 + 4, 3, 17, 3, 480 - 204 - 3]}
    assert sum(coco["annotations"][1]["segmentation"]["counts"]) == 480
    assert json.loads(json.dumps(coco)) == coco


def test_other_files_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_finder(DetectOptions(method="finder", finder=str(tmp_path / "no.onnx")))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match=r"broken.onnx: not a readable detector network"):
        Finder(broken)
    from otrain_core.classify.shipped import shipped_file

    with pytest.raises(ConfigError, match=r"not a detector network of this version \(finder.onnx\), but another model"):
        Finder(shipped_file())
    with pytest.raises(ConfigError, match="no such file"):
        Finder(tmp_path)
    assert load_finder(DetectOptions()) is None


@pytest.mark.parametrize(
    "about", [{"threshold": None}, {"threshold": float("nan")}, {"threshold": 3}, {"reach": "far"}]
)
def test_a_network_without_a_usable_threshold_or_reach_is_refused(tmp_path, about):
    assert Finder(write_tiny_finder(tmp_path / "whole.onnx", threshold=0.3)).threshold == 0.3
    with pytest.raises(ConfigError, match="has no threshold from 0 to 1, or no reach"):
        Finder(write_tiny_finder(tmp_path / "finder.onnx", about=about))
