"""Simulate a telescope: a science image, a deeper and sharper reference, and the truth.

The sky (stars and galaxies), the observing conditions, the artefacts and the noise of each image are drawn from
separate random streams, so that the same sky can be observed again with other noise. GalSim (Rowe et al. 2015,
A&C 10, 121) computes the PSF and the galaxies.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from astropy.io import fits
from astropy.wcs import WCS

from otrain_core.errors import ConfigError
from otrain_core.io import atomic, write_table
from otrain_core.sky import artefacts, flaws
from otrain_core.sky.drawn_sky import draw_sky
from otrain_core.sky.optics import Distortion, Exposure, FieldPSF
from otrain_core.sky.readout import background, detect_photons, flat_field

if TYPE_CHECKING:
    from otrain_core.plan.telescopes import Detector, SimulatedSky, Telescope

SMALLEST_FWHM = 1.15  # FWHM of an undersampled point source after integration over the pixel [px]
MAX_ELLIPTICITY = 0.75
FIXED = 10_000  # seed in place of the image number, for properties that all images of a telescope share
STREAMS = {  # number of each random stream, part of its seed
    "sky": 0,
    "exposure": 1,
    "artefacts": 2,
    "science_noise": 3,
    "reference_noise": 4,
    "color": 5,
    "variables": 6,
    "asteroids": 7,
    "distortion": 8,
    "defocus": 9,
    "science_flaws": 10,
    "reference_flaws": 11,
    "missing": 12,
    "clouds": 13,
}


@dataclass
class Simulated:
    """A science image, its reference and the truth.

    Attributes
    ----------
    science, reference : numpy.ndarray
        float32 (height, width) [ADU], sky included.
    science_header, reference_header : astropy.io.fits.Header
        WCS (with its error), GAIN, RDNOISE, SATURATE, EXPTIME, FILTER, DATE-OBS,
        MAGZP (true), SEEING (true FWHM, pixel included [arcsec]).
    truth : pandas.DataFrame
        One row for each source and artefact of the science image: kind (star, variable,
        galaxy, asteroid, or one of `otrain_core.sky.causes.KINDS`), x, y [px], true ra, dec
        [deg], mag, flux [ADU], size, width [px], angle [deg], color (g - r of stars, otherwise
        NaN) and known (1 for a variable or an asteroid that the catalogues of an observer list).
        `flux` is that in the science image. `mag` is in the system of the reference; for a variable
        it is the magnitude at the epoch of the reference. A star that is missing in the reference is a
        known variable.
    """

    science: np.ndarray
    science_header: fits.Header
    reference: np.ndarray
    reference_header: fits.Header
    truth: pd.DataFrame


def simulate_files(
    *,
    science: str | Path,
    reference: str | Path,
    truth: str | Path,
    telescope: Telescope,
    image: str,
    index: int,
    seed: int,
) -> None:
    """Simulate and write a science image, its reference (FITS) and the truth (CSV).

    Parameters
    ----------
    science, reference, truth : path-like
        Files to write.
    telescope, index, seed
        See `simulate_pair`.
    image : str
        Name of the image, for the header.
    """
    pair = simulate_pair(telescope, index=index, seed=seed)
    for path, data, header in (
        (science, pair.science, pair.science_header),
        (reference, pair.reference, pair.reference_header),
    ):
        header["OBJECT"] = image
        with atomic(path) as temporary:
            fits.PrimaryHDU(data, header=header).writeto(temporary, overwrite=True)
    write_table(truth, pair.truth)


def simulate_pair(
    telescope: Telescope, *, index: int, seed: int, noise_seed: int | None = None, exposure: int = 0
) -> Simulated:
    """Simulate one field: a science image with artefacts, and a reference.

    Parameters
    ----------
    telescope : otrain_core.plan.telescopes.Telescope
        With source ``simulated``.
    index : int
        Number of the image; each image shows a different field.
    seed : int
        The same seed, telescope and index give identical images.
    noise_seed : int, optional
        Seed of the noise of both images, for a second exposure of the same sky under
        the same conditions (default: `seed`).
    exposure : int
        Number of the exposure in a night; exposures from 1 on have other noise and other artefacts.

    Returns
    -------
    Simulated

    Raises
    ------
    ConfigError
        The telescope has no section sky, or its detector lacks a value.

    Notes
    -----
    A smaller FWHM is raised to `SMALLEST_FWHM`, the smallest that integration over the pixel allows.
    """
    sky, detector = telescope.sky, telescope.detector
    if sky is None:
        raise ConfigError(f"telescope {telescope.name}: sky: this section is needed to simulate images")
    name = zlib.crc32(str(telescope.name).encode())
    rng = {
        stream: np.random.default_rng(np.random.SeedSequence([seed, name, index, number]))
        for stream, number in STREAMS.items()
    }
    for stream in ("artefacts", "science_noise", "science_flaws") if exposure else ():
        rng[stream] = np.random.default_rng(np.random.SeedSequence([seed, name, index, STREAMS[stream], exposure]))
    if noise_seed is not None:
        for stream in ("science_noise", "reference_noise"):
            rng[stream] = np.random.default_rng(np.random.SeedSequence([noise_seed, name, index, STREAMS[stream]]))
    centre = field_centre(index, np.random.default_rng(np.random.SeedSequence([seed, name])))
    science, reference = _exposures(sky, detector, centre, rng["exposure"], rng["defocus"])
    science.distortion = _differential_distortion(sky, rng["distortion"])
    sources = draw_sky(sky, science, reference, rng)

    science_data, rows = _expose_science(sky, science, sources, rng)

    image = reference.expected(sources, "_reference")
    image += background(reference, rng["exposure"])
    image *= flat_field(reference, rng["exposure"])
    reference_data, _ = detect_photons(image, reference, rng["reference_noise"])

    fixed = np.random.default_rng(np.random.SeedSequence([seed, name, FIXED]))
    warm = flaws.warm_places(fixed.poisson(sky.warm_pixels * science_data.size / 1e6), fixed)
    science_data, more = flaws.degrade(science_data, science, sky, rng["science_flaws"], warm=warm)
    stars = sources[sources.kind == "star"].rename(
        columns={"x_reference": "x", "y_reference": "y", "flux_reference": "flux"}
    )
    reference_data, of_reference = flaws.degrade(
        reference_data, reference, sky, rng["reference_flaws"], warm=warm, stars=stars, stacked=sky.reference_depth
    )
    rows += more + flaws.on_science(of_reference, reference=reference, science=science)

    header: dict[str, Any] = {"TELESCOP": telescope.name, "FILTER": detector.filter, "EXPTIME": sky.exposure}
    header |= {"GAIN": 1 + sky.gain_error, "SATURATE": 1 + sky.saturation_error}
    return Simulated(
        science=science_data,
        science_header=_header(science, header, sky.wcs_error, 60310 + index, rng["exposure"]),
        reference=reference_data,
        reference_header=_header(
            reference,
            header | {"EXPTIME": sky.exposure * sky.reference_depth},
            sky.wcs_error,
            59945 + index,
            rng["exposure"],
        ),
        truth=_truth(sources, rows, science),
    )


def _expose_science(
    sky: SimulatedSky, science: Exposure, sources: pd.DataFrame, rng: dict[str, np.random.Generator]
) -> tuple[np.ndarray, artefacts.Rows]:
    """Science image [ADU] with asteroids, artefacts and noise, and the rows of the asteroids and artefacts."""
    image = science.expected(sources, "_science")
    rows = artefacts.add_asteroids(
        image,
        rng["asteroids"],
        n=rng["asteroids"].poisson(sky.asteroids),
        psf=science.psf,
        zero_point=science.zero_point,
        brightest=max(science.saturated + 0.5, science.limit - 5),
        faintest=science.limit + 0.3,
    )
    image += background(science, rng["exposure"])
    rows += artefacts.add_trails(
        image,
        rng["artefacts"],
        n=rng["artefacts"].poisson(sky.trails),
        fwhm=science.psf.fwhm,
        beta=sky.psf_beta,
        noise=science.noise,
    )
    rows += artefacts.add_ghosts(
        image,
        rng["artefacts"],
        n=rng["artefacts"].poisson(sky.ghosts),
        stars=sources[sources.kind == "star"].rename(
            columns={"x_science": "x", "y_science": "y", "flux_science": "flux"}
        ),
        fwhm=science.psf.fwhm,
        noise=science.noise,
    )
    image *= flat_field(science, rng["exposure"])
    science_data, more = detect_photons(image, science, rng["science_noise"], sky, rng["artefacts"])
    return science_data, rows + more


def field_centre(index: int, rng: np.random.Generator) -> tuple[float, float]:
    """Sky position of an image, well separated from those of other images.

    The positions are an additive recurrence with the plastic number (Roberts 2018, "The
    unreasonable effectiveness of quasirandom sequences") from a random start. The first
    thousand are more than a degree apart.

    Parameters
    ----------
    index : int
        Number of the image.
    rng : numpy.random.Generator
        Draws the start of the sequence.

    Returns
    -------
    ra, dec : float
        [deg], dec between -20 and 60.
    """
    plastic = 1.32471795724474602596
    u, v = (rng.random(2) + (index + 1) / plastic ** np.array([1, 2])) % 1
    return float(360 * u), float(-20 + 80 * v)


def _exposures(
    sky: SimulatedSky, detector: Detector, centre: tuple[float, float], rng, defocus
) -> tuple[Exposure, Exposure]:
    """Draw the conditions of the science image and of the reference: seeing, transparency, sky, pointing, rotation."""
    width, height, ratio = sky.width, sky.height, sky.reference_scale
    scale, gain, read_noise, saturation = (
        _given(detector, key) for key in ("pixel_scale", "gain", "read_noise", "saturation")
    )
    margin = 2 * sky.pointing + 0.5 * np.deg2rad(2 * sky.rotation) * max(width, height)
    reference_shape = (int(np.ceil((height + 2 * margin) / ratio)), int(np.ceil((width + 2 * margin) / ratio)))
    seeing = sky.seeing * np.exp(sky.seeing_spread * np.clip(rng.normal(), -2, 2))
    sharper = sky.seeing * sky.reference_seeing * np.exp(0.05 * np.clip(rng.normal(), -2, 2))
    if sky.reference_seeing < 1:
        sharper = min(sharper, 0.95 * seeing)
    wcs = _tangent_wcs(centre, scale, (height, width), np.clip(rng.normal(), -2, 2) * sky.rotation)
    offset = sky.pointing * np.clip(rng.normal(size=2), -2, 2)
    pointed = wcs.pixel_to_world_values((width - 1) / 2 + offset[0], (height - 1) / 2 + offset[1])
    turned = np.clip(rng.normal(), -1, 1) * sky.rotation
    reference_wcs = _tangent_wcs(tuple(float(value) for value in pointed), scale * ratio, reference_shape, turned)
    depth = sky.reference_depth
    pairs = []
    for shape, own_wcs, own_scale, fwhm, frames in (
        ((height, width), wcs, scale, seeing, 1.0),
        (reference_shape, reference_wcs, scale * ratio, sharper, depth),
    ):
        zero_point = sky.zero_point - np.clip(rng.exponential(0.1), 0, 0.5)
        sky_mag = sky.sky_mag + 0.2 * np.clip(rng.normal(), -2, 2)
        # The frames of a reference are selected to be nearly in focus.
        amount = sky.defocus * (defocus.uniform(0.5, 1.5) if own_wcs is wcs else defocus.uniform(0, 0.5))
        psf = FieldPSF(
            shape,
            fwhm=max(fwhm / own_scale, SMALLEST_FWHM),
            beta=sky.psf_beta,
            ellipticity=min(sky.psf_ellipticity * rng.uniform(0.5, 1.5) / np.sqrt(frames), MAX_ELLIPTICITY),
            variation=sky.psf_variation,
            trail=abs(np.clip(rng.normal(), -2.5, 2.5)) * sky.tracking / np.sqrt(frames) * scale / own_scale,
            rng=rng,
            defocus=amount * fwhm / own_scale,
            defocus_tilt=defocus.uniform(-0.4, 0.4, 2),
        )
        pairs.append(
            Exposure(
                shape=shape,
                wcs=own_wcs,
                psf=psf,
                zero_point=float(zero_point),
                sky=float(10 ** (0.4 * (sky.zero_point - sky_mag)) * own_scale**2),
                gain=gain * frames,
                read_noise=read_noise * np.sqrt(frames),
                saturation=saturation,
                flat=0.006 / np.sqrt(frames),
                bleed=sky.bleed and detector.type == "ccd",
            )
        )
    return pairs[0], pairs[1]


def _given(detector: Detector, key: str) -> float:
    """A value of the detector that a simulation needs."""
    value = getattr(detector, key)
    if value is None:
        raise ConfigError(f"detector.{key}: a simulated telescope needs this value")
    return float(value)


def _differential_distortion(sky: SimulatedSky, rng) -> Distortion | None:
    """Distortion of the science image relative to a reference from another telescope; None without it."""
    if sky.reference_scale == 1 or sky.wcs_error == 0:
        return None
    return Distortion((sky.height, sky.width), amplitude=sky.wcs_error, rng=rng)


def _tangent_wcs(centre, scale: float, shape: tuple[int, int], rotation: float) -> WCS:
    """Gnomonic WCS about a centre (ra, dec) [deg]; scale [arcsec/px], rotation [deg]."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = centre
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    cos, sin = np.cos(np.deg2rad(rotation)), np.sin(np.deg2rad(rotation))
    wcs.wcs.cd = scale / 3600 * np.array([[-cos, sin], [sin, cos]])
    wcs.wcs.set()
    return wcs


def _header(exposure: Exposure, values: dict[str, Any], wcs_error: float, day: int, rng) -> fits.Header:
    """Header of an image, whose WCS has a random error of about `wcs_error` [px]: a shift and a smaller rotation."""
    from astropy.time import Time

    wcs = exposure.wcs.deepcopy()
    error = wcs_error * np.clip(rng.normal(size=3), -2.5, 2.5)
    wcs.wcs.crpix = wcs.wcs.crpix + error[:2] - exposure.shift
    turn = 0.5 * error[2] / (0.5 * np.hypot(*exposure.shape))
    wcs.wcs.cd = wcs.wcs.cd @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    wcs.wcs.set()
    header = wcs.to_header()
    header["TELESCOP"] = (values["TELESCOP"], "simulated")
    header["FILTER"] = values["FILTER"]
    header["EXPTIME"] = (values["EXPTIME"], "[s] total")
    header["DATE-OBS"] = Time(day + rng.uniform(0.0, 0.4), format="mjd").isot
    header["GAIN"] = (exposure.gain * values["GAIN"], "[electron/ADU] effective")
    header["RDNOISE"] = (exposure.read_noise, "[electron] effective")
    header["SATURATE"] = ((exposure.saturation + exposure.level) * values["SATURATE"], "[ADU]")
    header["MAGZP"] = (exposure.zero_point, "magnitude of 1 ADU, true")
    header["SEEING"] = (exposure.psf.fwhm * exposure.scale, "[arcsec] true FWHM, pixel included")
    header["SKYLEVEL"] = (exposure.sky, "[ADU] true")
    return header


def _truth(sources: pd.DataFrame, rows: artefacts.Rows, science: Exposure) -> pd.DataFrame:
    """Table of the sources and artefacts on the science image, see `Simulated`."""
    height, width = science.shape
    inside = sources.x_science.between(-0.5, width - 0.5) & sources.y_science.between(-0.5, height - 0.5)
    table = sources[inside].rename(columns={"x_science": "x", "y_science": "y", "flux_science": "flux"})
    galaxy = table.kind == "galaxy"
    table["size"] = np.where(galaxy, 2 * table.radius / science.scale, science.psf.fwhm)
    table["width"] = np.where(galaxy, table["size"] * table.axis_ratio, science.psf.fwhm)
    table["angle"] = np.where(galaxy, table.angle, 0.0)
    table["kind"] = np.where((table.change != 0) | table.missing, "variable", table.kind)
    numbers = ["x", "y", "size", "width", "angle", "flux", "mag"]
    more = pd.DataFrame(rows, columns=["kind", *numbers, "known"]).astype(dict.fromkeys(numbers, float))
    more["ra"], more["dec"] = science.sky_positions(more.x, more.y)
    more["color"] = np.nan
    more["known"] = more.known.fillna(0).astype(int)
    columns = ["kind", "x", "y", "ra", "dec", "mag", "flux", "size", "width", "angle", "color", "known"]
    truth = pd.concat([table[columns], more[columns]], ignore_index=True)
    truth[["x", "y"]] -= science.shift
    return truth
