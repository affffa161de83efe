"""A cube from ready-made cutouts in two folders, True/ and False/."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.cube import SENTINELS, build_cube
from otrain_core.errors import CubeError


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
        "kind": "",
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
