"""SWarp (Bertin et al. 2002, ASPC 281, 228): an image resampled onto another grid by the two WCSs alone."""

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
    """Weight of a pixel at a distance [px] along one axis, as SWarp interpolates.

    Parameters
    ----------
    resampling : {'bilinear', 'lanczos3'}
    scale : float
        Pixels of the input along one of the output: from 1.5 on SWarp takes the mean of
        several interpolated values (its automatic OVERSAMPLING).
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
    """Resample an image onto another grid.

    Parameters
    ----------
    data : numpy.ndarray
        float32, background subtracted, no NaN.
    wcs, target_wcs : astropy.wcs.WCS
        Of the image and of the grid.
    shape : tuple of int
        (height, width) of the grid.
    resampling : {'bilinear', 'lanczos3'}
    name : str
        Of the image, for errors.
    workdir : path-like, optional
        Folder for the program's files, which are kept (default: a temporary one).

    Returns
    -------
    data : numpy.ndarray
        float32 (height, width) per pixel of the grid: the flux of a source is conserved.
    covered : numpy.ndarray
        bool, where the image gives a value.

    Raises
    ------
    ImageError
        A WCS that SWarp cannot read, or SWarp failed.
    MissingProgramError
    """
    program = find_program("swarp")
    header, target = swarp_header(wcs, data.shape, name=name), swarp_header(target_wcs, shape, name=name)
    with temporary_folder("swarp") as temporary:
        folder = Path(workdir or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        fits.writeto(folder / "input.fits", data.astype(np.float32, copy=False), header, overwrite=True)
        # A weight of its own: the one that SWarp would derive is nothing where the sky has no noise.
        fits.writeto(folder / "weight.fits", np.ones(data.shape, np.float32), overwrite=True)
        (folder / "output.head").write_text(target.tostring(sep="\n", endcard=True, padding=False) + "\n")
        (folder / "empty.conf").write_text("")  # else a file default.swarp in the current folder would have a say
        run = subprocess.run(
            swarp_command(program, resampling=resampling), capture_output=True, text=True, check=False, cwd=folder
        )
        if run.returncode != 0 or not (folder / "output.fits").exists():
            lines = [line for line in re.split(r"[\r\n]+", run.stderr + run.stdout) if "Error" in line]
            raise ImageError(name, "align", f"SWarp failed: {lines[-1].strip(' >*') if lines else 'no message'}")
        out = fits.getdata(folder / "output.fits").astype(np.float32)
        covered = fits.getdata(folder / "output.weight.fits") > 0
    if out.shape != tuple(shape):
        raise ImageError(name, "align", f"SWarp made an image of {out.shape} px; {tuple(shape)} were asked for")
    return out, covered


def swarp_command(program: str, *, resampling: str) -> list[str]:
    """Command line for `run_swarp`, all files in the current folder."""
    options = {
        "c": "empty.conf",
        "IMAGEOUT_NAME": "output.fits",
        "WEIGHTOUT_NAME": "output.weight.fits",
        "WEIGHT_TYPE": "MAP_WEIGHT",
        "WEIGHT_IMAGE": "weight.fits",
        "RESCALE_WEIGHTS": "N",
        "COMBINE_TYPE": "AVERAGE",  # the median of one image drops what lies at the edge of its weight
        "RESAMPLING_TYPE": RESAMPLING[resampling],
        "FSCALASTRO_TYPE": "VARIABLE",  # times the ratio of the pixel areas at each place
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
    """As `otrain_core.images.resample.resample`; `mapping` is that of the two WCSs.

    Holes are filled before: SWarp would lose every pixel whose interpolation touches one, 36 of
    them with lanczos3. The mask is that of the pixels themselves and of their neighbours.
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
