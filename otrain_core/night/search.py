"""One science image through all steps of the DAG but injection, in one process: scored candidates.

The steps are the file-level functions that the rules run, so that training and use cannot differ. Their files go to
a temporary folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.arrays import read_stack
from otrain_core.candidates.cutouts import CUTOUT_COLUMNS
from otrain_core.chain.image import Clock, ImageSteps
from otrain_core.classify.descriptors import DESCRIPTORS
from otrain_core.io import read_json, read_table, write_table
from otrain_core.plan.recipe import Recipe

if TYPE_CHECKING:
    from otrain_core.classify import Classifier

# Columns of a table of candidates: name, unit, description.
COLUMNS = {
    "candid": ("", "name of the candidate"),
    "image": ("", "name of the image"),
    "x": ("pix", "column, from 0"),
    "y": ("pix", "row, from 0"),
    "ra": ("deg", "right ascension, ICRS; NaN without a WCS"),
    "dec": ("deg", "declination, ICRS; NaN without a WCS"),
    "mag": ("mag", "magnitude of the difference"),
    "magerr": ("mag", "its error"),
    "zero_point_source": ("", "catalogue, header, or assumed: then the magnitude is instrumental"),
    "snr": ("", "signal to noise on the difference"),
    "fwhm": ("pix", "full width at half maximum"),
    "sign": ("", "1: brighter than the reference; -1: fainter"),
    "score": ("", "of the network, not calibrated"),
    "probability": ("", "calibrated probability of a real source"),
    "real": ("", "at the threshold of the model or above"),
    "undecided": ("", "too near to the threshold"),
    "reason": ("", "why the cutout is unlike the training set"),
    "edge": ("", "the cutout is cut off by the edge of the image or lacks many pixels"),
    "time": ("", "of the image, UTC"),
    "filter": ("", "of the image"),
}


@dataclass
class Search:
    """What a search of one image yields.

    Attributes
    ----------
    table : dict of numpy.ndarray
        `COLUMNS`, one row for each candidate, highest probability first.
    stamps : numpy.ndarray
        float32 (N, S, S, 5), channels `otrain_core.candidates.cutouts.CHANNELS`, in the order of the table.
    described : dict of numpy.ndarray
        `otrain_core.classify.descriptors.DESCRIPTORS`, in the order of the table.
    record : dict
        image, n, real, undecided, seeing, limit, subtraction, seconds by step, ...
    """

    table: dict[str, np.ndarray]
    stamps: np.ndarray
    described: dict[str, np.ndarray] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


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
        Where to keep the planes diff, noise, mask, science and reference.

    Raises
    ------
    ImageError
        The image or its reference cannot be used; the key says what is wrong.
    """
    clock, kept = Clock(), Path(difference) if difference else None
    with tempfile.TemporaryDirectory(prefix="otrain-search-") as folder:
        run = ImageSteps(image, recipe, Path(folder), Path(folder), clock, wcs)
        run.psf(science, catalogue=catalogue)
        run.subtract(science, reference, difference=kept)
        run.detect(catalogue=catalogue, difference=kept)
        psf, subtraction = read_json(run.file("psf.json")), read_json(run.file("subtract.json"))
        stack, scored = scored_candidates(run, classifier, difference=kept)
    table, order = _table(stack, scored)
    record = _record(image, table, psf, subtraction, clock.seconds)
    record |= {"science": str(science), "reference": str(reference)}
    described = {name: np.asarray(scored[name])[order] for name in DESCRIPTORS}
    return Search(table, stack["cube"][order], described, record)


def scored_candidates(
    run: ImageSteps, classifier: Classifier, *, difference: Path | None = None
) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
    """Cut out and score what the step detect has found: the stack (``cube``, and columns), and what the classifier says."""
    seeing = read_json(run.file("psf.json"))["seeing_px"]
    write_table(run.file("labelled.csv"), _unlabelled(read_table(run.file("candidates.csv")), seeing))
    run.cutouts(difference=difference)
    with run.step("classify"):
        stack = read_stack(run.file("cutouts.npz"))
        stack["cube"] = stack.pop("stack")
        return stack, classifier.classify(stack)


def _unlabelled(candidates: Any, seeing: float) -> Any:
    """The table of candidates with the columns of labels, void: nothing is known of tonight's candidates."""
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
        "zero_point_source": psf.get("zero_point_source", ""),
        "time": psf.get("time"),
        "filter": psf.get("filter"),
        "subtraction": {key: subtraction.get(key) for key in ("method", "convolved", "noise_spread", "flux_scale")},
        "cpu_seconds": dict(seconds),
    }
