"""Fetch a reference for a science image from a sky survey, with the service hips2fits of the CDS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from otrain_core.errors import ImageError
from otrain_core.images.detector import SETTLED
from otrain_core.images.hdus import read_fits
from otrain_core.images.wcs import image_wcs
from otrain_core.io import atomic
from otrain_core.plan.telescopes import Detector
from otrain_core.sky import answers

SERVERS = (
    "https://alasky.cds.unistra.fr/hips-image-services/hips2fits",
    "https://alaskybis.cds.unistra.fr/hips-image-services/hips2fits",
)
MAX_PIXELS = 50_000_000  # limit of the service for one answer
TILE = 4096  # side of one request [px]: 64 MiB, well below the limit; each tile is cached, so a fetch can be resumed
MARGIN = 0.05  # margin of the reference beyond each edge of the image [fraction of the side]
FINE_SCALE = 1.0  # asinh-scaled pixels are fetched at this scale or finer, made linear, then averaged [arcsec/px]
MAX_FACTOR = 8  # largest factor of this refinement
MIN_COVERED = 0.1  # smallest fraction of the field that the survey must cover
BACKGROUND, NOISE = 100.0, 10.0  # background and noise of the reference [ADU], see `survey_reference`


def survey_reference_files(
    *,
    science: str | Path,
    reference: str | Path,
    image: str,
    wcs: str | Path | None,
    hips: str,
    cache: str | Path,
    detector: Detector | None = None,
) -> None:
    """Fetch the part of a survey that covers a science image, and write it as the reference (FITS).

    Parameters
    ----------
    science : path-like
    reference : path-like
        File to write.
    image : str
        Name of the image, for errors.
    wcs : path-like or None
        FITS header with the WCS, for an image without one.
    hips, cache
        See `survey_reference`.
    detector : Detector, optional
        Names the extension of the image.

    Raises
    ------
    ImageError
        The image has no celestial WCS, or the survey does not cover the field.
    ConfigError
        The service does not answer.
    """
    data, header = read_fits(science, image=image, extension=detector.extension if detector else None)
    solution = image_wcs(header, wcs, image=image)
    if solution is None:
        raise ImageError(
            image,
            "WCS",
            "a reference from a survey needs a celestial WCS; name a WCS file in the column wcs of the sheet",
        )
    pixels, header = survey_reference(hips, solution, data.shape, image=image, cache=cache)
    with atomic(reference) as temporary:
        fits.PrimaryHDU(pixels, header=header).writeto(temporary, overwrite=True)


def survey_reference(
    hips: str, science_wcs: Any, shape: tuple[int, int], *, image: str, cache: str | Path
) -> tuple[np.ndarray, fits.Header]:
    """Image of a survey that covers a science image, with its orientation and pixel scale, but without distortion.

    Parameters
    ----------
    hips : str
        Identifier of the survey, such as ``CDS/P/PanSTARRS/DR1/r``.
    science_wcs : astropy.wcs.WCS
    shape : tuple of int
        (height, width) of the science image.
    image : str
        Name of the image, for errors.
    cache : path-like
        Folder of the cached answers of the service.

    Returns
    -------
    data : numpy.ndarray
        float32 (height, width) [ADU]; NaN where the survey has no data.
    header : astropy.io.fits.Header
        Tangential WCS, FILTER, and the assumptions below.

    Raises
    ------
    ImageError
        The survey does not cover the field.
    ConfigError
        The service does not answer.

    Notes
    -----
    A HiPS has no information on gain, noise and saturation. As in STDPipe, the image is scaled to a background of
    100 ADU with a noise of 10 ADU, which corresponds to a gain of 1 without read noise; the true noise of stars is
    lower. SATURATE is the highest value in the image, as saturated cores are missing (NaN) or flat in the surveys.
    The subtraction fits the photometric scale.

    The Pan-STARRS bands other than g are stored as asinh magnitudes. These are converted to flux before pixels are
    averaged.
    """
    wcs, (height, width), scale = reference_grid(science_wcs, shape, image=image)
    factor = min(int(np.ceil(scale / FINE_SCALE)), MAX_FACTOR) if is_asinh(hips) else 1
    data = np.full((height, width), np.nan, np.float32)
    for rows, columns in tiles(height, width, factor=factor):
        part = _fetch(hips, _part(wcs, rows, columns, factor), image=image, cache=cache)
        if is_asinh(hips):
            part = linear(part)
        n = factor
        part = part.reshape(part.shape[0] // n, n, part.shape[1] // n, n).mean(axis=(1, 3)) if n > 1 else part
        data[rows, columns] = np.where(np.isfinite(part), part, np.nan)
    return _normalise(data, wcs, hips=hips, image=image)


def reference_grid(science_wcs: Any, shape: tuple[int, int], *, image: str) -> tuple[Any, tuple[int, int], float]:
    """Grid without distortion that covers a science image with a margin, at its pixel scale.

    Returns
    -------
    wcs : astropy.wcs.WCS
        Gnomonic, ICRS, with the orientation of the science image.
    shape : tuple of int
        (height, width).
    scale : float
        Pixel scale [arcsec/px].

    Raises
    ------
    ImageError
        The WCS is not celestial, or has no position for the edges of the image.
    """
    from astropy.coordinates import SkyCoord
    from astropy.wcs import WCS

    height, width = shape
    along_x, along_y = np.linspace(-0.5, width - 0.5, 33), np.linspace(-0.5, height - 0.5, 33)
    edges = [(along_x, np.full(33, y)) for y in along_y[[0, -1]]] + [
        (np.full(33, x), along_y) for x in along_x[[0, -1]]
    ]
    x, y = (np.concatenate(part) for part in zip(*edges, strict=True))
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    steps = middle + np.array([[0, 0], [1, 0], [0, 1]])
    outline, near = science_wcs.pixel_to_world(x, y), science_wcs.pixel_to_world(*steps.T)
    if not isinstance(near, SkyCoord) or not np.isfinite(outline.data.lon.deg + outline.data.lat.deg).all():
        raise ImageError(image, "WCS", "the edges of the image have no position on the sky")
    outline, near = outline.icrs, near.icrs
    # Offsets on the sky of one pixel along x and along y, at the centre of the image.
    east, north = near[0].spherical_offsets_to(near[1:])
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [near[0].ra.deg, near[0].dec.deg]
    wcs.wcs.crpix = [1, 1]
    wcs.wcs.cd = np.array([east.deg, north.deg])
    wcs.wcs.set()
    px, py = wcs.wcs_world2pix(outline.ra.deg, outline.dec.deg, 0)
    low = np.floor([px.min() - MARGIN * width, py.min() - MARGIN * height]).astype(int)
    high = np.ceil([px.max() + MARGIN * width, py.max() + MARGIN * height]).astype(int)
    wcs.wcs.crpix = 1.0 - low
    wcs.wcs.set()
    size = high - low + 1
    scale = float(np.sqrt(abs(np.linalg.det(wcs.wcs.cd))) * 3600)
    return wcs, (int(size[1]), int(size[0])), scale


def tiles(height: int, width: int, *, factor: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of tiles of a grid whose side, after refinement by `factor`, is at most `TILE` px."""
    side = min(TILE, int(np.sqrt(MAX_PIXELS))) // factor
    for bottom in range(0, height, side):
        for left in range(0, width, side):
            yield slice(bottom, min(bottom + side, height)), slice(left, min(left + side, width))


