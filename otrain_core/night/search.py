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
    clock = _Clock()
    with tempfile.TemporaryDirectory(prefix="otrain-search-") as folder:
        files = _Files(Path(folder), Path(difference) if difference else None)
        _subtract(files, clock, science, reference, recipe=recipe, image=image, wcs=wcs, catalogue=catalogue)
        _cut(files, clock, recipe=recipe, image=image, wcs=wcs, catalogue=catalogue)
        with clock("classify"):
            stack = read_stack(files.path("cutouts.npz"))
            stack["cube"] = stack.pop("stack")
            scored = classifier.classify(stack)
        psf, subtraction = read_json(files.path("psf.json")), read_json(files.path("subtract.json"))
    table, order = _table(stack, scored)
    record = _record(image, table, psf, subtraction, clock.seconds)
    record |= {"science": str(science), "reference": str(reference)}
    described = {name: np.asarray(scored[name])[order] for name in DESCRIPTORS}
    return Search(table, stack["cube"][order], described, record)


@dataclass(frozen=True)
class _Files:
    """The files of one search: all in a temporary folder, but for a difference that is kept."""

    folder: Path
    kept: Path | None

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def difference(self) -> Path:
        return self.kept or self.folder / "difference.fits"


def _subtract(
    files: _Files,
    clock: _Clock,
    science: str | Path,
    reference: str | Path,
    *,
    recipe: Recipe,
    image: str,
    wcs: str | Path | None,
    catalogue: str | Path | None,
) -> None:
    """From the frame to the difference: the steps psf, prepare and subtract."""
    with clock("psf"):
        psf_files(
            science=science,
            psf=files.path("psf.fits"),
            record=files.path("psf.json"),
            image=image,
            detector=recipe.detector,
            wcs=wcs,
            catalogue=catalogue,
            needs_wcs=False,
            cutout_size=recipe.pipeline.cutouts.size,
            options=recipe.pipeline.psf,
        )
    with clock("prepare"):
        prepare_files(
            injected=science,
            psf_record=files.path("psf.json"),
            prepared=files.path("prepared.fits"),
            image=image,
            detector=recipe.detector,
            wcs=wcs,
            options=recipe.pipeline.prepare,
        )
    with clock("subtract"):
        subtract_files(
            prepared=files.path("prepared.fits"),
            psf_record=files.path("psf.json"),
            reference=reference,
            difference=files.difference,
            record=files.path("subtract.json"),
            image=image,
            detector=recipe.detector,
            wcs=wcs,
            options=recipe.pipeline.subtract,
        )


def _cut(
    files: _Files,
    clock: _Clock,
    *,
    recipe: Recipe,
    image: str,
    wcs: str | Path | None,
    catalogue: str | Path | None,
) -> None:
    """From the difference to cutouts: the steps detect and cutouts."""
    with clock("detect"):
        detect_files(
            difference=files.difference,
            psf=files.path("psf.fits"),
            psf_record=files.path("psf.json"),
            candidates=files.path("candidates.csv"),
            image=image,
            telescope=recipe.telescope,
            size=recipe.pipeline.cutouts.size,
            options=recipe.pipeline.detect,
            wcs=wcs,
            subtract_record=files.path("subtract.json"),
            catalogue=catalogue,
        )
    with clock("cutouts"):
        seeing = read_json(files.path("psf.json"))["seeing_px"]
        write_table(files.path("labelled.csv"), _unlabelled(read_table(files.path("candidates.csv")), seeing))
        cutouts_files(
            labelled=files.path("labelled.csv"),
            difference=files.difference,
            psf=files.path("psf.fits"),
            psf_record=files.path("psf.json"),
            subtract_record=files.path("subtract.json"),
            cutouts=files.path("cutouts.npz"),
            telescope=recipe.telescope,
            pipeline=recipe.name,
            image=image,
            options=recipe.pipeline.cutouts,
        )


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
