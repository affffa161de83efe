"""Point sources added to an image as it came from the camera, before any cleaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.errors import ConfigError, ImageError
from otrain_core.images.frames import Image
from otrain_core.images.pixels import add_stamp, any_near, nearest_pixel
from otrain_core.stars.kinds import INJECTED_KINDS
from otrain_core.stars.psf_model import PSFModel
from otrain_core.stars.psf_stars import Sky, measure_sky, select_stars

TRUTH_COLUMNS = ["id", "x", "y", "ra", "dec", "mag", "flux", "kind", "usable"]

BESIDE_STAR = 3.0  # sources beside a star stand within this of it [FWHM]
GALAXY_SIZE = 1.35  # least half-light radius of a galaxy over that of the stars
GALAXY_PEAK = 0.65  # largest share of its flux in the brightest pixel, over that of the stars
GALAXY_SNR = 10.0
GALAXY_AXES = 3.5  # longer things are trails and spikes
USABLE_REACH = 1.5  # a place is usable with no missing or saturated pixel this near [FWHM]
NEAR_SATURATION = 0.9  # of the saturation level: no longer trusted


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
    mix: Mapping[str, float] | None = None,
    psf_snapshots: int = 0,
    noise: bool = True,
    sky: Sky | None = None,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Add point sources with the PSF of their place.

    Of the kind "random": the field is cut into `grid` x `grid` cells; every cell gets its
    share of the sources (what does not divide goes to cells drawn at random), at uniform
    random positions that avoid neither sources nor edges. Of the kinds "galaxy" and "star":
    beside galaxies and on or beside stars found in the image (see `find_anchors`), each used
    once at most; what an image has too few anchors for goes to "random". Magnitudes are
    uniform, as in gmadet. The photons of a source follow Poisson's law, and the sum stops at
    saturation as on a detector; a pixel without value stays without.

    Parameters
    ----------
    image : Image
    psf : PSFModel
    record : mapping
        Record of `otrain_core.stars.psf.measure_psf`; ``limit_mag`` and ``zero_point`` are used.
    rng : numpy.random.Generator
    n_sources, grid : int
    bright_mag, faint_mag : float
        Magnitudes run from ``limit_mag - bright_mag`` to ``limit_mag + faint_mag``.
    mix : mapping, optional
        Shares of the kinds "random", "galaxy" and "star" (default: random alone).
    psf_snapshots : int
        The PSF at the centre of the nearest of so many x so many cells is injected, as in
        gmadet, which has 9 x 9 (0: the PSF of the source's own place).
    noise : bool
        Without it the expected counts are added, for tests of the flux.
    sky : Sky, optional
        Of the image, where it is measured already.

    Returns
    -------
    data : numpy.ndarray
        float32 (height, width) [ADU].
    truth : pandas.DataFrame
        ``id``, ``x``, ``y`` [px], ``ra``, ``dec`` [deg] (NaN without WCS), ``mag``, ``flux``
        (expected, whole source [ADU]), ``kind`` and ``usable`` (see `usable_places`).

    Raises
    ------
    ImageError
        The limit is not known (key ``limit_mag``).
    ConfigError
        The range of magnitudes is empty, or the mix has an unknown kind or no positive share.
    """
    limit, zero_point = limits(image, record)
    if bright_mag + faint_mag < 0:
        raise ConfigError(
            f"inject: bright_mag {bright_mag:g} and faint_mag {faint_mag:g} leave no magnitude between them"
        )
    height, width = image.shape
    wanted = _numbers(mix or {"random": 1.0}, n_sources)
    x, y = _positions(rng, n_sources, grid, width, height)
    mag = rng.uniform(limit - bright_mag, limit + faint_mag, n_sources)
    kind = np.full(n_sources, "random", dtype=object)
    if wanted["galaxy"] or wanted["star"]:
        _move_to_anchors(x, y, kind, image=image, sky=sky, psf=psf, wanted=wanted, rng=rng)
    flux = 10 ** (0.4 * (zero_point - mag))
    added = np.zeros((height, width))
    for xi, yi, fi in zip(x, y, flux, strict=True):
        stamp, y0, x0 = _stamp(psf, xi, yi, psf_snapshots, image.shape)
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
    return data, truth[TRUTH_COLUMNS]


