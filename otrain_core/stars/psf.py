"""The point-spread function of an image, measured on its own stars.

The model is the effective PSF (Anderson & King 2000, PASP 112, 1360): the fraction of a
star's flux that falls into a pixel, as a smooth function of the offset of the pixel centre
from the star. It includes the integration over the pixel, so that the image of a star at any
sub-pixel position is this function at the pixel centres, also in undersampled images. As in
PSFEx (Bertin 2011, ASPC 442, 435), it is tabulated in steps smaller than a pixel, and the
values of the table are polynomials of the position on the detector.

The fit has two parts: an elliptical, pixel-integrated Moffat profile, which is the same for
the whole field, and cubic B-splines on a fine grid with polynomial coefficients for the
residuals. The flux, position and sky of every star are eliminated from the equations, so that
they are fitted simultaneously.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.errors import ImageError
from otrain_core.images.frames import Image, check_fit, read_image
from otrain_core.io import read_table, write_json
from otrain_core.plan.pipelines import PsfOptions
from otrain_core.plan.telescopes import Detector
from otrain_core.stars.psf_fit import Stars, fit_stars, misfit
from otrain_core.stars.psf_model import PSFModel
from otrain_core.stars.psf_stars import Sky, measure_sky, select_stars

if TYPE_CHECKING:
    import pandas as pd

DEFAULTS = PsfOptions()
INSTRUMENTAL = 30.0  # assumed magnitude of 1 ADU if no zero point is known

log = logging.getLogger("otrain.psf")


def psf_files(
    *,
    science: str | Path | Image,
    psf: str | Path,
    record: str | Path,
    image: str,
    detector: Detector,
    wcs: str | Path | None,
    options: PsfOptions,
    catalogue: str | Path | None = None,
    needs_wcs: bool = False,
    cutout_size: int = 1,
) -> None:
    """Read a science image, and write its PSF model (FITS) and record (JSON) (step `psf`).

    Parameters
    ----------
    science : path-like or Image
    psf, record : path-like
        Output: the model and the record.
    image : str
        Name of the image.
    detector : otrain_core.plan.telescopes.Detector
    wcs : path-like or None
        FITS header with the WCS, for images without one.
    options : PsfOptions
    catalogue : path-like, optional
        Star catalogue of the field.
    needs_wcs : bool
        Whether a later step needs a WCS.
    cutout_size : int
        Side of the cutouts [px], which must not exceed the image.

    Raises
    ------
    ImageError
        See `otrain_core.images.frames.read_image`, `otrain_core.images.frames.check_fit` and `measure_psf`.
    """
    frame = read_image(science, name=image, detector=detector, wcs_path=wcs)
    check_fit(frame, needs_wcs=needs_wcs, cutout_size=cutout_size, detector=detector)
    stars = read_table(catalogue) if catalogue else None
    model, values = measure_psf(frame, catalogue=stars, options=options)
    model.save(psf)
    write_json(record, values)


def measure_psf(
    image: Image,
    *,
    options: PsfOptions = DEFAULTS,
    catalogue: pd.DataFrame | None = None,
    sky: Sky | None = None,
) -> tuple[PSFModel, dict[str, Any]]:
    """Measure the PSF of an image, its sky, limiting magnitude and, as the options say, its WCS and zero point.

    Parameters
    ----------
    image : Image
        As read, with its background.
    options : PsfOptions
        The degree is lowered if there are fewer than four stars per term of the polynomial.
        PSFEx uses all stars that it accepts, not only `max_stars`.
    catalogue : pandas.DataFrame, optional
        Stars of the field: ``ra``, ``dec`` [deg], ``mag``, ``magerr``, ``color``, ``kind``.
    sky : Sky, optional
        Sky of the image, if already measured.

    Returns
    -------
    model : PSFModel
    record : dict
        - ``seeing_px``, ``seeing_arcsec``, ``ellipticity``, ``angle``: of the model at the centre,
          see `PSFModel.measure`
        - ``seeing_median_px``, ``seeing_min_px``, ``seeing_max_px``: over the centre, the middles of
          the sides and the corners
        - ``n_stars``, ``degree``: number of stars and degree used
        - ``residual``: median over the stars of |data - model| summed over the core, as a fraction
          of the flux
        - ``background``, ``background_rms`` [ADU]
        - ``zero_point``, and ``zero_point_source``: catalogue, header, or assumed, in which case all
          magnitudes are instrumental
        - ``limit_mag``: 5 sigma for PSF photometry (King 1983, PASP 95, 163)
        - ``noise_area`` [px], ``pixel_scale`` [arcsec/px], ``gain``, ``saturation`` (infinite if
          unknown), ``filter``, ``time``, ``width``, ``height``
        - ``wcs``: refined WCS as a header string; None if the WCS was not refined
        - ``astrometry``: record of `otrain_core.stars.astrometry.refine_wcs`, or of `check_wcs` if
          there is a catalogue but no refinement; else None
        - ``photometry``: record of `otrain_core.stars.photometry.photometric_solution`, or None
        - ``notes``: those of the image

    Raises
    ------
    ImageError
        Too few stars (key ``psf``), no measurable sky noise (key ``data``), or the comparison with
        the catalogue fails (keys ``WCS``, ``catalogue``, ``astrometry``, ``photometry``).
    MissingProgramError
        A program that the options require is not installed.
    """
    if options.astrometry != "none" or options.photometry == "catalogue":
        from otrain_core.stars.astrometry import require_wcs

        require_wcs(image)  # before the slow steps
    sky = sky or measure_sky(image)
    stars = select_stars(
        image,
        sky,
        min_snr=options.min_snr,
        max_ellipticity=options.max_ellipticity,
        max_stars=options.max_stars,
    )
    if len(stars.x) < options.min_stars:
        raise _too_few(image, len(stars.x), options, trailed=_trailed(image, sky, options))
    model, n_stars, residual = _fit_model(image, stars, sky, options)
    wcs, solution, calibration = _calibrate(image, catalogue, model, options)
    if not np.isfinite(image.saturation):
        log.warning("image %s: SATURATE: unknown, no pixel is treated as saturated", image.name)
    zero_point, source = _zero_point(image, calibration)
    record = _describe(image, model, sky, zero_point) | {"zero_point_source": source}
    record |= {"n_stars": n_stars, "degree": model.degree, "residual": residual}
    record |= {"wcs": wcs, "astrometry": solution, "photometry": calibration, "notes": list(image.notes)}
    return model, record


def _fit_model(image: Image, stars: Stars, sky: Sky, options: PsfOptions) -> tuple[PSFModel, int, float]:
    """Fit the model by the chosen method; returns it, the number of stars used and the residual in their cores."""
    if options.method == "empirical":
        table, oversampling, used, degree, residual = fit_stars(
            stars, image, sky.rms, options.degree, options.min_stars
        )
    else:
        from otrain_core.stars.psfex import fit_psfex

        table, oversampling, used, degree = fit_psfex(image, stars, level=sky.level, options=options)
    if used < options.min_stars:
        raise _too_few(image, used, options)
    model = PSFModel(table, degree, oversampling, image.shape)
    if options.method == "psfex":
        residual = misfit(stars, image, sky.rms, model.profile, model.fwhm)
    return model, used, residual


def _zero_point(image: Image, calibration: dict[str, Any] | None) -> tuple[float, str]:
    """Zero point [mag] and its source: catalogue, header, or assumed."""
    if calibration:
        return calibration["zero_point"], "catalogue"
    if np.isfinite(image.zero_point):
        return image.zero_point, "header"
    log.warning(
        "image %s: MAGZP: unknown, magnitudes are instrumental (1 ADU is magnitude %g)", image.name, INSTRUMENTAL
    )
    return INSTRUMENTAL, "assumed"


def _describe(image: Image, model: PSFModel, sky: Sky, zero_point: float) -> dict[str, Any]:
    """Entries of the record that depend on the model, the sky and the header."""
    height, width = image.shape
    xc, yc = (width - 1) / 2, (height - 1) / 2
    field = [model.measure(x, y)[0] for x in (0, xc, width - 1) for y in (0, yc, height - 1)]
    area = model.noise_area(xc, yc)
    return {
        "image": image.name,
        "seeing_px": model.fwhm,
        "seeing_arcsec": model.fwhm * image.pixel_scale,
        "seeing_median_px": float(np.median(field)),
        "seeing_min_px": min(field),
        "seeing_max_px": max(field),
        "ellipticity": model.ellipticity,
        "angle": model.angle,
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
    }


def _calibrate(
    image: Image, catalogue: pd.DataFrame | None, model: PSFModel, options: PsfOptions
) -> tuple[str | None, dict[str, Any] | None, dict[str, Any] | None]:
    """Header string of the refined WCS, and the records of astrometry and photometry; each is None if not requested."""
    if options.astrometry == "none" and options.photometry == "header" and (catalogue is None or image.wcs is None):
        return None, None, None
    from otrain_core.stars.astrometry import check_wcs, find_objects, refine_wcs
    from otrain_core.stars.photometry import photometric_solution

    objects = find_objects(image, fwhm=model.fwhm)
    wcs = solution = calibration = None
    if options.astrometry != "none":
        refined, solution = refine_wcs(image, catalogue, options=options, fwhm=model.fwhm, objects=objects)
        if refined is not image.wcs:
            wcs = refined.to_header_string(relax=True)
            image = replace(image, wcs=refined)
    else:
        solution = check_wcs(image, catalogue, options=options, fwhm=model.fwhm, objects=objects)
    if options.photometry == "catalogue":
        calibration = photometric_solution(image, catalogue, model=model, options=options, objects=objects)
    return wcs, solution, calibration


def _trailed(image: Image, sky: Sky, options: PsfOptions) -> float | None:
    """Median ellipticity of the stars if it exceeds the limit and there are otherwise enough stars, else None."""
    stars = select_stars(
        image, sky, min_snr=options.min_snr, max_ellipticity=0.95, max_stars=max(options.max_stars, options.min_stars)
    )
    if len(stars.x) < options.min_stars:
        return None
    found, _ = sky.sources
    own = found[stars.labels - 1]
    ellipticity = float(np.median(1 - own["b"] / own["a"]))
    return ellipticity if ellipticity > options.max_ellipticity else None


def _too_few(image: Image, found: int, options: PsfOptions, *, trailed: float | None = None) -> ImageError:
    """The error for too few stars; `trailed` is the ellipticity of trailed stars."""
    text = (
        f"{found} usable stars (round, isolated, unsaturated, S/N above {options.min_snr:g}), "
        f"at least {options.min_stars} are needed"
    )
    if trailed is not None:
        text += (
            f"; the stars are trailed (ellipticity {trailed:.2f}): leave the image out, or raise psf.max_ellipticity"
        )
    return ImageError(image.name, "psf", text)
