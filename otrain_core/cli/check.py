"""The verb ``check`` of the command ``otrain``: are images, cutouts or a cube fit for use, and if not, why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.errors import OtrainError

MIN_PER_CLASS = 200  # with fewer cutouts a training is unreliable
MIN_IMAGES = 3
MAX_MISSING = 0.25  # fraction of missing pixels above which a cutout is counted


def check_paths(paths: list[str | Path], *, telescope: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Check cubes (.npz), folders of cutouts, and FITS images.

    Parameters
    ----------
    paths : list of path-like
    telescope : mapping, optional
        gain [electron/ADU], pixel_scale [arcsec/px], saturation [ADU] and read_noise [electron] of images whose headers
        lack them.

    Returns
    -------
    list of dict
        One per path: path, kind (image, cutouts or cube), fit (bool), problems (reasons against its use), notes
        (further remarks), and numbers that depend on the kind.
    """
    return [_check(Path(path), telescope or {}) for path in paths]


def _check(path: Path, telescope: Mapping[str, Any]) -> dict[str, Any]:
    kind = "cutouts" if path.is_dir() else "cube" if path.suffix == ".npz" else "image"
    look = {"cutouts": _folder, "cube": _cube}.get(kind) or (lambda path: _image(path, telescope))
    try:
        found = look(path)
    except OtrainError as error:
        found = {"problems": [str(error)]}
    found = {"problems": [], "notes": []} | found
    return {"path": str(path), "kind": kind, "fit": not found["problems"], **found}


def _cube(path: Path) -> dict[str, Any]:
    from otrain_core.cubes.cube_format import read_cube

    return describe_cube(read_cube(path, mmap=True, both_classes=False))


def _folder(path: Path) -> dict[str, Any]:
    from otrain_core.cubes.cube import cube_from_folders
    from otrain_core.cubes.cube_folders import class_folders
    from otrain_core.cubes.cutout_files import EdgeCutoutError, find_cutouts, read_cutout
    from otrain_core.plan.config import CubeOptions

    names = {child.name.lower() for child in path.iterdir() if child.is_dir()}
    if {"true", "false"} & names:
        arrays, record = cube_from_folders(
            *class_folders(path), seed=1, options=CubeOptions(true_fraction=None, min_per_class=1)
        )
        found = describe_cube(arrays) | {"n_edge": record["n_edge"]}
        n = len(arrays["labels"]) + record["copies"]["n_left_out"]
        found["problems"] += filter(None, [_copies_in_words(record["copies"], n)])
        return found
    sides, problems, edge = set(), [], 0
    paths = find_cutouts(path)
    for one in paths:
        try:
            planes, row = read_cutout(one, strict=False)
        except EdgeCutoutError:
            edge += 1
            continue
        except OtrainError as error:
            problems.append(str(error))
            continue
        edge += row["edge"]
        sides.add(planes["difference"].shape[0])
    if len(sides) > 1:
        problems.append(
            f"cutouts of different sizes ({', '.join(map(str, sorted(sides)))} px); crop them to one size "
            "(otrain convert --size)"
        )
    return {"n": len(paths), "sizes": sorted(sides), "n_edge": edge, "problems": problems}


