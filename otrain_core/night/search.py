"""Find and score the candidates of one science image: all steps of the DAG except injection, in one process.

The steps are the same functions as in the rules of the workflow, so that training and use cannot differ. Their files
are written to a temporary folder.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.arrays import read_stack
from otrain_core.candidates.cutouts import CUTOUT_COLUMNS
from otrain_core.chain.steps import Clock, ImageSteps, held_planes
from otrain_core.classify.descriptors import DESCRIPTORS
from otrain_core.classify.finder import load_finder
from otrain_core.cubes.footprints import unit_vectors
from otrain_core.errors import ImageError, OtrainError, first_line
from otrain_core.images.frames import read_image, read_planes
from otrain_core.images.hdus import read_header, split_extension
from otrain_core.images.keywords import exposure, frame_type, longitude, start_time, text
from otrain_core.images.wcs import celestial_wcs, image_wcs, pixel_to_sky
from otrain_core.io import read_json, read_table, shown, truncation_told, write_table
from otrain_core.night.alerts import band
from otrain_core.night.context import IMAGE_COLUMNS, NIGHT_COLUMNS, Catalogues, footprint, image_context
from otrain_core.plan.recipe import Recipe
from otrain_core.temporary import temporary_folder

if TYPE_CHECKING:
    from otrain_core.classify import Classifier

log = logging.getLogger("otrain")

NO_SKY = ("bias", "dark", "flat")  # types of frames that are not searched
LETTERS = tuple("ubvgrizy")  # filters that are compared with the filter of the reference
MOST_OFFSET = 60.0  # largest plausible offset between the WCS of an image and of its reference [arcsec]

# Columns of a table of candidates: name, unit, description.
COLUMNS = {
    "candid": ("", "name of the candidate"),
    "image": ("", "name of the image"),
    "x": ("pix", "column, from 0"),
    "y": ("pix", "row, from 0"),
    "ra": ("deg", "right ascension, ICRS; NaN without a WCS"),
    "dec": ("deg", "declination, ICRS; NaN without a WCS"),
    "flux": ("adu", "flux on the difference"),
    "fluxerr": ("adu", "error of the flux"),
    "mag": ("mag", "magnitude of the difference"),
    "magerr": ("mag", "error of the magnitude"),
    "zero_point_source": ("", "catalogue, header, or assumed (the magnitude is instrumental)"),
    "snr": ("", "signal-to-noise ratio on the difference"),
    "fwhm": ("pix", "full width at half maximum"),
    "sign": ("", "1: brighter than the reference; -1: fainter"),
    "score": ("", "score of the network, not calibrated"),
    "probability": ("", "calibrated probability of a real source"),
    "real": ("", "the score is at or above the threshold of the model"),
    "undecided": ("", "the score is too close to the threshold"),
    "reason": ("", "why the cutout is unlike the training set"),
    "edge": ("", "the cutout crosses the edge of the image or lacks many pixels"),
    "time": ("", "time of the image, UTC"),
    "filter": ("", "filter of the image"),
}
COLUMNS |= IMAGE_COLUMNS | NIGHT_COLUMNS


@dataclass
class Search:
    """Result of the search of one image.

    Attributes
    ----------
    table : dict of numpy.ndarray
        `COLUMNS`, (N,), one row per candidate, highest probability first.
    stamps : numpy.ndarray
        float32 (N, S, S, 5), channels `otrain_core.candidates.cutouts.CHANNELS`, in the order of the table.
    described : dict of numpy.ndarray
        `otrain_core.classify.descriptors.DESCRIPTORS`, in the order of the table.
    record : dict
        image, n, real, undecided, seeing_px, limit_mag, subtraction, cpu_seconds of each step, and so on.
    """

    table: dict[str, np.ndarray]
    stamps: np.ndarray
    described: dict[str, np.ndarray] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


def no_sky(path: str | Path, *, image: str) -> tuple[str, str]:
    """The type (`NO_SKY`) of a frame that shows no sky, and the header keyword that says so.

    Returns
    -------
    tuple of str
        Two empty strings for other frames, and for a file that cannot be read, which the search will refuse.
    """
    try:
        kind, why = frame_type(read_header(path, image=image))
    except OtrainError:
        return "", ""
    return (kind, why) if kind in NO_SKY else ("", "")


def search_image(
    science: str | Path,
    *,
    reference: str | Path,
    classifier: Classifier,
    recipe: Recipe,
    image: str,
    wcs: str | Path | None = None,
    catalogue: str | Path | None = None,
    difference: str | Path | None = None,
    catalogues: Catalogues | None = None,
) -> Search:
    """Find and score the candidates of one image.

    Parameters
    ----------
    science, reference : path-like
        FITS images.
    classifier : Classifier
    recipe : Recipe
    image : str
        Name of the image.
    wcs : path-like, optional
        FITS header with the WCS, for an image that has none.
    catalogue : path-like, optional
        Table of stars (ra, dec, mag), for pipelines that need one.
    difference : path-like, optional
        FITS file to keep the planes diff, noise, mask, science and reference in.
    catalogues : Catalogues, optional
        Sources of the known objects and stars near the candidates.

    Raises
    ------
    ImageError
        The image or its reference cannot be used; the key says what is wrong.
    """
    clock, kept = Clock(), Path(difference) if difference else None
    with temporary_folder("search") as folder:
        run = ImageSteps(
            image, recipe, folder, folder, clock, wcs, load_finder(recipe.pipeline.detect), held=held_planes()
        )
        with clock("read"):
            frame = read_image(science, name=image, detector=recipe.detector, wcs_path=wcs)
        run.psf(frame, catalogue=catalogue)
        headers = _headers(reference, image=image)
        _check_filter(read_json(run.file("psf.json"))["filter"], headers, image=image, reference=reference)
        run.subtract(frame, reference, difference=kept)
        run.detect(catalogue=catalogue, difference=kept)
        psf, subtraction = read_json(run.file("psf.json")), read_json(run.file("subtract.json"))
        stack, scored = scored_candidates(run, classifier, difference=kept)
        with clock("context"):
            planes, header = read_planes(kept or run.planes("difference.fits"), image=image)
            sky = image_wcs(header, wcs, image=image, record=psf)
            offset = _wcs_offset(sky, planes["mask"].shape, subtraction, headers, image=image)
            around = _around(stack, planes, psf, wcs=sky, header=header, recipe=recipe, catalogues=catalogues)
    table, order = _table(stack | around, scored)
    record = _record(image, table, psf, subtraction, clock.seconds)
    record |= {
        "telescope": recipe.telescope,
        "pipeline": recipe.name,
        "science": shown(science),
        "reference": shown(reference),
        "reference_time": next(filter(None, map(start_time, headers)), ""),
        "wcs_offset": offset,
        "footprint": footprint(sky, planes["mask"].shape) if sky is not None else None,
        "exposure": exposure(header, first=recipe.detector.header.get("exposure")),
        "longitude": longitude(header),
    }
    described = {name: np.asarray(scored[name])[order] for name in DESCRIPTORS}
    return Search(table, stack["cube"][order], described, record)


def scored_candidates(
    run: ImageSteps, classifier: Classifier, *, difference: Path | None = None
) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
    """Cut out and score the candidates of the step detect.

    Returns
    -------
    stack : dict
        ``cube``, float32 (N, S, S, 5), and the columns of the candidates.
    scored : mapping
        As returned by `Classifier.classify`.
    """
    seeing = read_json(run.file("psf.json"))["seeing_px"]
    write_table(run.file("labelled.csv"), _unlabelled(read_table(run.file("candidates.csv")), seeing))
    run.cutouts(difference=difference)
    with run.step("classify"):
        stack = read_stack(run.file("cutouts.npz"))
        stack["cube"] = stack.pop("stack")
        return stack, classifier.classify(stack)


def _around(
    stack: Mapping[str, np.ndarray],
    planes: Mapping[str, np.ndarray],
    psf: Mapping[str, Any],
    *,
    wcs: Any,
    header: Any,
    recipe: Recipe,
    catalogues: Catalogues | None,
) -> dict[str, np.ndarray]:
    """The context of the candidates, as if this were the only image of the night."""
    from otrain_core.sky.fields import field_of

    field, image = None, str(psf["image"])
    if wcs is not None and catalogues is not None:
        time_key = recipe.detector.header.get("time")
        field = field_of(wcs, planes["mask"].shape, image=image, header=header, time_key=time_key)
    columns = image_context(
        stack,
        planes,
        image=image,
        seeing=psf["seeing_px"],
        pixel_scale=psf["pixel_scale"],
        zero_point=psf["zero_point"],
        wcs=wcs,
        field=field,
        catalogues=catalogues,
    )
    n = len(stack["x"])
    once = {"object_name": np.full(n, ""), "motion": np.full(n, np.nan), "motion_error": np.full(n, np.nan)}
    return columns | once | {name: np.ones(n, int) for name in NIGHT_COLUMNS if name not in once}


def _headers(path: str | Path, *, image: str) -> list[Any]:
    """All headers of a FITS file."""
    from astropy.io import fits

    try:
        with truncation_told(), fits.open(split_extension(path)[0]) as hdus:
            return [hdu.header for hdu in hdus]
    except FileNotFoundError:
        raise ImageError(image, "reference", f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ImageError(image, "reference", f"{path}: not a readable FITS file ({first_line(error)})") from None


def _check_filter(name: str, headers: Sequence[Any], *, image: str, reference: str | Path) -> None:
    """Refuse a reference taken in another filter, if both filters are in `LETTERS`; upper and lower case are equal."""
    of_reference = next(filter(None, (text(header, "filter") for header in headers)), "")
    one, other = (band(found).lower() for found in (name, of_reference))
    if one in LETTERS and other in LETTERS and one != other:
        raise ImageError(
            image,
            "FILTER",
            f"the image was taken in {name!r} but the reference {reference} in {of_reference!r}; give one in {name!r}",
        )


def _wcs_offset(
    wcs: Any, shape: tuple[int, int], subtraction: Mapping[str, Any], headers: Sequence[Any], *, image: str
) -> float:
    """Offset between the WCS of an image and of its reference at the centre of the image [arcsec].

    The images were aligned by their stars, which gives the same place on both. The offset is NaN if one has no WCS. If it
    is larger than `MOST_OFFSET`, a warning says that one WCS is wrong.
    """
    matrix = subtraction.get("to_reference")
    of_reference = next(
        (found for header in headers if (found := celestial_wcs(header, image=image)) is not None), None
    )
    if wcs is None or of_reference is None or matrix is None:
        return float("nan")
    x, y = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    places = pixel_to_sky(wcs, x, y), pixel_to_sky(of_reference, *(np.asarray(matrix, float) @ (x, y, 1)))
    here, there = (unit_vectors(np.atleast_1d(ra), np.atleast_1d(dec))[0] for ra, dec in places)
    offset = float(np.degrees(2 * np.arcsin(np.linalg.norm(here - there) / 2)) * 3600)
    if offset > MOST_OFFSET:
        sentence = (
            "image %s: WCS: the stars match the reference, but the WCS of the two differ by %.0f arcsec; "
            "one WCS is wrong, and the positions may be wrong too"
        )
        log.warning(sentence, image, offset)
    return offset


def _unlabelled(candidates: Any, seeing: float) -> Any:
    """The table of candidates with empty columns for the labels, which are unknown for tonight's candidates."""
    void = {str: "", float: np.nan, int: 0, bool: False}
    for name, kind in CUTOUT_COLUMNS.items():
        if name not in candidates:
            candidates[name] = seeing if name == "seeing" else void[kind]
    return candidates


