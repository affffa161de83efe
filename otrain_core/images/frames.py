"""Images with their pixels, header values and WCS, checked when they are read; files of image planes."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from otrain_core.errors import ImageError, first_line
from otrain_core.images.detector import SETTLED, mark_settled, settle
from otrain_core.images.fill import check_mosaic, fill_values
from otrain_core.images.hdus import read_fits
from otrain_core.images.keywords import exposure, header_scale, numbers, parse_number, start_time, text
from otrain_core.images.wcs import image_wcs, wcs_scale
from otrain_core.io import atomic, raise_if_failed, truncation_told

if TYPE_CHECKING:
    from otrain_core.plan.telescopes import Detector

logger = logging.getLogger(__name__)

# Bits of a mask (uint8). A masked pixel is never set to 0: its difference is NaN.
MASK_MISSING = 1  # NaN, or outside the image
MASK_SATURATED = 2
MASK_COSMIC = 4
MASK_BAD = 8  # hot pixel, bad column
MASK_REFERENCE = 16  # missing, saturated or bad in the aligned reference

MOST_SCALE = 1.5  # largest accepted factor between the pixel scales of the WCS and of the telescope


@dataclass
class Image:
    """One CCD image with the quantities that the steps need.

    Attributes
    ----------
    name : str
        Name in the sheet, used in error messages.
    data : numpy.ndarray
        float32 (height, width) [ADU]; NaN where a pixel is missing.
    header : astropy.io.fits.Header
        The header as read.
    wcs : astropy.wcs.WCS or None
        Celestial WCS, or None.
    gain, read_noise, saturation : float
        [electron/ADU], [electron] (0 if unknown), [ADU] (infinite if unknown).
    pixel_scale : float
        [arcsec/px].
    filter, time : str
        Name of the filter and start of the exposure (ISO 8601, UTC); '' if unknown.
    zero_point : float
        Magnitude of 1 ADU, NaN if unknown.
    notes : tuple of str
        Warnings for the user: assumptions, and values that contradict the noise of the image.
    """

    name: str
    data: np.ndarray
    header: fits.Header
    wcs: Any = None
    gain: float = 1.0
    read_noise: float = 0.0
    saturation: float = np.inf
    pixel_scale: float = 1.0
    filter: str = ""
    time: str = ""
    zero_point: float = np.nan
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        return self.data.shape


def read_image(
    path: str | Path | Image,
    *,
    name: str,
    detector: Detector | None = None,
    wcs_path: str | Path | None = None,
    record: Mapping[str, Any] | None = None,
    check: bool = True,
    locate: bool = True,
) -> Image:
    """Read an image and determine its gain, read noise, saturation and pixel scale.

    Values of the header (`otrain_core.images.keywords.KEYWORDS`) take precedence over those of the telescope, or the
    reverse if ``detector.wins`` is ``config``. The pixel scale is that of the WCS, else that of the telescope, else that
    of `header_scale`. Pixels are converted to counts of the exposure: rates are multiplied by the exposure time, and
    fractions of the full scale by 65535; electrons are kept, with a gain of 1. Areas of one exact value along the
    border, which other programs write where they have no data, become NaN. The final values are written to the header
    of the image, so that they are found again when a file written with this header is read.

    Parameters
    ----------
    path : path-like or Image
        An image that was already read is returned unchanged.
    name : str
        Name of the image in the sheet.
    detector : otrain_core.plan.telescopes.Detector, optional
        Values of the telescope (default: none).
    wcs_path : path-like, optional
        FITS header with the WCS, for images without one.
    record : mapping, optional
        Record of `otrain_core.stars.psf.measure_psf`, whose refined WCS takes precedence.
    check : bool
        Whether to refuse images without usable signal.
    locate : bool
        Whether to read the WCS. Without it, for steps that need no WCS of an image that was checked before, the pixel
        scale is that of the telescope or of `header_scale`.

    Returns
    -------
    Image

    Raises
    ------
    ImageError
        Unreadable file, a WCS that cannot be right, no gain, no pixel scale, a raw frame of a colour camera, a unit that
        the noise contradicts, or an image that is all NaN, constant or saturated.
    """
    from otrain_core.plan.telescopes import Detector

    if isinstance(path, Image):
        return path
    detector = detector or Detector(filter="")
    data, header = read_fits(path, image=name, extension=detector.extension)
    wcs = image_wcs(header, wcs_path, image=name, record=record) if locate else None
    scale = wcs_scale(wcs) if wcs is not None else detector.pixel_scale or header_scale(header)[0]
    if locate and wcs is None and not np.isfinite(scale):
        missing = "the header has no WCS and no XPIXSZ with FOCALLEN, and the telescope has no detector.pixel_scale"
        raise ImageError(name, "pixel_scale", f"{missing} (--pixel-scale of otrain search and otrain night)")
    data[~np.isfinite(data)] = np.nan
    first_time = SETTLED not in header
    if first_time:
        _leave_out(data, header, detector, name)
    settled = settle(data, header, detector, image=name)
    if settled.factor != 1:
        data *= np.float32(settled.factor)
    image = Image(
        name=name,
        data=data,
        header=header,
        wcs=wcs,
        gain=settled.gain,
        read_noise=settled.read_noise,
        saturation=settled.saturation,
        pixel_scale=float(scale),
        filter=_filter(header, detector),
        time=start_time(header, first=detector.header.get("time") if first_time else None),
        zero_point=settled.zero_point,
        notes=settled.notes,
    )
    if check:
        _check_signal(image)
    if first_time:
        for note in image.notes:
            logger.warning("image %s: %s", name, note)
        seconds = exposure(header, first=detector.header.get("exposure"))
        mark_settled(header, settled, filter=image.filter, time=image.time, seconds=seconds)
    return image


def _leave_out(data: np.ndarray, header: fits.Header, detector: Detector, name: str) -> None:
    """Set pixels with a fill value to NaN, in place; refuse a raw frame of a colour camera."""
    check_mosaic(data, header, image=name)
    named = detector.header.get("saturation")
    level = next((value for _, value in numbers(header, "saturation", first=named)), None)
    data[fill_values(data, fill=detector.fill, saturation=level)] = np.nan


def _filter(header: fits.Header, detector: Detector) -> str:
    """Name of the filter, from the header or the telescope."""
    if SETTLED in header:
        return text(header, "filter") or detector.filter
    if detector.wins == "config" and "filter" in detector.model_fields_set:
        return detector.filter
    return text(header, "filter", first=detector.header.get("filter")) or detector.filter


def check_fit(image: Image, *, needs_wcs: bool, cutout_size: int, detector: Detector | None = None) -> None:
    """Refuse an image early that a later step of the pipeline could not use.

    Parameters
    ----------
    image : Image
    needs_wcs : bool
        Whether the alignment needs a WCS.
    cutout_size : int
        Side of the cutouts [px].
    detector : otrain_core.plan.telescopes.Detector, optional
        Its `pixel_scale` is compared with that of the WCS.

    Raises
    ------
    ImageError
        No WCS although one is needed, a WCS whose scale is neither that of the telescope nor that times the binning
        of the header, or a cutout larger than the image.
    """
    expected = detector.pixel_scale if detector is not None else None
    if image.wcs is not None and expected:
        allowed = [expected * step for step in (1.0, *_binning(image.header))]
        if all(max(scale / image.pixel_scale, image.pixel_scale / scale) > MOST_SCALE for scale in allowed):
            raise ImageError(
                image.name,
                "WCS",
                f"its scale is {image.pixel_scale:.3g} arcsec/px, but that of the telescope (detector.pixel_scale) is "
                f"{expected:g}: one of them is wrong",
            )
    if needs_wcs and image.wcs is None:
        raise ImageError(
            image.name,
            "WCS",
            "no celestial WCS in the header; give one (column wcs) or set subtract.align to stars or auto",
        )
    if min(image.shape) < cutout_size:
        height, width = image.shape
        raise ImageError(
            image.name,
            "cutouts.size",
            f"a cutout of {cutout_size} px is larger than the image of {width} x {height} px",
        )


def _binning(header: fits.Header) -> list[float]:
    """Factors between the pixel scales of image and telescope that the binning of the header allows; [] without binning.

    They are the binning and its inverse, because the scale of the telescope may be that of binned pixels.
    """
    for key in ("XBINNING", "BINX", "CCDSUM", "BINNING", "CCDXBIN"):
        value = parse_number(re.split(r"[\sxX,]+", str(header.get(key, "")).strip())[0])
        if value and value > 1:
            return [value, 1 / value]
    return []


def _check_signal(image: Image) -> None:
    """Refuse an image that is all NaN, nearly empty, mostly saturated or constant."""
    finite = np.isfinite(image.data)
    if not finite.any():
        raise ImageError(image.name, "data", "all pixels are NaN")
    if finite.mean() < 0.1:
        raise ImageError(image.name, "data", f"only {100 * finite.mean():.1f} % of the pixels have a value")
    values = image.data[finite]
    if (values >= image.saturation).mean() > 0.5:
        raise ImageError(
            image.name,
            "SATURATE",
            f"{100 * (values >= image.saturation).mean():.0f} % of the pixels are saturated (above {image.saturation:g} ADU)",
        )
    if values.min() == values.max():
        raise ImageError(image.name, "data", f"all pixels have the same value {values[0]:g}")


@dataclass
class Held:
    """Planes held in memory in place of a file, for another step of the same process.

    The arrays are read-only.
    """

    planes: dict[str, np.ndarray] = field(default_factory=dict)
    header: fits.Header = field(default_factory=fits.Header)


def write_planes(path: str | Path | Held, planes: dict[str, np.ndarray], header: fits.Header | None = None) -> None:
    """Write named planes as extensions of one FITS file, with `header` in the primary HDU.

    The file appears under its name only when it is complete.
    """
    if isinstance(path, Held):
        path.planes, path.header = dict(planes), fits.Header() if header is None else header.copy()
        for plane in planes.values():
            plane.setflags(write=False)
        return
    hdus = [fits.PrimaryHDU(header=header)]
    for name, plane in planes.items():
        hdus.append(fits.ImageHDU(plane, name=name.upper()))
    with atomic(path) as temporary:
        fits.HDUList(hdus).writeto(temporary, overwrite=True, output_verify="silentfix")


def read_planes(path: str | Path | Held, *, image: str) -> tuple[dict[str, np.ndarray], fits.Header]:
    """Read a file of `write_planes`.

    Returns
    -------
    planes : dict of str to numpy.ndarray
        By name in lower case.
    header : astropy.io.fits.Header
        The primary header.

    Raises
    ------
    ImageError
        The file is missing, truncated, or marks the failure of an earlier step.
    """
    if isinstance(path, Held):
        return dict(path.planes), path.header.copy()
    if not Path(path).is_file():
        raise ImageError(image, "path", f"{path}: no such file")
    raise_if_failed(path)
    try:
        with truncation_told(), fits.open(path, memmap=False) as hdus:
            planes = {
                hdu.name.lower(): np.ascontiguousarray(hdu.data, dtype=hdu.data.dtype.newbyteorder("="))
                for hdu in hdus[1:]
            }
            return planes, hdus[0].header.copy()
    except Exception as error:  # libraries raise many kinds for damaged pixels or cards
        raise ImageError(
            image, "path", f"{path}: truncated or not written by this workflow ({first_line(error)})"
        ) from None
