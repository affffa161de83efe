"""Resample an image to another grid by SWarp (Bertin et al. 2002, ASPC 281, 228), which uses the two WCSs alone."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from otrain_core.errors import ImageError
from otrain_core.images.frames import MASK_MISSING
from otrain_core.images.pixels import fill_bad
from otrain_core.images.prepare import Prepared
from otrain_core.images.resample import Mapping, autocorrelation, pick
from otrain_core.images.tpv import swarp_header
from otrain_core.programs import find_program
from otrain_core.temporary import temporary_folder

RESAMPLING = {"bilinear": "BILINEAR", "lanczos3": "LANCZOS3"}


def swarp_impulse(resampling: str, scale: float) -> Callable[[np.ndarray], np.ndarray]:
    """Impulse response of SWarp's interpolation along one axis.

    Parameters
    ----------
    resampling : {'bilinear', 'lanczos3'}
    scale : float
        Side of an output pixel in input pixels. From 1.5 on, SWarp averages several
        interpolated values (its automatic OVERSAMPLING).

    Returns
    -------
    callable
        Weight of a pixel as a function of its distance [input px].
    """
    count = max(1, int(scale + 0.5))
    steps = ((np.arange(count) + 0.5) / count - 0.5) * scale

    def one(distance: np.ndarray) -> np.ndarray:
        if resampling == "bilinear":
            return np.maximum(1 - np.abs(distance), 0)
        return np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)

    def impulse(distance: np.ndarray) -> np.ndarray:
        return np.sum([one(distance + step) for step in steps], axis=0) / count

    return impulse


def run_swarp(
    data: np.ndarray,
    *,
    wcs: Any,
    target_wcs: Any,
    shape: tuple[int, int],
    resampling: str = "bilinear",
    name: str,
    workdir: str | Path | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Resample an image to another grid; the flux of sources is conserved.

    Parameters
    ----------
    data : numpy.ndarray
        float32, background subtracted, without NaN.
    wcs, target_wcs : astropy.wcs.WCS
        Of the image and of the grid.
    shape : tuple of int
        (height, width) of the grid.
    resampling : {'bilinear', 'lanczos3'}
    name : str
        Of the image, for errors.
    workdir : path-like, optional
        Folder for the files of the program, which are kept (default: a temporary folder).

    Returns
    -------
    data : numpy.ndarray
        float32 (height, width) [ADU per pixel of the grid].
    covered : numpy.ndarray
        bool (height, width), pixels with a value.

    Raises
    ------
    ImageError
        A WCS that SWarp cannot read, or SWarp failed.
    MissingProgramError
        SWarp is not installed.
    """
    program = find_program("swarp")
    header, target = swarp_header(wcs, data.shape, name=name), swarp_header(target_wcs, shape, name=name)
    with temporary_folder("swarp") as temporary:
        folder = Path(workdir or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        fits.writeto(folder / "input.fits", data.astype(np.float32, copy=False), header, overwrite=True)
        # An explicit weight map, because the one that SWarp derives is 0 where the sky has no noise.
        fits.writeto(folder / "weight.fits", np.ones(data.shape, np.float32), overwrite=True)
        (folder / "output.head").write_text(target.tostring(sep="\n", endcard=True, padding=False) + "\n")
        (folder / "empty.conf").write_text("")  # so that no default.swarp is read
        run = subprocess.run(
            swarp_command(program, resampling=resampling), capture_output=True, text=True, check=False, cwd=folder
        )
        if run.returncode != 0 or not (folder / "output.fits").exists():
            lines = [line for line in re.split(r"[\r\n]+", run.stderr + run.stdout) if "Error" in line]
            raise ImageError(name, "align", f"SWarp failed: {lines[-1].strip(' >*') if lines else 'no message'}")
        out = fits.getdata(folder / "output.fits").astype(np.float32)
        covered = fits.getdata(folder / "output.weight.fits") > 0
    if out.shape != tuple(shape):
        raise ImageError(name, "align", f"SWarp made an image of {out.shape} px instead of {tuple(shape)} px")
    return out, covered


def swarp_command(program: str, *, resampling: str) -> list[str]:
    """Command line for `run_swarp`; all files are in the current folder."""
    options = {
        "c": "empty.conf",
        "IMAGEOUT_NAME": "output.fits",
        "WEIGHTOUT_NAME": "output.weight.fits",
        "WEIGHT_TYPE": "MAP_WEIGHT",
        "WEIGHT_IMAGE": "weight.fits",
        "RESCALE_WEIGHTS": "N",
        "COMBINE_TYPE": "AVERAGE",  # MEDIAN would lose pixels at the edge of the weight map
        "RESAMPLING_TYPE": RESAMPLING[resampling],
        "FSCALASTRO_TYPE": "VARIABLE",  # scale by the local ratio of the pixel areas
        "FSCALE_KEYWORD": "NONE",
        "FSCALE_DEFAULT": "1",
        "GAIN_KEYWORD": "NONE",
        "SATLEV_KEYWORD": "NONE",
        "SUBTRACT_BACK": "N",
        "WRITE_XML": "N",
        "VMEM_DIR": ".",
        "RESAMPLE_DIR": ".",
        "NTHREADS": "1",
        "VERBOSE_TYPE": "QUIET",
    }
    return [program, "input.fits", *(part for key, value in options.items() for part in (f"-{key}", value))]


def resample_by_swarp(
    prepared: Prepared, mapping: Mapping, *, wcs: Any, target_wcs: Any, resampling: str, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Resample a prepared reference by SWarp, with the results of `otrain_core.images.resample.resample`.

    Missing pixels are filled before, because SWarp would mask every pixel whose interpolation
    uses one of them, 36 pixels with lanczos3. Here a bad pixel masks itself and its neighbours.

    Parameters
    ----------
    prepared : Prepared
    mapping : Mapping
        That of the two WCSs.
    wcs, target_wcs : astropy.wcs.WCS
        Of the reference and of the science image.
    resampling : {'bilinear', 'lanczos3'}
    name : str
        Of the image, for errors.
    """
    filled = fill_bad(prepared.sci, prepared.mask)
    data, covered = run_swarp(
        filled, wcs=wcs, target_wcs=target_wcs, shape=mapping.shape, resampling=resampling, name=name
    )
    rx, ry, area = mapping.grid()
    noise, mask = pick(prepared.noise, prepared.mask, rx, ry, area, grow=True)
    mask[~covered] = MASK_MISSING
    missing = (mask & MASK_MISSING) > 0
    data[missing], noise[missing] = np.nan, np.nan
    impulse = swarp_impulse(resampling, float(np.sqrt(np.median(area))))
    return data, noise, mask, autocorrelation(rx, ry, area, impulse)
