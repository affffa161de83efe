"""Measure the PSF by PSFEx (Bertin 2011, ASPC 442, 435) on a catalogue of Source Extractor, through STDPipe.

A model of PSFEx has the form of `otrain_core.stars.psf_model.PSFModel`: the fraction of a
star's flux in a pixel, tabulated in steps smaller than a pixel, where every sample is a
polynomial of the position. The conversion rewrites the polynomials in the coordinates of the
image, and resamples the table to a whole number of samples per pixel with the interpolation
of PSFEx (Lanczos-4).
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

THRESHOLD, MIN_AREA = 4.0, 4  # of the detection, as in gmadet [sigma], [px]
SAMPLES = 3.0  # least number of samples per FWHM; with the 4.7 of PSFEx, the model is too wide for narrow stars
LANCZOS = 4  # half width of the interpolation [samples]
BASIS = 12  # PSFEx solves for 12 x 12 samples; its default of 20 gives the same model in twice the time


def fit_psfex(image: Image, stars: Stars, *, level: float, options: PsfOptions) -> tuple[np.ndarray, int, int, int]:
    """Measure the effective PSF of an image by PSFEx.

    Parameters
    ----------
    image : Image
    stars : Stars
        Result of `otrain_core.stars.psf_stars.select_stars`, of which only size and number are used.
    level : float
        Of the sky [ADU].
    options : PsfOptions
        `degree`, `min_snr` and `max_ellipticity` are used, see `run_psfex`.

    Returns
    -------
    table : numpy.ndarray
        float64 (terms, side, side), see `otrain_core.stars.psf_model.PSFModel`.
    oversampling : int
    n_stars : int
        Number of stars that PSFEx accepted.
    degree : int
        Degree used.

    Raises
    ------
    MissingProgramError, ImageError
        See `run_psfex`.
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

    PSFEx chooses the stars: they are unsaturated, without missing pixels, and have a FWHM of
    0.7 to 1.4 times `fwhm` (with the default limit of PSFEx, 2 px, no star of an undersampled
    image would be left). The vignettes have the radius of the model, 4 FWHM.

    Parameters
    ----------
    image : Image
        As read, with its background.
    fwhm : float
        First guess [px].
    n_stars : int
        Expected number of stars; the degree is lowered if there are fewer than four per term.
    level : float
        Level of the sky, which replaces missing pixels [ADU].
    options : PsfOptions
        `degree`, `min_snr` and `max_ellipticity` are used. The ellipticity of PSFEx,
        (a-b)/(a+b), is derived from 1 - b/a.

    Returns
    -------
    dict
        Model in the form of `stdpipe.psf.load_psf`, with ``header``.

    Raises
    ------
    MissingProgramError
        Source Extractor or PSFEx is not installed.
    ImageError
        PSFEx found no model (key ``psf``).
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
            warnings.simplefilter("ignore")  # warnings of astropy about the units of the catalogue
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
                    "PSF_RECENTER": "Y",  # isophotal centres of undersampled stars depend on the sub-pixel position
                    "NTHREADS": 1,
                },
                _workdir=folder,
                **programs,
            )
            if found is not None:
                found = stdpipe_psf.load_psf(str(Path(folder) / "out.psf"), get_header=True)
        if found is None or not np.isfinite(found["data"]).all() or not np.any(found["data"]):
            raise ImageError(image.name, "psf", "PSFEx found no PSF model for this image")
        accepted = int(found["header"]["ACCEPTED"])
        if degree == 0 or accepted >= 4 * len(exponents(degree)):
            return found
        degree -= 1


def table_of(psf: dict[str, Any], shape: tuple[int, int]) -> tuple[np.ndarray, int]:
    """Convert a model of PSFEx to the table of a `otrain_core.stars.psf_model.PSFModel`.

    Parameters
    ----------
    psf : dict
        Result of `run_psfex`.
    shape : tuple of int
        (height, width) of the image [px].

    Returns
    -------
    table : numpy.ndarray
        float64 (terms, side, side), see `otrain_core.stars.psf_model.PSFModel`.
    oversampling : int
        At least twice that of PSFEx's table, so that cubic splines reproduce the Lanczos-4 interpolation.
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
    """Matrix (our terms, PSFEx's terms) that converts polynomials of PSFEx's coordinates to ours."""
    degree = psf["degree"]
    n = degree + 1  # number of points per axis that determine a polynomial
    x, y = (grid.ravel() for grid in np.meshgrid(np.linspace(0, shape[1] - 1, n), np.linspace(0, shape[0] - 1, n)))
    u, v = (x + 1 - psf["x0"]) / psf["sx"], (y + 1 - psf["y0"]) / psf["sy"]  # the first pixel of FITS is 1
    theirs = np.stack([u**i * v**j for j in range(n) for i in range(n - j)], axis=-1)
    return np.linalg.lstsq(polynomial(x, y, shape, degree, axis=-1), theirs, rcond=None)[0]


def _lanczos(positions: np.ndarray, size: int) -> np.ndarray:
    """Weights (positions, size) of samples in a Lanczos-4 interpolation; samples beyond the table are 0."""
    at = np.arange(-LANCZOS - 1, size + LANCZOS + 1)
    offset = positions[:, None] - at
    weights = np.where(np.abs(offset) < LANCZOS, np.sinc(offset) * np.sinc(offset / LANCZOS), 0.0)
    return (weights / weights.sum(axis=1, keepdims=True))[:, LANCZOS + 1 : -LANCZOS - 1]
