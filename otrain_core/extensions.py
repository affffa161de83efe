"""Extensions of a FITS file: how a path names one, and which of them are images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from otrain_core.errors import ImageError, first_line
from otrain_core.io import truncation_told
from otrain_core.safe import check_cards, check_compressed, check_header

ALL = "*"  # path.fits[*]: each image of the file
# Extensions that go with an image and are not one.
COMPANIONS = re.compile(
    r"(?:BPM|BADPIX|MASK|DQ|ERR|ERROR|UNCERT|NOISE|RMS|VAR|VARIANCE|IVAR|WHT|WEIGHT|WGT|BKG|BACKGROUND|SKY|EXP|EXPMAP|"
    r"CONF|FLAG|FLAGS|CON|CTX|CAT|PSF|PREVIEW|THUMB|THUMBNAIL|DISPLAY)[_\-]?\d*"
)
SMALLER = 4  # an image of so many times fewer pixels than the largest is a preview


def split_extension(path: str | Path) -> tuple[Path, str | None]:
    """A path without the extension that it names: ``night.fits[SCI]``, ``night.fits[2]``, ``night.fits[SCI,2]``."""
    match = re.fullmatch(r"(.+)\[([A-Za-z0-9_.+ \-]+(?:,\d+)?|\*)\]", str(path))
    if match is None or Path(path).is_file():
        return Path(path), None
    return Path(match[1]), match[2].strip()


def file_of(path: str | Path) -> Path:
    """The file of a path that may name an extension."""
    return split_extension(path)[0]


def extension_name(hdu: Any, index: int) -> str:
    """Name of an HDU: EXTNAME, with EXTVER where that is not 1, or its number."""
    name = str(hdu.header.get("EXTNAME", "") or "").strip()
    version = hdu.header.get("EXTVER", 1)
    return (f"{name},{version}" if version not in (1, None) else name) if name else str(index)


def images_of(hdus: Any, path: str | Path, *, image: str) -> dict[int, Any]:
    """HDUs with an image of at least two axes, by number.

    Raises
    ------
    ImageError
        See `otrain_core.safe.check_header`, which looks at each of them.
    """
    found = {}
    for index, hdu in enumerate(hdus):
        if getattr(hdu, "is_image", False) and hdu.header.get("NAXIS", 0) >= 2:
            check_header(hdu.header, path, image=image)
            found[index] = hdu
    return found


def is_companion(name: str) -> bool:
    """Whether the name of an extension is that of a mask, an error, a weight or a preview."""
    return COMPANIONS.fullmatch(name.split(",")[0].upper()) is not None


def without_previews(hdus: Mapping[int, Any]) -> dict[int, Any]:
    """HDUs that have at least a quarter of the pixels of the largest."""
    areas = {index: _area(hdu) for index, hdu in hdus.items()}
    return {index: hdu for index, hdu in hdus.items() if SMALLER * areas[index] >= max(areas.values())}


def _area(hdu: Any) -> int:
    lengths = [hdu.header.get(f"NAXIS{axis}", 0) for axis in (1, 2)]
    return int(lengths[0]) * int(lengths[1]) if all(isinstance(length, int) for length in lengths) else 0


def image_extensions(path: str | Path, *, image: str) -> list[str]:
    """Names (or numbers) of the images of a FITS file that are no masks, errors, weights or previews, in order.

    Only headers are read.

    Raises
    ------
    ImageError
        Not a readable FITS file.
    """
    from astropy.io import fits

    if not Path(path).is_file():
        raise ImageError(image, "path", f"{path}: no such file")
    check_compressed(path, image=image)
    check_cards(path, image=image)
    try:
        with (
            truncation_told(),
            fits.open(path, memmap=False, ignore_missing_simple=False, do_not_scale_image_data=True) as hdus,
        ):
            found = {
                k: hdu
                for k, hdu in images_of(hdus, path, image=image).items()
                if not is_companion(extension_name(hdu, k))
            }
            return [extension_name(hdu, index) for index, hdu in without_previews(found).items()]
    except ImageError:
        raise
    except Exception as error:  # of many kinds for damaged headers
        raise ImageError(image, "path", f"{path}: not a readable FITS file ({first_line(error)})") from None
