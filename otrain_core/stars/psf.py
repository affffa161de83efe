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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from otrain_core.errors import ImageError
from otrain_core.io import Image, atomic, raise_if_failed
from otrain_core.stars.psf_fit import fit_stars, misfit, terms
from otrain_core.stars.psf_stars import Sky, measure_sky, select_stars

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("otrain.psf")

SIGMA_TO_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))


@dataclass
class PSFModel:
    """Effective PSF, a polynomial of the position on the detector.

    Attributes
    ----------
    table : numpy.ndarray
        float64 (terms, side, side): coefficient of every monomial of the normalised
        position, at offsets of ``1 / oversampling`` px from the centre of the table.
    degree, oversampling : int
    shape : tuple of int
        (height, width) of the image [px], which normalises the position.
    """

    table: np.ndarray
    degree: int
    oversampling: int
    shape: tuple[int, int]

    def __post_init__(self):
        # B-spline coefficients are linear in the samples: filtered once, combined for every position.
        self._splines = np.stack(
            [ndimage.spline_filter(plane, order=3, output=np.float64, mode="mirror") for plane in self.table]
        )
        self.radius = (self.table.shape[1] - 1) // 2 // self.oversampling - 1
        self.fwhm, self.ellipticity, self.angle = self.measure((self.shape[1] - 1) / 2, (self.shape[0] - 1) / 2)

    @property
    def size(self) -> int:
        """Side of the stamps [px]."""
        return 2 * self.radius + 1

    def profile(self, x: float, y: float, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """PSF of a place at offsets of pixel centres from the star [px]: (rows, columns), not normalised."""
        monomials = terms(np.array([x]), np.array([y]), self.degree, self.shape)[0]
        spline = np.tensordot(monomials, self._splines, axes=1)
        centre = (spline.shape[0] - 1) / 2
        rows, columns = np.meshgrid(centre + dy * self.oversampling, centre + dx * self.oversampling, indexing="ij")
        values = ndimage.map_coordinates(spline, [rows, columns], order=3, mode="mirror", prefilter=False)
        return np.maximum(values, 0.0)

    def at(self, x: float, y: float) -> np.ndarray:
        """PSF at a position of the detector, centred in its stamp.

        Returns
        -------
        numpy.ndarray
            float64 (size, size), pixel-integrated, with sum 1.
        """
        offset = np.arange(-self.radius, self.radius + 1.0)
        stamp = self.profile(x, y, offset, offset)
        return stamp / stamp.sum()

    def stamp(self, x: float, y: float) -> tuple[np.ndarray, int, int]:
        """A star of flux 1 at a sub-pixel position.

        Returns
        -------
        stamp : numpy.ndarray
            float64 (size, size), pixel-integrated, with sum 1.
        y0, x0 : int
            Pixel of the image that the first pixel of the stamp falls on (may lie
            outside the image).
        """
        x0, y0 = (int(np.floor(value + 0.5)) - self.radius for value in (x, y))
        offset = np.arange(self.size)
        stamp = self.profile(x, y, x0 + offset - x, y0 + offset - y)
        return stamp / stamp.sum(), y0, x0

    def noise_area(self, x: float, y: float) -> float:
        """Noise-equivalent area ``1 / sum(PSF^2)`` [px]: the variance of an optimally
        weighted flux is this times the variance of a pixel (King 1983, PASP 95, 163)."""
        return float(1.0 / np.sum(self.at(x, y) ** 2))

    def measure(self, x: float, y: float) -> tuple[float, float, float]:
        """Size and shape of the PSF at a position.

        The profile is the effective one, as wide as stars are in the image: the
        width of a pixel is in it.

        Returns
        -------
        fwhm : float
            Of the circle with the area above half the maximum [px].
        ellipticity : float
            1 - b/a, from second moments in a Gaussian window twice as wide as the
            profile, whose effect is taken out.
        angle : float
            Of the major axis, from +x towards +y, -90 to 90 [deg].
        """
        fine = np.arange(-self.radius, self.radius + 0.05, 0.1)
        profile = self.profile(x, y, fine, fine)
        above = profile - profile.max() / 2
        slope = np.maximum(np.hypot(*np.gradient(profile)), 1e-9 * profile.max())
        fwhm = 2 * np.sqrt(np.clip(above / slope + 0.5, 0, 1).sum() * 0.01 / np.pi)  # cells on the line in part
        window = (2 * fwhm / SIGMA_TO_FWHM) ** 2
        weight = profile * np.exp(-(fine[:, None] ** 2 + fine**2) / (2 * window))
        weight = weight / weight.sum()
        u, v = fine - (weight * fine).sum(), (fine - (weight * fine[:, None]).sum())[:, None]
        xx, yy, xy = (weight * u**2).sum(), (weight * v**2).sum(), (weight * u * v).sum()
        minor, major = np.linalg.eigvalsh([[xx, xy], [xy, yy]])
        minor, major = (1 / (1 / value - 1 / window) for value in (minor, major))
        angle = np.degrees(np.arctan2(2 * xy, xx - yy)) / 2
        return float(fwhm), float(1 - np.sqrt(minor / major)), float(angle)

    def save(self, path: str | Path) -> None:
        """Write the model as FITS: one image of planes (terms, side, side)."""
        from astropy.io import fits

        hdu = fits.PrimaryHDU(self.table.astype(np.float32))
        hdu.header["DEGREE"] = (self.degree, "degree of the polynomial in x and y")
        hdu.header["OVERSAMP"] = (self.oversampling, "samples per pixel")
        hdu.header["IMWIDTH"] = (self.shape[1], "width of the image [px]")
        hdu.header["IMHEIGHT"] = (self.shape[0], "height of the image [px]")
        hdu.header["FWHM"] = (self.fwhm, "FWHM at the centre [px]")
        with atomic(path) as temporary:
            hdu.writeto(temporary, overwrite=True)

    @classmethod
    def load(cls, path: str | Path) -> PSFModel:
        """Read a model written by `save`."""
        from astropy.io import fits

        raise_if_failed(path)
        with fits.open(path, memmap=False) as hdus:
            header = hdus[0].header
            return cls(
                hdus[0].data.astype(np.float64),
                header["DEGREE"],
                header["OVERSAMP"],
                (header["IMHEIGHT"], header["IMWIDTH"]),
            )


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
