"""Identify the FITS files of a folder from their headers and names, without reading pixels."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.errors import ConfigError, ImageError, OtrainError, first_line
from otrain_core.extensions import image_extensions
from otrain_core.images.hdus import read_header
from otrain_core.images.keywords import (
    TYPES,
    exposure,
    frame_type,
    header_scale,
    numbers,
    parse_angle,
    parse_number,
    start_time,
    text,
    words,
)
from otrain_core.images.wcs import image_wcs, pixel_to_sky, wcs_scale
from otrain_core.io import digest, shown

FITS_NAME = re.compile(r"\.(fits?|fts)(\.(fz|gz|bz2|xz))?$", re.I)
SOLUTION_NAME = re.compile(r"\.wcs$", re.I)
SOLUTIONS = "wcs"  # folder of a project for the WCS headers that `otrain solve` writes
SMALLEST = 64  # smallest side of a frame [px]; smaller images are cutouts
PRODUCTS = r"diff|difference|mask|weight|wht|bkg|background|rms|residual|residuals|thumb|preview|psf"
STACKS = r"stack|stacked|stk|coadd|coadded|reference|ref|template"
STACK_KEYS = ("NCOMBINE", "STACKCNT", "NSTACK", "NCOMB")
CALIBRATED_KEYS = ("CALSTAT", "FLATCOR", "DARKCOR", "FLATFIL", "DESBIAS", "L1STATFL", "CCDPROC", "FLAT_COR")
BAYER_KEYS = ("BAYERPAT", "BAYRPAT", "COLORTYP", "BAYER")
POINTINGS = (("OBJCTRA", "OBJCTDEC"), ("RA", "DEC"), ("TELRA", "TELDEC"), ("RA_OBJ", "DEC_OBJ"), ("CRVAL1", "CRVAL2"))


@dataclass(frozen=True)
class Frame:
    """One FITS file of a folder.

    Attributes
    ----------
    path : str
        Relative to the folder; followed by ``[*]`` where the file holds several images.
    kind : str
        science, stack (made of several frames), bias, dark, flat, other, or unreadable.
    why : str
        How the kind was recognised; '' for science frames.
    telescope, camera, filter, object : str
        From the header; '' where missing.
    binning : int
        Along x; 1 where the header has none.
    exposure : float
        Exposure time [s]; NaN where unknown.
    time : str
        Start of the exposure, ISO 8601 (UTC); '' where unknown.
    ra, dec : float
        Centre of the frame by its WCS, or else the pointing in the header [deg]; NaN where unknown.
    scale : float
        Pixel scale [arcsec/px]; NaN where unknown.
    scale_from : str
        Source of the scale: WCS or the names of header keywords.
    wcs : str
        Location of the WCS: 'header', the path of a header file relative to the folder, or ''.
    shape : tuple of int
        (height, width) [px].
    numbers : dict
        Keyword and value of gain, read_noise and saturation, where the header has them.
    calibrated : bool
        Whether the header says that darks or flats were applied.
    bayer : str
        Bayer pattern of the colour filters, such as RGGB; '' where the header has none.
    """

    path: str
    kind: str
    why: str = ""
    telescope: str = ""
    camera: str = ""
    filter: str = ""
    object: str = ""
    binning: int = 1
    exposure: float = np.nan
    time: str = ""
    ra: float = np.nan
    dec: float = np.nan
    scale: float = np.nan
    scale_from: str = ""
    wcs: str = ""
    shape: tuple[int, int] = (0, 0)
    numbers: Mapping[str, tuple[str, float]] | None = None
    calibrated: bool = False
    bayer: str = ""


def look_at(
    folder: str | Path,
    *,
    project: str | Path | None = None,
    threads: int = 8,
    tell: Callable[[int, int], None] | None = None,
) -> list[Frame]:
    """Read the headers of all FITS files under a folder.

    Parameters
    ----------
    folder : path-like
    project : path-like, optional
        Project of the folder. A project inside the folder is skipped, except for the WCS headers in its
        folder `SOLUTIONS`.
    threads : int
        Number of headers to read in parallel.
    tell : callable, optional
        Progress callback, called with the number of files done and the total.

    Returns
    -------
    list of Frame
        Sorted by path.

    Raises
    ------
    ConfigError
        The folder does not exist or has no FITS file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{shown(folder)}: {'is a file, not a folder' if folder.exists() else 'no such folder'}")
    files, solutions = _files(folder, Path(project).resolve() if project else None)
    if not files:
        raise ConfigError(f"{shown(folder)}: no FITS file (.fits, .fit, .fts, compressed or not) in this folder")
    frames = []
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore")  # astropy warns of every non-standard card
        for frame in pool.map(lambda path: _look(folder, path, solutions.get(path)), files):
            frames.append(frame)
            if tell:
                tell(len(frames), len(files))
    return mark_copies(frames, folder)