def describe_cube(cube: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Counts and properties of a cube, with reasons against training on it.

    Parameters
    ----------
    cube : mapping of str to array
        As read by `otrain_core.cubes.cube_format.read_cube`.

    Returns
    -------
    dict
        n_true, n_false, n_images, size [px], channels, seeing_px (quantiles 0.05, 0.5 and 0.95, or None), problems and
        notes.
    """
    from otrain_core.classify.descriptors import describe

    labels, channels = np.asarray(cube["labels"]), [str(name) for name in cube["channels"]]
    n_true, n_false = int((labels == 1).sum()), int((labels == 0).sum())
    problems, notes = [], []
    for name, number in (("True", n_true), ("False", n_false)):
        if number == 0:
            problems.append(f"no {name} cutouts: a training needs both classes")
        elif number < MIN_PER_CLASS:
            notes.append(f"only {number} {name} cutouts; a training needs about {MIN_PER_CLASS} of each class or more")
    images = len(np.unique(cube["images"])) if "images" in cube else 0
    if images < MIN_IMAGES:
        problems.append(
            f"cutouts of {images} images (column images): train, validation and test need at least {MIN_IMAGES}"
        )
    rows = np.linspace(0, max(len(labels) - 1, 0), min(len(labels), 2000)).astype(int)
    sample = np.asarray(cube["cube"][rows])
    described = describe(sample, channels)
    seeing = np.asarray(cube["seeing"], float) if "seeing" in cube else described["psf_width"]
    seeing = seeing[np.isfinite(seeing)]
    n_lost = int((described["missing"] > MAX_MISSING).sum())
    if n_lost:
        notes.append(
            f"more than {100 * MAX_MISSING:g} % of the pixels are missing in {n_lost} of {len(rows)} cutouts of a sample"
        )
    flat = int((described["noise"] == 0).sum())
    if flat:
        notes.append(
            f"{flat} of {len(rows)} cutouts of a sample have no noise (half or more of the difference is constant)"
        )
    if not len(seeing):
        notes.append("the seeing is unknown, as there is neither a column seeing nor a channel psf")
    candids = np.asarray(cube["candids"])
    if len(np.unique(candids)) < len(candids):
        notes.append("some candids are not unique")
    copied = _copies(cube, labels, candids)
    if copied:
        problems.append(copied)
    return {
        "n_true": n_true,
        "n_false": n_false,
        "n_images": images,
        "size": int(cube["cube"].shape[1]),
        "channels": channels,
        "seeing_px": [float(value) for value in np.quantile(seeing, (0.05, 0.5, 0.95))] if len(seeing) else None,
        "problems": problems,
        "notes": notes,
    }


def _copies(cube: Mapping[str, np.ndarray], labels: np.ndarray, candids: np.ndarray) -> str:
    """A sentence on copies of cutouts in different images or with different labels, '' if there are none."""
    from otrain_core.cubes.copies import copies_of_cube, count_copies

    images = np.asarray(cube["images"]).astype(str) if "images" in cube else np.full(len(labels), "")
    counts = count_copies(copies_of_cube(cube), labels=labels, images=images, candids=candids)
    return _copies_in_words(counts, len(labels))


def _copies_in_words(counts: Mapping[str, Any], n: int) -> str:
    from otrain_core.cubes.copies import tell_copies

    if not counts["n_across_images"] and not counts["n_both_labels"]:
        return ""
    return tell_copies(counts, n) + "; a training leaves them out"


def _image(path: Path, telescope: Mapping[str, Any]) -> dict[str, Any]:
    from otrain_core.images.frames import read_image
    from otrain_core.plan.telescopes import Detector
    from otrain_core.stars.psf import measure_psf

    name = path.name.split(".")[0]
    image = read_image(path, name=name, detector=Detector.model_validate(dict(telescope)))
    notes = list(image.notes)
    if image.wcs is None:
        notes.append(
            "no celestial WCS in the header, so that subtract.align must be stars or auto, and catalogues cannot be used"
        )
    if not np.isfinite(image.saturation):
        notes.append(
            "no saturation level in the header (SATURATE), so that no pixel counts as saturated; give --saturation"
        )
    if not image.time:
        notes.append("no time of observation in the header (DATE-OBS)")
    missing = float(1 - np.isfinite(image.data).mean())
    found = {"shape": list(image.shape), "gain": image.gain, "pixel_scale": image.pixel_scale, "missing": missing}
    _, record = measure_psf(image)
    kept = ("seeing_px", "ellipticity", "n_stars", "background", "background_rms", "limit_mag")
    if record["seeing_px"] < 1.5:
        notes.append(f"the PSF is undersampled: its FWHM is {record['seeing_px']:.2f} px")
    return found | {key: record[key] for key in kept} | {"notes": notes}
