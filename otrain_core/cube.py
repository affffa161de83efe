"""The cube: all cutouts of one telescope under one pipeline, with their labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.errors import CubeError

TABLE1 = ("cube", "labels", "mags", "errmags", "filters", "fwhms", "candids")
# Cube key: column of the cutouts. Table 1 of Makhlouf et al. (2022) first.
COLUMNS = {
    "mags": "mag",
    "errmags": "magerr",
    "filters": "filter",
    "fwhms": "fwhm",
    "candids": "candid",
    "images": "image",
    "x": "x",
    "y": "y",
    "ra": "ra",
    "dec": "dec",
    "snr": "snr",
    "seeing": "seeing",
    "pixel_scale": "pixel_scale",
    "reasons": "reason",
    "artefacts": "artefact",
    "injections": "injection",
    "times": "time",
}
SENTINELS = (-99.0, 99.0, 0.0)  # "no magnitude" in the cutouts and cubes of the original O'TRAIN


def build_cube(
    stacks: Sequence[Mapping[str, np.ndarray]],
    *,
    seed: int,
    true_fraction: float | None = 0.5,
    max_cutouts: int | None = None,
    channels: Sequence[str] = ("difference",),
    min_per_class: int = 1,
    max_failed_fraction: float = 1.0,
    failed: Sequence[Mapping[str, str]] = (),
    telescope: str = "",
    pipeline: str = "",
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Join the cutouts of all images, leave out what has no label, and balance the classes.

    Candidates flagged EDGE and those with label -1 are left out. What is too much of a
    class is dropped at random over all images. The order is that of image, then candid,
    whatever the order of `stacks`.

    Parameters
    ----------
    stacks : sequence of mapping
        As from `otrain_core.cutouts.make_cutouts`; memory-mapped arrays will do.
    seed : int
    true_fraction : float or None
        Share of True; None keeps what there is.
    max_cutouts : int or None
    channels : sequence of str
        Channels kept, in this order.
    min_per_class : int
        Fewer cutouts of a class are refused.
    max_failed_fraction : float
        A larger share of failed images is refused.
    failed : sequence of mapping
        image, step, key and message of every image that failed before.
    telescope, pipeline : str

    Returns
    -------
    arrays : dict of numpy.ndarray
        ``cube`` float32 (N, H, W, C), ``labels`` uint8 (1 True, 0 False), the other keys of
        Table 1, then `COLUMNS`, ``n_missing`` (NaN pixels of the difference), ``channels``,
        ``telescope``, ``pipeline``.
    record : dict
        Counts, and the failed images with their reasons.

    Raises
    ------
    CubeError
        No images, too many failed ones, no True or no False, too few of a class, a
        candid that stands twice, a channel that the cutouts lack, cutouts of different sizes.
    """
    _check_failed(failed, n_images=len(stacks) + len(failed), limit=max_failed_fraction)
    stacks = sorted(stacks, key=lambda stack: str(stack["image_name"]))
    names = [str(stack["image_name"]) for stack in stacks]
    if len(set(names)) < len(names):
        raise CubeError(f"image {next(name for name, n in Counter(names).items() if n > 1)} was given twice")
    offsets = np.cumsum([0] + [len(stack["label"]) for stack in stacks])
    column = {key: _join(stacks, key) for key in (*COLUMNS.values(), "label", "edge", "n_missing")}
    _check_unique(column["candid"])

    edge = column["edge"].astype(bool)
    usable = np.flatnonzero(~edge & (column["label"] >= 0))
    usable = usable[np.lexsort((column["candid"][usable], column["image"][usable]))]
    labels = column["label"][usable].astype(np.uint8)
    where = f"cube {telescope}/{pipeline}" if telescope else "cube"
    _check_classes(labels, min_per_class, where, "were labelled")
    keep = draw(labels, seed=seed, true_fraction=true_fraction, max_cutouts=max_cutouts)
    chosen, labels = usable[keep], labels[keep]
    _check_classes(labels, min_per_class, where, "are left after balancing")

    arrays = {"cube": _gather(stacks, offsets, chosen, channels), "labels": labels}
    for key, source in COLUMNS.items():
        values = column[source][chosen]
        # The narrowest width that holds the strings: the same bytes for the same content.
        arrays[key] = (
            values.astype(f"U{max(1, np.strings.str_len(values).max())}") if values.dtype.kind == "U" else values
        )
    arrays["n_missing"] = column["n_missing"][chosen].astype(np.int32)
    arrays |= {"channels": np.array(list(channels)), "telescope": np.array(telescope), "pipeline": np.array(pipeline)}

    kept_images, kept_counts = np.unique(arrays["images"], return_counts=True)
    record = {
        "telescope": telescope,
        "pipeline": pipeline,
        "seed": seed,
        "size": int(arrays["cube"].shape[1]),
        "channels": list(channels),
        "n_images": len(stacks) + len(failed),
        "n_images_used": len(kept_images),
        "n_images_failed": len(failed),
        "n_candidates": int(offsets[-1]),
        "n_edge": int(edge.sum()),
        "n_left_out": int((~edge & (column["label"] < 0)).sum()),
        "n_labelled_true": int((column["label"][usable] == 1).sum()),
        "n_labelled_false": int((column["label"][usable] == 0).sum()),
        "n_true": int((labels == 1).sum()),
        "n_false": int((labels == 0).sum()),
        "n_with_missing_pixels": int((arrays["n_missing"] > 0).sum()),
        "n_missing_pixels": int(arrays["n_missing"].sum()),
        "artefacts": dict(sorted(Counter(arrays["artefacts"][labels == 0].tolist()).items())),
        "cutouts_per_image": dict(zip(kept_images.tolist(), kept_counts.tolist(), strict=True)),
        "failed": [dict(item) for item in failed],
    }
    return arrays, record


