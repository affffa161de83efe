"""Sets of labelled cutouts of real images, for `tools.real_sky`: real stars are True, candidates that no known object explains are False.

Each set is a cube (``cube.npz``, readable by `otrain_core.cubes.cube_format.read_cube`) with three more columns: ``signs`` (-1 if
the candidate is negative and its sign was flipped), ``convolved`` (which image was convolved for the subtraction) and ``units``
(the unit of the bootstrap: the image, or a ninth of it in sets of few images).
"""

from __future__ import annotations

import csv
import logging
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.candidates.cutouts import CHANNELS, flipped, make_cutouts
from otrain_core.errors import ImageError, OtrainError
from otrain_core.io import read_json, write_json
from otrain_core.plan.pipelines import STEP_OPTIONS, Pipeline
from otrain_core.plan.recipe import Recipe

log = logging.getLogger("otrain.real_sets")

CLONE = Path(__file__).parents[1]
PIPELINE = "builtin"
SIZE = 32  # side of the cutouts [px]
PARTS, FEW_IMAGES = 3, 5  # in sets with fewer than 5 images, each image is divided into 3 x 3 parts
SEED = 1
CONFIG = """
images: {sheet}
data_root: {data}
telescopes:
  eso085: {{detector: {{pixel_scale: 0.745, gain: 1.0, read_noise: 10, saturation: 65000, filter: Clear}}}}
  decam_mini: {{detector: {{pixel_scale: 0.262, gain: 4.0, read_noise: 7, saturation: 60000, filter: i}}}}
pipelines:
  builtin:
    detect: {{both_signs: true}}
    inject: {{n_sources: 15, removed_stars: 20, transplanted_stars: 20}}
    telescopes:
      eso085:
        inject: {{n_sources: 60, removed_stars: 80, transplanted_stars: 80}}
        subtract: {{max_noise_spread: 3, max_flux_scatter: 1}}
      decam_mini:
        psf: {{min_stars: 4, min_snr: 15}}
        inject: {{n_sources: 5, removed_stars: 5, transplanted_stars: 10}}
        subtract: {{max_noise_spread: 3, max_flux_scatter: 1}}
run: {{cubes: [{telescope}/builtin]}}
"""
COLUMNS = ("telescope", "image", "path", "role", "field", "wcs", "reference")
LCO_STARS = 60  # stars of the template copied into its difference
ZTF_REAL, ZTF_BOGUS = (0.9, 0.9), (0.1, 0.2)  # limits of drb, and of rb where there is no drb
RUBIN_REAL, RUBIN_BOGUS = 0.9, 0.5  # limits of the reliability
ASTEROID = 2.0  # largest distance to a known asteroid [arcsec]
TRANSIENTS = ("supernova", "cataclyv", "nova", " sn ")


def build_frames(name: str, data: Path, folder: Path) -> dict[str, Any]:
    """Make a set from frames with all steps of the built-in pipeline; the record lists images that failed."""
    from otrain_core.plan.run import Run
    from otrain_core.sky.reference import reference_files

    folder.mkdir(parents=True, exist_ok=True)
    telescope, sheet = "cecilia" if name == "hatp32" else name, folder / "images.csv"
    with sheet.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(_rows(name, data, folder))
    (folder / "config.yaml").write_text(CONFIG.format(sheet=sheet, data=data, telescope=telescope))
    run = Run.from_files([folder / "config.yaml"])
    detector, pipeline = run.telescopes[telescope].detector, run.config.pipelines[PIPELINE]
    options = {step: pipeline.options(telescope, step) for step in STEP_OPTIONS}
    recipe = Recipe(Pipeline(**options), detector, telescope=telescope, name=PIPELINE)
    stacked = folder / "reference.fits"
    if name == "hatp32" and not stacked.is_file():
        frames, wcs = run.inputs.reference_frames(telescope, name), run.inputs.reference_wcs(telescope, name)
        reference_files(
            frames=frames,
            wcs=wcs,
            reference=stacked,
            record=folder / "reference.json",
            detector=detector,
            field=name,
        )
    failed: dict[str, str] = {}
    stacks, convolved = [], {}
    for image in run.inputs.images(telescope):
        place = folder / "images" / image
        reference = stacked if name == "hatp32" else run.inputs.reference(telescope, image)
        try:
            science, wcs = run.inputs.science(telescope, image), run.inputs.wcs(telescope, image)
            stacks.append(_one_image(recipe, image, place, science=science, reference=reference, wcs=wcs))
            convolved[image] = read_json(place / "subtract.json")["convolved"]
        except ImageError as error:
            log.warning("%s: %s", image, error)
            failed[image] = error.message
    if not stacks:
        raise OtrainError(f"set {name}: every image failed: {failed}")
    return _as_set(name, stacks, convolved=convolved) | {"failed": failed}


