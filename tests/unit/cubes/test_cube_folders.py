"""Ready-made cutouts in two folders as stacks, and the cube they make."""

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.cubes.cube import cube_from_folders
from otrain_core.cubes.cube_folders import stacks_from_folders
from otrain_core.errors import CubeError
from otrain_core.plan.config import CubeOptions


def write_cutout(path, value, **header):
    plane = np.full((9, 9), value, np.float32)
    cards = {"CANDID": path.stem, "EDGE": "False"} | header
    path.parent.mkdir(exist_ok=True)
    fits.PrimaryHDU(plane, fits.Header([(k, v) for k, v in cards.items() if v is not None])).writeto(path)


@pytest.fixture
def folders(tmp_path):
    for folder, start in (("True", 0), ("False", 100)):
        for k in range(6):
            write_cutout(tmp_path / folder / f"night{k % 3}_{start + k}.fits", start + k, MAG=18.0 + k, FILTER="R")
    return tmp_path


def from_folders(folders, **options):
    changed = {key: options.pop(key) for key in list(options) if key in CubeOptions.model_fields}
    section = CubeOptions(**({"min_per_class": 2} | changed))
    return cube_from_folders(folders / "True", folders / "False", seed=1, options=section, **options)


def test_folders_become_a_cube(folders):
    write_cutout(folders / "True" / "night0_50.fits", 50, EDGE=True)
    arrays, record = from_folders(folders, telescope="T", pipeline="p")
    assert record["n_true"] == record["n_false"] == 6 and record["n_edge"] == 1
    value = arrays["cube"][:, 0, 0, 0]
    np.testing.assert_array_equal(arrays["labels"], value < 100)
    assert [c.split("_")[1] for c in arrays["candids"]] == [f"{v:.0f}" for v in value]
    assert set(arrays["images"]) == {"night0", "night1", "night2"}
    assert arrays["filters"].tolist() == ["R"] * 12 and np.isnan(arrays["errmags"]).all()


@pytest.mark.parametrize("sentinel", [-99.0, 99, 0, "99"])
def test_magnitude_sentinels_are_missing(folders, sentinel):
    write_cutout(folders / "True" / "night0_60.fits", 60, MAG=sentinel, MAGERR=99.0)
    arrays, _ = from_folders(folders, true_fraction=None)
    where = arrays["candids"].tolist().index("night0_60")
    assert np.isnan(arrays["mags"][where]) and np.isnan(arrays["errmags"][where])
    assert np.isfinite(np.delete(arrays["mags"], where)).all()


@pytest.mark.parametrize(
    "header, match",
    [
        ({"CANDID": None}, "bad.fits: CANDID: this header key is mandatory"),
        ({"EDGE": None}, "bad.fits: EDGE: this header key is mandatory"),
        ({"EDGE": "perhaps"}, "bad.fits: EDGE: True or False is needed, found 'perhaps'"),
        ({"MAG": "faint"}, "bad.fits: MAG: a number is needed, found 'faint'"),
        ({"CANDID": "night1_1"}, "candid night1_1 occurs 2 times"),
    ],
)
def test_bad_cutout_header(folders, header, match):
    write_cutout(folders / "False" / "bad.fits", 1, **header)
    with pytest.raises(CubeError, match=match):
        from_folders(folders)


def test_bad_folders(folders, tmp_path):
    with pytest.raises(CubeError, match="Nowhere: no such folder"):
        stacks_from_folders(tmp_path / "Nowhere", folders / "False")
    (tmp_path / "Empty").mkdir()
    with pytest.raises(CubeError, match="Empty: no FITS cutouts"):
        stacks_from_folders(folders / "True", tmp_path / "Empty")
    (folders / "True" / "broken.fits").write_text("SIMPLE")
    with pytest.raises(CubeError, match="broken.fits: not a readable FITS image"):
        from_folders(folders)
    (folders / "True" / "broken.fits").unlink()
    fits.PrimaryHDU(np.zeros((9, 10), np.float32)).writeto(folders / "True" / "oblong.fits")
    with pytest.raises(CubeError, match="oblong.fits: NAXIS: the cutout must be square, found 10 x 9 px"):
        from_folders(folders)


