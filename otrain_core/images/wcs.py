"""Read and check the WCS of an image, and convert between pixels and sky positions."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from otrain_core.errors import ImageError, first_line
from otrain_core.images.keywords import parse_angle, parse_number

MAX_SIP_ORDER = 9  # of the convention (Shupe et al. 2005, ASPC 347, 491); the memory grows with its square
SCALES = (1e-3, 3600.0)  # [arcsec/px], accepted range of pixel scales
ZENITHAL = ("TAN", "TPV", "SIN", "ARC", "STG", "ZEA")
LONGITUDES = {"RA--": "DEC-", "GLON": "GLAT", "ELON": "ELAT"}
NUMBERS = re.compile(
    r"(?:CRVAL|CRPIX|CDELT|CROTA)[12]|(?:CD|PC)[12]_[12]|PV[12]_\d+|(?:A|B|AP|BP)_(?:ORDER|DMAX|\d_\d)|LONPOLE|LATPOLE|EQUINOX|EPOCH"
)
SIP = re.compile(r"(?:A|B|AP|BP)_(?:ORDER|DMAX|\d_\d)")
MATRIX = {"CD": r"CD[12]_[12]", "PC": r"PC[12]_[12]", "CDELT": r"CDELT[12]", "CROTA": r"CROTA[12]"}
# Cards that an extension does not inherit from the primary header.
WCS_CARDS = re.compile(
    rf"{NUMBERS.pattern}|CTYPE[12]|CUNIT[12]|RADESYS|RADECSYS|WCSAXES|WCSNAME|WAT\d_\d{{3}}|CPDIS\d|DP\d.*|D2IM.*"
)


def pixel_to_sky(wcs: Any, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Sky positions of pixels, for any order of the axes and any celestial frame of the WCS.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
    x, y : array-like
        Pixels (from 0), of any shape.

    Returns
    -------
    ra, dec : numpy.ndarray
        ICRS [deg], ra from 0 to 360, of the shape of `x`; NaN where the WCS gives no position.
    """
    sky = wcs.pixel_to_world(np.asarray(x, dtype=float), np.asarray(y, dtype=float)).icrs
    return np.asarray(sky.ra.deg), np.asarray(sky.dec.deg)


