"""Reading of cubes: those of the workflow, of the original program, and unusable ones."""

import numpy as np
import pytest

from otrain_core.arrays import read_stack, write_arrays
from otrain_core.cubes.cube_format import read_cube
from otrain_core.errors import CubeError
from tests.unit.cubes.test_cube import build, three_images


def test_read_cube_and_memory_map(tmp_path):
    arrays, _ = build(three_images(), channels=("difference", "mask"))
    write_arrays(tmp_path / "cube.npz", arrays)
    plain, mapped = read_cube(tmp_path / "cube.npz"), read_cube(tmp_path / "cube.npz", mmap=True)
    assert isinstance(mapped["cube"], np.memmap) and not mapped["cube"].flags.writeable
    for key, array in arrays.items():
        np.testing.assert_array_equal(plain[key], array)
        np.testing.assert_array_equal(mapped[key], array)


@pytest.mark.parametrize("one_hot", [False, True])
def test_cube_of_the_original_program(tmp_path, one_hot):
    labels = np.array([0, 1, 1, 0])
    table1 = {
        "cube": np.ones((4, 32, 32, 1)),
        "labels": np.eye(2)[labels] if one_hot else labels,
        "mags": np.array([18.5, -99.0, 0, 99]),
        "errmags": np.array([0.1, -99, 0.2, 99]),
        "filters": np.array(["R"] * 4),
        "fwhms": np.arange(4.0),
        "candids": np.array(list("abcd")),
    }
    np.savez(tmp_path / "old.npz", **table1)
    cube = read_cube(tmp_path / "old.npz")
    assert cube["labels"].tolist() == labels.tolist() and cube["cube"].dtype == np.float32
    np.testing.assert_array_equal(cube["mags"], [18.5, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(cube["errmags"], [0.1, np.nan, 0.2, np.nan])
    assert cube["channels"].tolist() == ["difference"]


@pytest.mark.parametrize(
    "change, match",
    [
        ({"fwhms": None}, "key 'fwhms' is missing"),
        ({"labels": np.array([0, 1, 2, 1])}, "labels: must be 0"),
        ({"labels": np.ones(4)}, "labels: both classes are needed"),
        ({"mags": np.ones(3)}, "mags has 3 entries for 4 cutouts"),
        ({"labels": np.array([0, 1])}, "labels has 2 entries"),
        ({"cube": np.ones((4, 9))}, "cube: numbers of shape"),
        ({"channels": np.array(["difference", "mask"])}, "channels: 2 names for the 1 channels"),
        ({"channels": np.array([7])}, "channels: a unique name is needed for each channel"),
        ({"mags": np.array(18.0)}, r"mags has the shape \(\) for 4 cutouts"),
        ({"mags": np.array(list("abcd"))}, "mags: numbers are needed, found <U1"),
        ({"fwhms": np.ones((4, 2))}, r"fwhms has the shape \(4, 2\)"),
        ({"cube": np.ones((4, 9, 9, 1), bool)}, "cube: numbers of shape"),
        ({"cube": np.ones((4, 0, 0, 1))}, "cube: numbers of shape"),
        ({"labels": np.array(["True", "False"] * 2)}, "labels: must be 0"),
        ({"labels": np.array([0, 1, np.nan, 1])}, "labels: must be 0"),
        ({"labels": np.array(1)}, "labels: must be 0"),
        ({"labels": np.array([[0.5, 0.5]] * 4)}, "labels: must be 0"),
        ({"labels": np.ones((4, 2))}, "labels: must be 0"),
    ],
)
def test_unusable_cube(tmp_path, change, match):
    good = {"cube": np.ones((4, 9, 9, 1)), "labels": np.array([0, 1, 0, 1])}
    good |= {"mags": np.ones(4), "errmags": np.ones(4), "filters": np.full(4, "R"), "fwhms": np.ones(4)}
    good |= {"candids": np.array(list("abcd"))}
    arrays = {key: value for key, value in (good | change).items() if value is not None}
    np.savez(tmp_path / "cube.npz", **arrays)
    with pytest.raises(CubeError, match=match):
        read_cube(tmp_path / "cube.npz")


def test_a_cube_without_kinds_gets_empty_ones(tmp_path):
    arrays, _ = build(three_images())
    del arrays["kinds"]
    write_arrays(tmp_path / "cube.npz", arrays)
    assert set(read_cube(tmp_path / "cube.npz")["kinds"]) == {""}


def test_unreadable_cube(tmp_path):
    with pytest.raises(CubeError, match="no such file"):
        read_cube(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not a cube")
    with pytest.raises(CubeError, match="not a readable .npz"):
        read_cube(tmp_path / "text.npz")
    np.savez(tmp_path / "objects.npz", cube=np.array([{}], dtype=object))
    for mmap in ((), ("cube",)):
        with pytest.raises(CubeError, match="not a readable .npz"):
            read_stack(tmp_path / "objects.npz", mmap=mmap)
    write_arrays(tmp_path / "whole.npz", build(three_images())[0])
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(CubeError, match="not a readable .npz"):
        read_cube(tmp_path / "half.npz")
