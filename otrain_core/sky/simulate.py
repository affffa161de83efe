"""A simulated telescope: one science image, a deeper and sharper reference, and the truth.

The sky (stars and galaxies), the circumstances of the exposures, the artefacts and
the noise of either image come from streams of random numbers of their own, so that
one sky can be observed again with other noise. PSF and galaxies are GalSim's (Rowe
et al. 2015, A&C 10, 121).
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
from otrain_core.sky.optics import Distortion, Exposure, FieldPSF

if TYPE_CHECKING:
    from otrain_core.plan.telescopes import Detector, SimulatedSky, Telescope

STAR_SLOPE = 0.22  # d log10(N) / d mag of stars at intermediate galactic latitude
GALAXY_SLOPE = 0.40  # d log10(N) / d mag of galaxies
STARS_BELOW_LIMIT = 2.0  # stars are drawn down to so many magnitudes below the 5-sigma limit
GALAXIES_BELOW_LIMIT = 1.0
BRIGHT_END = 3.0  # stars are drawn up to so many magnitudes above saturation
SCINTILLATION = 0.007  # relative scatter of a star's flux between two exposures
FAST_STARS = 0.01  # share of stars that moved visibly between reference and science image
SMALLEST_FWHM = 1.15  # of a point source after integration over the pixel [px]
MAX_ELLIPTICITY = 0.75
PIVOT_COLOR = 0.6  # g - r of a star that has no colour term
FIXED = 10_000  # in place of the number of an image: what all images of a telescope share
STREAMS = {
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
    """A science image, its reference and what is in them.

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
        [deg], mag, flux [ADU], size, width [px], angle [deg], color (g - r of stars, else
        NaN) and known (1: a variable or an asteroid of the lists that an observer has).
        `flux` is what the science image holds; `mag` is in the system of the reference,
        that of a variable at the epoch of the reference. A star that the reference lacks is a known variable.
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
    """Write a science image and its reference (FITS), and the table of what is in them (CSV).

    Parameters
    ----------
    science, reference, truth : path-like
        What is written.
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
        Number of the image; every image shows a field of its own.
    seed : int
        One seed, telescope and index give the same bytes.
    noise_seed : int, optional
        Seed of the noise of both images, for a second exposure of the same sky under
        the same circumstances (default: `seed`).
    exposure : int
        Number of the exposure of one night: from 1 on the science image has other noise and other artefacts.

    Notes
    -----
    An FWHM below `SMALLEST_FWHM` cannot be had from an image that was integrated over its
    pixels, and is raised to it.

    Returns
    -------
    Simulated

    Raises
    ------
    ConfigError
        The telescope has no section sky.
    """
    sky, detector = telescope.sky, telescope.detector
    if sky is None:
        raise ConfigError(f"telescope {telescope.name}: sky: this section is needed to simulate")
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
    sources = _draw_sky(sky, science, reference, rng)

    science_data, rows = _expose_science(sky, science, sources, rng)

    image = reference.expected(sources, "_reference")
    image += _background(reference, rng["exposure"])
    image *= _flat(reference, rng["exposure"])
    reference_data, _ = _detect_photons(image, reference, rng["reference_noise"])

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
    """Science image [ADU] with all that is wrong with it, and the rows of the asteroids and artefacts."""
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
    image += _background(science, rng["exposure"])
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
    image *= _flat(science, rng["exposure"])
    science_data, more = _detect_photons(image, science, rng["science_noise"], sky, rng["artefacts"])
    return science_data, rows + more


