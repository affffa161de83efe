"""Tiles of images for the training of the detector network: random draws, augmentation, and targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from otrain_core.candidates.measure import SIGMA
from otrain_core.candidates.planes import Field, Planes
from otrain_core.images.pixels import add_stamp
from otrain_core.plan.finder import FinderOptions
from otrain_core.sky.artefacts import ELECTRONS_PER_UM, PIXEL_UM, add_cosmics, add_hot_pixels
from otrain_core.stars.kinds import STAMP_RADIUS

TARGETS = ("heat", "dx", "dy", "log_snr", "footprint", "counts", "near")
NEAR_FAINT = 1.0  # pixels this close to a source that is not used for training are not used either [FWHM]
MARGIN = 4.0  # margin of a tile for the matched filter [standard deviations]
MOST_EXTRA = 3  # largest number of sources added to a tile
EXTRA_SNR = (4.0, 60.0)  # S/N of added sources
PAIR = (0.7, 2.0)  # half of the added sources have this distance from another source [FWHM]
PAIR_RATIO = 0.4  # largest difference of the S/N in such a pair [natural logarithm]
MOST_ARTEFACTS = 3  # largest number of cosmic rays, and of hot pixels, added to a tile
COSMIC_SNR = (3.0, 100.0)  # S/N of a pixel in the track of a cosmic ray
HEAT_REACH = 4.0  # radius beyond which the heat of a source is 0 [standard deviations]


class Source(NamedTuple):
    """Properties of a source that are needed for the targets of a tile.

    Attributes
    ----------
    x, y : float
        Position [px of the whole image].
    snr : float
        Signal-to-noise ratio.
    trains : bool
        Whether the source is used for training: it is injected, usable and not fading.
    blank : float
        If the source is not used for training, pixels this close to it are not used either [FWHM].
    light : numpy.ndarray
        Stamp of the source in the difference [ADU].
    top, left : int
        Row and column of the whole image of the first pixel of `light`.
    """

    x: float
    y: float
    snr: float
    trains: bool
    blank: float
    light: np.ndarray
    top: int
    left: int


def sources_of(field: Field) -> list[Source]:
    """Sources of an image."""
    found = []
    for row in field.sources.itertuples():
        stamp, top, left = field.psf.stamp(row.x, row.y)
        trains = bool(not row.real and row.usable and row.flux > 0)
        blank = STAMP_RADIUS if row.kind == "transplanted" else NEAR_FAINT
        found.append(
            Source(row.x, row.y, row.snr, trains, blank, (row.flux * stamp).astype(np.float32), int(top), int(left))
        )
    return found


@dataclass(frozen=True)
class TileImage:
    """An image from which tiles are drawn, with values that are computed only once."""

    field: Field

    @cached_property
    def spreads(self) -> dict[bool, float]:
        """Spread of the image with (True) and without (False) its difference, see `Planes.spread`."""
        planes = self.field.planes
        return {True: planes.spread(), False: planes.without_difference().spread()}

    @cached_property
    def sources(self) -> list[Source]:
        return sources_of(self.field)

    def near(self, rows: slice, columns: slice) -> list[Source]:
        """Sources that may contribute light to a part of the image."""
        return [
            one
            for one in self.sources
            if rows.start - len(one.light) <= one.y <= rows.stop + len(one.light)
            and columns.start - len(one.light) <= one.x <= columns.stop + len(one.light)
        ]


def draw_batch(
    images: Sequence[TileImage],
    *,
    options: FinderOptions,
    side: int,
    n: int,
    rng: np.random.Generator,
    vary: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw random tiles: inputs (n, side, side, planes) and targets (n, side, side, len(`TARGETS`)).

    Parameters
    ----------
    images : sequence of TileImage
    options : FinderOptions
    side : int
        Side of the tiles, at most that of the images [px].
    n : int
        Number of tiles.
    rng : numpy.random.Generator
    vary : bool
        Rotate and mirror tiles, add sources and artefacts, shift the reference, and empty masks. Differences are also
        dropped if this is False.
    """
    tiles = [draw_tile(images[int(rng.integers(len(images)))], options, side, rng, vary=vary) for _ in range(n)]
    return np.stack([inputs for inputs, _ in tiles]), np.stack([targets for _, targets in tiles])


