"""Header keywords: which keyword is read for which quantity, and how its numbers and times are parsed.

`KEYWORDS` is the only list of them; config/README.md shows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import numpy as np

# The first keyword with a usable value is used; 0, negative numbers and text without a number are skipped.
KEYWORDS: dict[str, tuple[str, ...]] = {
    # [electron/ADU]. EGAIN and CVF have this unit by definition; GAIN of many CMOS cameras is a setting, see
    # `otrain_core.images.detector`.
    "gain": ("EGAIN", "CVF", "GAIN", "GAIN1", "CCDGAIN", "DETGAIN", "GAINEFF", "EPADU", "ADUTOE"),
    # [electron]
    "read_noise": ("RDNOISE", "READNOIS", "RON", "RNOISE", "ENOISE", "RDNOISE1", "DETRON", "READNOI1"),
    # in the unit of the stored pixels
    "saturation": ("SATURATE", "SATLEVEL", "SATURAT", "MAXLIN", "NONLINEA"),
    # magnitude of one unit of the pixels
    "zero_point": ("MAGZP", "MAGZPT", "MAGZERO", "ZEROPNT", "PHOTZP", "ZPMAG", "MAG0"),
    "filter": ("FILTER", "FILTNAM", "FILTNAME", "FILTERS", "FILTER1", "FILTER2", "INSFLNAM"),
    # [s]
    "exposure": ("EXPTIME", "EXPOSURE", "EXP_TIME", "EXPOSED", "ITIME", "TEXPTIME"),
    # start of the exposure: a date with a time, or a date alone (with the time in `CLOCKS`)
    "time": ("DATE-OBS", "DATE-BEG", "DATE_OBS", "DATEOBS", "DATE-STA"),
}
CLOCKS = (
    "TIME-OBS",
    "TIME-BEG",
    "UT",
    "UTC",
    "UT-START",
    "UTSTART",
    "UT_START",
    "UTC-STA",
    "UTSHUT",
    "UTC-OBS",
    "TIME",
)
DAYS = {"MJD-OBS": "mjd", "MJD-BEG": "mjd", "MJD_OBS": "mjd", "MJD": "mjd", "JD": "jd", "JD-OBS": "jd", "JD_UTC": "jd"}
ARCSEC_PER_RADIAN = 206.26480625  # times micrometres over millimetres
SCALE_KEYS = ("SECPIX", "SECPIX1", "PIXSCALE", "IM_SCALE", "SCALE", "PIXSCAL1", "PIXELSCL")
TYPE_KEYS = ("IMAGETYP", "OBSTYPE", "IMGTYPE", "FRAMETYP", "FRAME", "PICTTYPE", "OBJTYPE")
TYPES = {  # patterns of words in these keywords and in file names; the first that matches is used
    "bias": r"bias|biases|zeros?|offset|masterbias|superbias",
    "dark": r"darks?|masterdark",
    "flat": r"flats?|skyflats?|domeflats?|masterflat|twilight|dome",
    "other": r"focus|autofocus|foc|test|acquisition|acq|guide|guiding|pointing|slew|arc|lamp|comp|comparison|finder",
}
OF_THE_SKY = {"light", "object", "science", "sci", "target"}
LONGITUDES = ("OBSGEO-L", "SITELONG", "LONG-OBS", "ESO TEL GEOLON")  # longitude of the telescope [deg], east positive
MIDDLES = {"DATE-AVG": None, "MJD-AVG": "mjd", "MJD-MID": "mjd"}

_NUMBER = re.compile(r"\s*([+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eEdD][+-]?\d+)?)\s*(.*)", re.DOTALL)


def parse_number(value: Any, *, unit: bool = False) -> float | None:
    """Read a number, which may be text ("1.5", "1,5"); with `unit`, text may follow it ("1.5 e-/ADU").

    Returns
    -------
    float or None
        None if the value is not a finite number.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        if match is None or (match[2] and not (unit and not match[2][0].isdigit() and match[2][0] not in ".,:")):
            return None
        value = match[1].replace(",", ".").replace("D", "E").replace("d", "e")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if np.isfinite(number) else None