def _rows(name: str, data: Path, folder: Path) -> list[dict[str, str]]:
    """Rows of the image sheet of a set."""
    if name == "hatp32":
        with (CLONE / "config/hatp32_images.csv").open() as file:
            rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
        return [{**row, "path": f"hatp32/{row['path']}", "wcs": f"hatp32/{row['wcs']}"} for row in rows]
    if name == "eso085":
        files = {number: f"aligned_eso085-030-{number}.fit" for number in ("004", "005")}
        paths = {number: _with_wcs(data / name / file, folder / file) for number, file in files.items()}
        return [
            {"telescope": name, "image": one, "path": paths[one], "role": "science", "reference": paths[other]}
            for one, other in (("004", "005"), ("005", "004"))
        ]
    return [
        {
            "telescope": name,
            "image": f"OBS{night}{letter}",
            "path": f"{name}/DEC-OBS{night}{letter}.mini.fits",
            "role": "science",
            "reference": f"{name}/Stack-DEC-OBS{other}.fits",
        }
        for night, other in (("04", "18"), ("18", "04"))
        for letter in "abcde"
    ]


def _with_wcs(source: Path, copy: Path) -> str:
    """Copy a frame of eso085, which has no WCS, with an invented one. The two frames are aligned, so it serves to identify stars."""
    from astropy.io import fits

    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 120.0, "CRVAL2": -30.0, "CRPIX1": 512.0}
    cards |= {"CRPIX2": 341.0, "CD1_1": -0.745 / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.745 / 3600}
    if not copy.is_file():
        pixels, header = fits.getdata(source), fits.getheader(source)
        header.update(cards)
        fits.writeto(copy, pixels, header)
    return str(copy.resolve())


def _one_image(
    recipe: Recipe, image: str, place: Path, *, science: str, reference: str | Path, wcs: str | None
) -> dict[str, np.ndarray]:
    """Run all steps of one image; return its cutouts, which are stored with the records."""
    from otrain_core.arrays import read_arrays
    from otrain_core.chain.steps import ImageSteps

    if (place / "cutouts.npz").is_file():
        return read_arrays(place / "cutouts.npz")
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="otrain-real-") as folder:
        steps = ImageSteps(image, recipe, place, Path(folder), lambda *_: nullcontext(), wcs)
        steps.psf(science, catalogue=None)
        steps.inject(science, seed=SEED)
        steps.subtract(steps.file("injected.fits"), reference, injected=steps.file("injected.csv"))
        steps.detect(catalogue=None)
        steps.crossmatch(known=None, sky_truth=None)
        steps.cutouts()
    return read_arrays(place / "cutouts.npz")


def build_lco(name: str, data: Path, folder: Path) -> dict[str, Any]:
    """Make a set from differences without science frames: stars of the template are copied into the difference."""
    stacks = [_one_difference(data / name, number) for number in ("1", "2")]
    return _as_set(name, stacks, convolved={})


def _one_difference(folder: Path, number: str) -> dict[str, np.ndarray]:
    import sep

    from otrain_core.candidates.crossmatch import crossmatch_candidates
    from otrain_core.candidates.detect import detect_candidates
    from otrain_core.images.frames import read_image
    from otrain_core.images.hdus import read_fits
    from otrain_core.plan.pipelines import CrossmatchOptions, CutoutsOptions, DetectOptions, InjectOptions
    from otrain_core.plan.telescopes import Detector
    from otrain_core.stars.psf import measure_psf
    from otrain_core.stars.psf_stars import measure_sky
    from otrain_core.stars.real_stars import choose_stars, transplant

    image = f"lco{number}"
    difference, _ = read_fits(folder / f"diff_pydia_{number}.fits.fz", image=image)
    detector = Detector(gain=1.0, pixel_scale=0.39, read_noise=8.0)
    template = read_image(folder / f"template_{number}.fits.fz", name=image, detector=detector)
    sky = measure_sky(template)
    psf, record = measure_psf(template, sky=sky)
    rng = np.random.default_rng([SEED, int(number)])
    options = InjectOptions(bright_mag=4.5, faint_mag=0.0)
    stars, segments = choose_stars(template, psf, sky, record=record, rng=rng, n=LCO_STARS, options=options)
    added, moved = transplant(template, psf, sky, segments, stars, rng=rng, avoid=stars)
    truth = moved.assign(id=np.arange(len(moved)), kind="transplanted", usable=True)
    plane = (difference + added).astype(np.float32)
    mask = (~np.isfinite(plane)).astype(np.uint8)
    level = sep.Background(np.where(mask != 0, 0, plane).astype(np.float32), mask=mask != 0)
    found = detect_candidates(
        plane - level.back(),
        level.rms(),
        mask,
        image=image,
        telescope="lco",
        seeing=record["seeing_px"],
        zero_point=record["zero_point"],
        size=SIZE,
        options=DetectOptions(both_signs=True),
        psf=psf,
    )
    seeing = record["seeing_px"]
    table, _ = crossmatch_candidates(found, truth, image=image, seeing=seeing, options=CrossmatchOptions())
    # The stars are not copied in the template: it shows empty sky at their new positions.
    planes = {"diff": plane - level.back(), "science": np.full_like(plane, np.nan), "mask": mask}
    planes["reference"] = np.asarray(sky.data, np.float32)
    return make_cutouts(
        table, planes, image=image, options=CutoutsOptions(size=SIZE), psf=psf, pixel_scale=0.39, telescope="lco"
    )


