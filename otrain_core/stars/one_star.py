"""Fit a PSF model to one star, as in crowded-field photometry (Stetson 1987, PASP 99, 191)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from otrain_core.images.pixels import add_stamp
from otrain_core.stars.psf_model import PSFModel
from otrain_core.stars.psf_stars import Sky

FIT_RADIUS = 2.0  # radius of the pixels used in the fit [FWHM]
CORE = 1.0  # radius of the pixels used for the quality of the fit [FWHM]
MODEL_ERROR = 0.03  # relative error of the PSF model in a pixel that is allowed in `StarFit.chi2`


@dataclass
class StarFit:
    """PSF fit of one star.

    Attributes
    ----------
    flux, fluxerr : float
        [ADU]
    x, y : float
        Position [px].
    level : float
        Local background level [ADU].
    chi2 : float
        Mean over the core of the squared residual over its variance, which includes `MODEL_ERROR`.
    excess : float
        The same without `MODEL_ERROR` in the variance.
    covered : float
        Usable fraction of the core.
    """

    flux: float
    fluxerr: float
    x: float
    y: float
    level: float
    chi2: float
    excess: float
    covered: float


def fit_star(
    sky: Sky, segments: np.ndarray, label: int, psf: PSFModel, x: float, y: float, *, gain: float
) -> StarFit | None:
    """Fit flux, position and local level of a star with a PSF model; pixels of its neighbours are not used.

    Parameters
    ----------
    sky : Sky
        Background-subtracted image and its noise.
    segments : numpy.ndarray
        int (height, width), number of the source that a pixel belongs to (0: none).
    label : int
        Number of the star in `segments`.
    psf : PSFModel
    x, y : float
        First guess [px].
    gain : float
        [electron/ADU].

    Returns
    -------
    StarFit or None
        None if the star is at the edge or has too few usable pixels, or if the fit diverges.
    """
    half = int(np.ceil(FIT_RADIUS * psf.fwhm)) + 1
    cx, cy = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    if not (half <= cx < sky.data.shape[1] - half and half <= cy < sky.data.shape[0] - half):
        return None
    box = np.s_[cy - half : cy + half + 1, cx - half : cx + half + 1]
    offset = np.arange(-half, half + 1.0)
    away = np.hypot(offset[:, None], offset)
    valid = ~sky.missing[box] & ~others(segments[box], label)
    use = valid & (away <= FIT_RADIUS * psf.fwhm)
    core = away <= CORE * psf.fwhm
    if use.sum() < 9 or not (core & valid).any():
        return None

    def profile(px: float, py: float) -> np.ndarray:
        plane = np.zeros(away.shape)
        stamp, y0, x0 = psf.stamp(px, py)
        add_stamp(plane, stamp, y0 - cy + half, x0 - cx + half)
        return plane

    found = _solve(sky.data[box], use, profile, float(x), float(y), rms=sky.rms, gain=gain, reach=psf.fwhm)
    if found is None:
        return None
    flux, px, py, level, fluxerr = found
    signal, judged = flux * profile(px, py), core & valid
    residual = (sky.data[box] - signal - level)[judged]
    variance = (sky.rms**2 + signal / gain)[judged]
    return StarFit(
        flux=flux,
        fluxerr=fluxerr,
        x=px,
        y=py,
        level=level,
        chi2=float(np.mean(residual**2 / (variance + (MODEL_ERROR * signal[judged]) ** 2))),
        excess=float(np.mean(residual**2 / variance)),
        covered=float(valid[core].mean()),
    )


def _solve(
    data: np.ndarray,
    use: np.ndarray,
    profile: Callable[[float, float], np.ndarray],
    x: float,
    y: float,
    *,
    rms: float,
    gain: float,
    reach: float,
) -> tuple[float, float, float, float, float] | None:
    """Flux, x, y, local level and error of the flux by Gauss-Newton steps; None if the fit diverges.

    A fit that moves by more than `reach` px from (x, y) counts as diverged.
    """
    values = data[use].astype(np.float64)
    px, py, level, step = x, y, 0.0, 0.05
    start = profile(px, py)
    flux = float(max((values * start[use]).sum() / (start[use] ** 2).sum(), rms))
    for _ in range(12):
        star = profile(px, py)
        design = np.stack(
            [
                star[use],
                flux * (profile(px + step, py) - profile(px - step, py))[use] / (2 * step),
                flux * (profile(px, py + step) - profile(px, py - step))[use] / (2 * step),
                np.ones(values.size),
            ]
        ).T
        signal = flux * star[use]
        weight = 1 / (rms**2 + signal / gain + (0.01 * signal) ** 2)
        matrix = design.T @ (weight[:, None] * design)
        try:
            change = np.linalg.solve(matrix, design.T @ (weight * (values - signal - level)))
            errors = np.linalg.inv(matrix)
        except np.linalg.LinAlgError:
            return None
        moved = np.clip(change[1:3], -0.5, 0.5)
        flux, px, py, level = flux + change[0], px + moved[0], py + moved[1], level + change[3]
        if not np.isfinite(flux) or flux <= 0 or np.hypot(px - x, py - y) > reach:
            return None
        if np.abs(moved).max() < 1e-3 and abs(change[0]) < 1e-4 * flux:
            break
    return float(flux), float(px), float(py), float(level), float(np.sqrt(max(errors[0, 0], 0)))


def others(segments: np.ndarray, label: int) -> np.ndarray:
    """Bool plane of the pixels of other sources than `label`, and of their neighbours."""
    return ndimage.maximum_filter((segments > 0) & (segments != label), size=3)
