"""The PSF of the simulated telescope: a Moffat profile that varies over the field.

Profiles and their integration over the pixel are GalSim's (Rowe et al. 2015, A&C 10,
121); thousands of faint stars are drawn from oversampled effective PSFs (Anderson &
King 2000, PASP 112, 1360) on a few nodes of the field.
"""

from __future__ import annotations

import numpy as np

NODES = 5  # the PSF is computed on NODES x NODES positions and interpolated between
OVERSAMPLING = 5


def limiting_magnitude(*, fwhm: float, beta: float, noise: float, zero_point: float, snr: float = 5.0) -> float:
    """Magnitude at which PSF photometry on a flat background reaches `snr`.

    The effective area of a Moffat profile, ``1 / integral(psf**2)``, is
    ``pi alpha**2 (2 beta - 1) / (beta - 1)**2``.
    """
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    area = np.pi * alpha**2 * (2 * beta - 1) / (beta - 1) ** 2
    return float(zero_point - 2.5 * np.log10(snr * noise * np.sqrt(area)))


class FieldPSF:
    """Moffat PSF that varies over the field, with trailing, integrated over the pixel.

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
    """

    def __init__(self, shape, *, fwhm, beta, ellipticity, variation, trail, rng):
        import galsim

        self.shape, self.beta, self.variation, self.trail = shape, beta, variation, trail
        self.trail_angle, tilt = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
        self.tilt = variation * rng.uniform(0.1, 0.4) * np.array([np.cos(tilt), np.sin(tilt)])
        direction = rng.uniform(0, np.pi)
        g = ellipticity / (2 - ellipticity)  # reduced shear of an axis ratio 1 - ellipticity
        self.shear = g * np.array([np.cos(2 * direction), np.sin(2 * direction)])
        self.astigmatism = rng.normal(0, 0.3) * variation
        self.core = _without_pixel(fwhm, beta)
        # Large enough that the pixel-convolved and the point-sampled wings agree.
        self.half = int(np.ceil(max(8 * fwhm, 10)))
        self.accuracy = galsim.GSParams(folding_threshold=1e-3, maxk_threshold=1e-4)
        nodes = np.linspace(0, 1, NODES)
        self.grid = np.array(
            [[self._effective(x * (shape[1] - 1), y * (shape[0] - 1)) for x in nodes] for y in nodes], dtype=np.float32
        )
        peaks = self.grid.max(axis=(2, 3), keepdims=True)
        areas = (self.grid > peaks / 2).sum(axis=(2, 3)) / OVERSAMPLING**2
        self.fwhm = float(np.median(2 * np.sqrt(areas / np.pi)))
        self.peak = float(np.median(peaks))

    def profile(self, x: float, y: float):
        """GalSim profile at a position, without the pixel and the trailing."""
        import galsim

        u, v = 2 * x / (self.shape[1] - 1) - 1, 2 * y / (self.shape[0] - 1) - 1
        fwhm = self.core * max(1 + self.variation * 0.5 * (u**2 + v**2) + self.tilt @ (u, v), 0.3)
        g1, g2 = self.shear + self.astigmatism * np.array([u**2 - v**2, 2 * u * v])
        size = np.hypot(g1, g2)
        if size > 0.5:
            g1, g2 = g1 * 0.5 / size, g2 * 0.5 / size
        return galsim.Moffat(beta=self.beta, fwhm=fwhm).shear(g1=g1, g2=g2)

    def smeared(self, x: float, y: float, source=None):
        """The profile with the trailing (and a source's own profile), without the pixel."""
        import galsim

        parts = [self.profile(x, y)] + ([source] if source is not None else [])
        if self.trail > 0.02:
            parts.append(galsim.Box(self.trail, 1e-3).rotate(self.trail_angle * galsim.radians))
        return galsim.Convolve(parts) if len(parts) > 1 else parts[0]

    def _effective(self, x: float, y: float) -> np.ndarray:
        import galsim

        profile = galsim.Convolve(self.smeared(x, y), galsim.Pixel(1.0), gsparams=self.accuracy)
        side = (2 * self.half + 3) * OVERSAMPLING
        drawn = profile.drawImage(nx=side, ny=side, scale=1 / OVERSAMPLING, method="no_pixel")
        return drawn.array * OVERSAMPLING**2

    def stamp(self, x: float, y: float, half: int) -> tuple[np.ndarray, int, int]:
        """PSF of unit flux on the pixel grid about a sub-pixel position.

        Returns
        -------
        stamp : numpy.ndarray
            (2 half + 1, 2 half + 1).
        y0, x0 : int
            Pixel of its first row and column.
        """
        inner = min(half, self.half)
        xi, yi = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        wx, ix = _between(x / max(self.shape[1] - 1, 1))
        wy, iy = _between(y / max(self.shape[0] - 1, 1))
        corners = self.grid[iy : iy + 2, ix : ix + 2]
        weights = np.outer([1 - wy, wy], [1 - wx, wx]).astype(np.float32)
        effective = np.tensordot(weights, self._crop(corners, inner), axes=2)
        stamp = _shift(_shift(effective, y - yi, inner).T, x - xi, inner).T
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
        margin = (self.half - half) * OVERSAMPLING
        return grid[..., margin : grid.shape[-2] - margin, margin : grid.shape[-1] - margin]

    def half_size(self, surface: float) -> int:
        """Radius at which the PSF drops below `surface` [flux fraction per px], at least five FWHM."""
        alpha = self.fwhm / (2 * np.sqrt(2 ** (1 / self.beta) - 1))
        central = (self.beta - 1) / (np.pi * alpha**2)
        radius = alpha * np.sqrt(max((central / surface) ** (1 / self.beta) - 1, 0))
        return int(np.ceil(np.clip(radius, 5 * self.fwhm, max(self.shape))))


def _without_pixel(fwhm: float, beta: float) -> float:
    """FWHM of the Moffat profile that has `fwhm` after integration over the pixel [px]."""
    import galsim

    core = np.sqrt(max(fwhm**2 - 0.5, 0.16))
    for _ in range(6):
        measured = galsim.Convolve(galsim.Moffat(beta=beta, fwhm=core), galsim.Pixel(1.0)).calculateFWHM()
        core = float(np.clip(core + (fwhm - measured), 0.3, None))
    return core


def _between(position: float) -> tuple[float, int]:
    scaled = np.clip(position, 0, 1) * (NODES - 1)
    index = min(int(scaled), NODES - 2)
    return float(scaled - index), index


def _shift(samples: np.ndarray, offset: float, half: int) -> np.ndarray:
    """Rows of an oversampled profile at ``k - offset``, k = -half..half, by cubic (Keys 1981) interpolation."""
    middle = (samples.shape[0] - 1) / 2
    start = middle - (half + offset) * OVERSAMPLING
    base = int(np.floor(start))
    t = start - base
    weights = (
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )
    count = 2 * half + 1
    return sum(
        np.float32(weight) * samples[base + k : base + k + (count - 1) * OVERSAMPLING + 1 : OVERSAMPLING]
        for k, weight in zip((-1, 0, 1, 2), weights, strict=True)
    )
