"""Read the pixels of a FITS file: choose the extension, remove the overscan, and mark missing pixels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from otrain_core.errors import ImageError, OtrainError, first_line
from otrain_core.extensions import extension_name, images_of, is_companion, split_extension, without_previews
from otrain_core.images.asinh import linear_pixels
from otrain_core.images.keywords import parse_number
from otrain_core.images.wcs import WCS_CARDS, shift_wcs
from otrain_core.io import raise_if_failed, truncation_told
from otrain_core.safe import MAX_CARDS, check_cards, check_compressed
from otrain_core.widths import mad_sigma

IMAGES = ("SCI", "DIFF")  # preferred names of the image in a file with several images
BAD_PIXELS = ("BPM", "BADPIX")  # names of bad-pixel masks, which are 0 for good pixels


def read_fits(path: str | Path, *, image: str, extension: str | int | None = None) -> tuple[np.ndarray, fits.Header]:
    """Read the two-dimensional image of a FITS file (plain, gzip, bzip2, xz or fpack), without its overscan.

    Parameters
    ----------
    path : path-like
        May include the extension, such as ``night.fits[SCI]``.
    image : str
        Name of the image, for errors.
    extension : str or int, optional
        Name, ``NAME,VERSION`` or number (0: the primary) of the HDU, for files with several images. An extension in
        `path` takes precedence. The default is the image named SCI or DIFF, else the only image of the file that is
        not a mask, error, weight or preview image.

    Returns
    -------
    data : numpy.ndarray
        float32 (height, width), native byte order. NaN in missing pixels: NaN or BLANK in the file, or not 0 in an
        extension BPM or BADPIX. The frame is cut to TRIMSEC (or DATASEC), and the median of BIASSEC is subtracted.
    header : astropy.io.fits.Header
        Header of the HDU, completed with the cards of the primary header, without history and comments. The WCS of the
        primary header is used only if the HDU has none and is the only image. The WCS is that of the cut frame.
        OTTRIMX and OTTRIMY are the numbers of columns and rows cut off, OTBIAS is the level subtracted.

    Raises
    ------
    ImageError
        No such file, not FITS, truncated, no image or several images in it, an image that is larger than the file, or
        a section that cannot be read.
    """
    path, named = split_extension(path)
    with _opened(path, image) as hdus:
        hdu, alone = _choose(hdus, named, extension, path, image)
        header = _header(hdu, hdus[0], alone, path, image)
        data = linear_pixels(_values(hdu, path, image), header, image=image)
        bad = _bad_pixels(hdus, hdu, data.shape, path, image)
    if bad is not None:
        data[bad] = np.nan
    data = _cut(data, header, image)
    return np.ascontiguousarray(data, dtype=np.float32), header


def read_header(path: str | Path, *, image: str, extension: str | int | None = None) -> fits.Header:
    """Read the header as `read_fits` does, without the pixels; its WCS is that of the uncut frame.

    Raises
    ------
    ImageError
        See `read_fits`; faults of the pixels are not noticed.
    """
    path, named = split_extension(path)
    with _opened(path, image) as hdus:
        hdu, alone = _choose(hdus, named, extension, path, image)
        return _header(hdu, hdus[0], alone, path, image)


@contextmanager
def _opened(path: Path, image: str) -> Iterator[fits.HDUList]:
    """Open a file after the checks of its size; any exception of a library becomes an ImageError."""
    if not path.is_file():
        raise ImageError(image, "path", f"{path}: {'a folder, not an image' if path.is_dir() else 'no such file'}")
    raise_if_failed(path)
    check_compressed(path, image=image)
    check_cards(path, image=image)
    try:
        with (
            truncation_told(),
            fits.open(path, memmap=False, ignore_missing_simple=False, do_not_scale_image_data=True) as hdus,
        ):
            yield hdus
    except OtrainError:
        raise
    except Exception as error:  # libraries raise many undocumented kinds for damaged pixels or cards
        reason = first_line(error).split(" If this is really")[0]  # drop astropy's hint for programmers
        raise ImageError(image, "path", f"{path}: not a readable FITS image, or truncated ({reason})") from None


def _choose(
    hdus: fits.HDUList, named: str | None, extension: str | int | None, path: Path, image: str
) -> tuple[Any, bool]:
    """The HDU of the image, and whether it is the only image of the file."""
    found = images_of(hdus, path, image=image)
    if not found:
        raise ImageError(image, "path", f"{path}: no two-dimensional image in this FITS file")
    names = {index: extension_name(hdu, index) for index, hdu in found.items()}
    pictures = {index: hdu for index, hdu in found.items() if not is_companion(names[index])} or found
    wanted = named if named is not None else extension
    for index, hdu in found.items():
        if wanted is not None and str(wanted).upper() in (
            names[index].upper(),
            str(index),
            f"{names[index].upper()},1",
        ):
            return hdu, len(pictures) == 1
    if named is not None or (extension is not None and len(pictures) > 1):
        raise ImageError(
            image,
            "extension",
            f"{path}: no image extension {str(wanted).upper()!r}; there are {', '.join(names.values())}",
        )
    preferred = {index: hdu for index, hdu in pictures.items() if names[index].split(",")[0].upper() in IMAGES}
    chosen = without_previews(preferred or pictures)
    if len(chosen) > 1:
        listed = ", ".join(names[index] for index in chosen)
        first = names[next(iter(chosen))]
        raise ImageError(
            image,
            "extension",
            f"{path}: {len(chosen)} images ({listed}): choose one in the sheet, such as {path.name}[{first}], "
            f"or use all of them as separate images with {path.name}[*]",
        )
    return next(iter(chosen.values())), len(preferred or pictures) == 1


def _header(hdu: Any, primary: Any, alone: bool, path: Path, image: str) -> fits.Header:
    """Header of an HDU completed from the primary header, whose WCS is used only for a file with a single image."""
    if max(len(hdu.header), len(primary.header)) > MAX_CARDS:
        raise ImageError(image, "path", f"{path}: the header has more than {MAX_CARDS:,} cards")
    header = fits.Header([copy(card) for card in hdu.header.cards if card.keyword not in ("HISTORY", "COMMENT", "")])
    if hdu is primary:
        return header
    own = any(key in header for key in ("CTYPE1", "CRVAL1", "CD1_1", "CDELT1"))
    shared = primary.header.copy(strip=True)
    for card in shared.cards:
        key = card.keyword
        if key in ("HISTORY", "COMMENT", "") or key in header:
            continue
        if WCS_CARDS.fullmatch(key) and (own or not alone):
            continue
        header.append(card, end=True)
    return header


def _values(hdu: Any, path: Path, image: str) -> np.ndarray:
    """Scaled pixels of an HDU, float32 (height, width); NaN for BLANK."""
    data = _scaled(hdu, path, image)
    if data.ndim != 2:
        colours = " (colours?): separate them first" if data.ndim == 3 and min(data.shape) in (3, 4) else ""
        raise ImageError(image, "NAXIS", f"{path}: a two-dimensional image is needed, not shape {data.shape}{colours}")
    if data.dtype == np.float64:
        _check_pedestal(data, image)
    return data.astype(np.float32)


def _scaled(hdu: Any, path: Path, image: str) -> np.ndarray:
    """Pixels of an HDU after BSCALE and BZERO, float32 or, where that is too coarse, float64; NaN for BLANK."""
    raw: Any = hdu.data
    if raw is None:
        raise ImageError(image, "path", f"{path}: truncated: the data that the header describes are missing")
    raw = np.squeeze(np.asarray(raw))
    scale, zero = (parse_number(hdu.header.get(key, default)) for key, default in (("BSCALE", 1), ("BZERO", 0)))
    if scale is None or zero is None or scale == 0:
        raise ImageError(image, "BSCALE", f"{path}: BSCALE and BZERO must be numbers, and BSCALE must not be 0")
    wide = raw.dtype.itemsize > 4 or raw.dtype.kind in "iu" and raw.dtype.itemsize > 2
    data = raw.astype(np.float64 if wide or (scale, zero) != (1, 0) else np.float32)
    if (scale, zero) != (1, 0):
        data = data * scale + zero
    blank = parse_number(hdu.header.get("BLANK"))
    if raw.dtype.kind in "iu" and blank is not None:
        data[raw == blank] = np.nan
    return data


def _check_pedestal(data: np.ndarray, image: str) -> None:
    """Refuse an image whose noise is not large compared with the resolution of float32 at its level."""
    sample = data.ravel()[:: max(1, data.size // 100_000)]
    sample = sample[np.isfinite(sample)]
    if sample.size < 100:
        return
    level = float(np.median(sample))
    step, noise = float(np.spacing(np.float32(abs(level)))), float(mad_sigma(np.diff(sample))) / np.sqrt(2)
    if 0 < noise < 4 * step:
        raise ImageError(
            image,
            "data",
            f"a level of {level:.3g} with a noise of {noise:.3g} exceeds the precision of float32: subtract the level first",
        )


def _bad_pixels(hdus: fits.HDUList, chosen: Any, shape: tuple[int, ...], path: Path, image: str) -> np.ndarray | None:
    """Pixels that are not 0 in the bad-pixel extension of an image; None if there is no such extension."""
    version = chosen.header.get("EXTVER", 1)
    found = [
        hdu
        for hdu in hdus
        if hdu is not chosen
        and getattr(hdu, "is_image", False)
        and str(hdu.header.get("EXTNAME", "")).strip().upper() in BAD_PIXELS
        and hdu.header.get("NAXIS", 0) == 2
    ]
    same = [hdu for hdu in found if hdu.header.get("EXTVER", 1) == version]
    if len(found) == 1 and not same:
        same = found
    if not same:
        return None
    values = _scaled(same[0], path, image)
    if values.shape != shape:
        raise ImageError(
            image, "BPM", f"{path}: the bad-pixel mask has shape {values.shape}, but the image has {tuple(shape)}"
        )
    return values != 0


def _cut(data: np.ndarray, header: fits.Header, image: str) -> np.ndarray:
    """Cut off overscan and prescan, subtract the level of the overscan, and adapt the header in place."""
    key = next((key for key in ("TRIMSEC", "DATASEC") if str(header.get(key, "") or "").strip()), None)
    if key is None:
        return data
    x0, x1, y0, y1 = _section(header[key], key, image)
    height, width = data.shape
    # A frame that is smaller than its section, or of the same size, was cut before and kept the cards.
    if (x1 - x0, y1 - y0) != (width, height) and x1 <= width and y1 <= height:
        level = _overscan(data, header, image)
        data = data[y0:y1, x0:x1] - np.float32(level)
        shift_wcs(header, x0, y0)
        header["NAXIS1"], header["NAXIS2"] = x1 - x0, y1 - y0
        header["OTTRIMX"], header["OTTRIMY"] = (x0, "columns cut off"), (y0, "rows cut off")
        header["OTBIAS"] = (level, "level of the overscan, subtracted")
    for key in ("TRIMSEC", "DATASEC", "BIASSEC"):
        header.remove(key, ignore_missing=True)
    return data


def _overscan(data: np.ndarray, header: fits.Header, image: str) -> float:
    """Median of the section BIASSEC; 0 without one inside the frame."""
    if not str(header.get("BIASSEC", "") or "").strip():
        return 0.0
    x0, x1, y0, y1 = _section(header["BIASSEC"], "BIASSEC", image)
    values = data[y0:y1, x0:x1]
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else 0.0


def _section(value: Any, key: str, image: str) -> tuple[int, int, int, int]:
    """Convert an IRAF section ``[x1:x2,y1:y2]`` (from 1, ends included) to x0, x1, y0, y1 (from 0, ends excluded)."""
    match = re.fullmatch(r"\s*\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]\s*", str(value))
    if match is None:
        raise ImageError(image, key, f"must be a section [x1:x2,y1:y2], not {value!r}")
    x1, x2, y1, y2 = (int(text) for text in match.groups())
    x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    if x1 < 1 or y1 < 1:
        raise ImageError(image, key, f"must be a section [x1:x2,y1:y2] with limits from 1 on, not {value!r}")
    return x1 - 1, x2, y1 - 1, y2
