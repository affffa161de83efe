"""Frames: FITS files with their pixels, header values and WCS, checked at the door; planes of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from otrain_core.errors import ImageError
from otrain_core.images.asinh import linear_pixels
from otrain_core.io import atomic, raise_if_failed
from otrain_core.safe import check_compressed, check_header

if TYPE_CHECKING:
    from otrain_core.plan.telescopes import Detector

# Bits of a mask (uint8). A masked pixel is never used as zero: its difference is NaN.
MASK_MISSING = 1  # NaN, or outside the science image
MASK_SATURATED = 2
MASK_COSMIC = 4
MASK_BAD = 8  # hot pixel, bad column
MASK_REFERENCE = 16  # missing, saturated or bad in the aligned reference

MAX_SIP_ORDER = 9  # of the convention (Shupe et al. 2005, ASPC 347, 491)


@dataclass
class Image:
    """One CCD image with what the steps need to know about it.

    Attributes
    ----------
    name : str
        Name in the sheet, used in every error.
    data : numpy.ndarray
        float32 (height, width) [ADU]; NaN where a pixel is missing.
    header : astropy.io.fits.Header
        The header as read.
    wcs : astropy.wcs.WCS or None
        Celestial WCS, None where the image has none.
    gain, read_noise, saturation : float
        [electron/ADU], [electron], [ADU] (infinite where unknown).
    pixel_scale : float
        [arcsec/px].
    filter, time : str
        Filter name and ISO time of the exposure ('' where unknown).
    zero_point : float
        Magnitude of 1 ADU, NaN where unknown.
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

    @property
    def shape(self) -> tuple[int, int]:
        return self.data.shape


