"""Read cutouts from FITS files of the original O'TRAIN, gmadet and STDPipe, and write such files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.errors import CubeError, ImageError
from otrain_core.io import truncation_told
from otrain_core.safe import check_compressed, check_header, safe_name

if TYPE_CHECKING:  # avoid the import of astropy.io.fits where no FITS files are read
    from astropy.io import fits

SUFFIX = re.compile(r"\.(fits|fit|fts)(\.gz|\.fz)?$", re.I)
SENTINELS = (-99.0, 99.0)  # missing values in the files of the original O'TRAIN; for magnitudes also 0
EXTENSIONS = {  # names of the extension of each channel; the first one is written
    "difference": ("DIFF", "DIFFERENCE"),
    "science": ("IMAGE", "SCIENCE", "SCI"),
    "reference": ("TEMPLATE", "REFERENCE", "REF"),
    "mask": ("MASK",),
    "psf": ("PSF",),
}
# Header keys that `read_cutout` reads.
READ_KEYS = (
    *("CANDID", "NAME", "ID", "EDGE", "MAG", "MAG_CALIB", "MAGERR", "FILTER", "FWHM", "RA", "DEC", "SNR"),
    *("DATE-OBS", "TIME", "SEEING", "FWHMPSF", "PIXSCALE", "IMAGE", "FILE", "FILENAME"),
)
TRUE = ("true", "t", "1", "yes")
MAX_SIDE = 2048  # largest side of a cutout [px]
MAX_BYTES = 2**26  # largest size of the file of a cutout, uncompressed
UNREADABLE = "a card that is not legal FITS"


class EdgeCutoutError(CubeError):
    """A cutout that is smaller than the others because the edge of the image truncates it, as its header says."""


def find_cutouts(folder: str | Path) -> list[Path]:
    """FITS files in a folder, sorted.

    Raises
    ------
    CubeError
        The folder does not exist or has no FITS file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CubeError(f"{folder}: no such folder of cutouts")
    paths = sorted(path for path in folder.iterdir() if SUFFIX.search(path.name))
    if not paths:
        raise CubeError(f"{folder}: no FITS cutouts in this folder")
    return paths


