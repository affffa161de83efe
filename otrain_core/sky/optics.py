"""The optics of the simulated telescope: PSF, distortion, and images of the sources.

The PSF is a Moffat profile that varies over the field. GalSim (Rowe et al. 2015, A&C 10, 121) computes the profiles
and integrates them over the pixel. Stars are drawn by interpolation between oversampled effective PSFs (Anderson &
King 2000, PASP 112, 1360) at a few nodes of the field.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from astropy.wcs import WCS

from otrain_core.images.pixels import add_stamp
from otrain_core.widths import moffat_alpha

NODES = 5  # the PSF is computed at NODES x NODES positions and interpolated between them
OVERSAMPLING = 5  # samples per pixel
WELL_SAMPLED = 3.5  # FWHM above which two samples per pixel are enough [px]
OBSTRUCTION = 0.35  # diameter of the central obstruction divided by that of the pupil


def limiting_magnitude(*, fwhm: float, beta: float, noise: float, zero_point: float, snr: float = 5.0) -> float:
    """Magnitude at which PSF photometry on a flat background has the signal-to-noise ratio `snr`.

    The effective area of a Moffat profile, ``1 / integral(psf**2)``, is
    ``pi alpha**2 (2 beta - 1) / (beta - 1)**2``.

    Parameters
    ----------
    fwhm : float
        FWHM of the PSF [px].
    beta : float
        Moffat exponent.
    noise : float
        Noise of the background [ADU/px].
    zero_point : float
        Magnitude of 1 ADU.
    snr : float
    """
    alpha = moffat_alpha(fwhm, beta)
    area = np.pi * alpha**2 * (2 * beta - 1) / (beta - 1) ** 2
    return float(zero_point - 2.5 * np.log10(snr * noise * np.sqrt(area)))


class FieldPSF:
    """Moffat PSF that varies over the field, with trailing and defocus, integrated over the pixel.

    Parameters
    ----------
    shape : tuple of int
        (height, width) of the image.
    fwhm : float
        FWHM at the field centre, pixel included [px].
    beta : float
        Moffat exponent.
    ellipticity : float
        1 - b/a at the field centre.
    variation : float
        Relative change of the FWHM from the centre to the corner.
    trail : float
        Length of the trailing [px].
    rng : numpy.random.Generator
        Draws the directions.
    defocus : float
        Diameter of the out-of-focus pupil at the field centre [px]; it makes the PSF wider than `fwhm`.
    defocus_tilt : numpy.ndarray
        (2,) relative change of this diameter from the centre to the right and to the upper edge.

    Attributes
    ----------
    fwhm : float
        Median FWHM over the field [px].
    peak : float
        Median value of the central pixel of a star of unit flux.
    half : int
        Half the side of the effective PSFs [px].
    """

    def __init__(self, shape, *, fwhm, beta, ellipticity, variation, trail, rng, defocus=0.0, defocus_tilt=(0.0, 0.0)):
        import galsim

        self.defocus, self.defocus_tilt = defocus, np.asarray(defocus_tilt)
        self.oversampling = OVERSAMPLING if fwhm <= WELL_SAMPLED else 2
        self.shape, self.beta, self.variation, self.trail = shape, beta, variation, trail
        self.trail_angle, tilt = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
        self.tilt = variation * rng.uniform(0.1, 0.4) * np.array([np.cos(tilt), np.sin(tilt)])
        direction = rng.uniform(0, np.pi)
        g = ellipticity / (2 - ellipticity)  # reduced shear of an axis ratio 1 - ellipticity
        self.shear = g * np.array([np.cos(2 * direction), np.sin(2 * direction)])
        self.astigmatism = rng.normal(0, 0.3) * variation
        self.core = _without_pixel(fwhm, beta)
        # Beyond this radius the integration over the pixel no longer matters.
        self.half = int(np.ceil(max(8 * fwhm, 10)))
        self.accuracy = galsim.GSParams(folding_threshold=1e-3, maxk_threshold=1e-4)
        nodes = np.linspace(0, 1, NODES)
        self.grid = np.array(
            [[self._effective(x * (shape[1] - 1), y * (shape[0] - 1)) for x in nodes] for y in nodes], dtype=np.float32
        )
        peaks = self.grid.max(axis=(2, 3), keepdims=True)
        areas = (self.grid > peaks / 2).sum(axis=(2, 3)) / self.oversampling**2
        self.fwhm = float(np.median(2 * np.sqrt(areas / np.pi)))
        self.peak = float(np.median(peaks))

    def profile(self, x: float, y: float):
        """GalSim profile at a position, without pixel, defocus and trailing."""
        import galsim

        u, v = 2 * x / (self.shape[1] - 1) - 1, 2 * y / (self.shape[0] - 1) - 1
        fwhm = self.core * max(1 + self.variation * 0.5 * (u**2 + v**2) + self.tilt @ (u, v), 0.3)
        g1, g2 = self.shear + self.astigmatism * np.array([u**2 - v**2, 2 * u * v])
        size = np.hypot(g1, g2)
        if size > 0.5:
            g1, g2 = g1 * 0.5 / size, g2 * 0.5 / size
        return galsim.Moffat(beta=self.beta, fwhm=fwhm).shear(g1=g1, g2=g2)

    def smeared(self, x: float, y: float, source=None):
        """Profile with defocus, trailing and, where given, the profile of a source, but without the pixel."""
        import galsim

        parts = [self.profile(x, y)] + ([source] if source is not None else [])
        if self.defocus > 0.05:
            parts.append(self._pupil(x, y))
        if self.trail > 0.02:
            parts.append(galsim.Box(self.trail, 1e-3).rotate(self.trail_angle * galsim.radians))
        return galsim.Convolve(parts) if len(parts) > 1 else parts[0]

    def _pupil(self, x: float, y: float):
        """Out-of-focus image of the pupil, a ring, at a position."""
        import galsim

        u, v = 2 * x / (self.shape[1] - 1) - 1, 2 * y / (self.shape[0] - 1) - 1
        radius = self.defocus / 2 * max(1 + self.defocus_tilt @ (u, v), 0.1)
        area = 1 - OBSTRUCTION**2
        shadow = galsim.TopHat(OBSTRUCTION * radius, flux=OBSTRUCTION**2 / area)
        return galsim.TopHat(radius, flux=1 / area) - shadow

    def _effective(self, x: float, y: float) -> np.ndarray:
        """Effective (pixel-integrated) PSF at a position, oversampled."""
        import galsim

        profile = galsim.Convolve(self.smeared(x, y), galsim.Pixel(1.0), gsparams=self.accuracy)
        n = self.oversampling
        side = (2 * self.half + 3) * n
        drawn = profile.drawImage(nx=side, ny=side, scale=1 / n, method="no_pixel")
        return drawn.array * n**2

    def stamp(self, x: float, y: float, half: int) -> tuple[np.ndarray, int, int]:
        """PSF of unit flux on the pixel grid around a sub-pixel position.

        Returns
        -------
        stamp : numpy.ndarray
            (2 half + 1, 2 half + 1).
        y0, x0 : int
            Pixel of the first row and column of the stamp.
        """
        inner = min(half, self.half)
        xi, yi = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        wx, ix = _between(x / max(self.shape[1] - 1, 1))
        wy, iy = _between(y / max(self.shape[0] - 1, 1))
        corners = self.grid[iy : iy + 2, ix : ix + 2]
        weights = np.outer([1 - wy, wy], [1 - wx, wx]).astype(np.float32)
        cropped = self._crop(corners, inner)
        effective = np.dot(weights.reshape(1, 4), cropped.reshape(4, -1)).reshape(cropped.shape[2:])
        n = self.oversampling
        stamp = _shift(_shift(effective, y - yi, inner, n).T, x - xi, inner, n).T
        if half > self.half:
            wings = self.profile(x, y).drawImage(
                nx=2 * half + 1, ny=2 * half + 1, scale=1.0, method="no_pixel", offset=(x - xi, y - yi)
            )
            core = slice(half - inner, half + inner + 1)
            outer = wings.array
            outer[core, core] = stamp
            stamp = outer
        return stamp, yi - half, xi - half

    def _crop(self, grid: np.ndarray, half: int) -> np.ndarray:
        """Central part of the effective PSFs, enough for stamps of this half size."""
        margin = (self.half - half) * self.oversampling
        return grid[..., margin : grid.shape[-2] - margin, margin : grid.shape[-1] - margin]

    def half_size(self, surface: float | np.ndarray) -> np.ndarray:
        """Radius [px, int] at which the PSF drops below `surface` [fraction of the flux per px].

        It is at least 5 FWHM, or 3 FWHM where the PSF is well sampled.
        """
        alpha = moffat_alpha(self.fwhm, self.beta)
        central = (self.beta - 1) / (np.pi * alpha**2)
        radius = alpha * np.sqrt(np.maximum((central / np.asarray(surface)) ** (1 / self.beta) - 1, 0))
        least = 5 if self.oversampling == OVERSAMPLING else 3
        return np.ceil(np.clip(radius, least * self.fwhm, max(self.shape))).astype(int)


class Distortion:
    """Smooth shifts of positions over the field that a linear WCS cannot describe.

    The shifts have three parts: a radial term of third degree from the optics, a term of second degree from tilted
    optics, and waves of 0.15 to 0.5 field widths from the atmosphere in a short exposure (Han & Gatewood 1995,
    PASP 107, 399).

    Parameters
    ----------
    shape : tuple of int
        (height, width) of the image.
    amplitude : float
        Scale of the shifts [px]: shifts in the corners are about three times as large, the waves a third of it.
    rng : numpy.random.Generator
    """

    def __init__(self, shape: tuple[int, int], *, amplitude: float, rng: np.random.Generator):
        self.centre = (np.array(shape[::-1]) - 1) / 2
        self.radius = float(np.hypot(*shape) / 2)
        self.radial = amplitude * rng.choice([-1, 1]) * rng.uniform(1.5, 3.0)
        self.tilt = amplitude * rng.normal(0, 0.5, (2, 3))
        length = rng.uniform(0.15, 0.5, 6) * max(shape)
        direction = rng.uniform(0, 2 * np.pi, 6)
        self.waves = 2 * np.pi / length * np.array([np.cos(direction), np.sin(direction)])
        self.phases = rng.uniform(0, 2 * np.pi, (2, 6))
        self.heights = amplitude / 3 * np.sqrt(2 / 6) * rng.normal(size=(2, 6))

    def shift(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shifts dx, dy [px] at positions (n,) [px]."""
        x, y = np.asarray(x, float), np.asarray(y, float)
        u, v = (x - self.centre[0]) / self.radius, (y - self.centre[1]) / self.radius
        argument = np.multiply.outer(x, self.waves[0]) + np.multiply.outer(y, self.waves[1])
        return tuple(
            self.radial * along * (u**2 + v**2)
            + tilt @ np.array([u**2, u * v, v**2])
            + np.sin(argument + phases) @ heights
            for along, tilt, phases, heights in zip((u, v), self.tilt, self.phases, self.heights, strict=True)
        )