def _table(
    stack: Mapping[str, np.ndarray], scored: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The columns of `COLUMNS`, highest probability first, and the order of the rows."""
    n = len(scored["score"])
    order = np.lexsort((np.asarray(stack["candid"]), -scored["probability"])) if n else np.empty(0, int)
    columns: dict[str, np.ndarray] = {}
    for name in COLUMNS:
        columns[name] = np.asarray(scored[name] if name in scored else stack[name])[order]
    return columns, order


def _record(
    image: str,
    table: Mapping[str, np.ndarray],
    psf: Mapping[str, Any],
    subtraction: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    real = table["real"] & ~table["undecided"]
    return {
        "image": image,
        "n": len(table["score"]),
        "real": int(real.sum()),
        "undecided": int(table["undecided"].sum()),
        "unlike_training": int((table["reason"] != "").sum()),
        "seeing_px": psf.get("seeing_px"),
        "pixel_scale": psf.get("pixel_scale"),
        "limit_mag": psf.get("limit_mag"),
        "zero_point": psf.get("zero_point"),
        "zero_point_source": psf.get("zero_point_source", ""),
        "time": psf.get("time"),
        "filter": psf.get("filter"),
        "subtraction": {key: subtraction.get(key) for key in ("method", "convolved", "noise_spread", "flux_scale")},
        "cpu_seconds": dict(seconds),
    }