def test_stacks_are_image_by_image(folders):
    stacks, n_cut_off = stacks_from_folders(folders / "True", folders / "False")
    assert n_cut_off == 0
    assert [(str(stack["image_name"]), len(stack["label"])) for stack in stacks] == [
        ("night0", 4),
        ("night1", 4),
        ("night2", 4),
    ]
    first = stacks[0]
    assert first["candid"].tolist() == ["night0_0", "night0_3", "night0_100", "night0_103"]
    assert first["label"].tolist() == [1, 1, 0, 0] and first["stack"].shape == (4, 9, 9, 1)
    np.testing.assert_array_equal(first["stack"][:, 4, 4, 0], [0, 3, 100, 103])


def test_frames_of_two_nights_with_the_same_name_are_two_images(tmp_path):
    for folder, start in (("True", 0), ("False", 100)):
        for k in range(6):
            path = tmp_path / folder / f"c{start + k}.fits"
            write_cutout(path, start + k, IMAGE=f"/data/night{k % 2}/science.fits")
    arrays, record = from_folders(tmp_path)
    assert record["n_images"] == 2
    assert set(arrays["images"]) == {"night0/science.fits", "night1/science.fits"}
    parity = arrays["cube"][:, 0, 0, 0] % 2
    assert [name[5] for name in arrays["images"]] == [f"{value:.0f}" for value in parity]


def write_night(root, *, header_of, n=12, name_of=None):
    """n cutouts of each class of two nights, all pixels their own."""
    for folder, start in (("True", 0), ("False", 100)):
        for k in range(n):
            name = name_of(k) if name_of else f"{folder[0]}{k:03d}"
            write_cutout(root / folder / f"{name}.fits", start + k, **header_of(folder, k))
    return root


def test_running_numbers_that_restart_for_each_image_and_class(tmp_path):
    root = write_night(tmp_path, header_of=lambda label, k: {"CANDID": k % 4, "IMAGE": f"night{k // 4}.fits"})
    arrays, _ = from_folders(root, true_fraction=None)
    assert len(set(arrays["candids"])) == 24 and set(arrays["images"]) == {f"night{k}.fits" for k in range(3)}
    where = arrays["candids"].tolist().index("True-night1.fits-2")
    assert arrays["cube"][where, 0, 0, 0] == 6 and arrays["labels"][where] == 1
    assert arrays["cube"][arrays["candids"].tolist().index("False-night1.fits-2"), 0, 0, 0] == 106


def test_running_numbers_that_restart_for_each_image(tmp_path):
    def header(label, k):
        return {"CANDID": k % 4 + (0 if label == "True" else 50), "IMAGE": f"night{k // 4}.fits"}

    arrays, _ = from_folders(write_night(tmp_path, header_of=header), true_fraction=None)
    assert len(set(arrays["candids"])) == 24 and "night2.fits-53" in arrays["candids"]


def test_images_of_the_same_name_in_several_folders_are_different_images(tmp_path):
    def header(label, k):
        return {"IMAGE": f"/data/night{k % 3}/{'a' if k % 2 else 'b'}/science.fits"}

    arrays, _ = from_folders(write_night(tmp_path, header_of=header), true_fraction=None)
    assert set(arrays["images"]) == {f"night{night}/{part}/science.fits" for night in range(3) for part in "ab"}
    where = arrays["candids"].tolist().index("T004")
    assert arrays["images"][where] == "night1/b/science.fits"


def test_a_unique_image_keeps_its_short_name(tmp_path):
    root = write_night(tmp_path, header_of=lambda label, k: {"IMAGE": f"/data/one/im{k % 3}.fits"})
    assert set(from_folders(root, true_fraction=None)[0]["images"]) == {"im0.fits", "im1.fits", "im2.fits"}


def test_a_repeated_name_that_is_not_a_number_is_refused(tmp_path):
    root = write_night(tmp_path, header_of=lambda label, k: {"CANDID": "SN2026a" if k == 3 else None or f"{label}{k}"})
    with pytest.raises(CubeError, match="candid SN2026a occurs 2 times"):
        from_folders(root)