def read_cutout(
    path: str | Path, *, size: int | None = None, strict: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the planes and properties of one cutout.

    The difference is the extension DIFF (original O'TRAIN, STDPipe), or else the first image. Extensions
    IMAGE, TEMPLATE, MASK and PSF become the other channels. The header keys are CANDID (or NAME, ID,
    or else the name of the file), EDGE, MAG (or mag_calib), MAGERR, FILTER, FWHM, RA, DEC, SNR, DATE-OBS (or TIME),
    SEEING (or FWHMPSF) [px], PIXSCALE [arcsec/px], IMAGE (or FILE). Values of -99 and 99 are missing, as are
    magnitudes of 0 and positions outside the ranges of RA and DEC.

    Parameters
    ----------
    path : path-like
    size : int, optional
        Crop to this side [px] about pixel side // 2.
    strict : bool
        Refuse a file without extension DIFF that lacks CANDID or EDGE, as the original O'TRAIN does.

    Returns
    -------
    planes : dict of numpy.ndarray
        float32 (side, side), NaN where missing.
    row : dict
        candid, image (its file name), image_path (as in the header), edge, mag, magerr, filter, fwhm, x, y, ra, dec,
        snr, seeing, pixel_scale, artefact, injection, kind, time.

    Raises
    ------
    CubeError
        The file is not a FITS file with a square cutout or is too large, a mandatory key is missing, or a value is
        unusable.
    EdgeCutoutError
        The edge of the image truncates the cutout, as in files of gmadet.
    """
    path = Path(path)
    if size is not None and size < 1:
        raise CubeError(f"size: a side of at least 1 px is needed, found {size}")
    if not path.exists():
        raise CubeError(f"{path}: no such file")
    try:
        check_compressed(path, image=path.stem, limit=MAX_BYTES)
        found, header, extended = _read(path)
    except ImageError as error:
        raise CubeError(error.message) from None
    except Exception as error:  # astropy raises many kinds for damaged files: CfitsioException, VerifyError, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CubeError(f"{path}: not a readable FITS image, or truncated ({reason})") from None
    shape = found["difference"].shape
    for name, plane in found.items():
        if plane.shape != shape:
            raise CubeError(f"{path}: channel {name} has the shape {plane.shape}, but the difference has {shape}")
    damaged = [key for key in READ_KEYS if header.get(key) == UNREADABLE]
    if damaged:
        raise CubeError(f"{path}: {damaged[0]}: this header card is not legal FITS")
    edge = str(header.get("EDGE", "")).strip().lower() in TRUE
    if edge and (shape[0] != shape[1] or (size is not None and size > min(shape))):
        raise EdgeCutoutError(f"{path}: EDGE: truncated by the edge of the image, {shape[1]} x {shape[0]} px")
    if size is not None:
        if size > min(shape):
            raise CubeError(f"{path}: cutouts of {size} px are needed, but this one has {shape[1]} x {shape[0]} px")
        top, left = (length // 2 - size // 2 for length in shape)
        found = {name: plane[top : top + size, left : left + size] for name, plane in found.items()}
    elif shape[0] != shape[1]:
        raise CubeError(f"{path}: NAXIS: the cutout must be square, found {shape[1]} x {shape[0]} px")
    for key in ("CANDID", "EDGE") if strict and not extended else ():
        if header.get(key) in (None, ""):
            raise CubeError(f"{path}: {key}: this header key is mandatory")
    planes = {name: np.where(np.isfinite(plane), plane, np.nan).astype(np.float32) for name, plane in found.items()}
    return planes, _row(path, header)


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], bool]:
    """Planes by channel, their header, and whether the file has an extension DIFF."""
    from astropy.io import fits

    channel = {extension: name for name, extensions in EXTENSIONS.items() for extension in extensions}
    with truncation_told(), fits.open(path, memmap=False, ignore_missing_simple=False) as hdus:
        images: list[tuple[str, Any]] = []
        for hdu in hdus:
            if getattr(hdu, "is_image", False) and hdu.header.get("NAXIS", 0) >= 2:
                check_header(hdu.header, path, image=path.stem, limit=8 * MAX_SIDE**2 * 8)
                images.append((channel.get(str(hdu.name).strip().upper(), ""), hdu))
        if not images:
            raise ImageError(path.stem, "path", f"{path}: no two-dimensional image in this FITS file")
        named = {name: hdu for name, hdu in reversed(images) if name}
        extended = "difference" in named
        if not extended:
            named = {"difference": images[0][1]}
        header = _plain_header(hdus[0].header)
        if named["difference"] is not hdus[0]:
            header = _plain_header(named["difference"].header) | header
        planes = {}
        for name in sorted(named, key=list(EXTENSIONS).index):
            if named[name].data is None:
                raise ImageError(path.stem, "path", f"{path}: truncated: the data announced by the header are missing")
            data = np.squeeze(np.asarray(named[name].data))
            if data.ndim != 2 or max(data.shape) > MAX_SIDE:
                raise ImageError(
                    path.stem,
                    "NAXIS",
                    f"{path}: a two-dimensional image of at most {MAX_SIDE} px is needed, found {data.shape}",
                )
            planes[name] = data.astype(np.float32)
        return planes, header, extended


def _plain_header(header: fits.Header) -> dict[str, Any]:
    """Keys (upper case) and values of a header; the value of a card that cannot be parsed is `UNREADABLE`."""
    from astropy.io.fits.card import Undefined

    values: dict[str, Any] = {}
    for key in dict.fromkeys(header):
        try:
            value = header[key]
        except Exception:  # VerifyError or others, depending on the damage
            value = UNREADABLE
        values.setdefault(key.upper(), None if isinstance(value, Undefined) else value)
    return values


def _row(path: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """Properties of a cutout from its header, see `read_cutout`."""
    stem = SUFFIX.sub("", path.name)
    candid = str(_first(header, ("CANDID", "NAME", "ID")) or stem).strip()
    mag = _number(path, header, ("MAG", "MAG_CALIB"))
    magerr = _number(path, header, ("MAGERR",))
    if mag == 0 or np.isnan(mag):
        mag = magerr = np.nan
    ra, dec = _number(path, header, ("RA",), sentinels=()), _number(path, header, ("DEC",))
    if not (-180 <= ra <= 360 and -90 <= dec <= 90):
        ra = dec = np.nan
    image = _first(header, ("IMAGE", "FILE", "FILENAME"))
    image = str(image).strip() if image else re.sub(r"[-_. ]?\d+$", "", candid)
    return {
        "candid": candid,
        "image": Path(image).name.strip(),
        "image_path": image,
        "edge": _truth(path, "EDGE", header.get("EDGE", False)),
        "mag": mag,
        "magerr": magerr,
        "filter": str(header.get("FILTER", "")).strip(),
        "fwhm": _number(path, header, ("FWHM",)),
        "x": np.nan,
        "y": np.nan,
        "ra": ra,
        "dec": dec,
        "snr": _number(path, header, ("SNR",)),
        "seeing": _number(path, header, ("SEEING", "FWHMPSF")),
        "pixel_scale": _number(path, header, ("PIXSCALE",)),
        "artefact": "",
        "injection": -1,
        "kind": "",
        "time": str(_first(header, ("DATE-OBS", "TIME")) or "").strip(),
    }


def _first(header: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """The first value that is not empty, or None."""
    return next((header[key] for key in keys if header.get(key) not in (None, "")), None)


def _number(
    path: Path, header: Mapping[str, Any], keys: Sequence[str], *, sentinels: Sequence[float] = SENTINELS
) -> float:
    """The first value that is not empty as a number; NaN where missing or equal to a sentinel."""
    value = _first(header, keys)
    if value is None:
        return float("nan")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise CubeError(f"{path}: {keys[0]}: a number is needed, found {value!r}") from None
    return float("nan") if number in sentinels else number


def _truth(path: Path, key: str, value: Any) -> bool:
    """A logical value, also where the header has it as text."""
    text = str(value).strip().lower()
    if text in TRUE:
        return True
    if text in ("false", "f", "0", "no"):
        return False
    raise CubeError(f"{path}: {key}: True or False is needed, found {value!r}")


def name_images(paths: Sequence[str]) -> list[str]:
    """Names of images from their paths in headers: the file name, with as many folders as make it unique.

    Frames of two nights often have the same name: ``night1/science.fits`` and ``night2/science.fits``. If these were
    taken for one image, candidates with the same running number would collide.

    Parameters
    ----------
    paths : sequence of str
        Path of the image of each cutout.

    Returns
    -------
    list of str
        Name of the image of each cutout.
    """
    parts = {path: [part for part in path.replace("\\", "/").split("/") if part] or [path] for path in set(paths)}
    names = {path: 1 for path in parts}  # number of parts of the path that form the name
    while True:
        by_name: dict[str, set[str]] = {}
        for path, n in names.items():
            by_name.setdefault("/".join(parts[path][-n:]), set()).add(path)
        longer = [
            path
            for same in by_name.values()
            if len({tuple(parts[path]) for path in same}) > 1
            for path in same
            if names[path] < len(parts[path])
        ]
        if not longer:
            return ["/".join(parts[path][-names[path] :]) for path in paths]
        for path in longer:
            names[path] += 1


def read_blocks(
    paths: Sequence[str | Path], *, size: int | None = None, block: int = 256
) -> Iterator[tuple[dict[str, np.ndarray], list[dict[str, Any]]]]:
    """Read many cutouts in blocks, in the form that `otrain_core.classify.classifier.Classifier` needs.

    Cutouts that are truncated by the edge of their image are left out.

    Parameters
    ----------
    paths : sequence of path-like
    size : int, optional
        Crop to this side [px].
    block : int
        Number of files per block.

    Yields
    ------
    cutouts : dict of numpy.ndarray
        The channels that all files of the block have, (n, side, side), and ``seeing`` and ``pixel_scale`` (n,).
    rows : list of dict
        As from `read_cutout`, with the additional key ``file``.

    Raises
    ------
    CubeError
        See `read_cutout`; or the cutouts differ in size.
    """
    for start in range(0, len(paths), block):
        read = []
        for path in paths[start : start + block]:
            try:
                planes, row = read_cutout(path, size=size, strict=False)
            except EdgeCutoutError:
                continue
            row.pop("image_path")
            read.append((planes, row | {"file": str(path)}))
        if not read:
            continue
        names = [name for name in EXTENSIONS if all(name in planes for planes, _ in read)]
        shapes = {planes["difference"].shape for planes, _ in read}
        if len(shapes) > 1:
            raise CubeError(f"cutouts of different sizes: {sorted(shapes)}; give a size to which all are cropped")
        cutouts = {name: np.stack([planes[name] for planes, _ in read]) for name in names}
        rows = [row for _, row in read]
        yield cutouts | {key: np.array([row[key] for row in rows]) for key in ("seeing", "pixel_scale")}, rows


def write_cutouts(cube: Mapping[str, np.ndarray], folder: str | Path) -> dict[str, int]:
    """Write a cube as FITS files in True/ and False/, which `otrain_core.cubes.cube_folders` can read.

    With one channel the files have a single image; with several channels they have the extensions DIFF, IMAGE,
    TEMPLATE, MASK and PSF. Other channels are left out. The file names are safe forms of the candids.

    Parameters
    ----------
    cube : mapping of arrays
        As from `otrain_core.cubes.cube_format.read_cube`.
    folder : path-like

    Returns
    -------
    dict
        Number of files of each class.

    Raises
    ------
    CubeError
        The cube has no channel difference.
    """
    from astropy.io import fits

    channels = [str(name) for name in cube["channels"]]
    if "difference" not in channels:
        raise CubeError(f"channels: FITS cutouts need the channel difference; the cube has {', '.join(channels)}")
    keys = {"MAG": "mags", "MAGERR": "errmags", "FWHM": "fwhms", "RA": "ra", "DEC": "dec", "SNR": "snr"}
    keys |= {"SEEING": "seeing", "PIXSCALE": "pixel_scale"}
    texts = {"FILTER": "filters", "IMAGE": "images", "DATE-OBS": "times"}
    taken: set[Path] = set()
    counts = {"True": 0, "False": 0}
    for k, label in enumerate(cube["labels"]):
        kind = "True" if label else "False"
        header = fits.Header()
        header["CANDID"], header["EDGE"] = _card(cube["candids"][k]), "False"
        for key, column in keys.items():
            if column in cube and np.isfinite(float(cube[column][k])):
                header[key] = float(cube[column][k])
        for key, column in texts.items():
            if column in cube and str(cube[column][k]):
                header[key] = _card(cube[column][k])
        name = safe_name(cube["candids"][k])
        path, number = Path(folder, kind, f"{name}.fits"), 1
        while path in taken:
            number += 1
            path = Path(folder, kind, f"{name}_{number}.fits")
        taken.add(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        planes = {name: cube["cube"][k, :, :, c] for c, name in enumerate(channels) if name in EXTENSIONS}
        hdus = [fits.PrimaryHDU(None if len(planes) > 1 else planes["difference"], header)]
        if len(planes) > 1:
            hdus += [fits.ImageHDU(plane, name=EXTENSIONS[name][0]) for name, plane in planes.items()]
        fits.HDUList(hdus).writeto(path, overwrite=True, output_verify="silentfix")
        counts[kind] += 1
    return counts


def _card(value: Any) -> str:
    """A text with only the characters that are legal in a FITS header, at most 60."""
    return re.sub(r"[^\x20-\x7e]", "?", str(value))[:60]
