"""Expansion of the rows of the image sheet that name all CCDs of a mosaic."""

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
    """Replace every row whose path ends with ``[*]`` by one row per image of the file.

    The image ``night`` becomes ``night-CCD1`` and so on, with the extension in its path, and in the path of its
    reference if that ends with ``[*]`` too. A field whose reference frames are mosaics gets one stack per extension.
    The row of a file that is missing, unreadable or without an image stays as it is: the job of the image will report
    the problem.

    Parameters
    ----------
    sheet : mapping of str to mapping of str to ImageRow
        Image sheet by telescope and image.
    data_root : path-like
        Folder to which paths are relative.

    Raises
    ------
    ConfigError
        The sheet has an image with the name of an expanded one already.
    """
    return {telescope: _expand(images, Path(data_root)) for telescope, images in sheet.items()}


def _expand(images: Mapping[str, ImageRow], root: Path) -> dict[str, ImageRow]:
    fields = {row.field for row in images.values() if row.role == "reference" and row.path.endswith(EVERY)}
    found: dict[str, ImageRow] = {}
    for name, row in images.items():
        for part in _parts(row, root, fields):
            if part.image in found:
                raise ConfigError(
                    f"image {name}: one of its extensions would be named {part.image!r}, but the sheet has this image already"
                )
            found[part.image] = part
    return dict(sorted(found.items()))


def _parts(row: ImageRow, root: Path, fields: set[str | None]) -> list[ImageRow]:
    path, extension = split_extension(row.path)
    if extension != ALL:
        return [row]
    try:
        names = image_extensions(root / path, image=row.image)
    except ImageError:
        names = []
    if not names:
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
