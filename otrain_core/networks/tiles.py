"""Tiles of images on which the detector network is trained: drawn, varied, and what it is to say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.candidates.measure import SIGMA
from otrain_core.candidates.planes import Field, Planes
from otrain_core.images.pixels import add_stamp
from otrain_core.plan.finder import FinderOptions
from otrain_core.stars.kinds import STAMP_RADIUS

TARGETS = ("heat", "dx", "dy", "log_snr", "footprint", "counts", "near")
NEAR_FAINT = 1.0  # pixels this near to a source that does not train do not either [FWHM]
MARGIN = 4.0  # of a tile for its matched filter [standard deviations]
EXTRA = 0.5  # share of the tiles that get further sources
MOST_EXTRA = 3  # of these
EXTRA_SNR = (4.0, 60.0)
PAIR = (0.7, 3.0)  # distance of a further source from another, of half of them [FWHM]


@dataclass(frozen=True)
class TileImage:
    """An image that tiles are drawn from.

    Attributes
    ----------
    field : Field
    unused : numpy.ndarray or None
        bool (height, width), pixels that belong to another set of the split.
    """

    field: Field
    unused: np.ndarray | None = None

    @cached_property
    def spreads(self) -> dict[bool, float]:
        """Spread of the image with and without its difference, see `Planes.spread`."""
        planes = self.field.planes
        return {True: planes.spread(), False: planes.without_difference().spread()}


def draw_batch(
    images: Sequence[TileImage],
    *,
    options: FinderOptions,
    side: int,
    n: int,
    rng: np.random.Generator,
    vary: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, side, side, planes) and targets (n, side, side, len(`TARGETS`)) of tiles drawn at random.

    Parameters
    ----------
    images : sequence of TileImage
    options : FinderOptions
    side : int
        No larger than the images [px].
    n : int
    rng : numpy.random.Generator
    vary : bool
        Turn and mirror, add sources, shift the reference, and empty masks. Differences are dropped always.
    """
    tiles = [draw_tile(images[int(rng.integers(len(images)))], options, side, rng, vary=vary) for _ in range(n)]
    return np.stack([inputs for inputs, _ in tiles]), np.stack([targets for _, targets in tiles])


def draw_tile(
    image: TileImage, options: FinderOptions, side: int, rng: np.random.Generator, *, vary: bool
) -> tuple[np.ndarray, np.ndarray]:
    """One tile, see `draw_batch`."""
    field, planes = image.field, image.field.planes
    margin = int(np.ceil(MARGIN * SIGMA * planes.seeing))
    top, left = (int(rng.integers(length - side + 1)) for length in planes.shape)
    y0, x0 = max(top - margin, 0), max(left - margin, 0)
    rows, columns = slice(y0, top + side + margin), slice(x0, left + side + margin)
    part = planes.cut(rows, columns)
    sources = field.sources[["x", "y", "flux", "snr", "kind", "real", "usable"]]
    near = sources["x"].between(x0 - 50, x0 + part.shape[1] + 50) & sources["y"].between(
        y0 - 50, y0 + part.shape[0] + 50
    )
    sources = sources[near]
    if vary and rng.random() < EXTRA:
        part, sources = _with_more(part, sources, field, (y0, x0), image.spreads[True], rng)
    if vary and rng.random() < options.shift_reference:
        part = shifted_reference(part, rng.uniform(-1, 1), rng.uniform(-1, 1))
    if rng.random() < options.drop_difference:
        part = part.without_difference()
    spread = image.spreads[part.difference is not None]
    targets = make_targets(part, sources, field.psf, corner=(y0, x0), spread=spread, min_snr=options.min_snr)
    if image.unused is not None:
        for name in ("counts", "near"):
            targets[..., TARGETS.index(name)] *= ~image.unused[rows, columns]
    if vary and rng.random() < options.drop_mask:
        part = replace(part, bad=np.zeros_like(part.bad))
    inner = (slice(top - y0, top - y0 + side), slice(left - x0, left - x0 + side))
    inputs, targets = part.inputs(spread)[inner], targets[inner]
    return turned(inputs, targets, int(rng.integers(8))) if vary else (inputs, targets)


def _with_more(
    part: Planes, sources: pd.DataFrame, field: Field, corner: tuple[int, int], spread: float, rng: np.random.Generator
) -> tuple[Planes, pd.DataFrame]:
    """Some more point sources in science image and difference, half of them beside another source."""
    height, width = part.shape
    science = part.science.copy()
    difference = None if part.difference is None else part.difference.copy()
    rows: list[dict[str, Any]] = []
    wanted = sources[sources["usable"] & (sources["flux"] > 0)]
    for _ in range(int(rng.integers(1, MOST_EXTRA + 1))):
        x, y = corner[1] + rng.uniform(0, width - 1), corner[0] + rng.uniform(0, height - 1)
        snr = float(np.exp(rng.uniform(*np.log(EXTRA_SNR))))
        hosts = [*wanted[["x", "y", "snr"]].to_numpy(float), *((row["x"], row["y"], row["snr"]) for row in rows)]
        if hosts and rng.random() < 0.5:
            host = hosts[rng.integers(len(hosts))]
            distance, angle = part.seeing * rng.uniform(*PAIR), rng.uniform(0, 2 * np.pi)
            x, y = host[0] + distance * np.cos(angle), host[1] + distance * np.sin(angle)
            snr = float(np.clip(host[2] * np.exp(rng.uniform(-0.7, 0.7)), *EXTRA_SNR))
        row, column = int(np.floor(y + 0.5)) - corner[0], int(np.floor(x + 0.5)) - corner[1]
        if not (0 <= row < height and 0 <= column < width) or part.bad[row, column]:
            continue
        stamp, y1, x1 = field.psf.stamp(x, y)
        flux = snr * float(part.noise[row, column]) * spread / np.sqrt(np.sum(stamp**2))
        if difference is not None:
            add_stamp(difference, flux * stamp, y1 - corner[0], x1 - corner[1])
        own, y1, x1 = field.science_psf.stamp(x, y)
        add_stamp(science, flux * own, y1 - corner[0], x1 - corner[1])
        rows.append({"x": x, "y": y, "flux": flux, "snr": snr, "kind": "more", "real": False, "usable": True})
    if not rows:
        return part, sources
    for plane in (science, difference):
        if plane is not None:
            plane[part.bad] = 0
    return replace(part, science=science, difference=difference), pd.concat([sources, pd.DataFrame(rows)])


