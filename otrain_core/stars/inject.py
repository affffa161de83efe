"""Inject point sources into an image as read, before it is prepared (step `inject`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd

from otrain_core.errors import ImageError
from otrain_core.images.extraction import extract
from otrain_core.images.frames import Image, read_image, write_planes
from otrain_core.images.pixels import add_stamp
from otrain_core.io import read_json, write_table
from otrain_core.plan.pipelines import InjectOptions
from otrain_core.plan.telescopes import Detector
from otrain_core.stars.psf_model import PSFModel
from otrain_core.stars.psf_stars import Sky, measure_sky, select_stars
from otrain_core.stars.real_stars import add_real_stars
from otrain_core.stars.truth import TRUTH_COLUMNS, add_light, limits, sky_positions, usable_places

DEFAULTS = InjectOptions()
BESIDE_STAR = 3.0  # largest distance of a source beside a star [FWHM]
ANCHORED = ("galaxy", "star", "variable")  # kinds of sources that are placed beside or on sources of the image
GALAXY_SIZE = 1.35  # least half-light radius of a galaxy over that of the stars
GALAXY_PEAK = 0.65  # largest fraction of the flux of a galaxy in its brightest pixel, over that of the stars
GALAXY_SNR = 10.0
GALAXY_AXES = 3.5  # largest axis ratio of a galaxy; more elongated sources are trails and spikes


def inject_files(
    *,
    science: str | Path,
    psf: str | Path,
    record: str | Path,
    injected: str | Path,
    truth: str | Path,
    telescope: str,
    image: str,
    detector: Detector,
    wcs: str | Path | None,
    seed: int,
    options: InjectOptions,
) -> None:
    """Read a science image, its PSF model and record, and write the image with sources and their table (step `inject`).

    The random numbers of an image depend only on its name and the seed, not on other images.
    Real stars have a random stream of their own, so that they do not change the injected sources.

    Parameters
    ----------
    science : path-like
        FITS file of the image.
    psf, record : path-like
        Model and record of its PSF, see `otrain_core.stars.psf.psf_files`.
    injected, truth : path-like
        Output: the image (FITS, plane ``sci``) and the table of the sources (CSV).
    telescope, image : str
        Names, which determine the random stream together with the seed.
    detector : otrain_core.plan.telescopes.Detector
    wcs : path-like or None
        FITS header with the WCS, for images without one.
    seed : int
        Of the run.
    options : InjectOptions

    Raises
    ------
    ImageError
        See `otrain_core.images.frames.read_image`, `PSFModel.load` and `inject_sources`.
    UpstreamFailed
        An earlier step of the image failed.
    """
    values = read_json(record)  # first, because it shows whether an earlier step failed
    frame = read_image(science, name=image, detector=detector, wcs_path=wcs, record=values)
    rng = np.random.default_rng([seed, crc32(f"{telescope}/{image}".encode())])
    (own,) = rng.spawn(1)
    model, sky = PSFModel.load(psf), measure_sky(frame)
    data, table = inject_sources(frame, model, record=values, rng=rng, options=options, sky=sky)
    data, table = add_real_stars(frame, data, table, model, record=values, rng=own, options=options, sky=sky)
    write_planes(injected, {"sci": data}, frame.header.copy(strip=True))
    write_table(truth, table)


def inject_sources(
    image: Image,
    psf: PSFModel,
    *,
    record: Mapping[str, Any],
    rng: np.random.Generator,
    options: InjectOptions = DEFAULTS,
    noise: bool = True,
    sky: Sky | None = None,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Add point sources to an image, with the PSF at their positions.

    Sources of the kind "random" have uniform random positions in `grid` x `grid` cells with
    equal numbers of sources (a remainder goes to random cells); they avoid neither sources
    nor edges. Sources of the kinds "galaxy", "star" and "variable" are placed beside galaxies,
    beside stars, and exactly on stars of the image (see `find_anchors`). Each star and each
    galaxy is used at most once; sources without an anchor become "random".
    Magnitudes are uniformly distributed, as in gmadet. The counts of a source have Poisson noise,
    and the sum is limited to the saturation, as in a detector; missing pixels stay missing.

    A fraction `negative_fraction` of the sources fades: these have a negative flux in the table and
    are not added to the image. They are added to the reference before the subtraction
    (`otrain_core.stars.removed_stars.remove_stars`).

    Parameters
    ----------
    image : Image
        As read.
    psf : PSFModel
    record : mapping
        Record of `otrain_core.stars.psf.measure_psf`; ``limit_mag`` and ``zero_point`` are used.
    rng : numpy.random.Generator
    options : InjectOptions
        Magnitudes range from ``limit_mag - bright_mag`` to ``limit_mag + faint_mag``. With
        `psf_snapshots` of n > 0, the PSF at the centre of the nearest of n x n cells is used,
        as in gmadet (9 x 9).
    noise : bool
        Whether to add Poisson noise; False is for tests of the flux.
    sky : Sky, optional
        Sky of the image, if already measured.

    Returns
    -------
    data : numpy.ndarray
        float32 (height, width) [ADU].
    truth : pandas.DataFrame
        ``id``; ``x``, ``y`` [px]; ``ra``, ``dec`` [deg] (NaN without WCS); ``mag``; ``flux`` (expected
        total flux [ADU]; negative for fading sources, which are not in the image); ``kind``; ``usable``
        (see `otrain_core.stars.truth.usable_places`).

    Raises
    ------
    ImageError
        The limiting magnitude or the zero point is not known (key ``limit_mag``).
    """
    limit, zero_point = limits(image, record)
    height, width = image.shape
    n_sources = options.n_sources
    wanted = _numbers(options)
    x, y = _positions(rng, n_sources, options.grid, width, height)
    mag = rng.uniform(limit - options.bright_mag, limit + options.faint_mag, n_sources)
    kind = np.full(n_sources, "random", dtype=object)
    if any(wanted.values()):
        _move_to_anchors(x, y, kind, image=image, sky=sky, psf=psf, wanted=wanted, rng=rng)
    flux = 10 ** (0.4 * (zero_point - mag))
    fading = _fading(options, rng)
    added = np.zeros((height, width))
    for xi, yi, fi in zip(x[~fading], y[~fading], flux[~fading], strict=True):
        stamp, y0, x0 = _stamp(psf, xi, yi, options.psf_snapshots, image.shape)
        counts = fi * stamp
        if noise:
            counts = rng.poisson(counts * image.gain) / image.gain
        add_stamp(added, counts, y0, x0)
    data = add_light(image, added)
    ra, dec = sky_positions(image, x, y)
    truth = pd.DataFrame(
        {"id": np.arange(n_sources), "x": x, "y": y, "ra": ra, "dec": dec, "mag": mag, "flux": flux, "kind": kind}
    )
    truth["usable"] = usable_places(image, x, y, fwhm=psf.fwhm)
    truth.loc[fading, "flux"] *= -1
    return data, truth[TRUTH_COLUMNS]


