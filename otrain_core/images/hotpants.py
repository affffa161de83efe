"""Subtraction by HOTPANTS: its command line, running it, and reading what it leaves."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.errors import ConfigError, ImageError
from otrain_core.images.backends import Inputs, Matched, affordable_order, kernel_sizes
from otrain_core.images.common_stars import choose_stamps, stars_flux_scale
from otrain_core.plan.pipelines import SubtractOptions
from otrain_core.programs import find_program
from otrain_core.temporary import temporary_folder

PEDESTAL = 1000.0  # HOTPANTS takes pixels of exactly 0 for missing ones
PLANES = ("inim", "tmplim", "ini", "tni", "imi", "tmi")  # files it reads, each KEY.fits for its option -KEY
OUTPUTS = {"outim": "difference.fits", "oni": "noise.fits", "omi": "mask.fits"}
OUTPUT_BAD = 0x8000  # bit of its mask: the pixel of the difference is not to be used


def hotpants(inputs: Inputs, options: SubtractOptions, *, workdir: str | Path | None = None) -> Matched:
    """HOTPANTS (Becker 2015, ascl:1504.004) as an external program.

    Its limits of valid counts are wide open: what exceeds the saturation of either image
    is in the masks that it reads.

    Parameters
    ----------
    inputs : Inputs
    options : SubtractOptions
        `hotpants_program` and `hotpants_options` among them, see `hotpants_command`.
    workdir : path-like, optional
        Folder for the program's files, which are kept (default: a temporary one).

    Raises
    ------
    MissingProgramError
    ConfigError
        An option that is not to be set.
    ImageError
        The program made no difference image.
    """
    program = find_program("hotpants", path=options.hotpants_program)
    given = options.hotpants_options
    convolve_science = str(given.get("c", "i" if inputs.seeing_reference > inputs.seeing else "t")) == "i"
    broad, sharp = sorted((inputs.seeing, inputs.seeing_reference), reverse=True)
    sigmas, width, half = kernel_sizes(broad, sharp, options.kernel_half_width)
    width, half = _whole(given, "r", width), _whole(given, "rss", half)
    bad = inputs.bad_science | inputs.bad_reference
    x, y = choose_stamps(inputs.stars, bad, half=half, margin=half + width + 1, max_stamps=options.max_stamps)
    order = _whole(given, "ko", affordable_order(options.kernel_order, x, y, bad.shape))
    command = hotpants_command(
        program, options, convolve_science=convolve_science, sigmas=sigmas, width=width, half=half, order=order
    )
    # The program writes the sum of its kernel with four decimals: images of like flux keep them significant.
    ratio = np.float32(stars_flux_scale(inputs.stars))
    with temporary_folder("hotpants") as temporary:
        folder = Path(workdir or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        _write_inputs(folder, inputs, x, y, ratio=ratio)
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if run.returncode != 0 or not (folder / OUTPUTS["outim"]).exists():
            lines = (run.stderr or run.stdout).strip().splitlines()
            raise ImageError(inputs.name, "subtract", f"hotpants failed: {lines[-1] if lines else 'no message'}")
        result = read_hotpants(folder)
    if not np.isfinite(result.flux_scale):
        raise ImageError(inputs.name, "subtract", "hotpants fitted no kernel with a positive flux ratio")
    record = {
        "convolved": result.convolved,
        "flux_scale": result.flux_scale * float(ratio),
        "n_stamps": len(x),
        "kernel_order": order,
        "kernel_half_width": width,
        "kernel_sigmas": _sigmas(command),
        **result.record,
    }
    nothing = np.zeros_like(result.unusable)
    if result.convolved == "science":
        return Matched(result.diff, result.noise, nothing, result.unusable, record)
    return Matched(result.diff, result.noise, result.unusable, nothing, record)


def _whole(given: dict[str, Any], key: str, derived: int) -> int:
    """A whole number among the options that are given, or the derived one.

    Raises
    ------
    ConfigError
        No whole number.
    """
    value = given.get(key, derived)
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ConfigError(f"subtract.hotpants_options: {key}: a whole number is needed, found {value!r}") from None


def _write_inputs(folder: Path, inputs: Inputs, x: np.ndarray, y: np.ndarray, *, ratio: np.float32) -> None:
    """Files that the program reads: images, noise, masks, and the stamps about stars at pixels (x, y)."""
    from astropy.io import fits

    planes = {
        "inim": inputs.science + np.float32(PEDESTAL),
        "tmplim": inputs.reference * ratio + np.float32(PEDESTAL),
        "ini": inputs.noise,
        "tni": inputs.reference_noise * ratio,
        "imi": inputs.bad_science.astype(np.int16),
        "tmi": inputs.bad_reference.astype(np.int16),
    }
    for key in PLANES:
        fits.writeto(folder / f"{key}.fits", planes[key], overwrite=True)
    np.savetxt(folder / "stamps.txt", np.column_stack([x + 1, y + 1]), fmt="%d")


def hotpants_command(
    program: str,
    options: SubtractOptions,
    *,
    convolve_science: bool,
    sigmas: tuple[float, ...],
    width: int,
    half: int,
    order: int,
) -> list[str]:
    """Command line of HOTPANTS; all files are in the folder that it runs in.

    Parameters
    ----------
    program : str
    options : SubtractOptions
        `hotpants_options` of it, name without its dash: value, or list of values (an empty one: the
        option has none), replace or join the derived ones; ``none`` leaves a derived one out. ``ng``
        is replaced as a whole.
    convolve_science : bool
        Else the reference.
    sigmas : tuple of float
        Widths of the three Gaussians of the kernel [px].
    width, half : int
        Half width of the kernel and of the stamps [px].
    order : int
        Degree of the kernel's variation.

    Raises
    ------
    ConfigError
        An option that names a file which the workflow reads or writes.
    """
    cells = max(1, int(np.sqrt(options.max_stamps)))
    files = {key: f"{key}.fits" for key in PLANES} | OUTPUTS
    derived: dict[str, Any] = {
        **files,
        "ssf": "stamps.txt",
        "n": "i",
        "c": "i" if convolve_science else "t",
        "ko": order,
        "bgo": options.background_order,
        "r": width,
        "rss": half,
        "nsx": cells,
        "nsy": cells,
        "ks": options.sigma_clip,
        "il": -1e6,
        "tl": -1e6,
        "iu": 1e9,
        "tu": 1e9,
        "v": 1,
        "ng": [3, 6, round(sigmas[0], 3), 4, round(sigmas[1], 3), 2, round(sigmas[2], 3)],
    }
    given = {key.lstrip("-"): value for key, value in options.hotpants_options.items()}
    command = [program]
    for key, value in (derived | given).items():
        if key in files and value != files[key]:
            raise ConfigError(f"subtract.hotpants_options: {key}: {value}: the workflow names this file itself")
        if value == "none":
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        command += [f"-{key}", *(str(v) for v in values)]
    return command


def _sigmas(command: list[str]) -> list[float]:
    start = command.index("-ng") + 1
    return [float(v) for v in command[start + 2 : start + 1 + 2 * int(command[start]) : 2]]


@dataclass
class HotpantsOutput:
    """What HOTPANTS left in its folder.

    Attributes
    ----------
    diff, noise : numpy.ndarray
        float32 (height, width) in ADU of the science image.
    unusable : numpy.ndarray
        bool.
    convolved : {'science', 'reference'}
    flux_scale : float
        Science over template; NaN where no kernel was fitted.
    record : dict
        Its own figures of merit.
    """

    diff: np.ndarray
    noise: np.ndarray
    unusable: np.ndarray
    convolved: str
    flux_scale: float
    record: dict[str, Any]


def read_hotpants(folder: str | Path) -> HotpantsOutput:
    """Images and keywords that HOTPANTS wrote (as in version 5.1.11, where all numbers of a region are text).

    KSUMnn is the sum of the kernel of region nn, CONVOLnn the image that it convolves,
    PHOTNORM the image in whose units the difference is (t, i, or u: that of what was not convolved).
    """
    from astropy.io import fits

    folder = Path(folder)
    with fits.open(folder / OUTPUTS["outim"]) as hdus:
        header, diff = hdus[0].header, hdus[0].data.astype(np.float32)
    noise = fits.getdata(folder / OUTPUTS["oni"]).astype(np.float32)
    unusable = (fits.getdata(folder / OUTPUTS["omi"]).astype(int) & OUTPUT_BAD) > 0
    scales, kinds = [], []
    for region in range(int(header.get("NREGION", 1))):
        kind = "science" if str(header.get(f"CONVOL{region:02d}")).strip() == "IMAGE" else "reference"
        total = _figure(header, f"KSUM{region:02d}")
        scale = np.nan if not total > 0 else (1 / total if kind == "science" else total)
        scales.append(scale)
        kinds.append(kind)
        unit = str(header.get("PHOTNORM", "i")).strip()
        if unit == "t" or (unit == "u" and kind == "science"):
            area = _region(header.get(f"REGION{region:02d}"))
            diff[area] *= np.float32(scale)
            noise[area] *= np.float32(scale)
    fitted = np.array(scales)[np.isfinite(scales)]
    flux_scale = float(np.median(fitted)) if len(fitted) else np.nan
    record = {"stamp_chi2": _figure(header, "FSIG00"), "hotpants_chi2": _figure(header, "X2NRM00")}
    return HotpantsOutput(diff, noise, unusable, max(set(kinds), key=kinds.count), flux_scale, record)


def _figure(header: Any, key: str) -> float:
    try:
        return float(header.get(key, np.nan))
    except (TypeError, ValueError):
        return np.nan


def _region(limits: str | None) -> tuple[slice, slice]:
    """Slices of limits such as [1:360,1:320] (x first, from 1, both ends included)."""
    if not limits:
        return slice(None), slice(None)
    x, y = ([int(n) for n in part.split(":")] for part in limits.strip(" []").split(","))
    return slice(y[0] - 1, y[1]), slice(x[0] - 1, x[1])
