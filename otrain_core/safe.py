"""What is refused of files from strangers: archives and headers that promise more than they hold, and hostile names."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.errors import CubeError, ImageError, first_line

SMALL = 2**28  # bytes that any file may unfold to
MOST_UNFOLDED = 40  # beyond that: times the size of the file; noise does not compress so well
LARGEST_IMAGE = 2**32  # bytes that one image may have
MAX_AXES = 4
MAX_CARDS = 50_000  # of a header; a million of them take minutes to read
# First bytes of compressed files that readers of FITS and of tables unfold by themselves.
UNFOLD: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
NOT_READ = {b"PK\x03\x04": "zip", b"\x1f\x9d": "compress (.Z)"}


def limit_of(path: str | Path) -> int:
    """Bytes that a file may unfold to."""
    return max(SMALL, MOST_UNFOLDED * Path(path).stat().st_size)


def check_npz(path: str | Path) -> None:
    """Refuse an archive of arrays that is a decompression bomb or whose headers do not fit its members.

    Only headers are read.

    Raises
    ------
    CubeError
        Not an archive, arrays of Python objects (pickles), or more promised than there is.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total, limit = sum(member.file_size for member in members), limit_of(path)
            if total > limit:
                raise CubeError(
                    f"{path}: unfolds to {_size(total)} from {_size(Path(path).stat().st_size)}; refused as a decompression bomb"
                )
            for member in members:
                if not member.filename.endswith(".npy"):
                    raise CubeError(f"{path}: {member.filename!r} is not an array")
                with archive.open(member) as file:
                    promised = _promised(file, path, member.filename)
                if promised > member.file_size:
                    raise CubeError(
                        f"{path}: {member.filename}: its header promises {_size(promised)} that are not there"
                    )
    except CubeError:
        raise
    except Exception as error:  # of many kinds, from zipfile, zlib, tokenize and NumPy
        raise CubeError(f"{path}: not a readable .npz file ({first_line(error)})") from None


def _promised(file: Any, path: str | Path, name: str) -> int:
    """Bytes of the array that the header of a member describes."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise CubeError(
            f"{path}: not a readable .npz file of plain arrays: {name} holds Python objects, which could run code"
        )
    size = dtype.itemsize
    for length in shape:
        if length < 0:
            raise CubeError(f"{path}: {name}: a negative length in its header")
        size *= int(length)
    return size


def check_compressed(path: str | Path, *, image: str, limit: int | None = None) -> None:
    """Refuse a gzip, bzip2 or xz file that unfolds to more than `limit` bytes (default `limit_of`); others pass.

    Raises
    ------
    ImageError
        A decompression bomb, or an archive.
    """
    limit = limit or min(limit_of(path), LARGEST_IMAGE)
    with open(path, "rb") as file:
        start = file.read(8)
    for magic, name in NOT_READ.items():
        if start.startswith(magic):
            raise ImageError(image, "path", f"{path}: a {name} file is not read; unpack it first")
    unfold = next((unfold for magic, unfold in UNFOLD.items() if start.startswith(magic)), None)
    if unfold is None:
        return
    total = 0
    try:
        with unfold(path) as file:
            while block := file.read(1 << 20):
                total += len(block)
                if total > limit:
                    raise ImageError(
                        image,
                        "path",
                        f"{path}: unfolds to more than {_size(limit)} from {_size(Path(path).stat().st_size)}; refused as a decompression bomb",
                    )
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ImageError(image, "path", f"{path}: not a readable FITS image, or truncated ({error})") from None


def check_cards(path: str | Path, *, image: str) -> None:
    """Refuse a FITS file whose first header has more than `MAX_CARDS` cards, before it is parsed.

    Raises
    ------
    ImageError
    """
    with open(path, "rb") as file:
        start = file.read(8)
    unfold = next((unfold for magic, unfold in UNFOLD.items() if start.startswith(magic)), open)
    try:
        with unfold(path, "rb") as file:
            for _ in range(-(-MAX_CARDS // 36)):
                block = file.read(2880)
                if len(block) < 2880 or any(block[at : at + 8] == b"END     " for at in range(0, 2880, 80)):
                    return
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ImageError(image, "path", f"{path}: not a readable FITS image, or truncated ({error})") from None
    raise ImageError(image, "path", f"{path}: a header of more than {MAX_CARDS:,} cards is refused")


def check_header(header: Mapping[str, Any], path: str | Path, *, image: str, limit: int | None = None) -> None:
    """Refuse a FITS header that promises an image of more than `limit` bytes (default `limit_of`).

    To be called before the data are touched, for which memory is taken as the header says.

    Raises
    ------
    ImageError
        Lengths that are no whole numbers of 0 or more, more than four axes, or too large an image.
    """
    z = "Z" if "ZNAXIS" in header else ""  # tile-compressed
    n_axes, bits = header.get(f"{z}NAXIS", 0), header.get(f"{z}BITPIX", 8)
    if not isinstance(n_axes, int) or not 0 <= n_axes <= MAX_AXES:
        raise ImageError(image, f"{z}NAXIS", f"{path}: an image of {n_axes} axes is refused (at most {MAX_AXES})")
    if bits not in (8, 16, 32, 64, -32, -64):
        raise ImageError(image, f"{z}BITPIX", f"{path}: {bits!r} is no type of pixels")
    size = abs(bits) // 8
    for axis in range(1, n_axes + 1):
        length = header.get(f"{z}NAXIS{axis}")
        if not isinstance(length, int) or isinstance(length, bool) or length < 0:
            raise ImageError(image, f"{z}NAXIS{axis}", f"{path}: a whole number is needed, found {length!r}")
        size *= length
    limit = limit or min(limit_of(path), LARGEST_IMAGE)
    if n_axes and size > limit:
        held = _size(Path(path).stat().st_size)
        raise ImageError(image, f"{z}NAXIS", f"{path}: its header promises {_size(size)}, the file has {held}; refused")


def safe_name(text: Any, *, fallback: str = "cutout", longest: int = 100) -> str:
    """A file name made of a text that may come from a header: never a path or an option, never hidden or void."""
    name = re.sub(r"[^A-Za-z0-9._+-]+", "_", str(text)).strip("._ ").lstrip("-.")[:longest]
    return name if name and re.search(r"[A-Za-z0-9]", name) else fallback


def _size(n: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n} bytes"


def plain(text: Any) -> str:
    """A text without control characters, which a terminal would obey and which break lines of a table.

    Bytes of a file name that are not UTF-8, which cannot be printed, are replaced too.
    """
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "?", str(text))
