"""Cutouts in files: arrays of a ``.npz`` read in place, and rows of many files gathered some at a time."""

from __future__ import annotations

import functools
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from otrain_core.errors import CubeError, OtrainError, first_line
from otrain_core.io import atomic, raise_if_failed, shown
from otrain_core.safe import check_npz

BLOCK = 1024  # cutouts gathered at a time


class Member:
    """An array that stays in its file: opened for as long as it is looked at.

    A mapped array keeps its file open, and thousands of images are more than a process may open.

    Parameters
    ----------
    path : path-like
        The ``.npz``, in which the array is stored uncompressed.
    info : zipfile.ZipInfo
        Its member of the archive.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype

    Raises
    ------
    ValueError
        Not an array, or one of Python objects.
    """

    def __init__(self, path: str | Path, info: zipfile.ZipInfo):
        self.path = path
        with open(path, "rb") as file:
            # A zip member starts with 30 bytes, the last four of which are the lengths of name and extras.
            file.seek(info.header_offset + 26)
            name, extra = np.frombuffer(file.read(4), dtype="<u2")
            start = info.header_offset + 30 + int(name) + int(extra)
            file.seek(start)
            version = np.lib.format.read_magic(file)
            old = version == (1, 0)
            read_header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read_header(file)
            self.shape: tuple[int, ...] = shape
            self.dtype: np.dtype[Any] = dtype
            if self.dtype.hasobject:
                raise ValueError("an array of Python objects")
            self._offset = file.tell()
            self._order: Literal["C", "F"] = "F" if fortran else "C"
            self._start, self._size, self._crc = start, info.file_size, info.CRC

    def map(self) -> np.ndarray:
        """The array, mapped into memory (read-only); the file is open as long as the array lives.

        Raises
        ------
        CubeError
            The pixels are not those that were written: their checksum differs.
        """
        about = os.stat(self.path)
        found = _checksum(str(self.path), self._start, self._size, (about.st_mtime_ns, about.st_size, about.st_ino))
        if found != self._crc:
            raise CubeError(f"{shown(self.path)}: damaged: an array is not what was written (its checksum differs)")
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        return np.memmap(self.path, self.dtype, "r", offset=self._offset, shape=self.shape, order=self._order)


@functools.lru_cache(maxsize=65536)
def _checksum(path: str, start: int, size: int, _stamp: tuple[int, ...]) -> int:
    """CRC-32 of a part of a file, computed once for as long as the file is the same (`_stamp`)."""
    crc = 0
    with open(path, "rb") as file:
        file.seek(start)
        while size > 0 and (block := file.read(min(size, 1 << 22))):
            crc = zlib.crc32(block, crc)
            size -= len(block)
    return crc


def read_stack(
    path: str | Path, *, mmap: Sequence[str] = (), later: Sequence[str] = (), only: Sequence[str] | None = None
) -> dict[str, Any]:
    """Read a ``.npz``, with the members named in `mmap` mapped into memory (read-only).

    Those named in `later` are not even opened: each is a `Member`. What is compressed is read in any case. With
    `only` the other members are left out.

    Raises
    ------
    CubeError
        Not a readable ``.npz``, damaged, pickles in it, or a decompression bomb.
    UpstreamFailed
        The file marks the failure of an earlier step of its image.
    """
    if not Path(path).is_file():
        raise CubeError(f"{shown(path)}: no such file")
    raise_if_failed(path)
    check_npz(path)
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays: dict[str, Any] = {}
            for name in archive.files if only is None else [name for name in archive.files if name in only]:
                info = archive.zip.getinfo(f"{name}.npy")
                if name not in (*mmap, *later) or info.compress_type != zipfile.ZIP_STORED:
                    arrays[name] = archive[name]
                    continue
                member = Member(path, info)
                arrays[name] = member if name in later else member.map()
            return arrays
    except OtrainError:
        raise
    except Exception as error:  # of many kinds, from zipfile, zlib and NumPy
        raise CubeError(f"{shown(path)}: not a readable .npz file ({first_line(error)})") from None


def arrays_if_there(path: str | Path) -> dict[str, np.ndarray] | None:
    """Arrays of an ``.npz`` file, the pixels of a cube mapped into memory.

    None where the file is missing, unreadable or a failure mark.
    """
    try:
        return read_stack(path, mmap=("cube",))
    except (OSError, OtrainError):
        return None


def write_arrays(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as an uncompressed ``.npz``, byte for byte the same for the same arrays.

    What has ``shape``, ``dtype`` and ``blocks()`` (its rows, some at a time) is never held in memory as a
    whole; the file is the same as if it were.
    """
    for name, array in arrays.items():
        if (array if hasattr(array, "blocks") else np.asarray(array)).dtype.hasobject:
            raise TypeError(f"array {name!r} holds Python objects")
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:  # as numpy.savez does
                if not hasattr(array, "blocks"):
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
                    continue
                about = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False}
                np.lib.format.write_array_header_1_0(member, about | {"shape": tuple(array.shape)})
                for block in array.blocks():
                    if block.size:
                        member.write(np.ascontiguousarray(block, array.dtype).reshape(-1).view(np.uint8).data)


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read a ``.npz`` without ever unpickling.

    Raises
    ------
    CubeError
        Not a ``.npz``, truncated, or an array of Python objects in it.
    UpstreamFailed
        The file marks the failure of an earlier step of its image.
    """
    return read_stack(path)
