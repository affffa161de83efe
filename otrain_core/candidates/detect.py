"""Find the candidates of one image on the difference or against a catalogue, and measure them (step `detect`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.candidates.measure import difference_psf, negative_shares
from otrain_core.candidates.planes import Planes
from otrain_core.candidates.search import drop_catalogued, merge_searches, require_catalogue
from otrain_core.candidates.sources import (
    Plane,
    at_edge,
    difference_plane,
    plane_properties,
    plane_sources,
    science_plane,
    without_doubles,
)
from otrain_core.candidates.surroundings import name_surroundings
from otrain_core.errors import ImageError
from otrain_core.images.frames import Held, read_planes
from otrain_core.images.wcs import image_wcs, pixel_to_sky
from otrain_core.io import raise_if_failed, read_json, read_table, write_table
from otrain_core.stars.psf_model import PSFModel

if TYPE_CHECKING:
    from otrain_core.plan.pipelines import DetectOptions


CANDIDATE_COLUMNS = {
    "candid": str,
    "image": str,
    "x": float,
    "y": float,
    "ra": float,
    "dec": float,
    "flux": float,
    "fluxerr": float,
    "mag": float,
    "magerr": float,
    "snr": float,
    "fwhm": float,
    "ellipticity": float,
    "negative": float,
    "cause": str,
    "flags": int,
    "edge": bool,
    "time": str,
    "filter": str,
    "zero_point_source": str,
    "method": str,
}


def detect_files(
    *,
    difference: str | Path | Held,
    psf: str | Path,
    psf_record: str | Path,
    candidates: str | Path,
    image: str,
    telescope: str,
    size: int,
    options: DetectOptions,
    wcs: str | Path | None = None,
    subtract_record: str | Path | None = None,
    catalogue: str | Path | None = None,
    finder: Any = None,
) -> None:
    """Read the difference and its PSF; write the table of candidates.

    Parameters
    ----------
    difference : path-like or Held
        Planes written by the step `subtract`.
    psf, psf_record : path-like
        PSF of the science image and its record.
    candidates : path-like
        Table to write.
    image, telescope : str
    size : int
        Side of the cutouts that will be made [px].
    options : DetectOptions
    wcs : path-like, optional
        FITS header file with the WCS, for images that have none. A WCS refined in the step `psf` takes precedence.
    subtract_record : path-like, optional
        Record of the subtraction, which says whether the science image was convolved to the seeing of the reference.
    catalogue : path-like, optional
        Table of known sources (ra, dec).
    finder : object, optional
        See `detect_candidates`.

    Raises
    ------
    ImageError
        The record has no zero point; see also `detect_candidates`.
    """
    planes, header = read_planes(difference, image=image)
    record = read_json(psf_record)
    raise_if_failed(psf)
    if record.get("zero_point") is None:
        raise ImageError(image, "zero_point", f"{psf_record} has no zero point")
    science_psf = PSFModel.load(psf)
    subtraction = read_json(subtract_record) if subtract_record else {}
    model, seeing = difference_psf(science_psf, record["seeing_px"], subtraction, planes)
    table = detect_candidates(
        planes["diff"],
        planes["noise"],
        planes["mask"],
        image=image,
        telescope=telescope,
        seeing=seeing,
        zero_point=record["zero_point"],
        zero_point_source=record.get("zero_point_source") or "",
        size=size,
        options=options,
        wcs=image_wcs(header, wcs, image=image, record=record),
        psf=model,
        science=planes.get("science"),
        science_psf=science_psf,
        science_seeing=record["seeing_px"],
        reference=planes.get("reference"),
        catalogue=read_table(catalogue) if catalogue else None,
        time=record.get("time") or "",
        filter=record.get("filter") or "",
        finder=finder,
    )
    write_table(candidates, table)


def detect_candidates(
    diff: np.ndarray,
    noise: np.ndarray,
    mask: np.ndarray,
    *,
    image: str,
    seeing: float,
    zero_point: float,
    size: int,
    options: DetectOptions,
    wcs: Any = None,
    psf: Any = None,
    telescope: str = "",
    time: str = "",
    filter: str = "",
    zero_point_source: str = "",
    science: np.ndarray | None = None,
    science_psf: Any = None,
    science_seeing: float | None = None,
    reference: np.ndarray | None = None,
    catalogue: pd.DataFrame | None = None,
    finder: Any = None,
) -> pd.DataFrame:
    """Find candidates and measure them.

    The method "sep" detects pixels where the difference, filtered with a Gaussian of the seeing and weighted by the noise
    of every pixel, exceeds the threshold (matched filter of `sep`, Barbary 2016, after SExtractor, Bertin & Arnouts 1996);
    the positions are windowed centroids. "source-extractor" and "stdpipe" run Source Extractor as gmadet and STDPipe do
    (`otrain_core.candidates.search`), which gives the positions and the lower bits of the flags. "finder" runs a detector
    network, whose score is the column ``finder_score``.

    The columns have the same meaning for every method. Fluxes, S/N and magnitudes come from a PSF fit (weighted least
    squares within 1.5 FWHM), which gives the total flux of a point source. The FWHM is the width of the best-fitting
    circular Gaussian, which is meaningful also at low S/N. The only exception is the FWHM of "source-extractor", which is
    FWHM_IMAGE, because gmadet cuts on it.

    The search "catalogue" (section 2.1 of Makhlouf et al. 2022) finds sources on the science image, keeps those without a
    catalogue entry nearby, and measures them on the science image. Candidates of both searches within one seeing FWHM are
    merged and keep the row of the difference.

    Parameters
    ----------
    diff, noise : numpy.ndarray
        Difference and its 1-sigma noise [ADU], (height, width). NaN marks missing pixels.
    mask : numpy.ndarray
        uint8 (height, width), bits `otrain_core.images.frames.MASK_*`; masked pixels are not used.
    image, telescope : str
        Names that form ``candid``: ``{telescope}-{image}-0001``, numbered in order of y, then x.
    seeing : float
        FWHM of the PSF of the difference [px].
    zero_point : float
        Magnitude of 1 ADU.
    size : int
        Side of the cutouts that will be made [px].
    options : DetectOptions
        ``edge`` 0 means half a cutout. A candidate is also flagged ``edge`` if a pixel within 1.5 FWHM is missing because of
        the edge. A FWHM that cannot be measured counts as outside ``fwhm_ratio``. ``rescale_noise`` multiplies the noise by
        the robust spread of the filtered, noise-weighted difference.
    wcs : astropy.wcs.WCS, optional
        Without it ``ra`` and ``dec`` are NaN.
    psf : otrain_core.stars.psf_model.PSFModel, optional
        PSF of the difference, with the method ``stamp(x, y) -> (array, y0, x0)``. The default is a Gaussian of the seeing,
        which lacks the wings of a real PSF.
    time, filter, zero_point_source : str
        Copied to every candidate. If the source is "assumed", the magnitudes are instrumental.
    science : numpy.ndarray, optional
        Science image without background [ADU], (height, width), for the search "catalogue", which uses the noise and the
        usable pixels of the difference.
    science_psf, science_seeing : optional
        PSF and FWHM [px] of `science`, if it was convolved for the difference (default: `psf`, `seeing`).
    reference : numpy.ndarray, optional
        Reference without background on the same pixels, for the column ``cause``.
    catalogue : pandas.DataFrame, optional
        Columns ra and dec [deg]; it should be deeper than the image.
    finder : otrain_core.classify.finder.Finder, optional
        Required by the method "finder".

    Returns
    -------
    pandas.DataFrame
        Columns `CANDIDATE_COLUMNS`, sorted by y, then x. The flux of a negative source is negative; ``mag`` and ``snr`` are
        computed from |flux|. ``negative`` is described in `otrain_core.candidates.measure.negative_shares`, and ``cause``,
        the likeliest cause of a False, in `otrain_core.candidates.surroundings`. ``method`` is "difference", "catalogue" or
        "both".

    Raises
    ------
    ImageError
        There is no usable pixel or seeing, there are more than ``max_candidates`` candidates, or the search by catalogue
        lacks the catalogue, the WCS or the science image.
    MissingProgramError
        The program of the method is not installed.
    """
    if not (np.isfinite(seeing) and seeing > 0):
        raise ImageError(image, "detect.seeing", f"a positive seeing [px] is needed, found {seeing}")
    if options.method == "finder" and (finder is None or science is None or reference is None):
        raise ImageError(
            image, "detect.finder", "the method finder needs a network, the science image and the reference"
        )
    if "catalogue" in options.search:
        require_catalogue(image, wcs=wcs, science=science, catalogue=catalogue)
    clean = difference_plane(diff, noise, mask, image=image, seeing=seeing, psf=psf, rescale=options.rescale_noise)
    tables = {}
    for name in [name for name in ("difference", "catalogue") if name in options.search]:
        plane = clean
        if name == "catalogue" and science is not None:
            plane = science_plane(clean, science, psf=science_psf, seeing=science_seeing)
        if options.method == "finder" and science is not None and reference is not None:
            planes = Planes.of(science, reference, diff, noise, mask, seeing=seeing, image=image)
            sources = finder.find(planes, threshold=options.finder_score, both_signs=options.both_signs).assign(flags=0)
        else:
            sources = without_doubles(plane_sources(plane, name, options, image=image))
        if name == "catalogue":
            sources = drop_catalogued(sources, catalogue, wcs, diff.shape, radius=options.catalogue_radius)
        _check_number(len(sources), options.max_candidates, name, image)
        tables[name] = _measured(sources, plane, name, zero_point=zero_point, size=size, options=options)
    table = tables[next(iter(tables))] if len(tables) == 1 else merge_searches(**tables, radius=seeing)

    table = table.iloc[np.lexsort((table["x"], table["y"]))].reset_index(drop=True)
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    table["negative"] = negative_shares(clean.data, clean.error, clean.bad, x, y, seeing=seeing)
    table["cause"] = name_surroundings(
        table, data=clean.data, noise=clean.error, mask=mask, reference=reference, seeing=seeing
    )
    located = wcs is not None and len(x) > 0
    table["ra"], table["dec"] = pixel_to_sky(wcs, x, y) if located else (np.nan, np.nan)
    table["image"], table["time"], table["filter"] = image, time, filter
    table["zero_point_source"] = zero_point_source
    return _named(table, f"{telescope}-{image}" if telescope else image)


def _measured(
    sources: pd.DataFrame, plane: Plane, search: str, *, zero_point: float, size: int, options: DetectOptions
) -> pd.DataFrame:
    """Properties of the sources of one plane whose FWHM is within the limits."""
    table = plane_properties(sources, plane, zero_point=zero_point)
    if "score" in sources:
        table["finder_score"] = sources["score"].to_numpy()
    table["edge"] = at_edge(table, plane.missing, options.edge or size // 2, plane.seeing)
    ratio = table["fwhm"] / plane.seeing
    low, high = options.fwhm_ratio
    return table[(ratio >= low) & (ratio <= high)].assign(method=search)


def _named(table: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """The columns of a table of candidates, with a name for each row."""
    table["candid"] = [f"{prefix}-{number:04d}" for number in range(1, len(table) + 1)]
    columns = CANDIDATE_COLUMNS | ({"finder_score": float} if "finder_score" in table else {})
    return table[list(columns)].astype(columns)


def _check_number(number: int, most: int, search: str, image: str) -> None:
    if number > most:
        cause = (
            "the subtraction failed or the threshold is too low"
            if search == "difference"
            else "the star catalogue is less deep than the image or does not cover it"
        )
        raise ImageError(image, "detect.max_candidates", f"{number} candidates, more than {most}: {cause}")