def _part(wcs: Any, rows: slice, columns: slice, factor: int) -> Any:
    """WCS of a tile of a grid, refined by `factor`."""
    part = wcs.deepcopy()
    corner = np.array([columns.start, rows.start])
    part.wcs.crpix = (wcs.wcs.crpix - corner - 0.5) * factor + 0.5
    part.wcs.cd = wcs.wcs.cd / factor
    part.wcs.set()
    part.pixel_shape = ((columns.stop - columns.start) * factor, (rows.stop - rows.start) * factor)
    return part


def is_asinh(hips: str) -> bool:
    """Whether a survey is stored as asinh magnitudes: Pan-STARRS, except its g band (as in STDPipe)."""
    return "PanSTARRS" in hips and not hips.endswith("PanSTARRS/DR1/g")


def linear(data: np.ndarray) -> np.ndarray:
    """Flux from the asinh magnitudes of Pan-STARRS: ``10**(0.4 x) - 10**(-0.4 x)`` (Waters et al. 2020, ApJS 251, 4)."""
    x = data.astype(np.float64) * (0.4 * np.log(10))
    return np.exp(x) - np.exp(-x)


def _fetch(hips: str, wcs: Any, *, image: str, cache: str | Path) -> np.ndarray:
    """Pixels of one tile of a survey, float32; NaN where it has no data."""
    grid = {key: value for key, value in wcs.to_header().items() if key not in ("DATE-REF", "MJDREF")}
    width, height = wcs.pixel_shape
    parameters = {"hips": hips, "width": width, "height": height, "ra": round(grid["CRVAL1"], 6)}
    parameters |= {"dec": round(grid["CRVAL2"], 6)}

    def fetch(attempt: int, path: Path) -> None:
        from astroquery.hips2fits import hips2fitsClass

        service = hips2fitsClass()
        service.server, service.timeout = SERVERS[attempt % len(SERVERS)], answers.TIMEOUT
        hdus = service.query_with_wcs(hips, wcs, format="fits")
        data = hdus[0].data
        if data is None or data.shape != (height, width):
            found = f"{data.shape[::-1]}" if data is not None else "no data"
            raise ValueError(f"an image of {width} x {height} px was requested, found {found}")
        fits.PrimaryHDU(data.astype(np.float32)).writeto(path, overwrite=True)

    path = answers.answer(
        fetch,
        service="hips2fits",
        parameters=parameters | {"grid": {key: str(value) for key, value in grid.items()}},
        cache=cache,
        suffix=".fits",
    )
    data = fits.getdata(path).astype(np.float32)
    data[~np.isfinite(data)] = np.nan
    return data


def _normalise(data: np.ndarray, wcs: Any, *, hips: str, image: str) -> tuple[np.ndarray, fits.Header]:
    """Scale an image to the background and noise of the reference, and make its header."""
    from astropy.stats import mad_std

    covered = np.isfinite(data)
    if covered.mean() < MIN_COVERED:
        raise ImageError(image, "reference", f"the survey {hips} covers only {100 * covered.mean():.0f} % of the field")
    middle, spread = float(np.median(data[covered])), float(mad_std(data[covered]))
    if spread == 0:
        raise ImageError(
            image, "reference", f"the survey {hips} has no noise in the field: most pixels have the same value"
        )
    data = ((data - middle) * (NOISE / spread) + BACKGROUND).astype(np.float32)
    header = wcs.to_header()
    header["FILTER"] = (hips.rsplit("/", 1)[-1], "last part of the name of the survey")
    header["HIPS"] = (hips, "survey, by hips2fits (CDS)")
    header["ASINH"] = (is_asinh(hips), "asinh magnitudes were made linear")
    header["NORMAL"] = (NOISE / spread, "values of the survey were multiplied by this")
    header["GAIN"] = (BACKGROUND / NOISE**2, "[electron/ADU] assumed")
    header["RDNOISE"] = (0.0, "[electron] assumed")
    header[SETTLED] = "adu"
    header["SATURATE"] = (float(np.nanmax(data)), "[ADU] assumed: the highest value")
    return data, header
