"""The telescopes of a folder, and what their headers and pixels say of the detector."""

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

FULL_WELL = 100_000.0  # electrons that usual cameras hold over the range of their converter
WELLS = (5_000.0, 300_000.0)  # beyond these a gain from the noise of the sky is wrong: a bias is in its level
READ_NOISE = 8.0  # [electron], usual of a CCD
CONVERTERS = (4095.0, 16383.0, 65535.0)
UNITS = {"gain": "electron/ADU", "read_noise": "electron", "saturation": "ADU", "pixel_scale": "arcsec/px"}


@dataclass(frozen=True)
class Value:
    """What is known of one key of the detector: its value, how it is known, and the reason."""

    key: str
    value: float | str | None
    state: Literal["found", "assumed", "missing"]
    because: str


@dataclass
class Camera:
    """A telescope with one camera and binning, and its frames."""

    name: str
    science: list[Frame] = field(default_factory=list)
    stacks: list[Frame] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)


def cameras_of(frames: Sequence[Frame], *, fallback: str) -> list[Camera]:
    """Telescopes of the frames of the sky, by name; cameras and binnings of one telescope are several.

    Parameters
    ----------
    frames : sequence of Frame
    fallback : str
        Name where no header names a telescope or a camera.
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
    """A name that a telescope may have: others are those of folders of results, or of pools."""
    name = safe_name(text, fallback="telescope").lstrip("+")
    return f"{name}-telescope" if name in RESERVED_NAMES or is_pool(name) else name


def _join_stacks(groups: dict[tuple[str, str, int], Camera]) -> dict[tuple[str, str, int], Camera]:
    """Stacks whose header lost the names of telescope and camera go with the one telescope that has science frames."""
    kept = {key: camera for key, camera in groups.items() if camera.science}
    if len(kept) == 1:
        (camera,) = kept.values()
        camera.stacks = [frame for other in groups.values() for frame in other.stacks]
    return kept or groups


def settle_detector(
    camera: Camera, measured: Mapping[str, Measured], calibration: Mapping[str, Measured]
) -> list[Value]:
    """What is found, assumed and missing of the detector of one telescope.

    Parameters
    ----------
    camera : Camera
    measured, calibration : mapping of str to Measured
        Some of its frames by path, and some of the dark and bias frames of the folder.
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


def _from_headers(frames: Sequence[Frame], role: str, *, usable: Callable[[str, float], bool] | None = None):
    """A value that all headers give; None where one lacks it."""
    given = [(frame.numbers or {}).get(role) for frame in frames]
    pairs = [pair for pair in given if pair is not None and (usable is None or usable(*pair))]
    if not pairs or len(pairs) < len(frames):
        return None
    keyword, values = mode(key for key, _ in pairs), sorted({value for _, value in pairs})
    several = f", {values[0]:g} to {values[-1]:g}" if len(values) > 1 else ""
    return Value(role, float(median(value for _, value in pairs)), "found", f"{keyword} of the headers{several}")


def _gain(frames: Sequence[Frame], looks: Sequence[Measured], read_noise: float, range_: float) -> Value:
    def no_setting(key: str, value: float) -> bool:
        return key not in ("GAIN", "GAIN1") or value < A_SETTING or value != round(value)

    if found := _from_headers(frames, "gain", usable=no_setting):
        return found
    missing = "the headers do not give it"
    if any("gain" in (frame.numbers or {}) for frame in frames):
        missing = "GAIN of the headers is missing, or a setting of the camera"
    transfers = [value for look in looks if np.isfinite(value := look.transfer(read_noise))]
    if transfers and WELLS[0] <= median(transfers) * range_ <= WELLS[1]:
        value = round(median(transfers), 3)
        return Value("gain", value, "assumed", f"{missing}; the noise of the sky in {len(transfers)} frames gives it")
    guess = round(FULL_WELL / range_, 2)
    why = f"{missing}, nor does the noise of the sky; {FULL_WELL:.0f} electrons over the range of the camera"
    return Value("gain", guess, "assumed", why)


def _read_noise(gain: Value, calibration: Mapping[str, Measured]) -> Value:
    noises = [look.noise for look in calibration.values() if np.isfinite(look.noise) and look.noise > 0]
    if noises and isinstance(gain.value, float):
        value = round(float(median(noises)) * gain.value, 2)
        return Value("read_noise", value, "assumed", f"the noise of {len(noises)} dark or bias frames")
    return Value("read_noise", READ_NOISE, "assumed", "the headers do not give it; usual of such a camera")


def _saturation(frames: Sequence[Frame], looks: Sequence[Measured]) -> Value:
    if found := _from_headers(frames, "saturation"):
        return found
    piled = [look.highest for look in looks if look.piled and look.highest > 1000]
    if piled:
        return Value("saturation", float(median(piled)), "found", f"{len(piled)} frames, whose pixels pile up there")
    highest = max((look.highest for look in looks), default=np.nan)
    if np.isfinite(highest):
        scaled = 65535.0 * highest if highest <= 1.001 else highest  # pixels of 0..1 are read as shares of 65535
        full = next((level for level in CONVERTERS if level >= scaled), round(scaled, 1))
        why = f"range of the converter; the highest of {len(looks)} frames is {highest:g}, and nothing piles up there"
        return Value("saturation", full, "assumed", why)
    return Value("saturation", None, "missing", "no frame could be measured")


def _pixel_scale(frames: Sequence[Frame]) -> Value:
    told = [frame for frame in frames if np.isfinite(frame.scale)]
    if not told:
        why = "no WCS, and no XPIXSZ with FOCALLEN; only the seeing in arcsec depends on it"
        return Value("pixel_scale", 1.0, "assumed", why)
    best = [frame for frame in told if frame.scale_from == "WCS"] or told
    value = float(median(frame.scale for frame in best))
    source = best[0].scale_from
    return Value("pixel_scale", float(f"{value:.4g}"), "found", f"{source} of {len(best)} frames")


def _filter(frames: Sequence[Frame]) -> Value:
    names = sorted({frame.filter for frame in frames if frame.filter})
    if not names:
        return Value("filter", "clear", "assumed", "the headers name none")
    return Value("filter", ", ".join(names), "found", "the headers")


def _time(frames: Sequence[Frame]) -> Value:
    times = sorted(frame.time for frame in frames if frame.time)
    if len(times) < len(frames):
        n = len(frames) - len(times)
        return Value("time", None, "missing", f"{n} of {len(frames)} headers have no DATE-OBS: they keep no order")
    seconds = sorted({frame.exposure for frame in frames if np.isfinite(frame.exposure)})
    longest = f" to {seconds[-1]:g} s" if len(seconds) > 1 else ""
    exposures = f", exposures {seconds[0]:g} s{longest}" if seconds else ""
    return Value("time", f"{times[0][:16]} to {times[-1][:16]}", "found", f"the headers{exposures}")


def _wcs(frames: Sequence[Frame]) -> Value:
    n = sum(bool(frame.wcs) for frame in frames)
    if n == len(frames):
        files = sum(frame.wcs != "header" for frame in frames)
        return Value("WCS", f"{n} frames", "found", f"{files} header files beside them" if files else "the headers")
    why = "frames are aligned by the pattern of their stars; without a WCS there are no positions on the sky"
    return Value("WCS", None, "missing", f"{len(frames) - n} of {len(frames)} frames have none; {why}")
