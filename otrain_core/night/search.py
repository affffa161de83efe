"""One science image through all steps of the DAG but injection, in one process: scored candidates.

The steps are the file-level functions that the rules run, so that training and use cannot differ. Their files go to
a temporary folder.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.arrays import read_stack
from otrain_core.candidates.cutouts import CUTOUT_COLUMNS, cutouts_files
from otrain_core.candidates.detect import detect_files
from otrain_core.classify.descriptors import DESCRIPTORS
from otrain_core.images.prepare import prepare_files
from otrain_core.images.subtract import subtract_files
from otrain_core.io import read_json, read_table, write_table
from otrain_core.plan.recipe import Recipe
from otrain_core.stars.psf import psf_files

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
    with tempfile.TemporaryDirectory(prefix="otrain-search-") as folder:
        return _search(
            Path(folder),
            science=science,
            reference=reference,
            classifier=classifier,
            recipe=recipe,
            image=image,
            wcs=wcs,
            catalogue=catalogue,
            difference=Path(difference) if difference else None,
        )


def _search(
    work: Path,
    *,
    science: str | Path,
    reference: str | Path,
    classifier: Classifier,
    recipe: Recipe,
    image: str,
    wcs: str | Path | None,
    catalogue: str | Path | None,
    difference: Path | None,
) -> Search:
    clock = _Clock()
    pipeline, size = recipe.pipeline, recipe.pipeline.cutouts.size
    psf, psf_record = work / "psf.fits", work / "psf.json"
    prepared, subtracted = work / "prepared.fits", difference or work / "difference.fits"
    subtract_record, found, labelled = work / "subtract.json", work / "candidates.csv", work / "labelled.csv"
    with clock("psf"):
        psf_files(
            science=science,
            psf=psf,
            record=psf_record,
            image=image,
            detector=recipe.detector,
            wcs=wcs,
            catalogue=catalogue,
            needs_wcs=False,
            cutout_size=size,
            options=pipeline.psf,
        )
    with clock("prepare"):
        prepare_files(
            injected=science,
            psf_record=psf_record,
            prepared=prepared,
            image=image,
            detector=recipe.detector,
            wcs=wcs,
            options=pipeline.prepare,
        )
    with clock("subtract"):
        subtract_files(
            prepared=prepared,
            psf_record=psf_record,
            reference=reference,
            difference=subtracted,
            record=subtract_record,
            image=image,
            detector=recipe.detector,
            wcs=wcs,
            options=pipeline.subtract,
        )
    with clock("detect"):
        detect_files(
            difference=subtracted,
            psf=psf,
            psf_record=psf_record,
            candidates=found,
            image=image,
            telescope=recipe.telescope,
            size=size,
            options=pipeline.detect,
            wcs=wcs,
            subtract_record=subtract_record,
            catalogue=catalogue,
        )
    with clock("cutouts"):
        write_table(labelled, _unlabelled(read_table(found), read_json(psf_record)["seeing_px"]))
        cutouts_files(
            labelled=labelled,
            difference=subtracted,
            psf=psf,
            psf_record=psf_record,
            subtract_record=subtract_record,
            cutouts=work / "cutouts.npz",
            telescope=recipe.telescope,
            pipeline=recipe.name,
            image=image,
            options=pipeline.cutouts,
        )
    with clock("classify"):
        stack = read_stack(work / "cutouts.npz")
        stack["cube"] = stack.pop("stack")
        scored = classifier.classify(stack)
    table, order = _table(stack, scored)
    record = _record(image, table, read_json(psf_record), read_json(subtract_record), clock.seconds)
    record |= {"science": str(science), "reference": str(reference)}
    described = {name: np.asarray(scored[name])[order] for name in DESCRIPTORS}
    return Search(table, stack["cube"][order], described, record)


class _Clock:
    """CPU seconds of the steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, step: str) -> _Clock:
        self._step = step
        return self

    def __enter__(self) -> None:
        self._start = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds[self._step] = round(time.process_time() - self._start, 3)


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