def _as_set(name: str, stacks: list[dict[str, np.ndarray]], *, convolved: Mapping[str, str]) -> dict[str, Any]:
    """Combine the stacks of the images to a set of all labelled candidates, including real stars."""
    from otrain_core.cubes.cube import build_cube
    from otrain_core.plan.config import CubeOptions

    options = CubeOptions(channels=list(CHANNELS), true_fraction=None, real_stars=True, min_per_class=1)
    cube, record = build_cube(stacks, seed=SEED, options=options, telescope=name)
    signs = {candid: sign for stack in stacks for candid, sign in zip(stack["candid"], stack["sign"], strict=True)}
    cube["signs"] = np.array([signs[candid] for candid in cube["candids"]])
    cube["convolved"] = np.array([convolved.get(image, "") for image in cube["images"]])
    cube["units"] = _units(cube["images"], cube["x"], cube["y"])
    return {"cube": cube, "record": {key: record[key] for key in ("n_images_used", "n_candidates", "n_left_out")}}


def _units(images: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Units of the bootstrap: images, or equal parts of them if there are few."""
    if len(np.unique(images)) >= FEW_IMAGES:
        return images
    part = [np.minimum((PARTS * value / (value.max() + 1)).astype(int), PARTS - 1) for value in (x, y)]
    return np.char.add(images.astype(str), np.char.add("/", (PARTS * part[0] + part[1]).astype(str)))


def build_ztf(name: str, data: Path, folder: Path) -> dict[str, Any]:
    """Make a set of ZTF stamps; labels come from the survey's own scores, known asteroids and classes in catalogues."""
    table, arrays = pd.read_csv(data / "alerts/ztf.csv"), np.load(data / "alerts/ztf.npz")
    drb, rb = table["drb"].to_numpy(float), table["rb"].to_numpy(float)
    has_drb = np.isfinite(drb) & (drb != 0)
    real = np.where(has_drb, drb >= ZTF_REAL[0], rb >= ZTF_REAL[1])
    bogus = np.where(has_drb, drb <= ZTF_BOGUS[0], rb <= ZTF_BOGUS[1])
    asteroid = table["ssdistnr"].between(0, ASTEROID, inclusive="left").to_numpy()
    matched = " " + table["cdsxmatch"].fillna("").str.lower() + " "
    transient = matched.map(lambda word: any(one in word for one in TRANSIENTS)).to_numpy(bool)
    label = np.select([asteroid | real, bogus & ~transient], [1, 0], default=-1)
    kind = np.select([asteroid, transient, label == 1], ["asteroid", "transient", "by the survey"], default="")
    sign = np.where(table["isdiffpos"] == "t", 1, -1)
    stack = np.full((len(table), 63, 63, len(CHANNELS)), np.nan, np.float32)
    for k, key in enumerate(("difference", "science", "reference")):
        stack[..., k] = arrays[key]
    # The difference of negative candidates is already flipped in the alerts; science image and reference are not.
    stack[..., 0] *= sign[:, None, None]
    return _as_alerts(
        name, stack, table, label=label, kind=kind, sign=sign, image=table["jd"], mag=table["magpsf"], scale=1.01
    )


def build_rubin(name: str, data: Path, folder: Path) -> dict[str, Any]:
    """Make a set of Rubin stamps; labels come from the survey's reliability and known asteroids. Stamps with neither have no label."""
    table, arrays = pd.read_csv(data / "alerts/rubin.csv"), np.load(data / "alerts/rubin.npz")
    reliability = table["reliability"].to_numpy(float)
    asteroid = table["ssObjectId"].to_numpy() > 0
    label = np.select([asteroid | (reliability >= RUBIN_REAL), reliability <= RUBIN_BOGUS], [1, 0], default=-1)
    kind = np.select([asteroid, label == 1], ["asteroid", "by the survey"], default="")
    stack = np.full((len(table), SIZE, SIZE, len(CHANNELS)), np.nan, np.float32)
    for k, key in enumerate(("difference", "science", "reference")):
        for row in range(len(table)):
            stack[row, :, :, k] = _centred(arrays[f"{key}_{row}"], SIZE)
    sign = np.where(table["psfFlux"] < 0, -1, 1)
    image = table["id"] // 10**8  # the first digits encode visit and detector
    return _as_alerts(
        name, stack, table, label=label, kind=kind, sign=sign, image=image, mag=np.full(len(table), np.nan), scale=0.2
    )


def _centred(plane: np.ndarray, size: int) -> np.ndarray:
    """Crop a stamp, or pad it with NaN, so that its pixel side // 2 becomes pixel size // 2."""
    padded = np.pad(np.asarray(plane, np.float32), size, constant_values=np.nan)
    top, left = (length // 2 + size - size // 2 for length in plane.shape)
    return padded[top : top + size, left : left + size]


def _as_alerts(
    name: str,
    stack: np.ndarray,
    table: pd.DataFrame,
    *,
    label: np.ndarray,
    kind: np.ndarray,
    sign: np.ndarray,
    image: Any,
    mag: Any,
    scale: float,
) -> dict[str, Any]:
    """Make a set of stamps with labels (-1: none, left out). Negative ones are flipped; the sky of science and reference is subtracted."""
    some = [CHANNELS.index(key) for key in ("science", "reference")]
    with np.errstate(all="ignore"):
        stack[..., some] -= np.nanmedian(stack[..., some], axis=(1, 2), keepdims=True)
    stack = flipped(stack, sign, channels=CHANNELS)
    stack[..., CHANNELS.index("mask")] = np.isnan(stack[..., 0])
    kept = label >= 0
    n, void = int(kept.sum()), np.full(int(kept.sum()), np.nan)
    images = np.asarray(image).astype(str)[kept]
    cube = {
        "cube": stack[kept],
        "labels": label[kept].astype(np.uint8),
        "mags": np.asarray(mag, float)[kept],
        "errmags": void,
        "filters": np.full(n, ""),
        "fwhms": void,
        "candids": table["id"].astype(str).to_numpy(dtype=str)[kept],
        "images": images,
        "x": void,
        "y": void,
        "ra": void,
        "dec": void,
        "snr": table["snr" if "snr" in table else "scorr"].to_numpy(float)[kept],
        "seeing": void,
        "pixel_scale": np.full(n, scale),
        "kinds": kind[kept],
        "artefacts": np.full(n, ""),
        "signs": sign[kept],
        "convolved": np.full(n, ""),
        "units": images,
        "channels": np.array(CHANNELS),
        "telescope": np.array(name),
        "pipeline": np.array(""),
    }
    record = {"n_images_used": len(np.unique(images)), "n_candidates": len(table), "n_left_out": len(table) - n}
    return {"cube": cube, "record": record}


SETS: dict[str, Callable[[str, Path, Path], dict[str, Any]]] = {
    "hatp32": build_frames,
    "eso085": build_frames,
    "decam_mini": build_frames,
    "lco_difference": build_lco,
    "ztf": build_ztf,
    "rubin": build_rubin,
}


def build_set(name: str, data: str | Path, folder: str | Path) -> dict[str, np.ndarray]:
    """Return a set, which is built if its file does not exist yet.

    Parameters
    ----------
    name : str
        One of `SETS`.
    data : path-like
        Folder of the real data, ``../shared/data``.
    folder : path-like
        Folder of all sets. The set is ``folder/name/cube.npz``, its record ``set.json``.

    Raises
    ------
    OtrainError
        The data are missing, or every image failed.
    """
    from otrain_core.arrays import read_arrays, write_arrays

    path = Path(folder, name, "cube.npz")
    if path.is_file():
        return read_arrays(path)
    if not Path(data).is_dir():
        raise OtrainError(f"{data}: no such folder; name the folder of the real data with --data")
    path.parent.mkdir(parents=True, exist_ok=True)
    built = SETS[name](name, Path(data).resolve(), path.parent)
    write_arrays(path, built["cube"])
    labels = built["cube"]["labels"]
    record = {"set": name, **built["record"], "n_real": int((labels == 1).sum()), "n_bogus": int((labels == 0).sum())}
    write_json(path.with_name("set.json"), record | {"failed": built.get("failed", {})})
    return built["cube"]