def parse_angle(text: str, *, hours: bool) -> float | None:
    """Read an angle in sexagesimal notation ("10:00:00", "-5 30 12.5").

    Parameters
    ----------
    text : str
    hours : bool
        Whether the text is in hours (of 15 degrees) and not in degrees.

    Returns
    -------
    float or None
        [deg]; None if the text is not sexagesimal.
    """
    match = re.fullmatch(r"\s*([+-]?)(\d{1,3})[:\sh](\d{1,2})[:\sm](\d{1,2}(?:[.,]\d*)?)\s*s?\s*", text)
    if match is None or int(match[3]) >= 60:
        return None
    seconds = float(match[4].replace(",", "."))
    if seconds >= 60:
        return None
    value = (int(match[2]) + int(match[3]) / 60 + seconds / 3600) * (15 if hours else 1)
    return -value if match[1] == "-" else value


def numbers(header: Mapping[str, Any], role: str, *, first: str | None = None) -> Iterator[tuple[str, float]]:
    """Keywords of a role and their numbers, in order of precedence; only numbers above zero, except for zero points.

    Parameters
    ----------
    header : mapping
    role : str
        Key of `KEYWORDS`.
    first : str, optional
        Keyword named in the configuration, which takes precedence.
    """
    for key in ((first,) if first else ()) + KEYWORDS[role]:
        if key in header:
            value = parse_number(header[key], unit=True)
            if value is not None and (value > 0 or role == "zero_point"):
                yield key, value


def text(header: Mapping[str, Any], role: str, *, first: str | None = None) -> str:
    """The first non-empty text among the keywords of a role, or ''; parameters as in `numbers`."""
    for key in ((first,) if first else ()) + KEYWORDS[role]:
        value = str(header.get(key, "") or "").strip()
        if value:
            return value
    return ""


def exposure(header: Mapping[str, Any], *, first: str | None = None) -> float:
    """Exposure time [s]; NaN if the header has none."""
    return next((value for _, value in numbers(header, "exposure", first=first)), np.nan)


def longitude(header: Mapping[str, Any]) -> float:
    """Longitude of the telescope [deg], east positive, from `LONGITUDES` or OBSGEO-X and -Y; NaN if the header has none."""
    for key in LONGITUDES:
        value = header.get(key)
        found = parse_angle(value, hours=False) if isinstance(value, str) else None
        found = parse_number(value, unit=True) if found is None else found
        if found is not None and -180 <= found <= 360:
            return found
    x, y = (parse_number(header.get(f"OBSGEO-{axis}")) for axis in "XY")
    return float(np.degrees(np.arctan2(y, x))) if x is not None and y is not None and (x, y) != (0, 0) else np.nan


def start_time(header: Mapping[str, Any], *, first: str | None = None) -> str:
    """Start of the exposure, ISO 8601 in UTC with milliseconds and without a time zone.

    It is taken from the keywords of `KEYWORDS` and `CLOCKS`, else from `DAYS`, else it is half an exposure before the
    time in `MIDDLES`. Without a time of day only the date is returned, and '' if there is no date either. DATE, the
    creation date of the file, is never used.
    """
    from astropy.time import TimeDelta

    moment = _start(header, first)
    if moment is None:
        moment, length = _middle(header), exposure(header)
        if moment is not None and np.isfinite(length):
            moment = moment - TimeDelta(length / 2, format="sec")
    if moment is not None:
        return str(moment.utc.isot)
    days = [_date(header.get(key)) for key in ((first,) if first else ()) + KEYWORDS["time"]]
    return next((day for day in days if day), "")


def middle_time(header: Mapping[str, Any], *, first: str | None = None) -> str:
    """Middle of the exposure, ISO 8601 in UTC: from `MIDDLES`, else the start plus half the exposure; '' if not known."""
    from astropy.time import TimeDelta

    moment = _middle(header)
    if moment is None:
        moment, length = _start(header, first), exposure(header)
        if moment is not None and np.isfinite(length):
            moment = moment + TimeDelta(length / 2, format="sec")
    return "" if moment is None else str(moment.utc.isot)


def _middle(header: Mapping[str, Any]) -> Any:
    """Middle of the exposure by `MIDDLES` as an astropy Time, or None."""
    for key, form in MIDDLES.items():
        value = header.get(key)
        moment = _julian(value, form, header) if form else _moment(value, header)
        if moment is not None:
            return moment
    return None


