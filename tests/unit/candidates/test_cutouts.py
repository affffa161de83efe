import numpy as np
import pandas as pd
import pytest

from otrain_core import io
from otrain_core.arrays import read_arrays
from otrain_core.candidates.cutouts import CHANNELS, CUTOUT_COLUMNS, cutouts_files, flipped, reference_grid
from otrain_core.candidates.cutouts import make_cutouts as make_with
from otrain_core.errors import ImageError
from otrain_core.images.frames import MASK_COSMIC, MASK_MISSING, write_planes
from otrain_core.plan.pipelines import CutoutsOptions
from otrain_core.stars.psf_model import PSFModel


def make_cutouts(candidates, images, *, psf=None, **options):
    return make_with(candidates, images, image="a", psf=psf, options=CutoutsOptions(**options))


def planes(height=100, width=120, seed=1):
    rng = np.random.default_rng(seed)
    values = {name: rng.normal(size=(height, width)).astype(np.float32) for name in ("diff", "science", "reference")}
    return values | {"mask": np.zeros((height, width), np.uint8)}


def labelled(positions, label=0):
    n = len(positions)
    table = pd.DataFrame(positions, columns=["x", "y"], dtype=float)
    for column, kind in CUTOUT_COLUMNS.items():
        if column not in table:
            table[column] = {float: np.nan, int: 0, bool: False, str: ""}[kind]
    table["candid"], table["image"], table["label"], table["reason"] = (
        [f"a-{k:04d}" for k in range(n)],
        "a",
        label,
        "why",
    )
    return table