def look_at_file(path: str | Path) -> Frame:
    """Read the header of one FITS file; the path of the frame is the name of the file.

    Raises
    ------
    ImageError
        The file cannot be read.
    """
    path = Path(path)
    frame = _look(
        path.parent,
        path.name,
        _match([path.name], [(p.name, p.name) for p in path.parent.glob("*.wcs")]).get(path.name),
    )
    if frame.kind == "unreadable":
        raise ImageError(shown(path.name), "path", frame.why)
    return frame


def _files(folder: Path, project: Path | None) -> tuple[list[str], dict[str, str]]:
    """Sorted paths of the FITS files relative to the folder, and the WCS header files by FITS file."""
    files, solutions = [], []
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and Path(where, name).resolve() != project
        )
        for name in names:
            path = os.path.relpath(os.path.join(where, name), folder)
            if FITS_NAME.search(name) and not name.startswith("."):
                files.append(path)
            elif SOLUTION_NAME.search(name):
                solutions.append((path, path))
    if project is not None:
        more = project / SOLUTIONS
        found = [path for path in sorted(more.rglob("*")) if SOLUTION_NAME.search(path.name)]
        solutions += [(str(path.relative_to(more)), os.path.relpath(path, folder.resolve())) for path in found]
    return sorted(files), _match(files, solutions)


def _match(files: Sequence[str], solutions: Sequence[tuple[str, str]]) -> dict[str, str]:
    """WCS header files by frame: the one with the path of the frame, or else with its name if the name is unique."""
    same = {SOLUTION_NAME.sub("", place): path for place, path in solutions}
    stems, named = Counter(map(frame_stem, files)), Counter(frame_stem(place) for place, _ in solutions)
    alone = {frame_stem(place): path for place, path in solutions if named[frame_stem(place)] == 1}
    matched = {}
    for path in files:
        stem = frame_stem(path)
        found = same.get(FITS_NAME.sub("", path)) or (alone.get(stem) if stems[stem] == 1 else None)
        if found:
            matched[path] = found
    return matched


def frame_stem(path: str) -> str:
    """Name of a FITS or WCS file without its folder and its suffixes."""
    return SOLUTION_NAME.sub("", FITS_NAME.sub("", os.path.basename(path)))


def _look(folder: Path, path: str, solution: str | None) -> Frame:
    name = shown(frame_stem(path))
    try:
        try:
            header = read_header(folder / path, image=name)
        except ImageError as error:
            if error.key != "extension":
                raise
            first = image_extensions(folder / path, image=name)[0]
            header, path = read_header(f"{folder / path}[{first}]", image=name), f"{path}[*]"
        return _frame(folder, path, header, solution)
    except OtrainError as error:
        return Frame(path, "unreadable", getattr(error, "message", str(error)).replace(f"{folder / path}: ", ""))
    except Exception as error:  # astropy raises many kinds for damaged cards; skip this file only
        return Frame(path, "unreadable", f"its header cannot be used ({type(error).__name__}: {first_line(error)})")


def _frame(folder: Path, path: str, header: Mapping[str, Any], solution: str | None) -> Frame:
    """The frame that a header describes."""
    shape = int(header.get("NAXIS2", 0)), int(header.get("NAXIS1", 0))
    kind, why = _kind(path, header, shape)
    frame = Frame(
        path,
        kind,
        why,
        telescope=_word(header, "TELESCOP"),
        camera=_word(header, "INSTRUME", "CAMERA"),
        filter=text(header, "filter"),
        object=_word(header, "OBJECT", "OBJNAME", "TARGET"),
        binning=int(parse_number(header.get("XBINNING"), unit=True) or 1),
        bayer=_bayer(header),
        exposure=float(exposure(header)),
        time=start_time(header),
        shape=shape,
        numbers={
            role: found
            for role in ("gain", "read_noise", "saturation")
            if (found := next(numbers(header, role), None)) is not None
        },
        calibrated=any(str(header.get(key, "") or "").strip() not in ("", "F", "False") for key in CALIBRATED_KEYS),
    )
    return _placed(folder, frame, header, solution) if kind in ("science", "stack") else frame


