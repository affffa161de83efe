"""The point-spread function of an image, measured on its own stars.

What is modelled is the effective PSF (Anderson & King 2000, PASP 112, 1360): the
share of a star's flux that falls into a pixel, as a smooth function of the offset
between pixel centre and star. It contains the integration over the pixel, so that a
star at any sub-pixel position is this function read off at the pixel centres, in
undersampled images too. As in PSFEx (Bertin 2011, ASPC 442, 435) it is a table finer
than the pixels, whose values are polynomials of the position on the detector.

The fit has two parts: an elliptical, pixel-integrated Moffat profile common to the
field, and cubic B-splines on a fine grid, with polynomial coefficients, for what the
profile leaves. The flux, position and sky of every star are eliminated from the
equations, so they are fitted at the same time and not fixed beforehand.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.errors import ImageError
from otrain_core.images.frames import Image
from otrain_core.stars.psf_fit import fit_stars, misfit
from otrain_core.stars.psf_model import PSFModel
from otrain_core.stars.psf_stars import Sky, measure_sky, select_stars

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("otrain.psf")


def measure_psf(
    image: Image,
    *,
    catalogue: pd.DataFrame | None = None,
    method: str = "empirical",
    astrometry: str = "none",
    astrometry_degree: int = 3,
    photometry: str = "header",
    match_radius: float = 5.0,
    degree: int = 2,
    min_snr: float = 20.0,
    max_ellipticity: float = 0.3,
    max_stars: int = 400,
    min_stars: int = 8,
    sky: Sky | None = None,
) -> tuple[PSFModel, dict[str, Any]]:
    """Measure the PSF of an image, and what depends on it.

    Parameters
    ----------
    image : Image
        As it came: not cleaned, background in.
    catalogue : pandas.DataFrame, optional
        Stars of the field: ``ra``, ``dec`` [deg], ``mag``, ``magerr``, ``color``, ``kind``.
    method : {"empirical", "psfex"}
        The fit of this module, or `otrain_core.stars.psfex`.
    astrometry : {"none", "scamp", "astropy"}
        How the WCS is refined on the catalogue, see `otrain_core.stars.astrometry`.
    astrometry_degree : int
        Degree of the distortion.
    photometry : {"header", "catalogue"}
        Zero point of the header (30 where it has none), or see `otrain_core.stars.photometry`.
    match_radius : float
        Of stars and catalogue [px].
    degree : int
        Degree of the polynomial in x and y; lowered where there are fewer than four
        stars for each of its terms.
    min_snr, max_ellipticity : float
        What a PSF star must reach, and keep below (1 - b/a).
    max_stars, min_stars : int
        Stars used at most, brightest first (PSFEx takes all that it finds good); with
        fewer than `min_stars` the image is refused.
    sky : Sky, optional
        Of the image, where it is measured already.

    Returns
    -------
    model : PSFModel
    record : dict
        ``seeing_px``, ``seeing_arcsec``, ``ellipticity``, ``angle`` (of the model at the centre,
        see `PSFModel.measure`),
        ``seeing_median_px``, ``seeing_min_px``, ``seeing_max_px`` (centre, sides and corners), ``n_stars``, ``degree`` (used),
        ``residual`` (median over the stars of |data - model| summed over the core, as a
        share of the flux), ``background``, ``background_rms`` [ADU], ``zero_point``,
        ``limit_mag`` (5 sigma of a flux weighted by the PSF, King 1983), ``noise_area``
        [px], ``pixel_scale``, ``gain``, ``saturation`` (infinite where unknown), ``filter``, ``time``;
        ``wcs`` (header string, None where the WCS is the one that came), ``astrometry``,
        ``photometry`` (records of the two modules, None where they were not asked for).

    Raises
    ------
    ImageError
        Too few stars (key ``psf``), no measurable sky noise (key ``data``), or what the
        catalogue is needed for fails (keys ``WCS``, ``catalogue``, ``astrometry``, ``photometry``).
    MissingProgramError
        A program that the options call for is not installed.
    """
    if method not in ("empirical", "psfex"):
        raise ValueError(f"method {method!r} is unknown")
    if photometry not in ("header", "catalogue"):
        raise ValueError(f"photometry {photometry!r} is unknown")
    if astrometry != "none" or photometry == "catalogue":
        from otrain_core.stars.astrometry import require_wcs

        require_wcs(image)  # before any work
    sky = sky or measure_sky(image)
    stars = select_stars(image, sky, min_snr=min_snr, max_ellipticity=max_ellipticity, max_stars=max_stars)
    if len(stars.x) < min_stars:
        raise _too_few(image, len(stars.x), min_stars, min_snr)
    if method == "empirical":
        table, oversampling, used, degree, residual = fit_stars(stars, image, sky.rms, degree, min_stars)
    else:
        from otrain_core.stars.psfex import fit_psfex

        table, oversampling, used, degree = fit_psfex(
            image, stars, level=sky.level, degree=degree, min_snr=min_snr, max_ellipticity=max_ellipticity
        )
    if used < min_stars:
        raise _too_few(image, used, min_stars, min_snr)
    model = PSFModel(table, degree, oversampling, image.shape)
    if method == "psfex":
        residual = misfit(stars, image, sky.rms, model.profile, model.fwhm)
    wcs, solution, calibration = _calibrate(
        image, catalogue, model, astrometry, astrometry_degree, photometry, match_radius
    )
    height, width = image.shape
    xc, yc = (width - 1) / 2, (height - 1) / 2
    field = [model.measure(x, y)[0] for x in (0, xc, width - 1) for y in (0, yc, height - 1)]
    zero_point = calibration["zero_point"] if calibration else image.zero_point
    zero_point = zero_point if np.isfinite(zero_point) else 30.0
    area = model.noise_area(xc, yc)
    if not np.isfinite(image.saturation):
        log.warning("image %s: SATURATE: unknown, no pixel is taken as saturated", image.name)
    record = {
        "image": image.name,
        "seeing_px": model.fwhm,
        "seeing_arcsec": model.fwhm * image.pixel_scale,
        "seeing_median_px": float(np.median(field)),
        "seeing_min_px": min(field),
        "seeing_max_px": max(field),
        "ellipticity": model.ellipticity,
        "angle": model.angle,
        "n_stars": used,
        "degree": degree,
        "residual": residual,
        "background": sky.level,
        "background_rms": sky.rms,
        "zero_point": zero_point,
        "limit_mag": float(zero_point - 2.5 * np.log10(5 * sky.rms * np.sqrt(area))),
        "noise_area": area,
        "pixel_scale": image.pixel_scale,
        "width": width,
        "height": height,
        "gain": image.gain,
        "saturation": image.saturation,
        "filter": image.filter,
        "time": image.time,
        "wcs": wcs,
        "astrometry": solution,
        "photometry": calibration,
    }
    return model, record


def _calibrate(
    image: Image,
    catalogue: pd.DataFrame | None,
    model: PSFModel,
    astrometry: str,
    degree: int,
    photometry: str,
    match_radius: float,
) -> tuple[str | None, dict[str, Any] | None, dict[str, Any] | None]:
    """Header string of the refined WCS, and the records of astrometry and photometry; None each where not asked for."""
    if astrometry == "none" and photometry == "header":
        return None, None, None
    from otrain_core.stars.astrometry import find_objects, refine_wcs
    from otrain_core.stars.photometry import photometric_solution

    objects = find_objects(image, fwhm=model.fwhm)
    wcs = solution = calibration = None
    if astrometry != "none":
        options = {"method": astrometry, "degree": degree, "match_radius": match_radius, "fwhm": model.fwhm}
        refined, solution = refine_wcs(image, catalogue, objects=objects, **options)
        if refined is not image.wcs:
            wcs = refined.to_header_string(relax=True)
            image = replace(image, wcs=refined)
    if photometry == "catalogue":
        calibration = photometric_solution(image, catalogue, model=model, objects=objects, match_radius=match_radius)
    return wcs, solution, calibration


def _too_few(image: Image, found: int, needed: int, min_snr: float) -> ImageError:
    return ImageError(
        image.name,
        "psf",
        f"{found} usable stars (round, isolated, unsaturated, S/N above {min_snr:g}), at least {needed} are needed",
    )