def field_centre(index: int, rng: np.random.Generator) -> tuple[float, float]:
    """Sky position of an image; positions of different index keep apart.

    An additive recurrence with the plastic number (Roberts 2018, "The unreasonable
    effectiveness of quasirandom sequences") from a random start: a thousand fields
    are more than a degree apart.

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
    """Draw seeing, transparency, sky, pointing and rotation of the science image and of the reference."""
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
        # A reference is made of frames that were in focus, more or less.
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
    """A value of the detector that a simulated telescope must have."""
    value = getattr(detector, key)
    if value is None:
        raise ConfigError(f"detector.{key} is needed for a simulated telescope")
    return float(value)


def _differential_distortion(sky: SimulatedSky, rng) -> Distortion | None:
    """Distortion of the science image against a reference that was taken with other optics."""
    if sky.reference_scale == 1 or sky.wcs_error == 0:
        return None
    return Distortion((sky.height, sky.width), amplitude=sky.wcs_error, rng=rng)


def _tangent_wcs(centre, scale: float, shape: tuple[int, int], rotation: float) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = centre
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    cos, sin = np.cos(np.deg2rad(rotation)), np.sin(np.deg2rad(rotation))
    wcs.wcs.cd = scale / 3600 * np.array([[-cos, sin], [sin, cos]])
    wcs.wcs.set()
    return wcs


def _magnitudes(rng, *, n: int, slope: float, bright: float, faint: float) -> np.ndarray:
    """Draw from ``dN/dm ~ 10**(slope m)`` between two magnitudes."""
    low, high = 10 ** (slope * bright), 10 ** (slope * faint)
    return np.log10(rng.uniform(low, high, n)) / slope


def _draw_sky(sky: SimulatedSky, science: Exposure, reference: Exposure, streams) -> pd.DataFrame:
    """Stars and galaxies on both images, brightest first."""
    rng = streams["sky"]
    height, width = science.shape
    limit = science.limit
    margin = 3 * sky.pointing + 0.02 * max(width, height) + 20 * science.psf.fwhm
    area = (width + 2 * margin) * (height + 2 * margin) / 1e6
    tables = []
    for kind, density, slope, bright, below in (
        (
            "star",
            sky.star_density,
            STAR_SLOPE,
            min(science.saturated - BRIGHT_END, limit - 3),
            STARS_BELOW_LIMIT,
        ),
        ("galaxy", sky.galaxy_density, GALAXY_SLOPE, limit - 6, GALAXIES_BELOW_LIMIT),
    ):
        crowding = 10 ** (0.15 * np.clip(rng.normal(), -2, 2))
        wanted = density * area * crowding * 10 ** (slope * below)
        n = rng.poisson(wanted * (1 - 10 ** (slope * (bright - limit - below))))
        table = pd.DataFrame({"kind": kind, "x": rng.uniform(-margin, width + margin, n)})
        table["y"] = rng.uniform(-margin, height + margin, n)
        table["mag"] = _magnitudes(rng, n=n, slope=slope, bright=bright, faint=limit + below)
        # A few stars moved since the reference was taken; colour and refraction move all a little.
        fast = (rng.random(n) < FAST_STARS) & (kind == "star")
        move = np.where(fast, rng.uniform(0.3, 1.5, n), np.abs(rng.normal(0, 0.02, n)))
        turn = rng.uniform(0, 2 * np.pi, n)
        table["moved_x"], table["moved_y"] = move * np.cos(turn), move * np.sin(turn)
        table["scintillation"] = 1 + SCINTILLATION * rng.normal(size=n) * (kind == "star")
        # Half-light radius falls with magnitude: galaxies of r ~ 15 are some 5 arcsec, of r ~ 20 one arcsec.
        table["radius"] = 10 ** (0.7 - 0.14 * (table.mag - 15) + 0.15 * rng.normal(size=n)).clip(-0.6, 1.2)
        table["bulge"] = np.where(rng.random(n) < 0.2, rng.uniform(0.7, 1.0, n), rng.beta(1.5, 4.0, n))
        table["axis_ratio"] = rng.uniform(0.25, 1.0, n)
        table["angle"] = rng.uniform(0, 180, n)
        tables.append(table)
    sources = pd.concat(tables, ignore_index=True).sort_values("mag", ignore_index=True)
    sources = sources.rename(columns={"x": "x_science", "y": "y_science"})
    x, y = sources.x_science, sources.y_science
    sources["ra"], sources["dec"] = science.sky_positions(x, y)
    then = science.sky_positions(x + sources.moved_x, y + sources.moved_y)
    sources["x_reference"], sources["y_reference"] = reference.wcs.world_to_pixel_values(*then)
    sources["color"] = _colors(sources, streams["color"])
    sources["change"], sources["known"] = _variability(sky, science, sources, streams["variables"])
    chromatic = sky.color_term * (sources.color - PIVOT_COLOR).fillna(0)
    now = sources.mag + sources.change + chromatic
    sources["flux_science"] = 10 ** (0.4 * (science.zero_point - now)) * sources.scintillation
    if sky.clouds:
        sources["flux_science"] *= _transparency(sky, sources.x_science / width, sources.y_science / height, streams)
    sources["flux_reference"] = 10 ** (0.4 * (reference.zero_point - sources.mag))
    sources["missing"] = (streams["missing"].random(len(sources)) < sky.reference_missing) & (sources.kind == "star")
    sources.loc[sources.missing, "flux_reference"] = 0.0
    sources.loc[sources.missing, "known"] = 1
    return sources


def _colors(sources: pd.DataFrame, rng) -> np.ndarray:
    """g - r of the stars: F to K stars about 0.5, M dwarfs about 1.35, the more of them the fainter; NaN for galaxies."""
    n = len(sources)
    share = 0.2 + 0.3 * sources.mag.rank(pct=True).to_numpy()
    red = rng.random(n) < share
    color = np.where(red, rng.normal(1.35, 0.12, n), rng.normal(0.55, 0.2, n)).clip(-0.4, 1.7)
    return np.where(sources.kind == "star", color, np.nan)


def _variability(sky: SimulatedSky, science: Exposure, sources: pd.DataFrame, rng):
    """Change of every source since the reference [mag], and whether a list names it (half of the variables)."""
    height, width = science.shape
    change, known = np.zeros(len(sources)), np.zeros(len(sources), int)
    fit = (
        (sources.kind == "star")
        & sources.x_science.between(0, width - 1)
        & sources.y_science.between(0, height - 1)
        & sources.mag.between(science.saturated + 1, science.limit)
    )
    candidates = np.flatnonzero(fit)
    chosen = rng.permutation(candidates)[: rng.poisson(sky.variables)]
    size = rng.uniform(0.3, 2.0, len(chosen))
    change[chosen] = np.where(rng.random(len(chosen)) < 0.5, size, -size)
    known[chosen[::2]] = 1
    return change, known


def _transparency(sky: SimulatedSky, x: pd.Series, y: pd.Series, streams) -> np.ndarray:
    """Share of the light that passes thin clouds, whose patches are a tenth of the image and larger.

    `x` and `y` are shares of the width and height.
    """
    rng = streams["clouds"]
    pattern = np.zeros(len(x))
    for _ in range(3):
        angle, waves = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(0.5), np.log(5)))
        pattern += np.cos(2 * np.pi * (waves * (np.cos(angle) * x + np.sin(angle) * y) + rng.random())) / 3
    return 1 - sky.clouds * (0.5 + 0.5 * pattern)


def _background(exposure: Exposure, rng) -> np.ndarray:
    """Sky with a gentle gradient, such as moonlight leaves: up to a few percent [ADU]."""
    v, u = (np.linspace(-1, 1, side, dtype=np.float32) for side in exposure.shape)
    slope, bow = rng.normal(0, 0.015, 2), rng.normal(0, 0.006, 2)
    gradient = np.add.outer(slope[0] * v + bow[0] * v**2, slope[1] * u + bow[1] * u**2)
    return (exposure.sky * (1 + gradient)).astype(np.float32)


def _flat(exposure: Exposure, rng) -> np.ndarray:
    """What an imperfect flat field leaves: pixels, a large-scale pattern, dust that moved."""
    height, width = exposure.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    pattern = 1 + exposure.flat / 2 * rng.standard_normal(exposure.shape, dtype=np.float32)
    for _ in range(4):
        kx, ky = rng.normal(0, 4, 2)
        pattern += exposure.flat / 2 * np.cos(kx * x / width + ky * y / height + rng.uniform(0, 2 * np.pi))
    for _ in range(rng.poisson(2)):
        radius = rng.uniform(8, 30)
        r = np.hypot(x - rng.uniform(0, width), y - rng.uniform(0, height)) / radius
        pattern -= rng.uniform(0.5, 3) * exposure.flat * np.exp(-(((r - 0.75) / 0.3) ** 2))
    return pattern.astype(np.float32)


def _detect_photons(image, exposure: Exposure, noise, sky: SimulatedSky | None = None, damage=None):
    """Turn expected signal into a frame: photon noise, detector effects, saturation, read noise.

    Effects of the detector are added when the section `sky` and the generator `damage` are given.
    """
    electrons = noise.poisson(np.maximum(image, 0).astype(np.float64) * exposure.gain)
    data = (electrons / exposure.gain).astype(np.float32)
    level, rows = exposure.saturation, []
    megapixels = data.size / 1e6
    if sky is not None:
        n = damage.poisson(sky.hot_pixels * megapixels)
        rows += artefacts.add_hot_pixels(data, damage, n=n, noise=exposure.noise)
        n = damage.poisson(sky.cosmics * megapixels)
        rows += artefacts.add_cosmics(data, damage, n=n, gain=exposure.gain)
    rows += artefacts.saturate(data, noise, level=level, bleed=exposure.bleed)
    if sky is not None:
        rows += artefacts.add_crosstalk(data, factor=sky.crosstalk, level=level)
        n = damage.poisson(sky.bad_columns)
        rows += artefacts.add_bad_columns(data, damage, n=n, noise=exposure.noise)
    data += exposure.read_noise / exposure.gain * noise.standard_normal(data.shape, dtype=np.float32)
    return np.minimum(data, np.float32(level)), rows


def _header(exposure: Exposure, values: dict[str, Any], wcs_error: float, day: int, rng) -> fits.Header:
    """Header whose WCS is off by `wcs_error`: mostly a shift, in part a turn."""
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
