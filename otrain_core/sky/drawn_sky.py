"""Draw the stars and galaxies of a simulated field, with colours, variability and extinction by clouds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from otrain_core.sky.optics import Exposure

if TYPE_CHECKING:
    from otrain_core.plan.telescopes import SimulatedSky

STAR_SLOPE = 0.22  # d log10(N) / d mag of stars at intermediate galactic latitude
GALAXY_SLOPE = 0.40  # d log10(N) / d mag of galaxies
STARS_BELOW_LIMIT = 2.0  # depth of the stars beyond the 5-sigma limit [mag]
GALAXIES_BELOW_LIMIT = 1.0  # depth of the galaxies beyond the 5-sigma limit [mag]
BRIGHT_END = 3.0  # the brightest stars exceed the saturation limit by this [mag]
SCINTILLATION = 0.007  # relative scatter of the flux of a star between two exposures
FAST_STARS = 0.01  # fraction of stars that moved visibly between reference and science image
PIVOT_COLOR = 0.6  # g - r at which the colour term is zero [mag]


def _magnitudes(rng, *, n: int, slope: float, bright: float, faint: float) -> np.ndarray:
    """Draw from ``dN/dm ~ 10**(slope m)`` between two magnitudes."""
    low, high = 10 ** (slope * bright), 10 ** (slope * faint)
    return np.log10(rng.uniform(low, high, n)) / slope


def draw_sky(sky: SimulatedSky, science: Exposure, reference: Exposure, streams) -> pd.DataFrame:
    """Draw the stars and galaxies of both images.

    Parameters
    ----------
    sky : SimulatedSky
    science, reference : Exposure
    streams : mapping of str to numpy.random.Generator
        sky, color, variables, missing and clouds.

    Returns
    -------
    pandas.DataFrame
        One row per source, brightest first: kind, ra, dec [deg], x and y [px] and flux [ADU] on both images
        (suffixes ``_science`` and ``_reference``), mag, color, change since the reference [mag], known, missing, and
        the shapes of the galaxies.
    """
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
        # A few stars moved since the reference was taken; refraction, which depends on colour, shifts all a little.
        fast = (rng.random(n) < FAST_STARS) & (kind == "star")
        move = np.where(fast, rng.uniform(0.3, 1.5, n), np.abs(rng.normal(0, 0.02, n)))
        turn = rng.uniform(0, 2 * np.pi, n)
        table["moved_x"], table["moved_y"] = move * np.cos(turn), move * np.sin(turn)
        table["scintillation"] = 1 + SCINTILLATION * rng.normal(size=n) * (kind == "star")
        # Half-light radii: about 5 arcsec at r = 15 and 1 arcsec at r = 20.
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
    """g - r of the stars, NaN for galaxies: F to K stars around 0.55, M dwarfs around 1.35, more of these when faint."""
    n = len(sources)
    share = 0.2 + 0.3 * sources.mag.rank(pct=True).to_numpy()
    red = rng.random(n) < share
    color = np.where(red, rng.normal(1.35, 0.12, n), rng.normal(0.55, 0.2, n)).clip(-0.4, 1.7)
    return np.where(sources.kind == "star", color, np.nan)


def _variability(sky: SimulatedSky, science: Exposure, sources: pd.DataFrame, rng):
    """Change of each source since the reference [mag], and whether a catalogue lists it (half of the variables)."""
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
    """Transmission of thin clouds with structure on scales of a fifth of the image and larger.

    `x` and `y` are fractions of the width and height.
    """
    rng = streams["clouds"]
    pattern = np.zeros(len(x))
    for _ in range(3):
        angle, waves = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(0.5), np.log(5)))
        pattern += np.cos(2 * np.pi * (waves * (np.cos(angle) * x + np.sin(angle) * y) + rng.random())) / 3
    return 1 - sky.clouds * (0.5 + 0.5 * pattern)