def _check_failed(failed: Sequence[Mapping[str, str]], *, n_images: int, limit: float) -> None:
    if n_images == 0:
        raise CubeError("there are no images to build a cube from")
    if len(failed) < n_images and len(failed) / n_images <= limit:
        return
    listed = "; ".join(f"{item['image']}: {item['key']}: {item['message']}" for item in failed[:10])
    more = f"; and {len(failed) - 10} more" if len(failed) > 10 else ""
    raise CubeError(
        f"{len(failed)} of {n_images} images failed (cube.max_failed_fraction is {limit:g}): {listed}{more}"
    )


def _check_unique(candids: np.ndarray) -> None:
    values, counts = np.unique(candids, return_counts=True)
    if (counts > 1).any():
        raise CubeError(f"candid {values[counts.argmax()]} stands {counts.max()} times")


def _check_classes(labels: np.ndarray, min_per_class: int, where: str, verb: str) -> None:
    for value, name in ((1, "True"), (0, "False")):
        count = int((labels == value).sum())
        if count < max(min_per_class, 1):
            what = "the cube has one class only" if count == 0 else f"cube.min_per_class is {min_per_class}"
            raise CubeError(f"{where}: only {count} {name} cutouts {verb}; {what}")


def _join(stacks: Sequence[Mapping[str, np.ndarray]], key: str) -> np.ndarray:
    # Empty stacks are left out so that a void column does not decide the type.
    parts = [np.asarray(stack[key]) for stack in stacks if len(stack["label"])] or [np.asarray(stacks[0][key])]
    return np.concatenate(parts)


def draw(labels: np.ndarray, *, seed: int, true_fraction: float | None, max_cutouts: int | None) -> np.ndarray:
    """Indices, in order, of a random selection with the wanted share of True (label 1).

    The larger class is thinned; with `max_cutouts` both are.
    """
    rng = np.random.default_rng(seed)
    true, false = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    n_true, n_false = len(true), len(false)
    if true_fraction is not None:
        n_true = min(n_true, round(len(false) * true_fraction / (1 - true_fraction)))
        n_false = min(n_false, round(len(true) * (1 - true_fraction) / true_fraction))
    if max_cutouts is not None and n_true + n_false > max_cutouts:
        n_true = round(max_cutouts * n_true / (n_true + n_false))
        n_false = max_cutouts - n_true
    chosen = [rng.choice(group, n, replace=False, shuffle=False) for group, n in ((true, n_true), (false, n_false))]
    return np.sort(np.concatenate(chosen))


def _gather(
    stacks: Sequence[Mapping[str, np.ndarray]], offsets: np.ndarray, chosen: np.ndarray, channels: Sequence[str]
) -> np.ndarray:
    """The chosen cutouts as one array, copied image by image."""
    sizes = {stack["stack"].shape[1:3] for stack in stacks if len(stack["label"])}
    if len(sizes) > 1:
        raise CubeError(f"cutouts of different sizes cannot be joined: {sorted(sizes)}")
    cube = np.empty((len(chosen), *sizes.pop(), len(channels)), dtype=np.float32)
    for index, stack in enumerate(stacks):
        known = [str(name) for name in stack["channels"]]
        for name in channels:
            if name not in known:
                raise CubeError(f"image {stack['image_name']}: cube.channels asks for {name}, the cutouts have {known}")
        mine = np.flatnonzero((chosen >= offsets[index]) & (chosen < offsets[index + 1]))
        for position, name in enumerate(channels):
            cube[mine, :, :, position] = stack["stack"][chosen[mine] - offsets[index], :, :, known.index(name)]
    return cube