def _placed(folder: Path, frame: Frame, header: Mapping[str, Any], solution: str | None) -> Frame:
    """The frame with its position on the sky and its pixel scale."""
    found: dict[str, Any] = {}
    for where in filter(None, (solution, "header")):
        try:
            wcs = image_wcs(header, folder / where if where != "header" else None, image=frame.path)
        except ImageError:
            continue  # ignore an implausible solution
        if wcs is not None:
            middle = (frame.shape[1] - 1) / 2, (frame.shape[0] - 1) / 2
            ra, dec = (float(value) for value in pixel_to_sky(wcs, *middle))
            return replace(frame, wcs=where, ra=ra, dec=dec, scale=wcs_scale(wcs), scale_from="WCS")
    found["ra"], found["dec"] = _pointing(header)
    found["scale"], found["scale_from"] = header_scale(header)
    return replace(frame, **found)


def _bayer(header: Mapping[str, Any]) -> str:
    """Bayer pattern of the header, '' where it has none."""
    word = _word(header, *BAYER_KEYS).upper()
    return word if re.fullmatch("[RGB]{4}", word) else ""


def _word(header: Mapping[str, Any], *keys: str) -> str:
    """The first of some keywords that is not empty, as text."""
    return next((word for key in keys if (word := str(header.get(key, "") or "").strip())), "")


def _kind(path: str, header: Mapping[str, Any], shape: tuple[int, int]) -> tuple[str, str]:
    """Kind of a frame, and how it was recognised."""
    if min(shape) < SMALLEST:
        return "other", f"{shape[1]} x {shape[0]} px, smaller than a frame"
    if (parse_number(header.get("NAXIS3")) or 1) > 1:
        return "other", f"{header['NAXIS3']} image planes (colours?): separate them first"
    kind, why = frame_type(header)
    if kind in TYPES:
        return kind, why
    name = words(os.path.basename(path))
    for kind, pattern in TYPES.items() if not why else ():
        if match := next((word for word in sorted(words(path)) if re.fullmatch(pattern, word)), None):
            return kind, f"{match!r} in its name"
    if match := next((word for word in sorted(name) if re.fullmatch(PRODUCTS, word)), None):
        return "other", f"{match!r} in its name"
    for key in STACK_KEYS:
        if (parse_number(header.get(key)) or 0) > 1:
            return "stack", f"{key} {header[key]}"
    if match := next((word for word in sorted(name) if re.fullmatch(STACKS, word)), None):
        return "stack", f"{match!r} in its name"
    return "science", ""


def _pointing(header: Mapping[str, Any]) -> tuple[float, float]:
    """Pointing [deg] in the header, NaN where it has none."""
    for keys in POINTINGS:
        values = []
        for key, hours in zip(keys, (True, False), strict=True):
            value = header.get(key)
            angle = parse_angle(str(value), hours=hours) if value is not None else None
            values.append(angle if angle is not None else parse_number(value))
        ra, dec = values
        if ra is not None and dec is not None and 0 <= ra <= 360 and abs(dec) <= 90:
            return float(ra), float(dec)
    return np.nan, np.nan


def mark_copies(frames: Sequence[Frame], folder: Path) -> list[Frame]:
    """The frames, in which all but the best file of each exposure are marked as kind other.

    Two files show the same exposure if their contents are equal, or if telescope, camera, filter and time agree and
    one file name contains the other (a raw frame and its calibrated version).
    """
    same: dict[tuple, list[int]] = {}
    sizes: dict[tuple, list[int]] = {}
    for index, frame in enumerate(frames):
        if frame.kind != "science":
            continue
        key = (frame.telescope, frame.camera, frame.filter, frame.time)
        if frame.time:
            same.setdefault(key, []).append(index)
        sizes.setdefault((*key, os.path.getsize(_file(folder, frame))), []).append(index)
    marked = list(frames)
    for indices in sizes.values():
        contents: dict[str, Frame] = {}
        for index in indices if len(indices) > 1 else ():
            first = contents.setdefault(digest(_file(folder, frames[index])), frames[index])
            if first is not frames[index]:
                marked[index] = replace(frames[index], kind="other", why=f"a copy of {first.path}")
    for indices in same.values():
        _mark_versions(marked, [index for index in indices if marked[index].kind == "science"])
    return marked


def _file(folder: Path, frame: Frame) -> Path:
    return folder / frame.path.removesuffix("[*]")


def _mark_versions(frames: list[Frame], indices: list[int]) -> None:
    """Mark, in place, all files of one exposure but one: the one with a WCS, else the calibrated, else the first."""
    order = sorted(indices, key=lambda index: (not frames[index].wcs, not frames[index].calibrated, index))
    kept: list[int] = []
    for index in order:
        stem = frame_stem(frames[index].path).lower()
        best = next(
            (k for k in kept if stem in (other := frame_stem(frames[k].path).lower()) or other in stem),
            None,
        )
        if best is None:
            kept.append(index)
        else:
            why = f"the same exposure as {frames[best].path}"
            frames[index] = replace(frames[index], kind="other", why=why)