def find_anchors(image: Image, sky: Sky | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find stars and galaxies of an image beside which sources can be injected.

    Stars are isolated, round, and have the half-light radius of the stellar locus. Galaxies
    are unblended sources that are clearly larger and less peaked. Saturated sources are excluded.

    Parameters
    ----------
    image : Image
    sky : Sky, optional
        Sky of the image, if already measured.

    Returns
    -------
    stars, galaxies : pandas.DataFrame
        x, y and size (half-light radius) [px]; empty if the sources of the image cannot be measured.
    """
    nothing = pd.DataFrame({"x": [], "y": [], "size": []}, dtype=float)
    try:
        sky = sky or measure_sky(image)
        stars = select_stars(image, sky, min_snr=GALAXY_SNR, max_ellipticity=0.3, max_stars=100_000)
    except ImageError:
        return nothing, nothing
    if len(stars.x) == 0:
        return nothing, nothing
    locus = stars.half_light
    found = pd.DataFrame({"x": stars.x, "y": stars.y, "size": locus})
    try:
        most = max(300_000, sky.data.size // 4)
        sources = extract(sky.data, 3.0, most=most, err=sky.rms, mask=sky.missing, minarea=5, deblend_cont=0.01)
    except Exception:  # sep raises a plain Exception if a buffer overflows
        return found, nothing
    sources = sources[(sources["flag"] == 0) & (sources["b"] > sources["a"] / GALAXY_AXES)]
    sources = sources[usable_places(image, sources["x"], sources["y"], fwhm=2 * locus)]
    if len(sources) == 0:
        return found, nothing
    size, peak, snr = _light(image, sky, sources["x"], sources["y"], reach=4 * locus)
    _, sharp, _ = _light(image, sky, stars.x, stars.y, reach=4 * locus)
    # Cosmic rays and spikes are sharp, and pairs of stars are wide but sharp, unlike galaxies.
    wide = (size > GALAXY_SIZE * locus) & (peak < GALAXY_PEAK * np.median(sharp)) & (snr > GALAXY_SNR)
    x, y, reach = sources["x"][wide], sources["y"][wide], np.maximum(6 * sources["a"][wide], 4 * locus)
    size, *_ = _light(image, sky, x, y, reach=reach)
    return found, pd.DataFrame({"x": x, "y": y, "size": size})


def _light(
    image: Image, sky: Sky, x: np.ndarray, y: np.ndarray, *, reach: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half-light radius [px], fraction of the flux in the brightest pixel, and S/N of sources, within `reach` [px]."""
    import sep

    reach = np.zeros(len(x)) + reach
    flux, error, _ = sep.sum_circle(sky.data, x, y, reach, err=sky.rms, gain=image.gain, mask=sky.missing, subpix=5)
    size, _ = sep.flux_radius(sky.data, x, y, reach, 0.5, normflux=flux, mask=sky.missing, subpix=5)
    row, column = (np.floor(value + 0.5).astype(int) for value in (y, x))
    padded = np.pad(sky.data, 1)
    peak = np.max([padded[row + j, column + i] for j in range(3) for i in range(3)], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(size), np.nan_to_num(peak / flux, nan=np.inf), np.nan_to_num(flux / error)


def _numbers(options: InjectOptions) -> dict[str, int]:
    """Numbers of sources of the kinds in `ANCHORED`; all others are random."""
    mix: dict[str, float] = {str(kind): share for kind, share in options.mix.items()}
    total = sum(mix.values())
    numbers = {kind: int(options.n_sources * mix.get(kind, 0.0) / total + 1e-9) for kind in ANCHORED}
    if mix.get("random", 0.0) == 0:  # the remainder must not go to "random" if its share is 0
        kind = next(kind for kind in ("star", "galaxy", "variable") if mix.get(kind, 0.0) > 0)
        numbers[kind] += options.n_sources - sum(numbers.values())
    return numbers


def _fading(options: InjectOptions, rng: np.random.Generator) -> np.ndarray:
    """Which of the sources fade, that is are not in the science image: bool (n_sources,)."""
    fading = np.zeros(options.n_sources, dtype=bool)
    n = round(options.negative_fraction * options.n_sources)
    if n:  # without fading sources, no random number is drawn and all others are unchanged
        fading[rng.permutation(options.n_sources)[:n]] = True
    return fading


def _move_to_anchors(
    x: np.ndarray,
    y: np.ndarray,
    kind: np.ndarray,
    *,
    image: Image,
    sky: Sky | None,
    psf: PSFModel,
    wanted: Mapping[str, int],
    rng: np.random.Generator,
) -> None:
    """Move some of the sources beside galaxies and stars, or onto stars; x, y and kind are changed in place.

    The distance from a galaxy is exponentially distributed with the scale of its half-light
    radius; the distance from a star is uniformly distributed up to three FWHM.
    """
    height, width = image.shape
    stars, galaxies = find_anchors(image, sky)
    order = rng.permutation(len(x))
    for name in ANCHORED:
        if name == "variable" and not wanted[name]:
            continue  # no random number is drawn for it
        anchors = galaxies if name == "galaxy" else stars
        n = min(wanted[name], len(anchors))
        chosen = anchors.iloc[rng.choice(len(anchors), n, replace=False)] if n else anchors.iloc[:0]
        if name == "star":
            stars = stars.drop(chosen.index)  # not used again for "variable"
        mine, order = order[:n], order[n:]
        away = rng.exponential(chosen["size"].to_numpy()) if name == "galaxy" else rng.uniform(0, BESIDE_STAR, n)
        away = away * {"galaxy": 1.0, "star": psf.fwhm, "variable": 0.0}[name]
        angle = rng.uniform(0, 2 * np.pi, n)
        x[mine] = np.clip(chosen["x"].to_numpy() + away * np.cos(angle), -0.5, width - 0.5)
        y[mine] = np.clip(chosen["y"].to_numpy() + away * np.sin(angle), -0.5, height - 0.5)
        kind[mine] = name


def _stamp(psf: PSFModel, x: float, y: float, snapshots: int, shape: tuple[int, int]) -> tuple[np.ndarray, int, int]:
    """Stamp of a source with the PSF at its position, or that of the nearest snapshot (`snapshots` > 0)."""
    if snapshots == 0:
        return psf.stamp(x, y)
    shift = []
    for value, side in ((x, shape[1]), (y, shape[0])):
        cell = np.clip(np.floor((value + 0.5) / side * snapshots), 0, snapshots - 1)
        # A shift by whole pixels keeps the position within the pixel.
        shift.append(int(np.floor((cell + 0.5) * side / snapshots)) - int(np.floor(value + 0.5)))
    stamp, y0, x0 = psf.stamp(x + shift[0], y + shift[1])
    return stamp, y0 - shift[1], x0 - shift[0]


def _positions(
    rng: np.random.Generator, n_sources: int, grid: int, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Random positions [px], in a random order of the cells; x ranges from -0.5 to width - 0.5, y likewise."""
    cells = np.tile(np.arange(grid * grid), n_sources // (grid * grid))
    cells = np.concatenate([cells, rng.choice(grid * grid, n_sources % (grid * grid), replace=False)])
    rng.shuffle(cells)
    x = (cells % grid + rng.random(n_sources)) * width / grid - 0.5
    y = (cells // grid + rng.random(n_sources)) * height / grid - 0.5
    return x, y