@dataclass
class Exposure:
    """Observing conditions of one image; lengths are in its own pixels, flux is in its own ADU.

    The image reduction moves a source from x, y to x, y minus `shift` [px], and adds `level` [ADU].
    """

    shape: tuple[int, int]
    wcs: WCS
    psf: FieldPSF
    zero_point: float
    sky: float
    gain: float
    read_noise: float
    saturation: float
    flat: float
    bleed: bool
    distortion: Distortion | None = None
    shift: np.ndarray = field(default_factory=lambda: np.zeros(2))
    level: float = 0.0

    @property
    def noise(self) -> float:
        """Standard deviation of the background [ADU]."""
        return float(np.sqrt(self.sky * self.gain + self.read_noise**2) / self.gain)

    @property
    def scale(self) -> float:
        """Pixel scale [arcsec/px]."""
        return float(np.sqrt(abs(np.linalg.det(self.wcs.pixel_scale_matrix))) * 3600)

    @property
    def limit(self) -> float:
        """Magnitude of a point source with a signal-to-noise ratio of 5."""
        return limiting_magnitude(fwhm=self.psf.fwhm, beta=self.psf.beta, noise=self.noise, zero_point=self.zero_point)

    @property
    def saturated(self) -> float:
        """Magnitude of a star whose brightest pixel is saturated."""
        return float(self.zero_point - 2.5 * np.log10(self.saturation / self.psf.peak))

    def sky_positions(self, x, y):
        """True ra, dec [deg] of pixels, with the distortion, which the WCS of the header does not include."""
        if self.distortion is not None:
            dx, dy = self.distortion.shift(x, y)
            x, y = x + dx, y + dy
        return self.wcs.pixel_to_world_values(x, y)

    def expected(self, sources: pd.DataFrame, suffix: str) -> np.ndarray:
        """Noise-free image of all sources, float32 [ADU]; `suffix` selects their columns x, y and flux."""
        cd = self.wcs.pixel_scale_matrix
        columns = {f"{name}{suffix}": name for name in ("x", "y", "flux")}
        table = sources[[*columns, "kind", "radius", "bulge", "axis_ratio", "angle"]].rename(columns=columns)
        turn = float(np.degrees(np.arctan2(cd[1, 0], cd[1, 1])))
        return draw_sources(table, self.psf, scale=self.scale, turn=turn, faint=0.03 * self.noise)


