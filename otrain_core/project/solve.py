"""Find the WCS of frames that have none, with solve-field of astrometry.net (Lang et al. 2010, AJ 139, 1782)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from otrain_core.errors import ConfigError, ImageError
from otrain_core.images.detector import sky_noise
from otrain_core.images.hdus import read_fits
from otrain_core.images.wcs import image_wcs
from otrain_core.io import atomic, shown
from otrain_core.programs import find_program
from otrain_core.project.look import FITS_NAME, Frame, look_at, look_at_file
from otrain_core.temporary import temporary_folder

MOST_STARS = 300  # number of the brightest stars that the solver gets
SCALE_RANGE = 1.25  # factor by which the pixel scale in a header may be wrong
RADIUS = 3.0  # error allowed for the pointing in a header [deg]

Tell = Callable[[str, int, int], None]


def solve_frames(
    paths: Sequence[str | Path],
    *,
    output: str | Path | None = None,
    scale: float | None = None,
    seconds: int = 60,
    threads: int = 2,
    tell: Tell | None = None,
) -> list[dict[str, Any]]:
    """Solve the science frames without a WCS, and write a WCS header file for each.

    Parameters
    ----------
    paths : sequence of path-like
        FITS files, and folders of FITS files.
    output : path-like, optional
        Folder for the header files, with the same subfolders as the frames (default: the folder of each frame).
    scale : float, optional
        Pixel scale [arcsec/px]; it replaces the scale in the headers.
    seconds : int
        Limit of the CPU time that the solver spends on one frame.
    threads : int
        Number of frames to solve in parallel.
    tell : callable, optional
        Progress callback, called with a description, the number of frames done and the total.

    Returns
    -------
    list of dict
        path, wcs (the file written, or None) and reason (why the frame was not solved, or '').

    Raises
    ------
    MissingProgramError
        solve-field is not installed.
    ConfigError
        A file or folder does not exist.
    """
    program = find_program("solve-field")
    jobs = [job for path in paths for job in _without_wcs(Path(path))]

    def solve(job: tuple[Path, Frame]) -> dict[str, Any]:
        folder, frame = job
        path = folder / frame.path
        target = (Path(output) if output else folder) / f"{FITS_NAME.sub('', frame.path)}.wcs"
        if frame.path.endswith("[*]"):
            reason = (
                "the file holds several images, and each needs a WCS of its own: write the extensions to single files"
            )
            return {"path": shown(path), "wcs": None, "reason": reason}
        try:
            header = solve_one(program, path, frame, scale=scale, seconds=seconds)
            with atomic(target) as temporary:
                header.tofile(temporary, endcard=True, padding=False, overwrite=True)
        except ImageError as error:
            return {"path": shown(path), "wcs": None, "reason": error.message}
        return {"path": shown(path), "wcs": shown(target), "reason": ""}

    found = []
    with ThreadPoolExecutor(threads) as pool:
        for result in pool.map(solve, jobs):
            found.append(result)
            if tell:
                tell("solving", len(found), len(jobs))
    return found


def _without_wcs(path: Path) -> list[tuple[Path, Frame]]:
    """The science frames and stacks without a WCS, each with the folder of its path."""
    if path.is_dir():
        return [(path, frame) for frame in look_at(path) if frame.kind in ("science", "stack") and not frame.wcs]
    if not path.is_file():
        raise ConfigError(f"{shown(path)}: no such file or folder")
    frame = look_at_file(path)
    return [(path.parent, frame)] if not frame.wcs else []


def solve_one(program: str, path: Path, frame: Frame, *, scale: float | None, seconds: int) -> fits.Header:
    """Solve one frame.

    Parameters
    ----------
    program : str
        Path of solve-field.
    path : pathlib.Path
    frame : Frame
    scale : float or None
        Pixel scale [arcsec/px]; None takes that of the frame.
    seconds : int
        Limit of the CPU time.

    Returns
    -------
    astropy.io.fits.Header
        WCS header of the whole frame, overscan included.

    Raises
    ------
    ImageError
        The frame has too few stars, or the solver finds no solution.
    """
    name = frame.path
    data, header = read_fits(path, image=name)
    x, y, flux = _stars(data, name)
    left, bottom = int(header.get("OTTRIMX", 0)), int(header.get("OTTRIMY", 0))
    with temporary_folder("solve") as work:
        columns = [
            fits.Column(key, "D", array=values)
            for key, values in (("X", x + left + 1), ("Y", y + bottom + 1), ("FLUX", flux))
        ]
        fits.BinTableHDU.from_columns(columns).writeto(work / "stars.xyls")
        size = data.shape[1] + left, data.shape[0] + bottom
        known = scale or frame.scale
        for hints in _hints(frame, known):
            _run(program, work, size, hints, seconds)
            solution = work / "stars.wcs"
            if solution.is_file():
                wcs = fits.Header.fromfile(solution, padding=False, endcard=False)
                image_wcs(wcs, None, image=name)
                return wcs
    about = f"scale {known:.3g} arcsec/px" if np.isfinite(known) else "scale unknown; give --scale"
    raise ImageError(
        name, "WCS", f"no solution from {len(x)} stars ({about}); are index files for this field size installed?"
    )


def _stars(data: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y [px, from 0] and flux of the brightest stars."""
    import sep

    missing = ~np.isfinite(data)
    filled = np.where(missing, 0, data)
    _, noise = sky_noise(data)
    try:
        background = sep.Background(filled, mask=missing)
        table = sep.extract(filled - background.back(), 6 * noise, mask=missing, minarea=5)
    except Exception as error:  # sep raises a plain Exception when objects overflow its buffers
        raise ImageError(name, "data", f"star detection failed ({error})") from None
    good = np.flatnonzero((table["b"] > 0.45) & (table["b"] > 0.4 * table["a"]))
    best = good[np.argsort(-table["flux"][good], kind="stable")][:MOST_STARS]
    if len(best) < 8:
        raise ImageError(name, "data", f"only {len(best)} stars were found; at least 8 are needed")
    return table["x"][best], table["y"][best], table["flux"][best]


def _hints(frame: Frame, scale: float) -> list[list[str]]:
    """Options of solve-field for each attempt: first with the pointing, then without, as it may be wrong."""
    scales: list[str] = []
    if np.isfinite(scale):
        low, high = scale / SCALE_RANGE, scale * SCALE_RANGE
        scales = ["--scale-units", "arcsecperpix", "--scale-low", f"{low:.4f}", "--scale-high", f"{high:.4f}"]
    if not np.isfinite(frame.ra):
        return [scales]
    return [[*scales, "--ra", f"{frame.ra:.5f}", "--dec", f"{frame.dec:.5f}", "--radius", f"{RADIUS:g}"], scales]


def _run(program: str, work: Path, size: tuple[int, int], hints: list[str], seconds: int) -> None:
    """Run the solver on the list of stars; it writes stars.wcs on success."""
    command = [program, "stars.xyls", "--overwrite", "--no-plots", "--cpulimit", str(seconds), "--dir", "."]
    command += ["--width", str(size[0]), "--height", str(size[1]), "--x-column", "X", "--y-column", "Y"]
    command += ["--sort-column", "FLUX", "--new-fits", "none", "--corr", "none", "--rdls", "none", "--match", "none"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *hints], cwd=work, capture_output=True, check=False, env=environment)
