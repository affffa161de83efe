"""Point sources added to an image as it came from the camera, before any cleaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.errors import ConfigError, ImageError
from otrain_core.io import Image
from otrain_core.psf import PSFModel

TRUTH_COLUMNS = ["id", "x", "y", "ra", "dec", "mag", "flux", "kind"]


def inject_sources(
    image: Image,
    psf: PSFModel,
    *,
    record: Mapping[str, Any],
    rng: np.random.Generator,
    n_sources: int = 150,
    grid: int = 9,
    bright_mag: float = 4.5,
    faint_mag: float = 0.5,
    noise: bool = True,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Add point sources with the PSF of their place.

    The field is cut into `grid` x `grid` cells; every cell gets its share of the
    sources (what does not divide goes to cells drawn at random), at uniform random
    positions that avoid neither sources nor edges. Magnitudes are uniform, as in
    gmadet. The photons of a source follow Poisson's law, and the sum stops at
    saturation as on a detector; a pixel without value stays without.

    Parameters
    ----------
    image : Image
    psf : PSFModel
    record : mapping
        Record of `otrain_core.psf.measure_psf`; ``limit_mag`` and ``zero_point`` are used.
    rng : numpy.random.Generator
    n_sources, grid : int
    bright_mag, faint_mag : float
        Magnitudes run from ``limit_mag - bright_mag`` to ``limit_mag + faint_mag``.
    noise : bool
        Without it the expected counts are added, for tests of the flux.

    Returns
    -------
    data : numpy.ndarray
        float32 (height, width) [ADU].
    truth : pandas.DataFrame
        ``id``, ``x``, ``y`` [px], ``ra``, ``dec`` [deg] (NaN without WCS), ``mag``, ``flux``
        (expected, whole source [ADU]), ``kind`` ("random").

    Raises
    ------
    ImageError
        The limit is not known (key ``limit_mag``).
    ConfigError
        The range of magnitudes is empty.
    """
    limit, zero_point = record.get("limit_mag"), record.get("zero_point")
    if limit is None or zero_point is None or not np.isfinite([limit, zero_point]).all():
        raise ImageError(image.name, "limit_mag", "the record of the PSF has no finite limit_mag and zero_point")
    if bright_mag + faint_mag < 0:
        raise ConfigError(
            f"inject: bright_mag {bright_mag:g} and faint_mag {faint_mag:g} leave no magnitude between them"
        )
    height, width = image.shape
    x, y = _positions(rng, n_sources, grid, width, height)
    mag = rng.uniform(limit - bright_mag, limit + faint_mag, n_sources)
    flux = 10 ** (0.4 * (zero_point - mag))
    added = np.zeros((height, width))
    for xi, yi, fi in zip(x, y, flux, strict=True):
        stamp, y0, x0 = psf.stamp(xi, yi)
        counts = fi * stamp
        if noise:
            counts = rng.poisson(counts * image.gain) / image.gain
        rows = slice(max(y0, 0), min(y0 + stamp.shape[0], height))
        columns = slice(max(x0, 0), min(x0 + stamp.shape[1], width))
        added[rows, columns] += counts[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]
    total = image.data + added
    if np.isfinite(image.saturation):
        # A pixel that stood above the limit before keeps its value: the camera gave it.
        total = np.minimum(total, np.fmax(image.data, image.saturation))
    ra, dec = _sky(image, x, y)
    truth = pd.DataFrame(
        {"id": np.arange(n_sources), "x": x, "y": y, "ra": ra, "dec": dec, "mag": mag, "flux": flux, "kind": "random"}
    )
    return total.astype(np.float32), truth[TRUTH_COLUMNS]


def _positions(
    rng: np.random.Generator, n_sources: int, grid: int, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions in random order of cells; the detector reaches from -0.5 to width - 0.5."""
    cells = np.tile(np.arange(grid * grid), n_sources // (grid * grid))
    cells = np.concatenate([cells, rng.choice(grid * grid, n_sources % (grid * grid), replace=False)])
    rng.shuffle(cells)
    x = (cells % grid + rng.random(n_sources)) * width / grid - 0.5
    y = (cells // grid + rng.random(n_sources)) * height / grid - 0.5
    return x, y


def _sky(image: Image, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if image.wcs is None:
        return np.full(x.size, np.nan), np.full(x.size, np.nan)
    ra, dec = image.wcs.all_pix2world(x, y, 0)
    return np.asarray(ra) % 360.0, np.asarray(dec)
