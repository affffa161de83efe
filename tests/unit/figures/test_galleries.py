"""Galleries of cutouts and of Grad-CAM maps."""

import numpy as np

from otrain_core.figures.galleries import CutoutGallery, Extremes, GradCamGallery, robust_limits
from tests.unit.synthetic_cube import make_cube


def test_gallery_captions_belong_to_their_cutouts():
    cube = make_cube(40, size=15)
    cube["mags"][:] = np.arange(40)
    cube["cube"][5:8] = np.nan
    gallery = CutoutGallery.from_cube(cube, rng=np.random.default_rng(0), n=12, scores=np.arange(40) / 40)
    for value, name in ((0, "False"), (1, "True")):
        rows = gallery.rows[name]
        assert np.all(cube["labels"][rows] == value) and len(set(rows)) == 12
        assert gallery.captions[name] == [f"{row:.2f} mag, score {row / 40:.2f}" for row in rows]
        assert np.array_equal(gallery.panels[name], cube["cube"][rows][..., 0], equal_nan=True)
    assert gallery.plot().figure_ is not None


def test_grey_levels_stand_missing_and_flat_cutouts():
    for cutout in (np.full((5, 5), np.nan), np.zeros((5, 5)), np.full((5, 5), -3.0)):
        low, high = robust_limits(cutout)
        assert np.isfinite([low, high]).all() and low < high


def test_grad_cam_gallery_draws_kinds_that_have_none():
    rng = np.random.default_rng(0)
    arrays = {
        "cutouts": rng.normal(size=(2, 15, 15, 1)),
        "maps": rng.random((2, 4, 4)),
        "resized": rng.random((2, 15, 15)),
        "kind": np.array(["right True", "wrong False"]),
        "score": np.array([0.9, 0.8]),
        "energy": np.array([0.2, np.nan]),
        "layer": np.array("conv5"),
    }
    figure = GradCamGallery.from_arrays(arrays).plot(per_kind=2).figure_
    assert [part.get_suptitle() for part in figure.subfigs] == ["right True", "wrong False"]
    assert figure.get_suptitle() == "none: right False, wrong True"
    assert figure.get_figheight() < 2.5  # kinds without candidates take no room


def test_the_lowest_and_the_highest_of_many_blocks():
    rng = np.random.default_rng(1)
    probability, extremes = rng.random(500), Extremes(4)
    planes = np.arange(500, dtype=np.float32)[:, None, None] * np.ones((1, 3, 3), np.float32)
    for start in range(0, 500, 90):
        rows = slice(start, start + 90)
        extremes.add({"difference": planes[rows]}, probability[rows], np.arange(500)[rows].astype(str))
    panels, order = extremes.gallery().panels, np.argsort(probability)
    assert [int(plane[0, 0]) for plane in panels["Lowest"]] == order[:4].tolist()
    assert [int(plane[0, 0]) for plane in panels["Highest"]] == order[:-5:-1].tolist()
    few = Extremes(4)
    few.add({"difference": planes[:3]}, probability[:3], ["a", "b", "c"])
    assert [len(panel) for panel in few.gallery().panels.values()] == [1, 2]


def test_captions_say_where_the_zero_point_is_not_known():
    cube = make_cube(8, size=9)
    for instrumental, unit in ((False, "mag"), (True, "instr. mag")):
        gallery = CutoutGallery.from_cube(cube, rng=np.random.default_rng(0), n=4, instrumental=instrumental)
        row = int(gallery.rows["True"][0])
        assert gallery.captions["True"][0] == f"{cube['mags'][row]:.2f} {unit}"
