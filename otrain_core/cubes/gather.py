"""Join the cutouts of many images: their pixels and their columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from otrain_core.arrays import BLOCK, Member
from otrain_core.cubes.cube_format import CUBE_COLUMNS
from otrain_core.errors import CubeError

# Columns that stacks of earlier versions and ready-made cutouts may lack, and the values used instead.
OPTIONAL = {"field": "", "grid_x": np.nan, "grid_y": np.nan, "sign": 1}


class Gathered:
    """Cutouts of many images as one array, whose pixels are read only when they are used.

    Parameters
    ----------
    stacks : sequence of mapping
        Cutouts of each image: ``stack`` (n, H, W, C), an array or a `Member`, ``channels``, ``label`` (n,)
        and ``image_name``.
    offsets : numpy.ndarray
        (len(stacks) + 1,) index of the first row of each stack among the rows of all stacks.
    chosen : numpy.ndarray
        (N,) indices of the rows to select among the rows of all stacks, in order.
    channels : sequence of str
        Channels to select, in order.

    Attributes
    ----------
    shape : tuple of int
        (N, H, W, channels).
    dtype : numpy.dtype
        float32.

    Raises
    ------
    CubeError
        The cutouts differ in size, or an image lacks a channel.
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
            raise CubeError(
                f"cutouts of different sizes cannot be joined: {sorted(sizes)}; use one cutouts.size for all images"
            )
        self._places = []
        for stack in stacks:
            known = [str(name) for name in stack["channels"]]
            for name in channels:
                if name not in known:
                    image = stack["image_name"]
                    raise CubeError(
                        f"image {image}: no channel {name} (cube.channels); the cutouts have {', '.join(known)}"
                    )
            self._places.append([known.index(name) for name in channels])
        self._stacks, self._offsets, self._chosen = stacks, offsets, chosen
        self.shape = (len(chosen), *sizes.pop(), len(channels))

    def __len__(self) -> int:
        return len(self._chosen)

    def blocks(self, size: int = BLOCK) -> Iterator[np.ndarray]:
        """Yield the cutouts in order, in blocks of up to `size`."""
        for start in range(0, len(self), size):
            yield self._rows(self._chosen[start : start + size])

    def read(self) -> np.ndarray:
        """Read all cutouts as one array."""
        cube, start = np.empty(self.shape, self.dtype), 0
        for block in self.blocks():
            cube[start : start + len(block)] = block
            start += len(block)
        return cube

    def take(self, index: np.ndarray) -> np.ndarray:
        """Read some cutouts, by their indices in this array."""
        return self._rows(self._chosen[index])

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        """Read some cutouts, by their indices among the rows of all stacks."""
        block = np.empty((len(rows), *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self._offsets, rows, side="right") - 1
        for index in np.unique(owner):
            mine = np.flatnonzero(owner == index)
            pixels = self._stacks[index]["stack"]
            pixels = pixels.map() if isinstance(pixels, Member) else pixels
            block[mine] = pixels[rows[mine] - self._offsets[index]][..., self._places[index]]
        return block


def joined_columns(
    stacks: Sequence[Mapping[str, np.ndarray]],
) -> tuple[list[Mapping[str, np.ndarray]], dict[str, np.ndarray], np.ndarray]:
    """Sort stacks by image and join their columns.

    Returns
    -------
    stacks : list of mapping
        The stacks in order of their images.
    column : dict of numpy.ndarray
        (N,) columns of all stacks.
    offsets : numpy.ndarray
        (len(stacks) + 1,) index of the first row of each stack.

    Raises
    ------
    CubeError
        An image is given twice, or a candid occurs twice.
    """
    stacks = sorted(stacks, key=lambda stack: str(stack["image_name"]))
    names = [str(stack["image_name"]) for stack in stacks]
    if len(set(names)) < len(names):
        raise CubeError(f"image {next(name for name, n in Counter(names).items() if n > 1)} was given twice")
    offsets = np.cumsum([0] + [len(stack["label"]) for stack in stacks])
    column = {key: _join(stacks, key) for key in (*CUBE_COLUMNS.values(), "label", "edge", "n_missing")}
    _check_unique(column["candid"])
    return stacks, column, offsets


def in_order(column: Mapping[str, np.ndarray], wanted: np.ndarray) -> np.ndarray:
    """Indices of the wanted rows, in order of image and candid."""
    rows = np.flatnonzero(wanted)
    return rows[np.lexsort((column["candid"][rows], column["image"][rows]))]


def _check_unique(candids: np.ndarray) -> None:
    """Refuse candids that occur more than once."""
    values, counts = np.unique(candids, return_counts=True)
    if (counts > 1).any():
        raise CubeError(f"candid {values[counts.argmax()]} occurs {counts.max()} times; candids must be unique")


def _join(stacks: Sequence[Mapping[str, np.ndarray]], key: str) -> np.ndarray:
    """A column of all stacks."""
    # Leave out empty stacks, so that an empty column does not determine the type.
    some = [stack for stack in stacks if len(stack["label"])] or stacks[:1]
    return np.concatenate(
        [np.asarray(stack[key]) if key in stack else np.full(len(stack["label"]), OPTIONAL[key]) for stack in some]
    )