def cube_from_folders(
    true_dir: str | Path, false_dir: str | Path, *, telescope: str = "", pipeline: str = "", **options: Any
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Build a cube from ready-made cutouts in two folders of FITS files.

    Header keys (Makhlouf et al. 2022, Sect. 2.3): CANDID and EDGE are mandatory, MAG,
    MAGERR, FILTER and FWHM optional, as are IMAGE, RA, DEC, SNR, DATE-OBS, SEEING [px] and
    PIXSCALE [arcsec/px]. Magnitudes of -99, 99 and 0 are read as missing. The image of a
    cutout is its IMAGE or else its CANDID without the running number at its end.

    Parameters
    ----------
    true_dir, false_dir : path-like
    telescope, pipeline : str
    **options
        Those of `build_cube`; ``channels`` is ``difference``.

    Raises
    ------
    CubeError
        A folder is missing or empty, a file is no two-dimensional square FITS image or of
        another size, a mandatory key is missing, a value is unusable; and those of `build_cube`.
    """
    rows: list[dict[str, Any]] = []
    planes: list[np.ndarray] = []
    for label, folder in ((1, Path(true_dir)), (0, Path(false_dir))):
        if not folder.is_dir():
            raise CubeError(f"{folder}: no such folder of cutouts")
        paths = sorted(p for p in folder.iterdir() if re.search(r"\.(fits|fit|fts)(\.gz|\.fz)?$", p.name, re.I))
        if not paths:
            raise CubeError(f"{folder}: no FITS cutouts in this folder")
        for path in paths:
            plane, row = _read_cutout(path)
            if planes and plane.shape != planes[0].shape:
                raise CubeError(f"{path}: a cutout of {plane.shape} among cutouts of {planes[0].shape}")
            planes.append(plane)
            rows.append(row | {"label": label, "reason": "EDGE" if row["edge"] else f"folder {folder.name}"})
    stack: dict[str, np.ndarray] = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    images = np.unique(stack["image"])
    values = np.stack(planes)[..., None]
    stack |= {"stack": values, "n_missing": np.isnan(values).sum(axis=(1, 2, 3)), "channels": np.array(["difference"])}
    parts = []
    for name in images:
        mine = stack["image"] == name
        parts.append({key: array if key == "channels" else array[mine] for key, array in stack.items()})
        parts[-1]["image_name"] = np.array(name)
    return build_cube(parts, telescope=telescope, pipeline=pipeline, **(options | {"channels": ["difference"]}))


def _read_cutout(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    from otrain_core.errors import ImageError
    from otrain_core.io import read_fits

    try:
        plane, header = read_fits(path, image=path.stem)
    except ImageError as error:
        raise CubeError(error.message) from None
    if plane.shape[0] != plane.shape[1]:
        raise CubeError(f"{path}: NAXIS: a square cutout is needed, found {plane.shape}")
    for key in ("CANDID", "EDGE"):
        if header.get(key) in (None, ""):
            raise CubeError(f"{path}: {key}: this header key is mandatory")
    candid = str(header["CANDID"]).strip()
    mag, magerr = _number(path, header, "MAG"), _number(path, header, "MAGERR")
    if mag in SENTINELS:
        mag = magerr = np.nan
    if magerr in (-99.0, 99.0):
        magerr = np.nan
    return np.where(np.isfinite(plane), plane, np.nan).astype(np.float32), {
        "candid": candid,
        "image": str(header.get("IMAGE") or re.sub(r"[-_. ]?\d+$", "", candid)).strip(),
        "edge": _truth(path, "EDGE", header["EDGE"]),
        "mag": mag,
        "magerr": magerr,
        "filter": str(header.get("FILTER", "")).strip(),
        "fwhm": _number(path, header, "FWHM"),
        "x": np.nan,
        "y": np.nan,
        "ra": _number(path, header, "RA"),
        "dec": _number(path, header, "DEC"),
        "snr": _number(path, header, "SNR"),
        "seeing": _number(path, header, "SEEING"),
        "pixel_scale": _number(path, header, "PIXSCALE"),
        "artefact": "",
        "injection": -1,
        "time": str(header.get("DATE-OBS", "")).strip(),
    }


def _number(path: Path, header: Mapping[str, Any], key: str) -> float:
    value = header.get(key)
    if value is None or value == "":
        return float("nan")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise CubeError(f"{path}: {key}: a number is needed, found {value!r}") from None


def _truth(path: Path, key: str, value: Any) -> bool:
    text = str(value).strip().lower()
    if text in ("true", "t", "1", "yes"):
        return True
    if text in ("false", "f", "0", "no"):
        return False
    raise CubeError(f"{path}: {key}: True or False is needed, found {value!r}")


def read_cube(path: str | Path, *, mmap: bool = False) -> dict[str, np.ndarray]:
    """Read and check a cube.

    Cubes of the original O'TRAIN, which have the keys of Table 1 only, are accepted:
    labels may be one-hot (False, True), the cube without channel axis, and their magnitude
    sentinels are read as missing.

    Parameters
    ----------
    path : path-like
    mmap : bool
        Map ``cube`` into memory instead of reading it.

    Returns
    -------
    dict of numpy.ndarray
        ``cube`` float32 (N, H, W, C), ``labels`` uint8, and the other keys of the file;
        ``channels`` always.

    Raises
    ------
    CubeError
        Not readable, a key of Table 1 is missing, shapes that do not agree, labels other
        than 0 and 1, one class only.
    """
    arrays = read_stack(path, mmap=("cube",) if mmap else ())
    for key in TABLE1:
        if key not in arrays:
            raise CubeError(f"{path}: key {key!r} is missing; a cube has {', '.join(TABLE1)}")
    if arrays["cube"].ndim == 3:
        arrays["cube"] = arrays["cube"][..., None]
    cube, labels = arrays["cube"], arrays["labels"]
    if cube.ndim != 4 or cube.dtype.kind not in "fiu":
        raise CubeError(f"{path}: cube: numbers of shape (N, H, W, C) are needed, found {cube.dtype} {cube.shape}")
    arrays["cube"] = cube.astype(np.float32, copy=False)
    if labels.ndim == 2 and labels.shape[1] == 2:
        labels = labels.argmax(axis=1)
    labels = labels.reshape(len(labels), -1)[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
        raise CubeError(f"{path}: labels: 0 (False) or 1 (True) for every cutout is needed")
    arrays["labels"] = labels.astype(np.uint8)
    for key in (*TABLE1[1:], *COLUMNS):
        if key in arrays and len(arrays[key]) != len(cube):
            raise CubeError(f"{path}: {key} has {len(arrays[key])} entries for {len(cube)} cutouts")
    if len(np.unique(arrays["labels"])) < 2:
        raise CubeError(f"{path}: the cube has one class only")
    if "channels" not in arrays:
        for key in ("mags", "errmags"):
            values = arrays[key].astype(np.float64)
            arrays[key] = np.where(np.isin(values, SENTINELS if key == "mags" else SENTINELS[:2]), np.nan, values)
        arrays["channels"] = np.array(["difference", *(f"channel{n}" for n in range(2, cube.shape[3] + 1))])
    if len(arrays["channels"]) != cube.shape[3]:
        raise CubeError(f"{path}: channels names {len(arrays['channels'])} channels, the cube has {cube.shape[3]}")
    return arrays


def read_stack(path: str | Path, *, mmap: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Read a ``.npz``, with the members named in `mmap` mapped into memory (read-only).

    Raises
    ------
    CubeError
        Not a readable ``.npz``.
    UpstreamFailed
        The file marks the failure of an earlier step of its image.
    """
    import zipfile

    from otrain_core.io import raise_if_failed

    if not Path(path).is_file():
        raise CubeError(f"{path}: no such file")
    raise_if_failed(path)
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {}
            for name in archive.files:
                info = archive.zip.getinfo(f"{name}.npy")
                mapped = name in mmap and info.compress_type == zipfile.ZIP_STORED
                arrays[name] = _map_member(path, info.header_offset) if mapped else archive[name]
            return arrays
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, AttributeError) as error:
        raise CubeError(f"{path}: not a readable .npz file ({str(error).splitlines()[0]})") from None


def _map_member(path: str | Path, header_offset: int) -> np.ndarray:
    with open(path, "rb") as file:
        # A zip member starts with 30 bytes, the last four of which are the lengths of name and extras.
        file.seek(header_offset + 26)
        name, extra = np.frombuffer(file.read(4), dtype="<u2")
        file.seek(header_offset + 30 + int(name) + int(extra))
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
        if dtype.hasobject:
            raise ValueError("an array of Python objects")
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(path, dtype=dtype, mode="r", offset=file.tell(), shape=shape, order="F" if fortran else "C")
