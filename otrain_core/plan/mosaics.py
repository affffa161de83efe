"""Rows of the sheet of images that stand for all CCDs of a mosaic."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from otrain_core.errors import ConfigError, ImageError
from otrain_core.extensions import ALL, image_extensions, split_extension
from otrain_core.plan.sheets import ImageRow

EVERY = f"[{ALL}]"


def expand_mosaics(
    sheet: Mapping[str, Mapping[str, ImageRow]], data_root: str | Path
) -> dict[str, dict[str, ImageRow]]:
    """The sheet with one row for each image of a file whose path ends with ``[*]``.

    The image ``night`` becomes ``night-CCD1`` and so on, with the extension in its path, and in that of its reference
    where that ends with ``[*]`` too. A field whose reference frames are mosaics has a stack for each extension.
    Files that are not there or cannot be read keep their row: the job of the image says what is wrong.

    Parameters
    ----------
    sheet : mapping of str to mapping of str to ImageRow
        By telescope and image.
    data_root : path-like
        Folder to which paths are relative.

    Raises
    ------
    ConfigError
        An image of this name stands in the sheet already.
    """
    return {telescope: _expand(images, Path(data_root)) for telescope, images in sheet.items()}


def _expand(images: Mapping[str, ImageRow], root: Path) -> dict[str, ImageRow]:
    fields = {row.field for row in images.values() if row.role == "reference" and row.path.endswith(EVERY)}
    found: dict[str, ImageRow] = {}
    for name, row in images.items():
        for part in _parts(row, root, fields):
            if part.image in found:
                raise ConfigError(f"image {name}: its extension would be the image {part.image!r}, which is there")
            found[part.image] = part
    return dict(sorted(found.items()))


def _parts(row: ImageRow, root: Path, fields: set[str | None]) -> list[ImageRow]:
    path, extension = split_extension(row.path)
    if extension != ALL:
        return [row]
    try:
        names = image_extensions(root / path, image=row.image)
    except ImageError:
        return [row]
    parts = []
    for name in names:
        suffix = re.sub(r"[^A-Za-z0-9_+.-]+", "_", name)
        changes = {"image": f"{row.image}-{suffix}", "path": f"{path}[{name}]"}
        if row.reference and row.reference.endswith(EVERY):
            changes["reference"] = row.reference.removesuffix(EVERY) + f"[{name}]"
        if row.field in fields and row.field is not None:
            changes["field"] = f"{row.field}-{suffix}"
        parts.append(row.model_copy(update=changes))
    return parts