def draw_sources(sources: pd.DataFrame, psf: FieldPSF, *, scale: float, turn: float, faint: float) -> np.ndarray:
    """Noise-free image of stars and galaxies.

    Parameters
    ----------
    sources : pandas.DataFrame
        kind (star or galaxy), x, y [px], flux [ADU]; for galaxies also radius (half-light)
        [arcsec], bulge (fraction of the flux), axis_ratio and angle [deg].
    psf : FieldPSF
        PSF; its shape is that of the image.
    scale : float
        Pixel scale [arcsec/px].
    turn : float
        Rotation of the image relative to north [deg].
    faint : float
        Surface brightness at which sources are truncated [ADU/px].

    Returns
    -------
    numpy.ndarray
        float32 (height, width) [ADU].
    """
    import galsim

    image = np.zeros(psf.shape, np.float32)
    quick = galsim.GSParams(folding_threshold=1e-2, maxk_threshold=2e-2, kvalue_accuracy=1e-3)
    height, width = psf.shape
    sources = sources[sources.flux > 0]
    half = psf.half_size(faint / sources.flux.to_numpy(float))
    half = np.where(sources.kind == "galaxy", np.minimum(half + 4 * sources.radius / scale, 120), half).astype(int)
    reached = sources.x.between(-half, width + half) & sources.y.between(-half, height + half)
    columns = ["x", "y", "flux", "kind", "radius", "bulge", "axis_ratio", "angle", "half"]
    table = sources.assign(half=half)[reached]
    for x, y, flux, kind, radius, bulge, ratio, angle, half in table[columns].itertuples(index=False):
        if kind == "star":
            stamp, y0, x0 = psf.stamp(x, y, half)
            add_stamp(image, stamp * np.float32(flux), y0, x0)
            continue
        galaxy = galsim.Exponential(half_light_radius=radius / scale, flux=1 - bulge)
        if bulge > 0.1:
            galaxy += galsim.Sersic(n=3.5, half_light_radius=0.5 * radius / scale, flux=bulge)
        galaxy = galaxy.shear(q=ratio, beta=(angle + turn) * galsim.degrees)
        profile = galsim.Convolve(psf.smeared(x, y, galaxy), galsim.Pixel(1.0), gsparams=quick)
        xi, yi = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        side = 2 * half + 1
        drawn = profile.drawImage(nx=side, ny=side, scale=1.0, method="no_pixel", offset=(x - xi, y - yi))
        add_stamp(image, drawn.array * np.float32(flux), yi - half, xi - half)
    return image


