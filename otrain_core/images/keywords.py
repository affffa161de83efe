"""Header keywords: which ones are read for what, and the numbers and times in them.

`KEYWORDS` is the one list; config/README.md shows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

# The first keyword with a usable value counts; 0, negative numbers and text without a number are passed over.
KEYWORDS: dict[str, tuple[str, ...]] = {
    # [electron/ADU]. EGAIN and CVF are that by definition; GAIN of many CMOS cameras is a setting, see `settle_gain`.
    "gain": ("EGAIN", "CVF", "GAIN", "GAIN1", "CCDGAIN", "DETGAIN", "GAINEFF", "EPADU", "ADUTOE"),
    # [electron]
    "read_noise": ("RDNOISE", "READNOIS", "RON", "RNOISE", "ENOISE", "RDNOISE1", "DETRON", "READNOI1"),
    # of the pixels as they are stored
    "saturation": ("SATURATE", "SATLEVEL", "SATURAT", "MAXLIN", "NONLINEA"),
    # magnitude of one unit of the pixels
    "zero_point": ("MAGZP", "MAGZPT", "MAGZERO", "ZEROPNT", "PHOTZP", "ZPMAG", "MAG0"),
    "filter": ("FILTER", "FILTNAM", "FILTNAME", "FILTERS", "FILTER1", "FILTER2", "INSFLNAM"),
    # [s]
    "exposure": ("EXPTIME", "EXPOSURE", "EXP_TIME", "EXPOSED", "ITIME", "TEXPTIME"),
    # beginning of the exposure: a date with a time, a date alone (with a time in `CLOCKS`), or a Julian date
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
TYPES = {  # words of those keywords and of names; the first that fits counts
    "bias": r"bias|biases|zeros?|offset|masterbias|superbias",
    "dark": r"darks?|masterdark",
    "flat": r"flats?|skyflats?|domeflats?|masterflat|twilight|dome",
    "other": r"focus|autofocus|foc|test|acquisition|acq|guide|guiding|pointing|slew|arc|lamp|comp|comparison|finder",
}
OF_THE_SKY = {"light", "object", "science", "sci", "target"}
LONGITUDES = ("OBSGEO-L", "SITELONG", "LONG-OBS", "ESO TEL GEOLON")  # of the telescope [deg], east positive
MIDDLES = {"DATE-AVG": None, "MJD-AVG": "mjd", "MJD-MID": "mjd"}

_NUMBER = re.compile(r"\s*([+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eEdD][+-]?\d+)?)\s*(.*)", re.DOTALL)


def parse_number(value: Any, *, unit: bool = False) -> float | None:
    """A number, also where it stands as text ("1.5", "1,5"); with `unit` text may follow it ("1.5 e-/ADU").

    Returns
    -------
    float or None
        None where it is no finite number.
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
    """An angle [deg] of sexagesimal text ("10:00:00", "-5 30 12.5"), hours of 15 degrees or degrees; None if it is none."""
    match = re.fullmatch(r"\s*([+-]?)(\d{1,3})[:\sh](\d{1,2})[:\sm](\d{1,2}(?:[.,]\d*)?)\s*s?\s*", text)
    if match is None or int(match[3]) >= 60:
        return None
    seconds = float(match[4].replace(",", "."))
    if seconds >= 60:
        return None
    value = (int(match[2]) + int(match[3]) / 60 + seconds / 3600) * (15 if hours else 1)
    return -value if match[1] == "-" else value


def numbers(header: Mapping[str, Any], role: str, *, first: str | None = None) -> Iterator[tuple[str, float]]:
    """Keywords of a role with a number above zero, in order; `first` is a keyword that the configuration names."""
    for key in ((first,) if first else ()) + KEYWORDS[role]:
        if key in header:
            value = parse_number(header[key], unit=True)
            if value is not None and (value > 0 or role == "zero_point"):
                yield key, value


def text(header: Mapping[str, Any], role: str, *, first: str | None = None) -> str:
    """The first text that is not void among the keywords of a role, or ''."""
    for key in ((first,) if first else ()) + KEYWORDS[role]:
        value = str(header.get(key, "") or "").strip()
        if value:
            return value
    return ""


def exposure(header: Mapping[str, Any], *, first: str | None = None) -> float:
    """Exposure time [s], NaN where the header does not say."""
    return next((value for _, value in numbers(header, "exposure", first=first)), np.nan)


def longitude(header: Mapping[str, Any]) -> float:
    """Longitude of the telescope [deg], east positive, by `LONGITUDES` or OBSGEO-X and -Y; NaN where the header is silent."""
    for key in LONGITUDES:
        value = header.get(key)
        found = parse_angle(value, hours=False) if isinstance(value, str) else None
        found = parse_number(value, unit=True) if found is None else found
        if found is not None and -180 <= found <= 360:
            return found
    x, y = (parse_number(header.get(f"OBSGEO-{axis}")) for axis in "XY")
    return float(np.degrees(np.arctan2(y, x))) if x is not None and y is not None and (x, y) != (0, 0) else np.nan