def shifted_reference(planes: Planes, dx: float, dy: float, *, blur: float = 0.0) -> Planes:
    """The planes as they are with a reference shifted by (dx, dy), or its kernel wider by `blur` (standard deviation) [px].

    What was subtracted is the science image less the difference. Bad pixels are filled with 0 before.
    """
    from scipy.ndimage import binary_dilation, gaussian_filter, shift

    def moved(plane: np.ndarray) -> np.ndarray:
        return shift(plane, (dy, dx), order=3, mode="nearest") if dx or dy else plane

    reference, difference = moved(planes.reference).astype(np.float32), None
    if planes.difference is not None:
        subtracted = moved(planes.science - planes.difference)
        difference = planes.science - (gaussian_filter(subtracted, blur) if blur else subtracted).astype(np.float32)
    bad = binary_dilation(planes.bad, np.ones((3, 3)), iterations=1 + int(np.ceil(2 * blur)))
    science, reference = (np.where(bad, 0, plane) for plane in (planes.science, reference))
    difference = None if difference is None else np.where(bad, 0, difference)
    return replace(planes, science=science, reference=reference, difference=difference, bad=bad)


def make_targets(
    planes: Planes, sources: pd.DataFrame, psf: Any, *, corner: tuple[int, int], spread: float, min_snr: float
) -> np.ndarray:
    """What the network is to say of each pixel: float32 (height, width, len(`TARGETS`)).

    heat is a Gaussian of the seeing about each source, 1 at its nearest pixel; dx, dy and log_snr are those of the
    source, within one pixel of it (near = 1); footprint is 1 where its light exceeds the noise. Where counts is 0
    the heat does not train: about sources that are faint, unusable or fading, and about real stars that were moved.

    Parameters
    ----------
    planes : Planes
    sources : pandas.DataFrame
        x, y [px of the whole image], flux [ADU], snr, kind, real, usable.
    psf : object
        Of the difference, see `Field`.
    corner : tuple of int
        Row and column of the whole image that the planes begin at.
    spread : float
        As in `Planes.inputs`.
    min_snr : float
    """
    height, width = planes.shape
    found = np.zeros((height, width, len(TARGETS)), np.float32)
    heat, footprint, counts, near = (
        found[..., TARGETS.index(name)] for name in ("heat", "footprint", "counts", "near")
    )
    counts[...] = 1
    y, x = (np.arange(length, dtype=np.float32) for length in (height, width))
    wanted = ~sources["real"] & sources["usable"] & (sources["flux"] > 0) & (sources["snr"] >= min_snr)
    for source in sources[~wanted].itertuples():
        reach = planes.seeing * (STAMP_RADIUS if source.kind == "transplanted" else NEAR_FAINT)
        counts[np.hypot(y[:, None] - (source.y - corner[0]), x - (source.x - corner[1])) < reach] = 0
    best = np.full((height, width), np.inf, np.float32)
    for source in sources[wanted].itertuples():
        dy, dx = np.float32(source.y - corner[0]) - y, np.float32(source.x - corner[1]) - x
        square = dy[:, None] ** 2 + dx**2
        np.maximum(heat, np.exp(-square / (2 * (SIGMA * planes.seeing) ** 2)), out=heat)
        row, column = (int(np.floor(value + 0.5)) for value in (source.y - corner[0], source.x - corner[1]))
        if 0 <= row < height and 0 <= column < width:
            heat[row, column] = counts[row, column] = 1
        close = (np.abs(np.arange(height) - row) <= 1)[:, None] & (np.abs(np.arange(width) - column) <= 1)
        close &= square < best  # of two sources the nearer
        best[close] = square[close]
        values = (np.broadcast_to(dx, square.shape), np.broadcast_to(dy[:, None], square.shape), np.log(source.snr))
        for name, value in zip(("dx", "dy", "log_snr"), values, strict=True):
            found[..., TARGETS.index(name)][close] = value if np.isscalar(value) else value[close]
        near[close] = 1
        stamp, y0, x0 = psf.stamp(source.x, source.y)
        light = np.zeros((height, width), np.float32)
        add_stamp(light, source.flux * stamp, y0 - corner[0], x0 - corner[1])
        footprint[light > planes.noise * spread] = 1
    return found


def turned(inputs: np.ndarray, targets: np.ndarray, symmetry: int) -> tuple[np.ndarray, np.ndarray]:
    """One of the eight turns and mirrorings of a tile; the offsets turn with it."""
    dx, dy = TARGETS.index("dx"), TARGETS.index("dy")
    targets = targets.copy()
    if symmetry & 1:
        inputs, targets = inputs[:, ::-1], targets[:, ::-1]
        targets[..., dx] *= -1
    if symmetry & 2:
        inputs, targets = inputs[::-1], targets[::-1]
        targets[..., dy] *= -1
    if symmetry & 4:
        inputs, targets = inputs.transpose(1, 0, 2), targets.transpose(1, 0, 2).copy()
        targets[..., [dx, dy]] = targets[..., [dy, dx]]
    return inputs, targets