def _without_pixel(fwhm: float, beta: float) -> float:
    """FWHM [px] of the Moffat profile whose FWHM becomes `fwhm` after integration over the pixel."""
    import galsim

    core = np.sqrt(max(fwhm**2 - 0.5, 0.16))
    for _ in range(6):
        measured = galsim.Convolve(galsim.Moffat(beta=beta, fwhm=core), galsim.Pixel(1.0)).calculateFWHM()
        core = float(np.clip(core + (fwhm - measured), 0.3, None))
    return core


def _between(position: float) -> tuple[float, int]:
    """Weight of the upper node and index of the lower node for a position from 0 to 1."""
    scaled = min(max(position, 0.0), 1.0) * (NODES - 1)
    index = min(int(scaled), NODES - 2)
    return float(scaled - index), index


def _shift(samples: np.ndarray, offset: float, half: int, n: int) -> np.ndarray:
    """Rows of an `n` times oversampled profile at ``k - offset``, k = -half..half, by cubic interpolation (Keys 1981)."""
    middle = (samples.shape[0] - 1) / 2
    start = middle - (half + offset) * n
    base = int(np.floor(start))
    t = start - base
    weights = (
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )
    count = 2 * half + 1
    a, b, c, d = (
        np.float32(weight) * samples[base + k : base + k + (count - 1) * n + 1 : n]
        for k, weight in zip((-1, 0, 1, 2), weights, strict=True)
    )
    return a + b + c + d