@pytest.mark.parametrize("size", [9, 32, 63])
@pytest.mark.parametrize("x, y", [(60.0, 50.0), (60.49, 50.49), (59.5, 49.5)])
def test_nearest_pixel_is_at_half_the_size(size, x, y):
    images = planes()
    stack = make_cutouts(labelled([(x, y)]), images, size=size)["stack"]
    assert stack.shape == (1, size, size, 5) and stack.dtype == np.float32
    row, column = 50 - size // 2, 60 - size // 2
    for channel, name in enumerate(("diff", "science", "reference", "mask")):
        np.testing.assert_array_equal(stack[0, ..., channel], images[name][row : row + size, column : column + size])
    assert stack[0, size // 2, size // 2, 0] == images["diff"][50, 60]


class RoundPSF:
    """A Gaussian star on a stamp of 21 px."""

    def stamp(self, x, y):
        x0, y0 = int(np.floor(x + 0.5)) - 10, int(np.floor(y + 0.5)) - 10
        yy, xx = np.mgrid[:21, :21]
        stamp = np.exp(-((xx + x0 - x) ** 2 + (yy + y0 - y) ** 2) / 8)
        return stamp / stamp.sum(), y0, x0


@pytest.mark.parametrize("size", [9, 15, 32, 63])
def test_the_channel_psf_is_a_point_source_at_the_place_of_the_candidate(size):
    table = labelled([(60.3, 50.4), (25.0, 50.0), (59.6, 49.7)])
    stack = make_cutouts(table, planes(), psf=RoundPSF(), size=size)["stack"][..., 4]
    yy, xx = np.mgrid[:size, :size]
    for plane, x, y in zip(stack, table["x"], table["y"], strict=True):
        left, bottom = np.floor(x + 0.5) - size // 2, np.floor(y + 0.5) - size // 2
        centre = [np.average(axis, weights=plane) for axis in (xx + left, yy + bottom)]
        if size > 20:  # the whole star
            assert plane.sum() == pytest.approx(1, abs=1e-6) and centre == pytest.approx([x, y], abs=0.01)
        assert np.unravel_index(plane.argmax(), plane.shape) == (size // 2, size // 2)
    assert np.isnan(make_cutouts(table, planes(), size=size)["stack"][..., 4]).all()


def test_outside_of_the_image_is_missing_and_too_much_of_it_is_edge():
    arrays = make_cutouts(labelled([(2, 50), (60, 50), (13, 50)], label=1), planes(), size=32, max_missing=0.25)
    first = arrays["stack"][0]
    assert np.isnan(first[:, :14, :3]).all() and (first[:, :14, 3] == MASK_MISSING).all()
    assert np.isfinite(first[:, 14:, :3]).all()
    assert arrays["n_missing"].tolist() == [14 * 32, 0, 3 * 32]
    assert arrays["edge"].tolist() == [True, False, False]
    assert arrays["label"].tolist() == [-1, 1, 1] and arrays["reason"].tolist() == ["EDGE", "why", "why"]


def test_masked_pixels_are_nan_in_the_difference_and_nowhere_zero():
    images = planes()
    images["mask"][50, 60] = MASK_COSMIC
    images["diff"][50, 60] = 0  # as a faulty earlier step might leave it
    images["diff"][51, 61] = np.inf
    arrays = make_cutouts(labelled([(60, 50)]), images, size=32)
    cut = arrays["stack"][0]
    assert np.isnan(cut[16, 16, 0]) and np.isnan(cut[17, 17, 0]) and arrays["n_missing"][0] == 2
    assert cut[16, 16, 3] == MASK_COSMIC and np.isfinite(cut[16, 16, 1])
    assert not np.isinf(cut).any()


def test_arrays_have_fixed_types_also_for_no_candidates_and_void_columns(tmp_path):
    full = make_cutouts(labelled([(60, 50), (61, 51)]), planes())
    empty = make_cutouts(labelled([(60, 50)]).iloc[:0], planes())
    io.write_table(tmp_path / "t.csv", labelled([(60, 50)]))
    read = make_cutouts(io.read_table(tmp_path / "t.csv"), planes())
    assert set(full) == set(empty) == set(read) and empty["stack"].shape == (0, 32, 32, 5)
    for key, array in full.items():
        assert array.dtype.kind == empty[key].dtype.kind == read[key].dtype.kind and not array.dtype.hasobject, key
    assert set(CUTOUT_COLUMNS) <= set(full) and read["artefact"].tolist() == [""]
    assert full["channels"].tolist() == list(CHANNELS)


@pytest.mark.parametrize(
    "change, options, match",
    [
        ({}, {"size": 101}, "image a: cutouts.size: cutouts of 101 px are larger than the image of 120 x 100 px"),
        ({"science": np.zeros((3, 3))}, {}, "image a: science: its shape"),
        ({"reference": None}, {}, "image a: reference: the file of the difference does not have this plane"),
    ],
)
def test_bad_input(change, options, match):
    images = {name: plane for name, plane in (planes() | change).items() if plane is not None}
    with pytest.raises(ImageError, match=match):
        make_cutouts(labelled([(60, 50)]), images, **options)


def test_candidate_outside_the_image():
    with pytest.raises(ImageError, match="candidate a-0001 lies outside"):
        make_cutouts(labelled([(60, 50), (130, 50)]), planes())


def test_kind_is_kept(tmp_path):
    table = labelled([(60, 50), (61, 51)])
    table["kind"] = ["removed", ""]
    io.write_table(tmp_path / "t.csv", table)
    arrays = make_cutouts(io.read_table(tmp_path / "t.csv"), planes())
    assert arrays["kind"].tolist() == ["removed", ""]


def test_files(tmp_path):
    io.write_table(tmp_path / "l.csv", labelled([(60, 50)]))
    write_planes(tmp_path / "d.fits", planes())
    io.write_json(tmp_path / "psf.json", {"pixel_scale": 1.5, "seeing_px": 3.0})
    turned = [[0.0, -2.0, 300.0], [2.0, 0.0, 10.0]]  # a rotation by 90 deg, and pixels half as large
    io.write_json(tmp_path / "subtract.json", {"to_reference": turned})
    offset = np.hypot(*np.mgrid[-24:25, -24:25]) / 2  # two samples per pixel
    PSFModel(np.exp(-0.5 * (offset / 1.3) ** 2)[None], 0, 2, (100, 120)).save(tmp_path / "psf.fits")
    for name in ("one", "two"):
        cutouts_files(
            labelled=tmp_path / "l.csv",
            difference=tmp_path / "d.fits",
            psf=tmp_path / "psf.fits",
            psf_record=tmp_path / "psf.json",
            subtract_record=tmp_path / "subtract.json",
            cutouts=tmp_path / f"{name}.npz",
            telescope="T",
            pipeline="builtin",
            image="a",
            field="field M31",
            options=CutoutsOptions(size=33),
        )
    arrays = read_arrays(tmp_path / "one.npz")
    assert arrays["stack"].shape == (1, 33, 33, 5) and str(arrays["telescope"]) == "T"
    assert arrays["stack"][0, ..., 4].argmax() == 33 * 16 + 16 and arrays["stack"][..., 4].sum() == pytest.approx(1)
    assert arrays["pixel_scale"].tolist() == [1.5] and arrays["field"].tolist() == ["field M31"]
    # (60, 50) is (200, 130) on the reference, of 0.75 arcsec/px.
    assert (arrays["grid_x"].tolist(), arrays["grid_y"].tolist()) == ([150.0], [97.5])
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_the_grid_of_a_reference_that_is_not_known_is_missing():
    x = np.array([1.0, 2.0])
    assert all(np.isnan(values).all() for values in reference_grid(x, x, None, 1.0))
    same = reference_grid(x, 2 * x, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], 1.2)
    np.testing.assert_allclose(same, [1.2 * x, 2.4 * x])


def test_flipped_cutouts():
    stack = np.arange(2 * 3 * 3 * 3, dtype=float).reshape(2, 3, 3, 3)
    channels = ["difference", "science", "reference"]
    turned = flipped(stack, np.array([1, -1]), channels=channels)
    assert np.array_equal(turned[0], stack[0])
    assert np.array_equal(turned[1, ..., 0], -stack[1, ..., 0])
    assert np.array_equal(turned[1, ..., 1], stack[1, ..., 2]) and np.array_equal(turned[1, ..., 2], stack[1, ..., 1])
    assert flipped(stack, np.array([1, 1]), channels=channels) is stack


def test_a_candidate_that_faded_is_cut_from_reference_minus_science():
    images, table = planes(), labelled([(60.0, 50.0), (40.0, 50.0)])
    table["flux"] = [500.0, -500.0]
    found = make_cutouts(table, images, size=9)
    assert found["sign"].tolist() == [1, -1]
    there = np.s_[46:55, 36:45]
    for channel, name, factor in ((0, "diff", -1), (1, "reference", 1), (2, "science", 1), (3, "mask", 1)):
        np.testing.assert_array_equal(found["stack"][1, ..., channel], factor * images[name][there])
    np.testing.assert_array_equal(found["stack"][0, ..., 1], images["science"][46:55, 56:65])
