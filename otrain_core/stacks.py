"""Cutouts in files: arrays of a ``.npz`` read in place, and rows of many files gathered some at a time."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.errors import CubeError
from otrain_core.io import raise_if_failed
from otrain_core.safe import check_npz

BLOCK = 1024  # cutouts gathered at a time


class Member:
    """An array that stays in its file: opened for as long as it is looked at.

    A mapped array keeps its file open, and thousands of images are more than a process may open.

    Parameters
    ----------
    path : path-like
        The ``.npz``, in which the array is stored uncompressed.
    header_offset : int
        Place of its member in the file [bytes].

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype

    Raises
    ------
    ValueError
        Not an array, or one of Python objects.
    """

    def __init__(self, path: str | Path, header_offset: int):
        self.path = path
        with open(path, "rb") as file:
            # A zip member starts with 30 bytes, the last four of which are the lengths of name and extras.
            file.seek(header_offset + 26)
            name, extra = np.frombuffer(file.read(4), dtype="<u2")
            file.seek(header_offset + 30 + int(name) + int(extra))
            version = np.lib.format.read_magic(file)
            old = version == (1, 0)
            read_header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
            self.shape, fortran, self.dtype = read_header(file)
            if self.dtype.hasobject:
                raise ValueError("an array of Python objects")
            self._offset, self._order = file.tell(), "F" if fortran else "C"

    def map(self) -> np.ndarray:
        """The array, mapped into memory (read-only); the file is open as long as the array lives."""
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        return np.memmap(self.path, self.dtype, "r", offset=self._offset, shape=self.shape, order=self._order)


class Gathered:
    """Cutouts of many images as one array, which is read only as it is used.

    Parameters
    ----------
    stacks : sequence of mapping
        Cutouts of each image: ``stack`` (n, H, W, C), an array or a `Member`, ``channels``, ``label`` (n,)
        and ``image_name``.
    offsets : numpy.ndarray
        (len(stacks) + 1,) first row of each of them among all rows.
    chosen : numpy.ndarray
        (N,) rows of all, in the order wanted.
    channels : sequence of str
        Channels wanted, in this order.

    Attributes
    ----------
    shape : tuple of int
        (N, H, W, channels).
    dtype : numpy.dtype
        float32.

    Raises
    ------
    CubeError
        Cutouts of different sizes, or a channel that an image does not have.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self,
        stacks: Sequence[Mapping[str, Any]],
        offsets: np.ndarray,
        chosen: np.ndarray,
        channels: Sequence[str],
    ):
        sizes = {s["stack"].shape[1:3] for s in stacks if len(s["label"])} or {stacks[0]["stack"].shape[1:3]}
        if len(sizes) > 1:
            raise CubeError(f"cutouts of different sizes cannot be joined: {sorted(sizes)}")
        self._places = []
        for stack in stacks:
            known = [str(name) for name in stack["channels"]]
            for name in channels:
                if name not in known:
                    image = stack["image_name"]
                    raise CubeError(f"image {image}: cube.channels asks for {name}, the cutouts have {known}")
            self._places.append([known.index(name) for name in channels])
        self._stacks, self._offsets, self._chosen = stacks, offsets, chosen
        self.shape = (len(chosen), *sizes.pop(), len(channels))

    def __len__(self) -> int:
        return len(self._chosen)

    def blocks(self, size: int = BLOCK) -> Iterator[np.ndarray]:
        """The cutouts in order, up to `size` at a time."""
        for start in range(0, len(self), size):
            yield self._rows(self._chosen[start : start + size])

    def read(self) -> np.ndarray:
        """All of them as one array."""
        cube, start = np.empty(self.shape, self.dtype), 0
        for block in self.blocks():
            cube[start : start + len(block)] = block
            start += len(block)
        return cube

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        block = np.empty((len(rows), *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self._offsets, rows, side="right") - 1
        for index in np.unique(owner):
            mine = np.flatnonzero(owner == index)
            pixels = self._stacks[index]["stack"]
            pixels = pixels.map() if isinstance(pixels, Member) else pixels
            block[mine] = pixels[rows[mine] - self._offsets[index]][..., self._places[index]]
        return block


def read_stack(
    path: str | Path, *, mmap: Sequence[str] = (), later: Sequence[str] = (), only: Sequence[str] | None = None
) -> dict[str, Any]:
    """Read a ``.npz``, with the members named in `mmap` mapped into memory (read-only).

    Those named in `later` are not even opened: each is a `Member`. What is compressed is read in any case. With
    `only` the other members are left out.

    Raises
    ------
    CubeError
        Not a readable ``.npz``, pickles in it, or a decompression bomb.
    UpstreamFailed
        The file marks the failure of an earlier step of its image.
    """
    if not Path(path).is_file():
        raise CubeError(f"{path}: no such file")
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
                member = Member(path, info.header_offset)
                arrays[name] = member if name in later else member.map()
            return arrays
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, AttributeError) as error:
        raise CubeError(f"{path}: not a readable .npz file ({str(error).splitlines()[0]})") from None
