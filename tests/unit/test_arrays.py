"""Arrays in files: the same bytes for the same arrays, nothing unpickled, rows read in place."""

import numpy as np
import pytest

from otrain_core import io
from otrain_core.arrays import Member, read_arrays, read_stack, write_arrays
from otrain_core.errors import CubeError


def test_arrays_are_bytewise_reproducible_and_hold_no_objects(tmp_path):
    arrays = {"x": np.arange(5), "name": np.array(["a", "b"])}
    write_arrays(tmp_path / "a.npz", arrays)
    write_arrays(tmp_path / "b.npz", arrays)
    assert io.digest(tmp_path / "a.npz") == io.digest(tmp_path / "b.npz")
    np.savez(tmp_path / "numpy.npz", **arrays)
    assert io.digest(tmp_path / "a.npz") == io.digest(tmp_path / "numpy.npz")
    with pytest.raises(TypeError, match="'x' holds Python objects"):
        write_arrays(tmp_path / "c.npz", {"x": np.array([{}])})
    assert not (tmp_path / "c.npz").exists()


def test_pickles_are_never_loaded(tmp_path):
    np.savez(tmp_path / "evil.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CubeError, match=r"evil\.npz: not a readable"):
        read_arrays(tmp_path / "evil.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(CubeError, match="not a readable"):
        read_arrays(tmp_path / "text.npz")


def test_members_are_mapped_or_opened_later(tmp_path):
    arrays = {"cube": np.arange(24.0).reshape(4, 3, 2), "label": np.arange(4), "void": np.empty((0, 3), np.float32)}
    write_arrays(tmp_path / "a.npz", arrays)
    stack = read_stack(tmp_path / "a.npz", mmap=("cube",), later=("label", "void"))
    assert isinstance(stack["cube"], np.memmap) and not stack["cube"].flags.writeable
    np.testing.assert_array_equal(stack["cube"], arrays["cube"])
    assert isinstance(stack["label"], Member) and stack["label"].shape == (4,)
    np.testing.assert_array_equal(stack["label"].map(), arrays["label"])
    assert stack["void"].map().shape == (0, 3)
    assert list(read_stack(tmp_path / "a.npz", only=("label",))) == ["label"]


def test_arrays_of_columns_first_are_mapped_as_they_are(tmp_path):
    cube = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.savez(tmp_path / "f.npz", cube=cube)
    np.testing.assert_array_equal(read_stack(tmp_path / "f.npz", mmap=("cube",))["cube"], cube)


def test_compressed_members_are_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", cube=np.arange(5))
    cube = read_stack(tmp_path / "a.npz", mmap=("cube",))["cube"]
    assert not isinstance(cube, np.memmap) and cube.tolist() == [0, 1, 2, 3, 4]


class Rows:
    """Rows that are made some at a time."""

    shape, dtype = (5, 2), np.dtype("f4")

    def blocks(self):
        whole = np.arange(10.0).reshape(5, 2)
        yield from (whole[:3], whole[3:3], whole[3:])


def test_rows_that_are_made_some_at_a_time_give_the_same_file(tmp_path):
    write_arrays(tmp_path / "some.npz", {"cube": Rows()})
    write_arrays(tmp_path / "whole.npz", {"cube": np.arange(10, dtype=np.float32).reshape(5, 2)})
    assert (tmp_path / "some.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_a_half_file_is_refused(tmp_path):
    write_arrays(tmp_path / "a.npz", {"x": np.arange(500)})
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[: len(content) // 2])
    for read in (read_arrays, read_stack):
        with pytest.raises(CubeError, match=r"a\.npz: not a readable \.npz"):
            read(tmp_path / "a.npz")
    with pytest.raises(CubeError, match="no such file"):
        read_stack(tmp_path / "none.npz")


def test_damaged_pixels_are_not_mapped(tmp_path):
    path = tmp_path / "a.npz"
    write_arrays(path, {"cube": np.arange(5000.0), "label": np.arange(4)})
    content = bytearray(path.read_bytes())
    content[3000] ^= 1
    path.write_bytes(content)
    with pytest.raises(CubeError, match=r"a\.npz: damaged: .*its checksum differs"):
        read_stack(path, mmap=("cube",))
    member = read_stack(path, later=("cube",))["cube"]
    with pytest.raises(CubeError, match="its checksum differs"):
        member.map()
    with pytest.raises(CubeError, match=r"a\.npz: not a readable \.npz file"):
        read_stack(path)