def draw_tile(
    image: TileImage, options: FinderOptions, side: int, rng: np.random.Generator, *, vary: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one tile, see `draw_batch`."""
    field, planes = image.field, image.field.planes
    margin = int(np.ceil(MARGIN * SIGMA * planes.seeing))
    top, left = (int(rng.integers(length - side + 1)) for length in planes.shape)
    y0, x0 = max(top - margin, 0), max(left - margin, 0)
    rows, columns = slice(y0, top + side + margin), slice(x0, left + side + margin)
    part = planes.cut(rows, columns)
    sources = image.near(rows, columns)
    if vary and rng.random() < options.add_sources:
        part, sources = _with_more(part, sources, field, (y0, x0), image.spreads[True], rng)
    if vary and rng.random() < options.add_artefacts:
        part = _with_artefacts(part, field, (y0, x0), rng)
    if vary and rng.random() < options.shift_reference:
        part = shifted_reference(part, rng.uniform(-1, 1), rng.uniform(-1, 1))
    if rng.random() < options.drop_difference:
        part = part.without_difference()
    spread = image.spreads[part.difference is not None]
    targets = make_targets(part, sources, corner=(y0, x0), spread=spread, options=options)
    if field.unused is not None:
        for name in ("counts", "near"):
            targets[..., TARGETS.index(name)] *= ~field.unused[rows, columns]
    if vary and rng.random() < options.drop_mask:
        part = replace(part, bad=np.zeros_like(part.bad))
    inner = (slice(top - y0, top - y0 + side), slice(left - x0, left - x0 + side))
    inputs, targets = part.inputs(spread)[inner], targets[inner]
    return turned(inputs, targets, int(rng.integers(8))) if vary else (inputs, targets)


def _with_more(
    part: Planes, sources: list[Source], field: Field, corner: tuple[int, int], spread: float, rng: np.random.Generator
) -> tuple[Planes, list[Source]]:
    """Add point sources to science image and difference, half of them next to another source."""
    height, width = part.shape
    science = part.science.copy()
    difference = None if part.difference is None else part.difference.copy()
    added: list[Source] = []
    for _ in range(int(rng.integers(1, MOST_EXTRA + 1))):
        x, y = corner[1] + rng.uniform(0, width - 1), corner[0] + rng.uniform(0, height - 1)
        snr = float(np.exp(rng.uniform(*np.log(EXTRA_SNR))))
        hosts = [one for one in (*sources, *added) if one.trains]
        if hosts and rng.random() < 0.5:
            host = hosts[rng.integers(len(hosts))]
            distance, angle = part.seeing * rng.uniform(*PAIR), rng.uniform(0, 2 * np.pi)
            x, y = host.x + distance * np.cos(angle), host.y + distance * np.sin(angle)
            snr = float(np.clip(host.snr * np.exp(rng.uniform(-PAIR_RATIO, PAIR_RATIO)), *EXTRA_SNR))
        row, column = int(np.floor(y + 0.5)) - corner[0], int(np.floor(x + 0.5)) - corner[1]
        if not (0 <= row < height and 0 <= column < width) or part.bad[row, column]:
            continue
        stamp, top, left = field.psf.stamp(x, y)
        flux = snr * float(part.noise[row, column]) * spread / np.sqrt(np.sum(stamp**2))
        light = (flux * stamp).astype(np.float32)
        if difference is not None:
            add_stamp(difference, light, top - corner[0], left - corner[1])
        science_stamp, y1, x1 = field.science_psf.stamp(x, y)
        add_stamp(science, flux * science_stamp, y1 - corner[0], x1 - corner[1])
        added.append(Source(x, y, snr, True, NEAR_FAINT, light, int(top), int(left)))
    if not added:
        return part, sources
    for plane in (science, difference):
        if plane is not None:
            plane[part.bad] = 0
    return replace(part, science=science, difference=difference), [*sources, *added]


def _with_artefacts(part: Planes, field: Field, corner: tuple[int, int], rng: np.random.Generator) -> Planes:
    """Add cosmic rays and hot pixels to science image and difference; bad pixels are not changed."""
    artefacts, noise = np.zeros(part.shape), float(np.median(part.noise))
    for _ in range(int(rng.integers(MOST_ARTEFACTS + 1))):
        brightness = np.exp(rng.uniform(*np.log(COSMIC_SNR)))
        add_cosmics(artefacts, rng, n=1, gain=ELECTRONS_PER_UM * PIXEL_UM / (brightness * noise))
    add_hot_pixels(artefacts, rng, n=int(rng.integers(MOST_ARTEFACTS + 1)), noise=noise)
    seen = field.psf.convolved(artefacts, corner) if hasattr(field.psf, "convolved") else artefacts
    science = np.where(part.bad, 0, part.science + artefacts).astype(np.float32)
    difference = part.difference
    if difference is not None:
        difference = np.where(part.bad, 0, difference + seen).astype(np.float32)
    return replace(part, science=science, difference=difference)


def shifted_reference(planes: Planes, dx: float, dy: float, *, blur: float = 0.0) -> Planes:
    """Planes for a reference shifted by (dx, dy), with a subtraction kernel wider by `blur` (standard deviation) [px].

    The subtracted image is the science image minus the difference. Bad pixels must be 0.
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
    planes: Planes, sources: Sequence[Source], *, corner: tuple[int, int], spread: float, options: FinderOptions
) -> np.ndarray:
    """Make the targets of the network for each pixel: float32 (height, width, len(`TARGETS`)).

    heat is a Gaussian around each source, narrower than the seeing by the factor ``heat_width``, and 1 at the pixel of the
    source. dx, dy and log_snr are those of the source in the 3 x 3 pixels around it (near = 1). footprint is 1 where the
    light of a source exceeds the noise. Heat and footprint are not trained where counts is 0, which is around sources
    below ``min_snr``, unusable or fading sources, and transplanted real stars.

    Parameters
    ----------
    planes : Planes
    sources : sequence of Source
    corner : tuple of int
        Row and column of the whole image at which the planes begin.
    spread : float
        As for `Planes.inputs`.
    options : FinderOptions
    """
    found = np.zeros((*planes.shape, len(TARGETS)), np.float32)
    heat, footprint, counts = (found[..., TARGETS.index(name)] for name in ("heat", "footprint", "counts"))
    counts[...] = 1
    wanted = [one.trains and one.snr >= options.min_snr for one in sources]
    for one, is_wanted in zip(sources, wanted, strict=True):
        if not is_wanted:
            reach = planes.seeing * one.blank
            box, dx, dy = _about(one, corner, planes.shape, int(np.ceil(reach)))
            counts[box][np.hypot(dy, dx) < reach] = 0
    sigma, best = SIGMA * options.heat_width * planes.seeing, np.full(planes.shape, np.inf, np.float32)
    for one, is_wanted in zip(sources, wanted, strict=True):
        if not is_wanted:
            continue
        box, dx, dy = _about(one, corner, planes.shape, int(np.ceil(HEAT_REACH * sigma)))
        np.maximum(heat[box], np.exp(-(dx**2 + dy**2) / (2 * sigma**2)), out=heat[box])
        box, _, _ = _about(one, corner, planes.shape, 0)
        heat[box] = counts[box] = 1
        box, dx, dy = _about(one, corner, planes.shape, 1)
        closer = dx**2 + dy**2 < best[box]  # the nearer of two sources
        best[box] = np.where(closer, dx**2 + dy**2, best[box])
        for name, value in (("dx", dx), ("dy", dy), ("log_snr", np.log(one.snr)), ("near", 1)):
            plane = found[(*box, TARGETS.index(name))]
            plane[...] = np.where(closer, value, plane)
        light = np.zeros_like(heat)
        add_stamp(light, one.light, one.top - corner[0], one.left - corner[1])
        footprint[light > planes.noise * spread] = 1
    return found


def _about(
    one: Source, corner: tuple[int, int], shape: tuple[int, int], reach: int
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """Box of pixels up to `reach` rows and columns from a source, and the offsets dx (1, n) and dy (n, 1) to the source."""
    y, x = one.y - corner[0], one.x - corner[1]
    first = [int(np.floor(value + 0.5)) - reach for value in (y, x)]
    rows, columns = (
        slice(min(max(low, 0), length), max(min(low + 2 * reach + 1, length), 0))
        for low, length in zip(first, shape, strict=True)
    )
    dy, dx = (
        np.float32(value) - np.arange(part.start, max(part.stop, part.start), dtype=np.float32)
        for value, part in ((y, rows), (x, columns))
    )
    return (rows, columns), dx[None], dy[:, None]


def turned(inputs: np.ndarray, targets: np.ndarray, symmetry: int) -> tuple[np.ndarray, np.ndarray]:
    """Apply one of the eight symmetries of the square to a tile, and to the offsets in its targets."""
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
