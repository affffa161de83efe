"""The PSF by PSFEx (Bertin 2011, ASPC 442, 435) on a catalogue of Source Extractor, through STDPipe's wrappers.

A model of PSFEx is what `otrain_core.stars.psf.PSFModel` is: the share of a star's flux in a
pixel, tabulated in steps finer than a pixel, every sample a polynomial of the position.
So it is taken over as it is: the polynomials are written in the coordinates of the
image, and the table is read off at a whole number of samples per pixel with the
interpolation that PSFEx itself uses (Lanczos-4).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.errors import ImageError
from otrain_core.images.frames import Image
from otrain_core.images.polynomials import exponents, polynomial
from otrain_core.plan.pipelines import PsfOptions
from otrain_core.stars.psf_fit import Stars
from otrain_core.temporary import temporary_folder

THRESHOLD, MIN_AREA = 4.0, 4  # of the catalogue, as gmadet sets them [sigma], [px]
SAMPLES = 3.0  # of the table over the FWHM at least; with 4.7, PSFEx's own choice, narrow stars come out too wide
LANCZOS = 4
BASIS = 12  # samples on a side that PSFEx solves for; with its own 20 the model is the same and takes twice as long


def fit_psfex(image: Image, stars: Stars, *, level: float, options: PsfOptions) -> tuple[np.ndarray, int, int, int]:
    """Effective PSF of an image by PSFEx.

    Parameters
    ----------
    image : Image
    stars : Stars
        The stars of `otrain_core.stars.psf.select_stars`: their size and number only.
    level : float
        Of the sky [ADU].
    options : PsfOptions
        `degree`, `min_snr` and `max_ellipticity` are used, see `run_psfex`.

    Returns
    -------
    table : numpy.ndarray
        float64 (terms, side, side), see `otrain_core.stars.psf.PSFModel`.
    oversampling : int
    n_stars : int
        Stars that PSFEx accepted.
    degree : int
        Degree used.
    """
    found = run_psfex(
        image,
        fwhm=max(1.7 * stars.half_light, 1.2),
        n_stars=len(stars.x),
        level=level,
        options=options,
    )
    return *table_of(found, image.shape), int(found["header"]["ACCEPTED"]), int(found["degree"])


def run_psfex(
    image: Image,
    *,
    fwhm: float,
    n_stars: int,
    level: float,
    options: PsfOptions,
) -> dict[str, Any]:
    """Run Source Extractor and PSFEx in a temporary folder.

    The stars are those that PSFEx chooses, unsaturated, clear of missing pixels, and
    within 0.7 to 1.4 times the `fwhm` (its own limit of 2 px would leave nothing of an
    undersampled image). Vignettes reach as far as the stars do in the model: 4 FWHM.

    Parameters
    ----------
    image : Image
        As it came, background in.
    fwhm : float
        First guess [px].
    n_stars : int
        Stars to be expected; the degree is lowered where they are fewer than four for each of its terms.
    level : float
        Level of the sky, put where pixels are missing [ADU].
    options : PsfOptions
        `min_snr` and `max_ellipticity`: what a star must exceed, and keep below; PSFEx's
        (a-b)/(a+b) is derived from 1 - b/a.

    Returns
    -------
    dict
        As `stdpipe.psf.load_psf` gives it, with ``header``.

    Raises
    ------
    MissingProgramError
        A program is not installed.
    ImageError
        PSFEx finds no model (key ``psf``).
    """
    from stdpipe import psf as stdpipe_psf

    from otrain_core.programs import find_program

    programs = {"_sex_exe": find_program("source-extractor"), "_exe": find_program("psfex")}
    missing = ~np.isfinite(image.data)
    data = np.where(missing, np.float32(level), image.data).astype(np.float32)
    oversampling = max(1, int(np.ceil(SAMPLES / fwhm)))
    radius = int(np.clip(np.ceil(4 * fwhm), 6, 40))
    degree = options.degree
    while degree > 0 and n_stars < 4 * len(exponents(degree)):
        degree -= 1
    while True:
        with temporary_folder("psfex") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # astropy on the units of the catalogue
            found = stdpipe_psf.run_psfex(
                data,
                mask=missing,
                thresh=THRESHOLD,
                minarea=MIN_AREA,
                aper=2 * fwhm,
                gain=image.gain,
                vignet_size=2 * radius + 5,
                psf_size=2 * radius * oversampling + 1,
                order=degree,
                sex_extra={"SATUR_LEVEL": 0.8 * image.saturation if np.isfinite(image.saturation) else 1e30},
                extra={
                    "BASIS_NUMBER": BASIS,
                    "PSF_SAMPLING": 1 / oversampling,
                    "SAMPLE_MINSN": options.min_snr,
                    "SAMPLE_MAXELLIP": options.max_ellipticity / (2 - options.max_ellipticity),
                    "SAMPLE_FWHMRANGE": [0.7 * fwhm, 1.4 * fwhm],
                    "SAMPLE_IMAFLAGMASK": "0xff",
                    "PSF_RECENTER": "Y",  # the isophotal centre of an undersampled star depends on where in its pixel it is
                    "NTHREADS": 1,
                },
                _workdir=folder,
                **programs,
            )
            if found is not None:
                found = stdpipe_psf.load_psf(str(Path(folder) / "out.psf"), get_header=True)
        if found is None or not np.isfinite(found["data"]).all() or not np.any(found["data"]):
            raise ImageError(image.name, "psf", "PSFEx finds no model of the PSF in this image")
        accepted = int(found["header"]["ACCEPTED"])
        if degree == 0 or accepted >= 4 * len(exponents(degree)):
            return found
        degree -= 1


def table_of(psf: dict[str, Any], shape: tuple[int, int]) -> tuple[np.ndarray, int]:
    """The table of a `otrain_core.stars.psf.PSFModel` from a model of PSFEx.

    Parameters
    ----------
    psf : dict
        As `run_psfex` returns it.
    shape : tuple of int
        (height, width) of the image [px].

    Returns
    -------
    table : numpy.ndarray
        float64 (terms, side, side), see `otrain_core.stars.psf.PSFModel`.
    oversampling : int
        At least twice that of PSFEx's table, where cubic splines follow Lanczos-4.
    """
    planes = np.asarray(psf["data"], np.float64)
    planes = _monomials(psf, shape) @ planes.reshape(len(planes), -1)
    side = psf["height"], psf["width"]
    planes = planes.reshape(-1, *side)
    oversampling = int(np.ceil(2 / psf["sampling"] - 1e-6))
    reach = int((min(side) - 1) / 2 * psf["sampling"] * oversampling)
    offset = np.arange(-reach, reach + 1) / oversampling / psf["sampling"]
    rows, columns = (_lanczos(offset + (n - 1) / 2, n) for n in side)
    return rows @ planes @ columns.T, oversampling


def _monomials(psf: dict[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """Matrix (our terms, PSFEx's terms) that writes polynomials of PSFEx's coordinates in ours."""
    degree = psf["degree"]
    n = degree + 1  # points on a grid that fix a polynomial
    x, y = (grid.ravel() for grid in np.meshgrid(np.linspace(0, shape[1] - 1, n), np.linspace(0, shape[0] - 1, n)))
    u, v = (x + 1 - psf["x0"]) / psf["sx"], (y + 1 - psf["y0"]) / psf["sy"]  # the first pixel of FITS is 1
    theirs = np.stack([u**i * v**j for j in range(n) for i in range(n - j)], axis=-1)
    return np.linalg.lstsq(polynomial(x, y, shape, degree, axis=-1), theirs, rcond=None)[0]


def _lanczos(positions: np.ndarray, size: int) -> np.ndarray:
    """Weights (positions, size) of samples in Lanczos-4 interpolation; outside the samples is nothing."""
    at = np.arange(-LANCZOS - 1, size + LANCZOS + 1)
    offset = positions[:, None] - at
    weights = np.where(np.abs(offset) < LANCZOS, np.sinc(offset) * np.sinc(offset / LANCZOS), 0.0)
    return (weights / weights.sum(axis=1, keepdims=True))[:, LANCZOS + 1 : -LANCZOS - 1]
