"""Measure seeing, noise and saturation of frames from their central part."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from otrain_core.errors import ImageError
from otrain_core.extensions import image_extensions
from otrain_core.images.detector import photon_transfer, sky_noise
from otrain_core.images.hdus import read_fits
from otrain_core.project.look import Frame
from otrain_core.widths import FWHM_PER_SIGMA

log = logging.getLogger("otrain")

SIDE = 1400  # largest side of the central part that is measured [px]
MOST = 48  # largest number of frames of a group that are measured
THRESHOLD = 8.0  # detection threshold of stars [sigma of the sky]
PILED = 5  # a frame is saturated if at least this many pixels have its highest value


@dataclass(frozen=True)
class Measured:
    """Measurements of a frame.

    Attributes
    ----------
    fwhm : float
        Median FWHM of its stars [px]; NaN with fewer than five stars.
    stars : int
        Number of stars in the central part.
    level, noise : float
        Level and noise of the sky, in the units of the file.
    highest : float
        Highest value of the whole frame.
    piled : bool
        Whether at least `PILED` pixels have the highest value.
    """

    fwhm: float
    stars: int
    level: float
    noise: float
    highest: float
    piled: bool

    def transfer(self, read_noise: float) -> float:
        """Gain from the noise of the sky [electron/unit], see `otrain_core.images.detector.photon_transfer`."""
        return photon_transfer(self.level, self.noise, read_noise)


def measure(
    frames: Sequence[Frame],
    folder: str | Path,
    *,
    most: int = MOST,
    threads: int = 2,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Measured]:
    """Measure some frames of a group.

    Parameters
    ----------
    frames : sequence of Frame
    folder : path-like
        Folder to which their paths are relative.
    most : int
        Measure at most this many frames, evenly spaced in the list.
    threads : int
        Number of frames to measure in parallel.
    tell : callable, optional
        Progress callback, called with the number of frames done and the total.

    Returns
    -------
    dict of str to Measured
        Measurements by path. Frames that cannot be read are logged and left out.
    """
    chosen = [frames[k] for k in np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).astype(int))]
    found = {}
    with ThreadPoolExecutor(threads) as pool:
        for number, (frame, result) in enumerate(
            zip(chosen, pool.map(lambda frame: _measure(frame, Path(folder)), chosen), strict=True)
        ):
            if result is not None:
                found[frame.path] = result
            if tell:
                tell(number + 1, len(chosen))
    return found


def _measure(frame: Frame, folder: Path) -> Measured | None:
    path: str | Path = folder / frame.path
    try:
        if frame.path.endswith("[*]"):
            plain = folder / frame.path.removesuffix("[*]")
            path = f"{plain}[{image_extensions(plain, image=frame.path)[0]}]"
        data, _ = read_fits(path, image=frame.path)
    except ImageError as error:
        log.warning("%s (not measured)", error)
        return None
    finite = data[np.isfinite(data)]
    if finite.size == 0:
        log.warning("image %s: data: all pixels are NaN (not measured)", frame.path)
        return None
    highest = float(finite.max())
    y, x = (max((side - SIDE) // 2, 0) for side in data.shape)
    part = np.ascontiguousarray(data[y : y + SIDE, x : x + SIDE])
    level, noise = sky_noise(part)
    fwhm, stars = _stars(part, noise, highest) if noise > 0 else (np.nan, 0)
    return Measured(fwhm, stars, level, noise, highest, int((finite == highest).sum()) >= PILED)


def _stars(data: np.ndarray, noise: float, highest: float) -> tuple[float, int]:
    """Median FWHM [px] and number of the stars, without hot pixels and saturated stars."""
    import sep

    missing = ~np.isfinite(data)
    data = np.where(missing, 0, data)
    try:
        background = sep.Background(data, mask=missing, bw=64, bh=64)
        table = sep.extract(data - background.back(), THRESHOLD * noise, mask=missing, minarea=5)
    except Exception:  # sep raises a plain Exception when objects overflow its buffers
        return np.nan, 0
    wide = FWHM_PER_SIGMA * np.sqrt((table["a"] ** 2 + table["b"] ** 2) / 2)
    good = (table["flag"] == 0) & (table["b"] > 0.5 * table["a"]) & (table["b"] > 0.45)
    good &= table["peak"] < 0.8 * (highest - float(np.median(background.back())))
    return (float(np.median(wide[good])) if good.sum() >= 5 else np.nan), int(good.sum())
