"""Effects of the sky, the optics and the detector that cause bogus candidates in a difference image.

Each function changes an image [ADU] in place and returns one row for each effect:
``kind``, ``x``, ``y`` (centre, 0-based pixels), ``size`` (length, or diameter of a
round effect) [px], ``width`` [px], ``angle`` (direction of the long side, degrees
from +x towards +y) and ``flux`` (added signal [ADU], NaN where none is added).
Whether an effect becomes a candidate depends on the subtraction and the detection.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from otrain_core.images.pixels import add_stamp
from otrain_core.sky.optics import FieldPSF
from otrain_core.widths import moffat_alpha

ELECTRONS_PER_UM = 75.0  # most probable ionisation by a minimum-ionising particle in silicon [electron/um]
PIXEL_UM = 9.0  # pixel size assumed for cosmic rays [um]

Rows = list[dict[str, Any]]


def row_of(
    kind: str, x: float, y: float, size: float, *, width: float = np.nan, angle: float = 0.0, flux: float = np.nan
) -> dict[str, Any]:
    """One row of the truth; without `width` the effect is as wide as long."""
    width = size if np.isnan(width) else width
    return {
        "kind": kind,
        "x": float(x),
        "y": float(y),
        "size": float(size),
        "width": float(width),
        "angle": float(angle),
        "flux": float(flux),
    }


def add_cosmics(image: np.ndarray, rng: np.random.Generator, *, n: int, gain: float) -> Rows:
    """Add `n` cosmic rays: muon tracks, worms of slow electrons, and spots.

    The charge is deposited along the path of the particle and spread by diffusion in the
    silicon (0.2 to 0.8 px), not by the seeing. The most diffuse spots are about as wide as
    undersampled stars, which a Laplacian filter such as L.A.Cosmic cannot distinguish from a source.

    Parameters
    ----------
    image : numpy.ndarray
        (height, width) [ADU], changed in place.
    rng : numpy.random.Generator
    n : int
        Number of cosmic rays.
    gain : float
        [electron/ADU].
    """
    height, width = image.shape
    rows = []
    for form in rng.choice(["track", "worm", "spot"], size=n, p=[0.45, 0.2, 0.35]):
        x0, y0 = rng.uniform(-0.5, width - 0.5), rng.uniform(-0.5, height - 0.5)
        angle = rng.uniform(0, 180)
        diffusion = rng.uniform(0.2, 0.45)
        per_pixel = ELECTRONS_PER_UM * PIXEL_UM * rng.lognormal(0, 0.35)
        if form == "track":  # length of the projected path of a muon through the wafer
            length = min(2.0 * abs(np.tan(np.arccos(rng.uniform(0.05, 1) ** (1 / 3)))) + rng.exponential(3.0), 60.0)
            step = np.deg2rad(angle) * np.ones(max(int(10 * length), 5))
        elif form == "worm":
            length = rng.uniform(3, 14)
            step = np.deg2rad(angle) + np.cumsum(rng.normal(0, 0.12, max(int(10 * length), 5)))
            per_pixel *= rng.uniform(0.5, 2.0)
        else:
            length = rng.uniform(0, 0.8)
            step = np.deg2rad(angle) * np.ones(5)
            diffusion = rng.uniform(0.3, 0.8)
            per_pixel *= rng.lognormal(-0.3, 0.8)
        dx = np.cumsum(np.cos(step)) * length / step.size
        dy = np.cumsum(np.sin(step)) * length / step.size
        x, y = x0 + dx - dx.mean(), y0 + dy - dy.mean()
        # Energy loss fluctuates along the path in clumps of about a pixel.
        loss = np.repeat(rng.gamma(3.0, 1 / 3, step.size // 10 + 1), 10)[: step.size]
        total = per_pixel * max(length, 1.0) / gain
        weights = total * loss / loss.sum()
        _deposit(image, rng, x, y, weights, diffusion)
        size = max(np.hypot(np.ptp(x), np.ptp(y)), 1.0) + 2 * diffusion
        rows.append(
            row_of(
                "cosmic", x.mean(), y.mean(), size, width=1 + 2 * diffusion, angle=_direction(x, y, angle), flux=total
            )
        )
    return rows


def _deposit(image, rng, x, y, weights, diffusion, copies: int = 40) -> None:
    """Deposit charge at points of a path, each spread by a Gaussian of width `diffusion` [px]."""
    xs = np.rint(np.repeat(x, copies) + rng.normal(0, diffusion, x.size * copies)).astype(int)
    ys = np.rint(np.repeat(y, copies) + rng.normal(0, diffusion, y.size * copies)).astype(int)
    inside = (xs >= 0) & (ys >= 0) & (xs < image.shape[1]) & (ys < image.shape[0])
    np.add.at(image, (ys[inside], xs[inside]), np.repeat(weights / copies, copies)[inside])


def _direction(x, y, fallback: float) -> float:
    """Direction of a path [deg]; the fallback for a path shorter than a pixel."""
    if np.hypot(np.ptp(x), np.ptp(y)) < 1:
        return fallback
    return float(np.degrees(np.arctan2(y[-1] - y[0], x[-1] - x[0])) % 180)


def add_hot_pixels(image: np.ndarray, rng: np.random.Generator, *, n: int, noise: float) -> Rows:
    """Add `n` hot pixels and small groups of them, which remain after subtraction of an imperfect dark frame.

    Their amplitude is log-uniform between 4 and 300 times the `noise` of the background [ADU]. One in ten is
    over-subtracted (negative). Some trail along the column because charge is released late, and defects deep in the
    silicon spread over a few pixels with different dark currents.
    """
    height, width = image.shape
    shapes = [
        [(0, 0, 1.0)],
        [(0, 0, 1.0), (0, 1, 0.5)],
        [(0, 0, 1.0), (1, 0, 0.7), (0, 1, 0.5), (1, 1, 0.3)],
        [(0, 0, 1.0), (1, 0, 0.25), (-1, 0, 0.25), (0, 1, 0.25), (0, -1, 0.25)],
        [(0, 0, 1.0), (0, 1, 0.35), (0, 2, 0.15), (0, 3, 0.07)],
        None,
    ]
    rows = []
    for shape in rng.choice(len(shapes), size=n, p=[0.4, 0.12, 0.12, 0.12, 0.1, 0.14]):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        amplitude = noise * np.exp(rng.uniform(np.log(4), np.log(300)))
        if rng.random() < 0.1:
            amplitude = -min(amplitude, 15 * noise)
        total, pixels = 0.0, shapes[shape] or _blob(rng)
        for dx, dy, share in pixels:
            if 0 <= x + dx < width and 0 <= y + dy < height:
                value = amplitude * share * np.exp(0.5 * np.clip(rng.normal(), -2, 2))
                image[y + dy, x + dx] += value
                total += value
        extent = max(max(abs(dx), abs(dy)) for dx, dy, _ in pixels)
        rows.append(row_of("hot_pixel", x, y, 1 + 2 * extent, flux=total))
    return rows


def _blob(rng: np.random.Generator) -> list[tuple[int, int, float]]:
    """Pixels (dx, dy, fraction of the amplitude) over which a deep defect spreads."""
    sigma, centre = rng.uniform(0.5, 1.1, 2), rng.uniform(-0.4, 0.4, 2)
    steps = range(-2, 3)
    share = {
        (dx, dy): np.exp(-0.5 * (((np.array([dx, dy]) - centre) / sigma) ** 2).sum()) for dx in steps for dy in steps
    }
    return [(dx, dy, value) for (dx, dy), value in share.items() if value > 0.03]


def add_bad_columns(image: np.ndarray, rng: np.random.Generator, *, n: int, noise: float) -> Rows:
    """Add `n` bad columns: warm columns, charge traps and blocked columns.

    A column is bad from the row of the defect to the far end of the detector, because the charge of these rows
    passes the defect during readout. One in four columns is bad over its full length.
    """
    height, width = image.shape
    rows = []
    for form in rng.choice(["warm", "trap", "blocked"], size=n, p=[0.5, 0.3, 0.2]):
        x = int(rng.integers(width))
        first = 0 if rng.random() < 0.25 else int(height * np.sqrt(rng.uniform(0, 0.95)))
        part = image[first:, x]
        if form == "warm":
            part += noise * np.exp(rng.uniform(np.log(1), np.log(10))) * rng.uniform(0.85, 1.15, part.size)
        elif form == "trap":
            part -= np.minimum(noise * rng.uniform(2, 6), 0.8 * np.maximum(part, 0))
        else:
            part *= rng.uniform(0.2, 0.6)
        rows.append(row_of("bad_column", x, first + (height - first - 1) / 2, height - first, width=1.0, angle=90.0))
    return rows


def add_trails(image: np.ndarray, rng: np.random.Generator, *, n: int, fwhm: float, beta: float, noise: float) -> Rows:
    """Add `n` trails of satellites, tumbling satellites, meteors and planes.

    The profile across a trail is the PSF integrated along a line, for a Moffat profile
    ``(1 + u**2 / alpha**2) ** (0.5 - beta)``. It is wider for nearby objects, which are out of focus. Trails must be
    added before the photon noise is drawn.

    Parameters
    ----------
    image : numpy.ndarray
        (height, width) expected signal [ADU], changed in place.
    fwhm : float
        FWHM of a star [px].
    beta : float
        Moffat exponent of the PSF.
    noise : float
        Noise of the background [ADU], which scales the brightness of the trails.
    """
    height, width = image.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    rows = []
    for form in rng.choice(["satellite", "tumbling", "short", "plane"], size=n, p=[0.4, 0.2, 0.25, 0.15]):
        x0, y0 = rng.uniform(0.15, 0.85) * (width - 1), rng.uniform(0.15, 0.85) * (height - 1)
        angle = rng.uniform(0, 180)
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        along, across = (x - x0) * cos + (y - y0) * sin, (y - y0) * cos - (x - x0) * sin
        peak = noise * np.exp(rng.uniform(np.log(1.5), np.log(40)))
        spread = fwhm * rng.uniform(1.0, 1.3)
        shape = np.ones_like(along)
        length = float(np.hypot(width, height))
        if form == "tumbling":
            period, phase = rng.uniform(8, 80) * fwhm, rng.uniform(0, 2 * np.pi)
            shape = 0.15 + 0.85 * (0.5 + 0.5 * np.cos(2 * np.pi * along / period + phase)) ** rng.uniform(1, 8)
        elif form == "short":
            length = rng.uniform(8, 80) * fwhm
            shape = 0.5 * (np.tanh((length / 2 - np.abs(along)) / (0.5 * fwhm)) + 1)
        elif form == "plane":
            spread, period = fwhm * rng.uniform(1.5, 3.0), rng.uniform(30, 100) * fwhm
            flash = np.exp(-0.5 * (((along + rng.uniform(0, period)) % period - period / 2) / (1.5 * fwhm)) ** 2)
            shape = 1 + 4 * flash
        profile = _line_profile(across, spread, beta)
        if form == "plane":  # two wing lights
            gap = rng.uniform(2, 5) * spread
            profile = _line_profile(across - gap / 2, spread, beta) + _line_profile(across + gap / 2, spread, beta)
            spread += gap
        signal = peak * shape * profile
        image += signal
        rows.append(row_of("trail", x0, y0, length, width=spread, angle=angle, flux=signal.sum(dtype=float)))
    return rows


def _line_profile(across: np.ndarray, fwhm: float, beta: float) -> np.ndarray:
    """Profile across a trail with a peak of 1."""
    power = max(beta - 0.5, 0.6)
    alpha = moffat_alpha(fwhm, power)
    return (1 + (across / alpha) ** 2) ** np.float32(-power)


def add_ghosts(
    image: np.ndarray, rng: np.random.Generator, *, n: int, stars: pd.DataFrame, fwhm: float, noise: float
) -> Rows:
    """Add `n` ghosts: out-of-focus images of the pupil from the reflected light of bright stars.

    The ghosts belong to the brightest stars of the frame and lie near the star or mirrored about the optical axis.
    As a ghost has at most 2 % of the flux of its star, a ghost that is too bright for it is placed at random, as if
    its star were outside the frame. Ghosts are discs or rings, often crescents, with soft edges.

    Parameters
    ----------
    stars : pandas.DataFrame
        Columns x, y, flux [ADU].
    """
    height, width = image.shape
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    bright = stars.nlargest(max(n, 1), "flux") if len(stars) else stars
    y, x = np.mgrid[:height, :width].astype(np.float32)
    rows = []
    for number in range(n):
        radius = rng.uniform(6, 20) * fwhm
        surface = noise * np.exp(rng.uniform(np.log(0.5), np.log(4)))
        total = surface * np.pi * radius**2
        if number < len(bright) and total < 0.02 * bright.flux.iloc[number]:
            star = bright.iloc[number]
            # Two reflections bring the light back near the star, one to the far side of the axis.
            xc, yc = centre + (np.array([star.x, star.y]) - centre) * rng.uniform(0.9, 1.05) * rng.choice([-1, 1])
        else:
            xc, yc = rng.uniform(0, width), rng.uniform(0, height)
        r = np.hypot(x - xc, y - yc)
        soft = fwhm * rng.uniform(0.3, 1.5)
        disc = 0.5 * (1 + np.tanh((radius - r) / soft))
        hole = rng.choice([0.0, rng.uniform(0.3, 0.6)])
        if hole:  # shadow of the secondary mirror, off-centre because of vignetting
            shift = 0.15 * radius * rng.normal(size=2)
            disc *= 0.5 * (1 + np.tanh((np.hypot(x - xc - shift[0], y - yc - shift[1]) - hole * radius) / soft))
        signal = surface * disc
        image += signal
        rows.append(row_of("ghost", xc, yc, 2 * radius, flux=signal.sum(dtype=float)))
    return rows


def add_asteroids(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    n: int,
    psf: FieldPSF,
    zero_point: float,
    brightest: float,
    faintest: float,
) -> Rows:
    """Add `n` asteroids: point sources that move during the exposure, mostly by less than the FWHM.

    They are not artefacts but real sources. Every second one is `known`, that is, listed by an ephemeris service.

    Parameters
    ----------
    image : numpy.ndarray
        (height, width) expected signal [ADU], changed in place.
    psf : FieldPSF
        PSF of the image.
    zero_point : float
        Magnitude of 1 ADU.
    brightest, faintest : float
        Range of magnitudes; their number grows as ``10**(0.35 m)``.

    Returns
    -------
    list of dict
        Rows with the additional keys mag and known (0 or 1).
    """
    height, width = image.shape
    low, high = 10 ** (0.35 * min(brightest, faintest)), 10 ** (0.35 * faintest)
    rows = []
    for number in range(n):
        x, y = rng.uniform(0, width - 1), rng.uniform(0, height - 1)
        mag = float(np.log10(rng.uniform(low, high)) / 0.35)
        length = min(0.3 * psf.fwhm * rng.lognormal(0, 0.7), 3 * psf.fwhm)
        angle = rng.uniform(0, 180)
        flux = 10 ** (0.4 * (zero_point - mag))
        steps = (np.arange(max(int(4 * length), 1)) + 0.5) / max(int(4 * length), 1) - 0.5
        for step in steps * length:
            dx, dy = step * np.cos(np.deg2rad(angle)), step * np.sin(np.deg2rad(angle))
            stamp, y0, x0 = psf.stamp(x + dx, y + dy, psf.half)
            add_stamp(image, stamp * np.float32(flux / len(steps)), y0, x0)
        row = row_of("asteroid", x, y, length + psf.fwhm, width=psf.fwhm, angle=angle, flux=flux)
        rows.append(row | {"mag": mag, "known": (number + 1) % 2})
    return rows


def saturate(image: np.ndarray, rng: np.random.Generator, *, level: float, bleed: bool) -> Rows:
    """Limit the charge of a pixel to `level` [ADU]; the excess flows along the column or is lost.

    With `bleed`, the excess charge of a saturated region fills the pixels below and above it in each column. Charge
    is conserved, except for charge that leaves the detector. No pixel is above `level` afterwards.

    Returns
    -------
    list of dict
        One ``saturated`` row for each connected region above `level`, and one ``bleed`` row for each region whose
        charge spread beyond it.
    """
    from scipy import ndimage

    over = image > level
    regions, count = ndimage.label(over, structure=np.ones((3, 3)))
    if not count:
        return []
    rows = []
    for number, box in enumerate(ndimage.find_objects(regions), start=1):
        inside = regions[box] == number
        ys, xs = np.nonzero(inside)
        ys, xs = ys + box[0].start, xs + box[1].start
        excess = image[ys, xs] - level
        flux = float(excess.sum())
        rows.append(row_of("saturated", xs.mean(), ys.mean(), 2 * np.sqrt(xs.size / np.pi) + 1, flux=flux))
        image[ys, xs] = level
        if not bleed:
            continue
        low, high = ys.min(), ys.max()
        share = rng.uniform(0.4, 0.6)
        for x in np.unique(xs):
            mine = ys[xs == x]
            total = excess[xs == x].sum()
            for start, step, amount in ((mine.min() - 1, -1, share), (mine.max() + 1, 1, 1 - share)):
                end = _fill(image[:, x], start, step, total * amount, level)
                low, high = min(low, end), max(high, end)
        if high - low > np.ptp(ys) + 1:
            rows.append(
                row_of(
                    "bleed", xs.mean(), (low + high) / 2, high - low + 1, width=np.ptp(xs) + 1, angle=90.0, flux=flux
                )
            )
    return rows


def _fill(column: np.ndarray, start: int, step: int, charge: float, level: float) -> int:
    """Fill a column with `charge` from row `start` in direction `step`; returns the last row that was reached."""
    y = start
    while charge > 0 and 0 <= y < column.size:
        taken = min(max(level - column[y], 0.0), charge)
        column[y] += taken
        charge -= taken
        y += step
    return y - step


def add_crosstalk(image: np.ndarray, *, factor: float, level: float) -> Rows:
    """Add crosstalk: `factor` times the signal of pixels above half of `level`, mirrored to the other half.

    Two amplifiers read the halves of the detector simultaneously in opposite directions, so a bright star in column
    x affects column ``width - 1 - x``.
    """
    from scipy import ndimage

    if factor <= 0:
        return []
    bright = image > 0.5 * level
    ghost = np.where(bright, image, 0.0)[:, ::-1] * factor
    image += ghost
    regions, count = ndimage.label(bright[:, ::-1], structure=np.ones((3, 3)))
    rows = []
    for number, box in enumerate(ndimage.find_objects(regions), start=1):
        ys, xs = np.nonzero(regions[box] == number)
        rows.append(
            row_of(
                "crosstalk",
                xs.mean() + box[1].start,
                ys.mean() + box[0].start,
                float(max(np.ptp(xs), np.ptp(ys))) + 1,
                flux=ghost[box].sum(),
            )
        )
    return rows
