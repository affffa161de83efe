"""Find the telescopes of a folder and the properties of their detectors, from headers and pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, mode
from typing import Literal

import numpy as np

from otrain_core.images.detector import A_SETTING
from otrain_core.plan.pools import is_pool
from otrain_core.plan.telescopes import RESERVED_NAMES
from otrain_core.project.look import Frame
from otrain_core.project.measure import Measured
from otrain_core.safe import safe_name

FULL_WELL = 100_000.0  # typical full well of a camera over the range of its converter [electron]
WELLS = (5_000.0, 300_000.0)  # plausible full wells [electron]; others show that the sky level includes a bias
READ_NOISE = 8.0  # typical of a CCD [electron]
CONVERTERS = (4095.0, 16383.0, 65535.0)  # highest values of 12-, 14- and 16-bit converters [ADU]
UNITS = {"gain": "electron/ADU", "read_noise": "electron", "saturation": "ADU", "pixel_scale": "arcsec/px"}


@dataclass(frozen=True)
class Value:
    """The value of one key of the detector, whether it was found or assumed, and why."""

    key: str
    value: float | str | None
    state: Literal["found", "assumed", "missing"]
    because: str


@dataclass
class Camera:
    """The frames of one telescope, camera and binning, and the properties of the detector."""

    name: str
    science: list[Frame] = field(default_factory=list)
    stacks: list[Frame] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)


def cameras_of(frames: Sequence[Frame], *, fallback: str) -> list[Camera]:
    """Group frames of the sky by telescope, camera and binning.

    Parameters
    ----------
    frames : sequence of Frame
    fallback : str
        Name to use where the headers name neither a telescope nor a camera.

    Returns
    -------
    list of Camera
        Sorted by name.
    """
    groups: dict[tuple[str, str, int], Camera] = {}
    for frame in frames:
        if frame.kind in ("science", "stack"):
            key = (frame.telescope or frame.camera or fallback, frame.camera, frame.binning)
            camera = groups.setdefault(key, Camera(""))
            (camera.science if frame.kind == "science" else camera.stacks).append(frame)
    groups = _join_stacks(groups)
    plain = [_telescope_name(key[0]) for key in groups]
    for (_, instrument, binning), camera, name in zip(groups, groups.values(), plain, strict=True):
        others = [key for key, other in zip(groups, plain, strict=True) if other == name]
        if len({key[1] for key in others}) > 1 and instrument:
            name += f"-{safe_name(instrument, fallback='camera')}"
        camera.name = name + (f"-bin{binning}" if len({key[2] for key in others}) > 1 and binning > 1 else "")
    return sorted(groups.values(), key=lambda camera: camera.name)


def _telescope_name(text: str) -> str:
    """A legal name for a telescope; names of result folders and of pools are changed."""
    name = safe_name(text, fallback="telescope").lstrip("+")
    return f"{name}-telescope" if name in RESERVED_NAMES or is_pool(name) else name


def _join_stacks(groups: dict[tuple[str, str, int], Camera]) -> dict[tuple[str, str, int], Camera]:
    """Give all stacks to the only telescope with science frames: stacking programs may drop its name from the header."""
    kept = {key: camera for key, camera in groups.items() if camera.science}
    if len(kept) == 1:
        (camera,) = kept.values()
        camera.stacks = [frame for other in groups.values() for frame in other.stacks]
    return kept or groups


def settle_detector(
    camera: Camera, measured: Mapping[str, Measured], calibration: Mapping[str, Measured]
) -> list[Value]:
    """The properties of the detector of one telescope: found, assumed or missing.

    Parameters
    ----------
    camera : Camera
    measured : mapping of str to Measured
        Measurements of some of its frames, by path.
    calibration : mapping of str to Measured
        Measurements of some dark and bias frames of the folder, by path.

    Returns
    -------
    list of Value
    """
    frames = camera.science or camera.stacks
    looks = [measured[frame.path] for frame in frames if frame.path in measured]
    saturation = _saturation(frames, looks)
    read_noise = _from_headers(frames, "read_noise")
    guess = float(read_noise.value) if read_noise and isinstance(read_noise.value, float) else READ_NOISE
    gain = _gain(frames, looks, guess, float(saturation.value or 65535.0))
    return [
        _pixel_scale(frames),
        gain,
        read_noise or _read_noise(gain, calibration),
        saturation,
        _filter(frames),
        _time(frames),
        _wcs(frames),
    ]


def _from_headers(
    frames: Sequence[Frame], role: str, *, usable: Callable[[str, float], bool] | None = None
) -> Value | None:
    """The median of a value that all headers have; None where a header lacks it."""
    given = [(frame.numbers or {}).get(role) for frame in frames]
    pairs = [pair for pair in given if pair is not None and (usable is None or usable(*pair))]
    if not pairs or len(pairs) < len(frames):
        return None
    keyword, values = mode(key for key, _ in pairs), sorted({value for _, value in pairs})
    several = f", {values[0]:g} to {values[-1]:g}" if len(values) > 1 else ""
    return Value(role, float(median(value for _, value in pairs)), "found", f"{keyword} in the headers{several}")


def _gain(frames: Sequence[Frame], looks: Sequence[Measured], read_noise: float, range_: float) -> Value:
    def no_setting(key: str, value: float) -> bool:
        return key not in ("GAIN", "GAIN1") or value < A_SETTING or value != round(value)

    if found := _from_headers(frames, "gain", usable=no_setting):
        return found
    missing = "not in the headers"
    if any("gain" in (frame.numbers or {}) for frame in frames):
        missing = "GAIN in the headers is missing in some frames, or is a camera setting"
    transfers = [value for look in looks if np.isfinite(value := look.transfer(read_noise))]
    if transfers and WELLS[0] <= median(transfers) * range_ <= WELLS[1]:
        value = round(median(transfers), 3)
        return Value("gain", value, "assumed", f"{missing}; from the noise of the sky in {len(transfers)} frames")
    guess = round(FULL_WELL / range_, 2)
    why = f"{missing}, and not measurable from the noise of the sky; for a full well of {FULL_WELL:.0f} electrons"
    return Value("gain", guess, "assumed", why)


def _read_noise(gain: Value, calibration: Mapping[str, Measured]) -> Value:
    noises = [look.noise for look in calibration.values() if np.isfinite(look.noise) and look.noise > 0]
    if noises and isinstance(gain.value, float):
        value = round(float(median(noises)) * gain.value, 2)
        return Value("read_noise", value, "assumed", f"from the noise of {len(noises)} dark or bias frames")
    return Value("read_noise", READ_NOISE, "assumed", "not in the headers; a typical value")


def _saturation(frames: Sequence[Frame], looks: Sequence[Measured]) -> Value:
    if found := _from_headers(frames, "saturation"):
        return found
    piled = [look.highest for look in looks if look.piled and look.highest > 1000]
    if piled:
        return Value("saturation", float(median(piled)), "found", f"saturated pixels in {len(piled)} frames")
    highest = max((look.highest for look in looks), default=np.nan)
    if np.isfinite(highest):
        scaled = 65535.0 * highest if highest <= 1.001 else highest  # pixels from 0 to 1 are fractions of 65535
        full = next((level for level in CONVERTERS if level >= scaled), round(scaled, 1))
        why = f"range of the converter; no saturated pixels, the highest value in {len(looks)} frames is {highest:g}"
        return Value("saturation", full, "assumed", why)
    return Value("saturation", None, "missing", "no frame could be measured")


def _pixel_scale(frames: Sequence[Frame]) -> Value:
    known = [frame for frame in frames if np.isfinite(frame.scale)]
    if not known:
        why = "no WCS, and no XPIXSZ with FOCALLEN; only the seeing in arcsec depends on it"
        return Value("pixel_scale", 1.0, "assumed", why)
    best = [frame for frame in known if frame.scale_from == "WCS"] or known
    value = float(median(frame.scale for frame in best))
    source = best[0].scale_from
    return Value("pixel_scale", float(f"{value:.4g}"), "found", f"{source} in {len(best)} frames")


def _filter(frames: Sequence[Frame]) -> Value:
    names = sorted({frame.filter for frame in frames if frame.filter})
    if not names:
        return Value("filter", "clear", "assumed", "not in the headers")
    return Value("filter", ", ".join(names), "found", "in the headers")


def _time(frames: Sequence[Frame]) -> Value:
    times = sorted(frame.time for frame in frames if frame.time)
    if len(times) < len(frames):
        n = len(frames) - len(times)
        why = f"{n} of {len(frames)} headers have no DATE-OBS, so nights cannot be told apart"
        return Value("time", None, "missing", why)
    seconds = sorted({frame.exposure for frame in frames if np.isfinite(frame.exposure)})
    longest = f" to {seconds[-1]:g} s" if len(seconds) > 1 else ""
    exposures = f", exposures {seconds[0]:g} s{longest}" if seconds else ""
    return Value("time", f"{times[0][:16]} to {times[-1][:16]}", "found", f"in the headers{exposures}")


def _wcs(frames: Sequence[Frame]) -> Value:
    n = sum(bool(frame.wcs) for frame in frames)
    if n == len(frames):
        files = sum(frame.wcs != "header" for frame in frames)
        return Value("WCS", f"{n} frames", "found", f"in {files} header files" if files else "in the headers")
    why = "frames are aligned by the pattern of their stars, and candidates get no sky positions"
    return Value("WCS", None, "missing", f"{len(frames) - n} of {len(frames)} frames have no WCS; {why}")