def limits(image: Image, record: Mapping[str, Any]) -> tuple[float, float]:
    """5-sigma limit and zero point of the record of a PSF [mag].

    Raises
    ------
    ImageError
        One of them is not known (key ``limit_mag``).
    """
    limit, zero_point = record.get("limit_mag"), record.get("zero_point")
    if limit is None or zero_point is None or not np.isfinite([limit, zero_point]).all():
        raise ImageError(image.name, "limit_mag", "the record of the PSF has no finite limit_mag and zero_point")
    return float(limit), float(zero_point)


def add_light(image: Image, added: np.ndarray, data: np.ndarray | None = None) -> np.ndarray:
    """Sum of the data (default: the image's) and light [ADU], float32, that stops at saturation."""
    total = (image.data if data is None else data) + added
    if np.isfinite(image.saturation):
        # A pixel that stood above the limit before keeps its value: the camera gave it.
        total = np.minimum(total, np.fmax(image.data, image.saturation))
    return total.astype(np.float32)


def sky_positions(image: Image, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ra, dec of positions [deg], NaN without WCS."""
    if image.wcs is None or len(x) == 0:
        return np.full(len(x), np.nan), np.full(len(x), np.nan)
    ra, dec = image.wcs.all_pix2world(x, y, 0)
    return np.asarray(ra) % 360.0, np.asarray(dec)


def usable_places(image: Image, x: np.ndarray, y: np.ndarray, *, fwhm: float) -> np.ndarray:
    """Whether no pixel within 1.5 FWHM is missing or (nearly) saturated in the image as it came.

    Parameters
    ----------
    image : Image
    x, y : numpy.ndarray
        (n,) [px].
    fwhm : float
        [px].

    Returns
    -------
    numpy.ndarray
        (n,) bool.
    """
    bad = ~np.isfinite(image.data) | (image.data >= NEAR_SATURATION * image.saturation)
    column = np.clip(nearest_pixel(x), 0, bad.shape[1] - 1)
    row = np.clip(nearest_pixel(y), 0, bad.shape[0] - 1)
    # What lies outside of the image is missing too.
    return ~any_near(np.pad(bad, 1, constant_values=True), column + 1, row + 1, USABLE_REACH * fwhm)


def find_anchors(image: Image, sky: Sky | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Stars and galaxies of an image beside which sources can be injected.

    Stars are isolated, round and on the locus of the stars in half-light radius; galaxies
    are single sources clearly larger than it, with a lower peak. What is saturated is neither.

    Returns
    -------
    stars, galaxies : pandas.DataFrame
        x, y and size (half-light radius) [px].
    """
    import sep

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
        sources = sep.extract(sky.data, 3.0, err=sky.rms, mask=sky.missing, minarea=5, deblend_cont=0.01)
    except Exception:  # sep raises a bare Exception when its buffers overflow
        return found, nothing
    sources = sources[(sources["flag"] == 0) & (sources["b"] > sources["a"] / GALAXY_AXES)]
    sources = sources[usable_places(image, sources["x"], sources["y"], fwhm=2 * locus)]
    if len(sources) == 0:
        return found, nothing
    size, peak, snr = _light(image, sky, sources["x"], sources["y"], reach=4 * locus)
    _, sharp, _ = _light(image, sky, stars.x, stars.y, reach=4 * locus)
    # Hits and spikes are sharp, pairs of stars wide and sharp: a galaxy is neither.
    wide = (size > GALAXY_SIZE * locus) & (peak < GALAXY_PEAK * np.median(sharp)) & (snr > GALAXY_SNR)
    x, y, reach = sources["x"][wide], sources["y"][wide], np.maximum(6 * sources["a"][wide], 4 * locus)
    size, *_ = _light(image, sky, x, y, reach=reach)
    return found, pd.DataFrame({"x": x, "y": y, "size": size})


def _light(
    image: Image, sky: Sky, x: np.ndarray, y: np.ndarray, *, reach: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half-light radius [px], share of the flux in the brightest pixel, and S/N of sources within `reach` [px]."""
    import sep

    reach = np.zeros(len(x)) + reach
    flux, error, _ = sep.sum_circle(sky.data, x, y, reach, err=sky.rms, gain=image.gain, mask=sky.missing, subpix=5)
    size, _ = sep.flux_radius(sky.data, x, y, reach, 0.5, normflux=flux, mask=sky.missing, subpix=5)
    row, column = (np.floor(value + 0.5).astype(int) for value in (y, x))
    padded = np.pad(sky.data, 1)
    peak = np.max([padded[row + j, column + i] for j in range(3) for i in range(3)], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(size), np.nan_to_num(peak / flux, nan=np.inf), np.nan_to_num(flux / error)


def _numbers(mix: Mapping[str, float], n_sources: int) -> dict[str, int]:
    """How many sources of each kind; what does not divide is random."""
    unknown = sorted(set(mix) - set(INJECTED_KINDS))
    total = sum(mix.values())
    if unknown or not total > 0 or min(mix.values()) < 0:
        raise ConfigError(f"inject.mix: shares of {', '.join(INJECTED_KINDS)} are needed, found {dict(mix)}")
    numbers = {kind: int(n_sources * mix.get(kind, 0.0) / total + 1e-9) for kind in ("galaxy", "star")}
    if mix.get("random", 0.0) == 0:  # nothing is left over for a kind without a share
        kind = "star" if mix.get("star", 0.0) > 0 else "galaxy"
        numbers[kind] += n_sources - sum(numbers.values())
    return numbers | {"random": n_sources - sum(numbers.values())}


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
    """Set some of the sources beside galaxies and stars: changes x, y and kind in place.

    Beside a galaxy the distance follows an exponential law of the scale of its half-light
    radius; beside a star it is uniform up to three FWHM.
    """
    height, width = image.shape
    stars, galaxies = find_anchors(image, sky)
    order = rng.permutation(len(x))
    for name, anchors in (("galaxy", galaxies), ("star", stars)):
        n = min(wanted[name], len(anchors))
        chosen = anchors.iloc[rng.choice(len(anchors), n, replace=False)] if n else anchors.iloc[:0]
        mine, order = order[:n], order[n:]
        away = rng.exponential(chosen["size"].to_numpy()) if name == "galaxy" else rng.uniform(0, BESIDE_STAR, n)
        away = away * (1.0 if name == "galaxy" else psf.fwhm)
        angle = rng.uniform(0, 2 * np.pi, n)
        x[mine] = np.clip(chosen["x"].to_numpy() + away * np.cos(angle), -0.5, width - 0.5)
        y[mine] = np.clip(chosen["y"].to_numpy() + away * np.sin(angle), -0.5, height - 0.5)
        kind[mine] = name


def _stamp(psf: PSFModel, x: float, y: float, snapshots: int, shape: tuple[int, int]) -> tuple[np.ndarray, int, int]:
    """Stamp of a source with the PSF of its place, or of the nearest of the snapshots."""
    if snapshots == 0:
        return psf.stamp(x, y)
    shift = []
    for value, side in ((x, shape[1]), (y, shape[0])):
        cell = np.clip(np.floor((value + 0.5) / side * snapshots), 0, snapshots - 1)
        # A whole number of pixels: the source keeps its place within its pixel.
        shift.append(int(np.floor((cell + 0.5) * side / snapshots)) - int(np.floor(value + 0.5)))
    stamp, y0, x0 = psf.stamp(x + shift[0], y + shift[1])
    return stamp, y0 - shift[1], x0 - shift[0]


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