def sky_to_pixel(wcs: Any, ra: Any, dec: Any, *, shape: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of sky positions, the inverse of `pixel_to_sky`.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
    ra, dec : array-like
        ICRS [deg], of any shape.
    shape : (height, width), optional
        Of the image. A SIP distortion is a polynomial that folds back far from the image. With the shape, it is not
        applied to positions more than half an image outside.

    Returns
    -------
    x, y : numpy.ndarray
        Pixels (from 0), of the shape of `ra`; NaN for positions outside the projection (TAN: more than 90 degrees
        away).
    """
    from astropy.coordinates import SkyCoord
    from astropy.wcs.utils import wcs_to_celestial_frame

    ra, dec = np.broadcast_arrays(np.asarray(ra, dtype=float), np.asarray(dec, dtype=float))
    if ra.size == 0:
        return np.empty(ra.shape), np.empty(ra.shape)
    sky = SkyCoord(ra.ravel(), dec.ravel(), unit="deg", frame="icrs").transform_to(wcs_to_celestial_frame(wcs))
    world = np.empty((ra.size, 2))
    world[:, wcs.wcs.lng], world[:, wcs.wcs.lat] = sky.spherical.lon.deg, sky.spherical.lat.deg
    pixels = np.asarray(wcs.wcs_world2pix(world, 0))
    if wcs.has_distortion:
        near = np.isfinite(pixels).all(axis=1)
        if shape is not None:
            size = np.array([shape[1], shape[0]], dtype=float)
            near &= (np.abs(pixels - (size - 1) / 2) < size).all(axis=1)
        if near.any():
            pixels[near] = wcs.all_world2pix(world[near], 0, quiet=True)
    return pixels[:, 0].reshape(ra.shape), pixels[:, 1].reshape(ra.shape)


def celestial_wcs(header: fits.Header, *, image: str, shape: tuple[int, int] | None = None) -> Any:
    """Read and check the celestial WCS of a header.

    Unusual headers are brought to a standard form: longitude first; positions in ICRS (or FK5 J2000), converted from
    other frames; numbers given as text (also with a decimal comma, or sexagesimal, in hours for RA); CD if both CD and
    PC are given. SIP terms are used only if CTYPE ends with -SIP.

    Parameters
    ----------
    header : astropy.io.fits.Header
    image : str
        Name of the image, for errors.
    shape : (height, width), optional
        Of the image, for a check of its corners (default: NAXIS1 and NAXIS2 of the header).

    Returns
    -------
    astropy.wcs.WCS or None
        None if the header has no celestial WCS.

    Raises
    ------
    ImageError
        A WCS that contradicts itself or cannot be read; the key names the card.
    """
    if shape is None and all(isinstance(header.get(key), int) for key in ("NAXIS1", "NAXIS2")):
        shape = header["NAXIS2"], header["NAXIS1"]
    wcs = _parsed_wcs(_cards(header).tostring(endcard=False, padding=False), shape, image)
    return wcs.deepcopy() if wcs is not None else None


@lru_cache(maxsize=8)  # every step of an image reads its WCS
def _parsed_wcs(text: str, shape: tuple[int, int] | None, image: str) -> Any:
    """As `celestial_wcs`, from the text of a header."""
    from astropy.wcs import WCS, FITSFixedWarning

    cards = fits.Header.fromstring(text)
    types = [str(cards.get(f"CTYPE{axis}", "")).strip().upper() for axis in (1, 2)]
    known = [*LONGITUDES, *LONGITUDES.values()]
    if not any(name[:4] in known for name in types) or "CRVAL1" not in cards or "CRVAL2" not in cards:
        return None
    longitude = _longitude_axis(types, image)
    _settle_numbers(cards, longitude, image)
    _settle_distortion(cards, types, image)
    _settle_matrix(cards, image)
    for axis, name in zip((1, 2), types, strict=True):
        cards[f"CTYPE{axis}"] = name
    if longitude == 2:
        _swap_axes(cards)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        try:
            wcs = WCS(_to_icrs(cards, image), naxis=2)
        except ImageError:
            raise
        except Exception as error:  # astropy raises many kinds for a malformed header
            raise ImageError(image, "WCS", f"the WCS cannot be read ({first_line(error)})") from None
    _check_footprint(wcs, shape, image)
    return wcs


def image_wcs(
    header: fits.Header, wcs_path: str | Path | None, *, image: str, record: Mapping[str, Any] | None = None
) -> Any:
    """The WCS of an image: the refined WCS of its record, else that of `wcs_path`, else that of its header.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Of the image.
    wcs_path : path-like or None
        File with a FITS header, named in the sheet.
    image : str
        Name of the image, for errors.
    record : mapping, optional
        Record of `otrain_core.stars.psf.measure_psf`, with the refined WCS as a header string in ``wcs``.

    Returns
    -------
    astropy.wcs.WCS or None
        None if there is neither a refined WCS nor a `wcs_path`, and the header has no WCS.

    Raises
    ------
    ImageError
        `wcs_path` is missing, unreadable or without a celestial WCS, the refined WCS is not celestial, or
        `celestial_wcs` refuses the WCS.
    """
    refined = (record or {}).get("wcs")
    if refined:
        wcs = celestial_wcs(fits.Header.fromstring(refined), image=image)
        if wcs is None:
            raise ImageError(image, "wcs", "the record of the PSF contains no celestial WCS")
        return wcs
    if not wcs_path:
        return celestial_wcs(header, image=image)
    if not Path(wcs_path).is_file():
        raise ImageError(image, "wcs", f"{wcs_path}: no such file")
    try:
        solution = fits.Header.fromfile(wcs_path, padding=False, endcard=False)
    except Exception as error:  # astropy raises many kinds for other files
        raise ImageError(image, "wcs", f"{wcs_path}: not a FITS header ({first_line(error)})") from None
    shift_wcs(solution, header.get("OTTRIMX", 0), header.get("OTTRIMY", 0))
    wcs = celestial_wcs(solution, image=image)
    if wcs is None:
        raise ImageError(image, "wcs", f"{wcs_path}: there is no celestial WCS in this header")
    return wcs


def shift_wcs(header: fits.Header, left: int, bottom: int) -> None:
    """Shift the reference pixel of a header, in place, for an image without its first `left` columns and `bottom` rows."""
    for key, step in (("CRPIX1", left), ("CRPIX2", bottom)):
        value = parse_number(header.get(key, 0.0))
        if step and value is not None:
            header[key] = value - step


def wcs_scale(wcs: Any) -> float:
    """Pixel scale [arcsec/px]: the square root of the area of a pixel at the reference point."""
    return float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600)


def _cards(header: fits.Header) -> fits.Header:
    """Copy of a header without history and comments, which may be very long."""
    return fits.Header([copy(card) for card in header.cards if card.keyword not in ("HISTORY", "COMMENT", "")])


def _longitude_axis(types: list[str], image: str) -> int:
    """Number of the longitude axis, 1 or 2; an error if the two axes are not a pair of longitude and latitude."""
    for axis in (1, 2):
        if LONGITUDES.get(types[axis - 1][:4]) == types[2 - axis][:4]:
            if not re.fullmatch(r".{4}-[A-Z0-9]{3}(-SIP)?", types[0]) or types[0][4:] != types[1][4:]:
                break
            return axis
    raise ImageError(image, "CTYPE1", f"{types[0]!r} and {types[1]!r} are not a pair of sky axes with one projection")


def _settle_numbers(cards: fits.Header, longitude: int, image: str) -> None:
    """Convert numbers given as text, in place."""
    for key in [key for key in cards if NUMBERS.fullmatch(key) and isinstance(cards[key], str)]:
        text = cards[key].strip()
        value = parse_number(text[1:] if key in ("EQUINOX", "EPOCH") and text[:1] in "BJ" else text)
        if value is None and key in ("CRVAL1", "CRVAL2"):
            hours = key[-1] == str(longitude) and str(cards.get(f"CTYPE{longitude}")).strip().upper().startswith("RA")
            value = parse_angle(text, hours=hours)
        if value is None:
            raise ImageError(image, key, f"must be a number, not {cards[key]!r}")
        cards[key] = value


def _settle_distortion(cards: fits.Header, types: list[str], image: str) -> None:
    """Remove SIP terms unless CTYPE ends with -SIP, complete their orders, and refuse tables of distortions; in place."""
    tables = [key for key in cards if re.fullmatch(r"CPDIS[12]|CQDIS[12]|D2IMDIS[12]", key)]
    if tables:
        raise ImageError(
            image, tables[0], "distortion tables are not supported; give a WCS with SIP terms (column wcs)"
        )
    if not types[0].endswith("-SIP"):
        for key in [key for key in cards if SIP.fullmatch(key)]:
            del cards[key]
        return
    for pair in (("A_ORDER", "B_ORDER"), ("AP_ORDER", "BP_ORDER")):
        orders = [cards.get(key) for key in pair]
        for key, order in zip(pair, orders, strict=True):
            if order is not None and not (order == int(order) and 0 <= order <= MAX_SIP_ORDER):
                raise ImageError(image, key, f"must be a whole number from 0 to {MAX_SIP_ORDER}, not {order}")
        highest = max((int(order) for order in orders if order is not None), default=None)
        if highest is not None:  # astropy needs the orders of both axes
            for key in pair:
                cards[key] = int(cards.get(key, highest))


def _settle_matrix(cards: fits.Header, image: str) -> None:
    """Keep one description of scale and rotation, in place: CD, or PC with CDELT, or CDELT with CROTA."""
    found = {name: [key for key in cards if re.fullmatch(pattern, key)] for name, pattern in MATRIX.items()}
    if not (found["CD"] or found["PC"] or found["CDELT"]):
        raise ImageError(
            image, "WCS", "the header has none of CD, PC and CDELT, so that the pixel scale of its WCS is not known"
        )
    if found["CD"]:
        given = _matrix(cards, "CD", 0.0)
        steps = np.array([float(cards.get(f"CDELT{axis}", 1.0)) for axis in (1, 2)])
        other = np.diag(steps) @ _matrix(cards, "PC", 1.0)
        if (
            found["PC"]
            and found["CDELT"]
            and (steps != 1).any()
            and np.abs(other - given).max() > 0.01 * abs(given).max()
        ):
            raise ImageError(image, "CD1_1", "the header has CD and also PC with CDELT, and they contradict each other")
        for key in (*found["PC"], *found["CDELT"], *found["CROTA"]):
            del cards[key]
    elif found["PC"]:
        for key in found["CROTA"]:
            del cards[key]
    matrix = _matrix(cards, "CD", 0.0) if found["CD"] else _matrix(cards, "PC", 1.0)
    if np.linalg.det(matrix) == 0 or any(cards.get(f"CDELT{axis}", 1.0) == 0 for axis in (1, 2)):
        raise ImageError(image, "WCS", "the matrix of the WCS is singular, so that the pixel scale is not known")


def _matrix(cards: fits.Header, name: str, diagonal: float) -> np.ndarray:
    """Matrix (2, 2) of CDi_j or PCi_j, with the defaults of the FITS standard."""
    defaults = np.eye(2) * diagonal
    return np.array([[float(cards.get(f"{name}{i}_{j}", defaults[i - 1, j - 1])) for j in (1, 2)] for i in (1, 2)])


def _swap_axes(cards: fits.Header) -> None:
    """Exchange the two sky axes, in place; the pixel axes are kept."""
    if "CROTA1" in cards or "CROTA2" in cards:  # write the rotation as a matrix, whose rows can be exchanged
        angle = np.radians(float(cards.get("CROTA2", cards.get("CROTA1", 0.0))))
        steps = np.array([float(cards.get(f"CDELT{axis}", 1.0)) for axis in (1, 2)])
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag(steps)
        for key in [key for key in cards if re.fullmatch("CROTA[12]|CDELT[12]", key)]:
            del cards[key]
        for i in (1, 2):
            for j in (1, 2):
                cards[f"CD{i}_{j}"] = matrix[i - 1, j - 1]
    if any(re.fullmatch(MATRIX["PC"], key) for key in cards) or "CDELT1" in cards or "CDELT2" in cards:
        matrix = _matrix(cards, "PC", 1.0)
        for i in (1, 2):
            for j in (1, 2):
                cards[f"PC{i}_{j}"] = matrix[i - 1, j - 1]
    swapped = {}
    for key in list(cards):
        match = re.fullmatch(r"(CTYPE|CRVAL|CUNIT|CDELT|CD|PC|PV)([12])(_\d+)?", key)
        if match:
            swapped[f"{match[1]}{3 - int(match[2])}{match[3] or ''}"] = cards[key]
            del cards[key]
    for key, value in swapped.items():
        cards[key] = value


def _to_icrs(cards: fits.Header, image: str) -> fits.Header:
    """Convert a WCS in another celestial frame to ICRS, in place; ICRS and FK5 J2000 are kept.

    For a zenithal projection only CRVAL and LONPOLE change with the frame (Calabretta & Greisen 2002, A&A 395, 1077):
    the native longitude of a direction is LONPOLE minus its position angle.
    """
    from astropy import units
    from astropy.coordinates import FK5, ICRS, SkyCoord
    from astropy.wcs import WCS
    from astropy.wcs.utils import wcs_to_celestial_frame

    plain = fits.Header([copy(card) for card in cards.cards if not SIP.fullmatch(card.keyword)])
    plain["CTYPE1"], plain["CTYPE2"] = (cards[key].removesuffix("-SIP") for key in ("CTYPE1", "CTYPE2"))
    wcs = WCS(plain, naxis=2)
    if cards["CTYPE1"].startswith("ELON"):  # astropy has no frame for it
        raise ImageError(image, "CTYPE1", f"{cards['CTYPE1']!r} is not supported; give a WCS in RA and Dec")
    if not wcs.has_celestial:
        raise ImageError(image, "CTYPE1", f"the projection of {cards['CTYPE1']!r} is not supported")
    try:
        frame = wcs_to_celestial_frame(wcs)
    except ValueError:
        raise ImageError(image, "RADESYS", f"{cards.get('RADESYS')!r} is not a known celestial frame") from None
    if isinstance(frame, ICRS) or (isinstance(frame, FK5) and frame.equinox.jyear == 2000):
        return cards
    projection = cards["CTYPE1"][5:8]
    if projection not in ZENITHAL:
        raise ImageError(
            image,
            "CTYPE1",
            f"{cards['CTYPE1']!r} in the frame {frame.name} is not supported; give a WCS in ICRS (RA and Dec)",
        )
    wcs.wcs.set()
    centre = SkyCoord(*wcs.wcs.crval, unit="deg", frame=frame)
    north = centre.directional_offset_by(0 * units.deg, 0.01 * units.deg).icrs
    centre = centre.icrs
    cards["CRVAL1"], cards["CRVAL2"] = float(centre.ra.deg), float(centre.dec.deg)
    cards["LONPOLE"] = float((wcs.wcs.lonpole + centre.position_angle(north).deg) % 360)
    for key in ("LATPOLE", "EQUINOX", "EPOCH", "RADECSYS"):
        cards.remove(key, ignore_missing=True)
    cards["CTYPE1"], cards["CTYPE2"] = f"RA--{cards['CTYPE1'][4:]}", f"DEC-{cards['CTYPE2'][4:]}"
    cards["RADESYS"] = "ICRS"
    return cards


def _check_footprint(wcs: Any, shape: tuple[int, int] | None, image: str) -> None:
    """Refuse a WCS that cannot be right for an image of this shape.

    Raises
    ------
    ImageError
        A singular matrix, an impossible pixel scale, corners without a sky position, or a distortion that moves a
        corner by more than half of its distance from the reference pixel.
    """
    matrix = wcs.pixel_scale_matrix
    if not np.isfinite(matrix).all() or np.linalg.det(matrix) == 0:
        raise ImageError(image, "WCS", "the matrix of the WCS is singular, so that the pixel scale is not known")
    scale = wcs_scale(wcs)
    if not SCALES[0] <= scale <= SCALES[1]:
        raise ImageError(
            image, "WCS", f"the pixel scale of {scale:.3g} arcsec/px is outside {SCALES[0]:g} to {SCALES[1]:g}"
        )
    if shape is None:
        return
    height, width = shape
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], dtype=float)
    ra, dec = pixel_to_sky(wcs, *corners.T)
    if not (np.isfinite(ra).all() and np.isfinite(dec).all()):
        raise ImageError(image, "WCS", "a corner of the image has no position on the sky")
    steps = (corners + 1 - wcs.wcs.crpix) @ matrix.T
    expected = np.hypot(*steps.T)
    centre = pixel_to_sky(wcs, *(wcs.wcs.crpix - 1))
    found = _separation(centre, (ra, dec))
    judged = (expected > 3 * scale / 3600) & (expected < 20)
    ratio = found[judged] / expected[judged]
    if (np.abs(ratio - 1) > 0.5).any():
        raise ImageError(
            image,
            "WCS",
            "the distortion moves a corner of the image by more than half of its distance from the reference pixel",
        )


def _separation(one: tuple[np.ndarray, np.ndarray], two: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Angle between positions [deg], by the haversine formula."""
    (ra1, dec1), (ra2, dec2) = (np.radians(position) for position in (one, two))
    half = np.sin((dec2 - dec1) / 2) ** 2 + np.cos(dec1) * np.cos(dec2) * np.sin((ra2 - ra1) / 2) ** 2
    return np.atleast_1d(np.degrees(2 * np.arcsin(np.sqrt(np.clip(half, 0, 1)))))