def start_time(header: Mapping[str, Any], *, first: str | None = None) -> str:
    """Beginning of the exposure, ISO 8601 in UTC with milliseconds and without a zone.

    It is what `KEYWORDS` and `CLOCKS` say, or `DAYS`, or half an exposure before `MIDDLES`. Without a time of the day
    it is the date alone, and '' where that is not known either. DATE, the creation of the file, is never taken.
    """
    from astropy.time import TimeDelta

    moment = _start(header, first)
    if moment is None:
        moment, length = _middle(header), exposure(header)
        if moment is not None and np.isfinite(length):
            moment = moment - TimeDelta(length / 2, format="sec")
    if moment is not None:
        return str(moment.utc.isot)
    dates = [_date(header.get(key)) for key in ((first,) if first else ()) + KEYWORDS["time"]]
    return next((date for date in dates if date), "")


def middle_time(header: Mapping[str, Any], *, first: str | None = None) -> str:
    """Middle of the exposure, ISO 8601 in UTC: DATE-AVG, or the beginning and half of the exposure; '' where not known."""
    from astropy.time import TimeDelta

    moment = _middle(header)
    if moment is None:
        moment, length = _start(header, first), exposure(header)
        if moment is not None and np.isfinite(length):
            moment = moment + TimeDelta(length / 2, format="sec")
    return "" if moment is None else str(moment.utc.isot)


def _middle(header: Mapping[str, Any]) -> Any:
    for key, form in MIDDLES.items():
        value = header.get(key)
        moment = _julian(value, form, header) if form else _moment(value, header)
        if moment is not None:
            return moment
    return None


def _start(header: Mapping[str, Any], first: str | None) -> Any:
    date = None
    for key in ((first,) if first else ()) + KEYWORDS["time"]:
        moment = _moment(header.get(key), header)
        if moment is not None:
            return moment
        date = date or _date(header.get(key))
    if date is not None:
        for key in CLOCKS:
            moment = _moment(f"{date}T{str(header.get(key, '')).strip()}", header)
            if moment is not None:
                return moment
    for key, form in DAYS.items():
        moment = _julian(header.get(key), form, header)
        if moment is not None:
            return moment
    return None


def _date(value: Any) -> str | None:
    """A date alone as yyyy-mm-dd; dd/mm/yy is the FITS format before 2000."""
    value = str(value or "").strip()
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        return value
    old = re.fullmatch(r"(\d{2})/(\d{2})/(\d{2})", value)
    return f"19{old[3]}-{old[2]}-{old[1]}" if old else None


def _moment(value: Any, header: Mapping[str, Any]) -> Any:
    """The time of a text with date and time, or None."""
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
    from astropy.time import Time

    number = parse_number(value)
    if number is None or not number > 0:
        return None
    if form == "jd" and number < 1e6:  # a modified or truncated Julian date under the wrong name
        return None
    return Time(number, format=form, scale=_scale(header))


def _scale(header: Mapping[str, Any]) -> str:
    """Time scale of TIMESYS as astropy names it; UTC where it is none of them."""
    scale = str(header.get("TIMESYS", "UTC") or "UTC").strip().lower()
    return {"tai": "tai", "tt": "tt", "tdt": "tt", "tdb": "tdb", "ut1": "utc"}.get(scale, "utc")


def frame_type(header: Mapping[str, Any]) -> tuple[str, str]:
    """What kind of frame a header names, and by which keyword.

    Returns
    -------
    kind : str
        One of `TYPES`, science, or '' where no keyword of `TYPE_KEYS` tells it.
    why : str
        As ``IMAGETYP 'Dark Frame'``.
    """
    for key in TYPE_KEYS:
        said = str(header.get(key, "") or "").strip()
        told = words(said)
        for kind, pattern in TYPES.items():
            if any(re.fullmatch(pattern, word) for word in told):
                return kind, f"{key} {said!r}"
        if told & OF_THE_SKY:
            return "science", f"{key} {said!r}"
    return "", ""


def words(text: str) -> set[str]:
    """Words of a text in lower case, also those that only a capital letter parts."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return set(filter(None, re.split(r"[^a-z]+", parted.lower())))


def header_scale(header: Mapping[str, Any]) -> tuple[float, str]:
    """Pixel scale [arcsec/px] without a WCS, and what tells it: a keyword, or the pixel size over the focal length.

    NaN and '' where nothing does.
    """
    for key in SCALE_KEYS:
        value = parse_number(header.get(key), unit=True)
        if value and 0.01 < value < 1000:
            return float(value), key
    size, length = (parse_number(header.get(key), unit=True) for key in ("XPIXSZ", "FOCALLEN"))
    if size and length and size > 0 and length > 0:
        return ARCSEC_PER_RADIAN * size / length, "XPIXSZ and FOCALLEN"
    return np.nan, ""