def _start(header: Mapping[str, Any], first: str | None) -> Any:
    """Start of the exposure as an astropy Time, or None."""
    day = None
    for key in ((first,) if first else ()) + KEYWORDS["time"]:
        moment = _moment(header.get(key), header)
        if moment is not None:
            return moment
        day = day or _date(header.get(key))
    if day is not None:
        for key in CLOCKS:
            moment = _moment(f"{day}T{str(header.get(key, '')).strip()}", header)
            if moment is not None:
                return moment
    for key, form in DAYS.items():
        moment = _julian(header.get(key), form, header)
        if moment is not None:
            return moment
    return None


def _date(value: Any) -> str | None:
    """A valid date without a time as yyyy-mm-dd, or None; dd/mm/yy is the FITS format before 2000."""
    text = re.sub(r"(\d{2})/(\d{2})/(\d{2})", r"19\3-\2-\1", str(value or "").strip())
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        return None
    try:
        date.fromisoformat(text)
    except ValueError:  # such as 0000-00-00
        return None
    return text


def _moment(value: Any, header: Mapping[str, Any]) -> Any:
    """The astropy Time of a text with date and time, or None."""
    from astropy.time import Time, TimeDelta

    match = re.fullmatch(
        r"(\d{4}-\d{2}-\d{2})[T\s]+(\d{1,2}:\d{2}(?::\d{2}(?:\.\d*)?)?)\s*(Z|[+-]\d{2}:?\d{2})?",
        str(value or "").strip(),
    )
    if match is None:
        return None
    clock = match[2] if len(match[2].split(":")[0]) == 2 else f"0{match[2]}"
    try:
        moment = Time(f"{match[1]}T{clock}", format="isot", scale="utc" if match[3] else _scale(header))
    except ValueError:
        return None
    if match[3] and match[3] != "Z":
        digits = match[3][1:].replace(":", "")
        away = (int(digits[:2]) * 60 + int(digits[2:])) * 60
        moment = moment - TimeDelta(away if match[3][0] == "+" else -away, format="sec")
    return moment


def _julian(value: Any, form: str, header: Mapping[str, Any]) -> Any:
    """The astropy Time of a date in the format "jd" or "mjd", or None."""
    from astropy.time import Time

    number = parse_number(value)
    if number is None or not number > 0:
        return None
    if form == "jd" and number < 1e6:  # a modified or truncated Julian date under the wrong name
        return None
    return Time(number, format=form, scale=_scale(header))


def _scale(header: Mapping[str, Any]) -> str:
    """Time scale of TIMESYS by its name in astropy; UTC for an unknown one."""
    scale = str(header.get("TIMESYS", "UTC") or "UTC").strip().lower()
    return {"tai": "tai", "tt": "tt", "tdt": "tt", "tdb": "tdb", "ut1": "utc"}.get(scale, "utc")


def frame_type(header: Mapping[str, Any]) -> tuple[str, str]:
    """Kind of frame that a header states, and the keyword that states it.

    Returns
    -------
    kind : str
        A key of `TYPES`, "science", or '' if no keyword of `TYPE_KEYS` states it.
    why : str
        Keyword and value, such as ``IMAGETYP 'Dark Frame'``.
    """
    for key in TYPE_KEYS:
        value = str(header.get(key, "") or "").strip()
        found = words(value)
        for kind, pattern in TYPES.items():
            if any(re.fullmatch(pattern, word) for word in found):
                return kind, f"{key} {value!r}"
        if found & OF_THE_SKY:
            return "science", f"{key} {value!r}"
    return "", ""


def words(text: str) -> set[str]:
    """Words of a text in lower case; camel case is split ("DarkFrame": dark, frame)."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return set(filter(None, re.split(r"[^a-z]+", parted.lower())))


def header_scale(header: Mapping[str, Any]) -> tuple[float, str]:
    """Pixel scale [arcsec/px] from other keywords than the WCS, and the names of the keywords used.

    It is that of `SCALE_KEYS`, else the pixel size over the focal length; NaN and '' if the header has neither.
    """
    for key in SCALE_KEYS:
        value = parse_number(header.get(key), unit=True)
        if value and 0.01 < value < 1000:
            return float(value), key
    size, length = (parse_number(header.get(key), unit=True) for key in ("XPIXSZ", "FOCALLEN"))
    if size and length and size > 0 and length > 0:
        return ARCSEC_PER_RADIAN * size / length, "XPIXSZ and FOCALLEN"
    return np.nan, ""
