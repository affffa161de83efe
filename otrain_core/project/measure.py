"""Seeing, depth, noise and saturation of some frames, from a part of their pixels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from otrain_core.errors import ImageError
from otrain_core.images.detector import photon_transfer, sky_noise
from otrain_core.images.hdus import read_fits
from otrain_core.project.look import Frame
from otrain_core.widths import FWHM_PER_SIGMA

log = logging.getLogger("otrain")

SIDE = 1400  # of the part in the middle of a frame that is looked at [px]
MOST = 48  # frames of a group that are looked at
THRESHOLD = 8.0  # of stars [sigma of the sky]
PILED = 5  # pixels of the highest value that a saturated star leaves


@dataclass(frozen=True)
class Measured:
    """What the pixels of a frame say.

    Attributes
    ----------
    fwhm : float
        Median FWHM of its stars [px]; NaN with fewer than five.
    stars : int
        Detections in the part that was looked at.
    level, noise : float
        Of the sky, as stored in the file.
    highest : float
        Highest value of the whole frame.
    piled : bool
        Whether at least `PILED` pixels have it.
    """

    fwhm: float
    stars: int
    level: float
    noise: float
    highest: float
    piled: bool

    def transfer(self, read_noise: float) -> float:
        """Gain that the noise of the sky gives [electron/unit], see `otrain_core.images.detector.photon_transfer`."""
        return photon_transfer(self.level, self.noise, read_noise)


def measure(
    frames: Sequence[Frame],
    folder: str | Path,
    *,
    most: int = MOST,
    threads: int = 2,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Measured]:
    """Measure frames, at most `most` of them, evenly over the list; those that cannot be read are named and left out.

    Returns
    -------
    dict
        By path.
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
    from otrain_core.extensions import image_extensions

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
    """Median FWHM [px] and number of the stars; hot pixels and saturated stars are none."""
    import sep

    missing = ~np.isfinite(data)
    data = np.where(missing, 0, data)
    try:
        background = sep.Background(data, mask=missing, bw=64, bh=64)
        table = sep.extract(data - background.back(), THRESHOLD * noise, mask=missing, minarea=5)
    except Exception:  # sep raises Exception where objects overflow its buffers
        return np.nan, 0
    wide = FWHM_PER_SIGMA * np.sqrt((table["a"] ** 2 + table["b"] ** 2) / 2)
    good = (table["flag"] == 0) & (table["b"] > 0.5 * table["a"]) & (table["b"] > 0.45)
    good &= table["peak"] < 0.8 * (highest - float(np.median(background.back())))
    return (float(np.median(wide[good])) if good.sum() >= 5 else np.nan), int(good.sum())