def read_fits(path: str | Path, *, image: str) -> tuple[np.ndarray, fits.Header]:
    """First two-dimensional plane of a FITS file (plain, gzip or fpack).

    Returns
    -------
    data : numpy.ndarray
        float32 (height, width), native byte order.
    header : astropy.io.fits.Header

    Raises
    ------
    ImageError
        No such file, not FITS, truncated, no image in it, or one that is larger than the file can hold.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(image, "path", f"{path}: no such file")
    raise_if_failed(path)
    check_compressed(path, image=image)
    try:
        with fits.open(path, memmap=False, ignore_missing_simple=False) as hdus:
            for hdu in hdus:
                if hdu.header.get("NAXIS", 0) >= 2 and getattr(hdu, "is_image", False):
                    check_header(hdu.header, path, image=image)
                    header = hdu.header.copy()
                    if hdu is not hdus[0]:  # what holds for the whole file stands in the primary header
                        header.extend(hdus[0].header, strip=True, unique=True, bottom=True)
                    data = hdu.data
                    break
            else:
                raise ImageError(image, "path", f"{path}: no two-dimensional image in this FITS file")
            if data is None:
                raise ImageError(image, "path", f"{path}: truncated: the header promises data that are not there")
            data = np.squeeze(np.asarray(data))
            if data.ndim != 2:
                raise ImageError(image, "NAXIS", f"{path}: a two-dimensional image is needed, found shape {data.shape}")
            return linear_pixels(np.ascontiguousarray(data, dtype=np.float32), header, image=image), header
    except ImageError:
        raise
    except (OSError, EOFError, TypeError, ValueError, LookupError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(image, "path", f"{path}: not a readable FITS image, or truncated ({reason})") from None


def celestial_wcs(header: fits.Header) -> Any:
    """The celestial WCS of a header, or None where there is none (or a void one)."""
    import warnings

    from astropy.wcs import WCS, FITSFixedWarning

    if "CTYPE1" not in header or "CRVAL1" not in header:
        return None
    orders = [header.get(f"{name}_ORDER", 0) for name in ("A", "B", "AP", "BP")]
    if not all(isinstance(order, int) and order <= MAX_SIP_ORDER for order in orders):
        return None  # memory is taken for the square of the order
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        try:
            wcs = WCS(header, naxis=2)
        except Exception:  # astropy raises many kinds for a malformed header
            return None
    return wcs if wcs.has_celestial and np.linalg.det(wcs.pixel_scale_matrix) != 0 else None


def image_wcs(
    header: fits.Header, wcs_path: str | Path | None, *, image: str, record: Mapping[str, Any] | None = None
) -> Any:
    """The WCS of an image: the refined one of its record, else from the header file that the
    sheet names, else from its own header.

    Parameters
    ----------
    header : astropy.io.fits.Header
    wcs_path : path-like or None
    image : str
    record : mapping, optional
        Record of `otrain_core.stars.psf.measure_psf`, with the refined WCS as a header string in ``wcs``.

    Raises
    ------
    ImageError
        The header file is missing, unreadable or without a celestial WCS, or the record is.
    """
    refined = (record or {}).get("wcs")
    if refined:
        wcs = celestial_wcs(fits.Header.fromstring(refined))
        if wcs is None:
            raise ImageError(image, "wcs", "the record of the PSF holds no celestial WCS")
        return wcs
    if not wcs_path:
        return celestial_wcs(header)
    if not Path(wcs_path).is_file():
        raise ImageError(image, "wcs", f"{wcs_path}: no such file")
    try:
        wcs = celestial_wcs(fits.Header.fromfile(wcs_path, padding=False, endcard=False))
    except (OSError, ValueError) as error:
        raise ImageError(image, "wcs", f"{wcs_path}: not a FITS header ({error})") from None
    if wcs is None:
        raise ImageError(image, "wcs", f"{wcs_path}: holds no celestial WCS")
    return wcs


def _number(header: fits.Header, keys: tuple[str, ...], fallback: float | None, image: str) -> float | None:
    for key in keys:
        if key in header and header[key] not in ("", None):
            try:
                value = float(header[key])
            except (TypeError, ValueError):
                raise ImageError(image, key, f"a number is needed, found {header[key]!r}") from None
            if not np.isfinite(value) or value < 0:
                raise ImageError(image, key, f"a positive number is needed, found {value}")
            return value
    return fallback


def read_image(
    path: str | Path,
    *,
    name: str,
    detector: Detector | None = None,
    wcs_path: str | Path | None = None,
    record: Mapping[str, Any] | None = None,
    check: bool = True,
) -> Image:
    """Read an image and settle gain, noise, saturation and scale.

    What the header says (GAIN, RDNOISE, SATURATE, FILTER, DATE-OBS, MAGZP) wins
    over the detector of the telescope.

    Parameters
    ----------
    path : path-like
    name : str
        Name of the image in the sheet.
    detector : otrain_core.plan.telescopes.Detector, optional
        What the telescope says where the header does not (default: nothing).
    wcs_path : path-like, optional
        FITS header with the WCS, for images that have none.
    record : mapping, optional
        Record of `otrain_core.stars.psf.measure_psf`, whose refined WCS wins.
    check : bool
        Refuse images without any usable signal.

    Raises
    ------
    ImageError
        Unreadable file, unusable header value, no pixel scale, all NaN, constant or
        saturated image.
    """
    from otrain_core.plan.telescopes import Detector

    detector = detector or Detector(filter="")
    data, header = read_fits(path, image=name)
    wcs = image_wcs(header, wcs_path, image=name, record=record)
    gain = _number(header, ("GAIN", "EGAIN"), detector.gain, name)
    if gain is None or gain == 0:
        raise ImageError(name, "GAIN", "no gain in the header and none of the telescope (detector.gain)")
    saturation = _number(header, ("SATURATE",), detector.saturation, name)
    if wcs is not None:
        pixel_scale = float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600)
    elif detector.pixel_scale:
        pixel_scale = detector.pixel_scale
    else:
        raise ImageError(name, "pixel_scale", "no WCS in the image and no detector.pixel_scale of the telescope")
    zero_point = header.get("MAGZP")
    image = Image(
        name=name,
        data=data,
        header=header,
        wcs=wcs,
        gain=gain,
        read_noise=_number(header, ("RDNOISE",), detector.read_noise, name) or 0.0,
        saturation=saturation if saturation else np.inf,
        pixel_scale=pixel_scale,
        filter=str(header.get("FILTER") or detector.filter),
        time=str(header.get("DATE-OBS", "")),
        zero_point=float(zero_point) if isinstance(zero_point, int | float) else np.nan,
    )
    image.data[~np.isfinite(image.data)] = np.nan
    if check:
        _check_signal(image)
    return image


def check_fit(image: Image, *, needs_wcs: bool, cutout_size: int) -> None:
    """Refuse early what a later step of the pipeline could not use.

    Raises
    ------
    ImageError
        No WCS where the alignment needs one, or a cutout larger than the image.
    """
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


def _check_signal(image: Image) -> None:
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


def write_planes(path: str | Path, planes: dict[str, np.ndarray], header: fits.Header | None = None) -> None:
    """Write named planes as extensions of one FITS file; `header` goes to the primary HDU.

    The file appears under its name only when it is whole.
    """
    hdus = [fits.PrimaryHDU(header=header)]
    for name, plane in planes.items():
        hdus.append(fits.ImageHDU(plane, name=name.upper()))
    with atomic(path) as temporary:
        fits.HDUList(hdus).writeto(temporary, overwrite=True, output_verify="silentfix")


def read_planes(path: str | Path, *, image: str) -> tuple[dict[str, np.ndarray], fits.Header]:
    """Read what `write_planes` wrote: planes by lower-case name, and the primary header.

    Raises
    ------
    ImageError
        The file is missing, truncated, or marks the failure of an earlier step.
    """
    if not Path(path).is_file():
        raise ImageError(image, "path", f"{path}: no such file")
    raise_if_failed(path)
    try:
        with fits.open(path, memmap=False) as hdus:
            planes = {
                hdu.name.lower(): np.ascontiguousarray(hdu.data, dtype=hdu.data.dtype.newbyteorder("="))
                for hdu in hdus[1:]
            }
            return planes, hdus[0].header.copy()
    except (OSError, TypeError, ValueError, AttributeError) as error:
        raise ImageError(image, "path", f"{path}: truncated or not written by this workflow ({error})") from None
