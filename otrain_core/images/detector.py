"""Unit, gain, read noise and saturation of an image from its header or the telescope, compared with the noise of its sky."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from otrain_core.errors import ImageError
from otrain_core.images.keywords import KEYWORDS, exposure, numbers
from otrain_core.widths import SIGMA_PER_MAD

if TYPE_CHECKING:
    from otrain_core.plan.telescopes import Detector

SETTLED = "OTUNIT"  # card of an image that was read before: its pixels and its canonical keywords are final
UNSURE = 1.5  # factor beyond which the gain and the noise of the sky contradict each other
A_SETTING = 10.0  # a GAIN that is a whole number of at least this may be a setting of the camera
FULL_SCALE = 65535.0  # [ADU], value of 1.0 in pixels that are scaled to 0..1
BOX = 32  # side of the boxes in which level and noise of the sky are measured [px]


@dataclass(frozen=True)
class Settled:
    """Quantities that hold for the pixels of an image after they are multiplied by `factor`.

    Attributes
    ----------
    factor : float
        Converts the unit of the file to counts of the exposure.
    gain : float
        [electron/count].
    read_noise : float
        [electron], 0 if unknown.
    saturation : float
        [count], infinite if unknown.
    zero_point : float
        Magnitude of 1 count, NaN if unknown.
    notes : tuple of str
        Warnings for the user: assumptions and contradictions.
    """

    factor: float
    gain: float
    read_noise: float
    saturation: float
    zero_point: float
    notes: tuple[str, ...] = ()


def settle(data: np.ndarray, header: fits.Header, detector: Detector, *, image: str) -> Settled:
    """Determine unit, gain, read noise, saturation and zero point of an image.

    The header takes precedence over the telescope, or the reverse if `detector.wins` is ``config``. The keywords are
    those of `otrain_core.images.keywords.KEYWORDS`; the first usable one of each quantity is used.

    Parameters
    ----------
    data : numpy.ndarray
        (height, width), in the unit of the file; NaN where missing.
    header : astropy.io.fits.Header
    detector : otrain_core.plan.telescopes.Detector
    image : str
        Name of the image, for errors.

    Returns
    -------
    Settled

    Raises
    ------
    ImageError
        No gain (key ``GAIN``), a gain that is rather the setting of the camera, a rate without an exposure time, or
        pixels without a stated unit whose noise is that of a rate (key ``BUNIT``).
    """
    own = SETTLED not in header
    named = detector.header if own else {}
    wins = own and detector.wins == "config"
    notes = _unusable(header, named)
    unit, stated = _unit(data, header, detector, wins, notes)
    factor = _factor(unit, header, named, image)
    level, sigma = sky_noise(data)
    level, sigma = level * factor, sigma * factor
    given = [detector.read_noise] if detector.read_noise is not None and own else []
    read = [value for _, value in numbers(header, "read_noise", first=named.get("read_noise"))]
    read_noise = next(iter(given + read if wins else read + given), 0.0)
    transfer = photon_transfer(level, sigma, read_noise)
    raw_gain = None
    if unit.startswith("electron"):
        gain = 1.0
    else:
        gain = raw_gain = _gain(header, detector, named, wins, transfer, notes, image)
        if own and not stated:
            _check_rate(data, header, gain, transfer, image)
    _compare(gain, transfer, level, sigma, read_noise, notes)
    zero_point = next((value for _, value in numbers(header, "zero_point", first=named.get("zero_point"))), np.nan)
    saturation = _saturation(header, detector, named, wins, unit, factor, raw_gain)
    zero_point += 2.5 * np.log10(factor)
    return Settled(factor, gain, read_noise, saturation, zero_point, tuple(notes) if own else ())


def mark_settled(header: fits.Header, settled: Settled, *, filter: str, time: str, seconds: float) -> None:
    """Write the final values to the canonical keywords of a header, in place, so that the next reader uses them unchanged.

    Parameters
    ----------
    header : astropy.io.fits.Header
    settled : Settled
    filter, time : str
        Name of the filter and start of the exposure (UTC); '' if unknown.
    seconds : float
        Exposure time [s]; NaN if unknown.
    """
    header["GAIN"] = (settled.gain, "electron/ADU")
    header["RDNOISE"] = (settled.read_noise, "electron")
    for role in ("gain", "read_noise", "saturation", "zero_point"):
        for key in KEYWORDS[role]:
            if key not in ("GAIN", "RDNOISE"):
                header.remove(key, ignore_missing=True)
    if np.isfinite(settled.saturation):
        header["SATURATE"] = (settled.saturation, "ADU")
    if np.isfinite(settled.zero_point):
        header["MAGZP"] = (settled.zero_point, "magnitude of 1 ADU")
    if filter:
        header["FILTER"] = filter
    if time:
        header["DATE-OBS"] = time
        header.remove("TIMESYS", ignore_missing=True)  # `time` is in UTC
    if np.isfinite(seconds):
        header["EXPTIME"] = (seconds, "s")
    header["BUNIT"] = "adu"
    header[SETTLED] = ("adu", "unit, gain and noise are settled")


def parse_unit(text: str) -> str | None:
    """Unit in the text of BUNIT: ``adu``, ``electron``, ``adu/s`` or ``electron/s``; None for any other unit."""
    plain = re.sub(r"[\s_]+", " ", text.strip().lower()).strip()
    match = re.fullmatch(
        r"(.*?)(?: ?/ ?(?:s|sec|secs|second|seconds)| ?(?:\*|\.| )?(?:s|sec)(?:\^|\*\*)?-1| per second)?", plain
    )
    base = match[1].strip() if match else plain
    rate = "/s" if match and match.end(1) < len(plain) else ""
    if plain == "cps":
        base, rate = "counts", "/s"
    if base in ("adu", "adus", "count", "counts", "ct", "cts", "dn", "du", "digital number", "analog-to-digital units"):
        return f"adu{rate}"
    if base in ("electron", "electrons", "e", "e-", "elec", "photoelectron", "photoelectrons", "photon", "photons"):
        return f"electron{rate}"
    return None


def _unit(data: np.ndarray, header: fits.Header, detector: Detector, wins: bool, notes: list[str]) -> tuple[str, bool]:
    """Unit of the pixels, and whether the header or the telescope states it."""
    if SETTLED in header:
        return "adu", True
    text = str(header.get("BUNIT", "") or "").strip()
    found = parse_unit(text) if text else None
    if text and found is None:
        notes.append(f"BUNIT {text!r} is not a unit of counts: the pixels are assumed to be in ADU")
    if detector.unit and (wins or found is None):
        return detector.unit, True
    if found is not None:
        return found, True
    if _scaled_to_one(data, header):
        notes.append(f"the pixels are scaled to 0..1: it is assumed that 1.0 is {FULL_SCALE:.0f} ADU")
        return "0..1", False
    return "adu", False


def _scaled_to_one(data: np.ndarray, header: fits.Header) -> bool:
    """Whether the pixels are fractions of the full scale, as Siril and PixInsight write them."""
    sample = data.ravel()[:: max(1, data.size // 100_000)]
    sample = sample[np.isfinite(sample)]
    if sample.size == 0 or not (np.nanmax(data) <= 1.001 and np.nanmin(data) >= -0.1 and np.median(sample) > 0):
        return False
    full = next((value for _, value in numbers(header, "saturation")), None)
    return bool((sample % 1 != 0).any()) and (full is None or full <= 1 or full > 1000)


def _unusable(header: fits.Header, named: dict[Any, str]) -> list[str]:
    """Notes about cards of gain, read noise, saturation and zero point that have no usable number."""
    notes = []
    for role in ("gain", "read_noise", "saturation", "zero_point"):
        good = {key for key, _ in numbers(header, role, first=named.get(role))}
        for key in KEYWORDS[role]:
            value = header.get(key)
            if key not in good and not (value is None or str(value).strip() in ("", "0", "0.0")):
                notes.append(f"{key} {value!r} is not a usable number and is ignored")
    return notes


def _factor(unit: str, header: fits.Header, named: dict[Any, str], image: str) -> float:
    """Factor from the unit of the file to the counts of the exposure."""
    if unit == "0..1":
        return FULL_SCALE
    if not unit.endswith("/s"):
        return 1.0
    seconds = exposure(header, first=named.get("exposure"))
    if not np.isfinite(seconds):
        raise ImageError(image, "BUNIT", f"the pixels are in {unit}, but the header has no exposure time (EXPTIME)")
    return seconds


def _gain(
    header: fits.Header,
    detector: Detector,
    named: dict[Any, str],
    wins: bool,
    transfer: float,
    notes: list[str],
    image: str,
) -> float:
    """Gain [electron/ADU] from the telescope or the header; a GAIN that is the setting of the camera is not used."""
    if wins and detector.gain:
        return detector.gain
    found = list(numbers(header, "gain", first=named.get("gain")))
    if not found:
        if detector.gain:
            return detector.gain
        seen = [f"{key} {header[key]!r}" for key in KEYWORDS["gain"] if key in header]
        unusable = f" (its {', '.join(seen)} cannot be used)" if seen else ""
        where = "detector.gain of the telescope, or --gain of otrain search and otrain night"
        raise ImageError(image, "GAIN", f"no gain in the header{unusable} nor for the telescope: set {where}")
    key, value = found[0]
    setting = key in ("GAIN", "GAIN1") and key != named.get("gain") and value >= A_SETTING and value == round(value)
    if not setting or SETTLED in header or "NCOMBINE" in header:
        return value
    other = detector.gain
    near = np.isfinite(transfer) and max(value / transfer, transfer / value) < 2
    if other is None:
        if near or not np.isfinite(transfer):
            return value
        raise ImageError(
            image,
            key,
            f"{value:g} is not the gain in electron/ADU (the noise of the sky corresponds to {transfer:.2g}), perhaps it is "
            "the setting of the camera: set detector.gain of the telescope",
        )
    if max(value / other, other / value) <= UNSURE:
        return value
    if np.isfinite(transfer) and abs(np.log(value / transfer)) < abs(np.log(other / transfer)):
        return value
    notes.append(f"{key} {value:g} looks like the setting of the camera: the gain {other:g} of the telescope is used")
    return other


def _saturation(
    header: fits.Header,
    detector: Detector,
    named: dict[Any, str],
    wins: bool,
    unit: str,
    factor: float,
    gain: float | None,
) -> float:
    """Saturation [counts of the exposure]; in the header it is in the unit of the pixels, for the telescope in ADU."""
    bias = float(header.get("OTBIAS", 0.0)) if SETTLED not in header else 0.0
    own = next((value for _, value in numbers(header, "saturation", first=named.get("saturation"))), None)
    if own is not None:
        own = own if unit == "0..1" and own > 1.001 else own * factor
    given = detector.saturation if SETTLED not in header else None
    if given is not None and gain is None:  # the pixels are electrons
        stated = [value for _, value in numbers(header, "gain", first=named.get("gain"))]
        own_gain = [detector.gain] if detector.gain else []
        given *= next(iter(own_gain + stated if wins else stated + own_gain), 1.0)
    chosen = next((value for value in ((given, own) if wins else (own, given)) if value is not None), None)
    return chosen - bias if chosen is not None else np.inf


def sky_noise(data: np.ndarray) -> tuple[float, float]:
    """Level and noise of the sky: medians over boxes of 32 px, with outliers clipped.

    The noise is that of the differences of pixels four columns apart, which depends little on a smooth background and
    on the correlation of neighbouring pixels in a resampled image.

    Parameters
    ----------
    data : numpy.ndarray
        (height, width); NaN where missing.

    Returns
    -------
    level, sigma : float
        In the unit of the pixels; NaN if no box has enough pixels.
    """
    height, width = data.shape
    rows = np.unique(np.linspace(0, max(height - BOX, 0), min(16, max(height // BOX, 1))).astype(int))
    columns = np.unique(np.linspace(0, max(width - BOX, 0), min(16, max(width // BOX, 1))).astype(int))
    boxes = np.stack([data[y : y + BOX, x : x + BOX] for y in rows for x in columns]).astype(np.float64)
    steps = (boxes[..., 4:] - boxes[..., :-4]).reshape(len(boxes), -1)
    enough = np.isfinite(steps).sum(axis=1) >= 200
    if not enough.any():
        return np.nan, np.nan
    boxes, steps = boxes[enough].reshape(enough.sum(), -1), steps[enough]
    middle = np.median if np.isfinite(boxes).all() else np.nanmedian
    spread = SIGMA_PER_MAD * middle(np.abs(steps), axis=1)
    for _ in range(2):  # the MAD of whole numbers is coarse: refine it by the standard deviation within 3 sigma
        inside = np.abs(steps) <= 3 * spread[:, None]
        many = inside.sum(axis=1) >= 100
        # Clipping at 3 sigma lowers the standard deviation of a Gaussian by 1.35 %.
        spread[many] = np.std(steps[many], axis=1, where=inside[many]) * 1.0135
    return float(np.median(middle(boxes, axis=1))), float(np.median(spread) / np.sqrt(2))


def photon_transfer(level: float, sigma: float, read_noise: float) -> float:
    """Gain at which photon noise and read noise add up to the measured noise of the sky.

    It solves ``sigma**2 = level / gain + (read_noise / gain)**2`` (Janesick 2001, Scientific Charge-Coupled Devices,
    ch. 2). A bias in the level, averaging of frames and resampling make it too large.

    Parameters
    ----------
    level, sigma : float
        Level and noise of the sky [count].
    read_noise : float
        [electron].

    Returns
    -------
    float
        [electron/count]; NaN if the level is below 3 sigma, because the sky was subtracted.
    """
    if not (np.isfinite(level) and np.isfinite(sigma) and sigma > 0 and level > 3 * sigma):
        return np.nan
    variance = sigma**2
    return float((level + np.sqrt(level**2 + 4 * variance * read_noise**2)) / (2 * variance))


def _check_rate(data: np.ndarray, header: fits.Header, gain: float, transfer: float, image: str) -> None:
    """Refuse pixels without a stated unit whose noise is that of counts per second."""
    seconds = exposure(header)
    if not (np.isfinite(transfer) and np.isfinite(seconds) and seconds >= 4):
        return
    sample = data.ravel()[:: max(1, data.size // 10_000)]
    if (sample[np.isfinite(sample)] % 1 == 0).all():
        return
    if max(transfer / (gain * seconds), gain * seconds / transfer) < UNSURE:
        raise ImageError(
            image,
            "BUNIT",
            f"the unit of the pixels is not stated, and their noise is that of counts per second (gain {gain:g}, "
            f"exposure {seconds:g} s): set detector.unit of the telescope to adu/s, or to adu if they are counts",
        )


def _compare(gain: float, transfer: float, level: float, sigma: float, read_noise: float, notes: list[str]) -> None:
    """Add a note if the gain and the noise of the sky contradict each other."""
    if not np.isfinite(transfer) or max(gain / transfer, transfer / gain) <= UNSURE:
        return
    measured = (
        f"the sky has a noise of {sigma:.3g} ADU at {level:.4g} ADU, which corresponds to a gain of {transfer:.2g}"
    )
    if transfer < gain:
        why = "the gain is too large, or the sky has structure"
    else:
        bias = level - gain * sigma**2 + read_noise**2 / gain
        why = (
            "the gain is too small, or the frame is an average or was resampled, or it contains a bias of about "
            f"{bias:.3g} ADU"
        )
    notes.append(f"gain {gain:.3g} electron/ADU: {measured}: {why}")
