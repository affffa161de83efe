"""Subtraction by HOTPANTS: build its command line, run it, and read its output files."""

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

PEDESTAL = 1000.0  # HOTPANTS treats pixels of exactly 0 as missing
PLANES = ("inim", "tmplim", "ini", "tni", "imi", "tmi")  # input files: KEY.fits for the option -KEY
OUTPUTS = {"outim": "difference.fits", "oni": "noise.fits", "omi": "mask.fits"}
OUTPUT_BAD = 0x8000  # bit of its output mask: the pixel of the difference must not be used


def hotpants(inputs: Inputs, options: SubtractOptions, *, workdir: str | Path | None = None) -> Matched:
    """Subtract the reference by the external program HOTPANTS (Becker 2015, ascl:1504.004).

    The limits of valid counts of the program are set wide, because the masks that it reads
    contain the saturated pixels of both images.

    Parameters
    ----------
    inputs : Inputs
    options : SubtractOptions
        `hotpants_options` among them, see `hotpants_command`.
    workdir : path-like, optional
        Folder for the files of the program, which are kept (default: a temporary folder).

    Raises
    ------
    MissingProgramError
        HOTPANTS is not installed.
    ConfigError
        An option in `hotpants_options` that cannot be set or has an unusable value.
    ImageError
        HOTPANTS failed, or fitted no kernel.
    """
    program = find_program("hotpants", path=options.hotpants_program)
    given = _given(options)
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
    widths = _sigmas(command)
    # The program writes the sum of its kernel with four decimals: scale the reference so that the sum is about 1.
    ratio = np.float32(stars_flux_scale(inputs.stars))
    with temporary_folder("hotpants") as temporary:
        folder = Path(workdir or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        _write_inputs(folder, inputs, x, y, ratio=ratio)
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if run.returncode != 0 or not (folder / OUTPUTS["outim"]).exists():
            lines = (run.stderr or run.stdout).strip().splitlines()
            raise ImageError(inputs.name, "subtract", f"HOTPANTS failed: {lines[-1] if lines else 'no message'}")
        result = read_hotpants(folder)
    if not np.isfinite(result.flux_scale):
        raise ImageError(inputs.name, "subtract", "HOTPANTS fitted no kernel with a positive flux ratio")
    record = {
        "convolved": result.convolved,
        "flux_scale": result.flux_scale * float(ratio),
        "n_stamps": len(x),
        "kernel_order": order,
        "kernel_half_width": width,
        "kernel_sigmas": widths,
        **result.record,
    }
    nothing = np.zeros_like(result.unusable)
    if result.convolved == "science":
        return Matched(result.diff, result.noise, nothing, result.unusable, record)
    return Matched(result.diff, result.noise, result.unusable, nothing, record)


def _given(options: SubtractOptions) -> dict[str, Any]:
    """The options of the configuration by their name without a dash."""
    return {key.lstrip("-"): value for key, value in options.hotpants_options.items()}


def _whole(given: dict[str, Any], key: str, derived: int) -> int:
    """The value of an option of the configuration, which must be a whole number; `derived` if it is not set.

    Raises
    ------
    ConfigError
        Not a whole number.
    """
    value = given.get(key, derived)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not number.is_integer():
        raise ConfigError(f"subtract.hotpants_options: {key}: must be a whole number, not {value!r}")
    return int(number)


def _write_inputs(folder: Path, inputs: Inputs, x: np.ndarray, y: np.ndarray, *, ratio: np.float32) -> None:
    """Write the files that the program reads: images, noise, masks, and the pixels (x, y) of the stars for the stamps."""
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
    """Command line of HOTPANTS; all files are in the folder in which it runs.

    Parameters
    ----------
    program : str
        Path of the program.
    options : SubtractOptions
        Its `hotpants_options` add options to the derived ones or replace them. The key is the name
        of the option without the dash, and the value is a single value or a list of values (an
        empty list for an option without a value). The value ``none`` removes a derived option.
        ``ng`` is replaced as a whole.
    convolve_science : bool
        Whether to convolve the science image and not the reference.
    sigmas : tuple of float
        Widths (sigma) of the three Gaussians of the kernel [px].
    width, half : int
        Half width of the kernel and of the stamps [px].
    order : int
        Degree of the kernel's spatial variation.

    Returns
    -------
    list of str

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
    command = [program]
    for key, value in (derived | _given(options)).items():
        if key in files and value != files[key]:
            raise ConfigError(
                f"subtract.hotpants_options: {key}: {value}: the workflow sets this file itself; remove the option"
            )
        if value == "none":
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        command += [f"-{key}", *(str(v) for v in values)]
    return command


def _sigmas(command: list[str]) -> list[float]:
    """Widths of the Gaussians on a command line [px]; empty without the option -ng.

    Raises
    ------
    ConfigError
        The values of -ng are not a number of Gaussians, then degree and width of each.
    """
    if "-ng" not in command:
        return []
    start = command.index("-ng") + 1
    try:
        number = int(command[start])
        return [float(value) for value in command[start + 2 : start + 1 + 2 * number : 2]]
    except (IndexError, ValueError):
        raise ConfigError(
            "subtract.hotpants_options: ng: must be a list of the number of Gaussians, then degree and width of each"
        ) from None


@dataclass
class HotpantsOutput:
    """Output of HOTPANTS.

    Attributes
    ----------
    diff, noise : numpy.ndarray
        float32 (height, width) [ADU of the science image].
    unusable : numpy.ndarray
        bool (height, width), pixels of the difference that must not be used.
    convolved : {'science', 'reference'}
    flux_scale : float
        Flux ratio science image / reference; NaN if no kernel was fitted.
    record : dict
        Figures of merit of the program.
    """

    diff: np.ndarray
    noise: np.ndarray
    unusable: np.ndarray
    convolved: str
    flux_scale: float
    record: dict[str, Any]


def read_hotpants(folder: str | Path) -> HotpantsOutput:
    """Read the images and keywords that HOTPANTS wrote (version 5.1.11, which writes the numbers of a region as text).

    KSUMnn is the sum of the kernel of region nn and CONVOLnn the image that it convolves.
    PHOTNORM names the image in whose units the difference is: t (template), i (image), or u
    (the image that was not convolved).
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
    """Number of a keyword, which may be text; NaN if there is none."""
    try:
        return float(header.get(key, np.nan))
    except (TypeError, ValueError):
        return np.nan


def _region(limits: str | None) -> tuple[slice, slice]:
    """Slices (y, x) of limits such as [1:360,1:320] (x first, from 1, both ends included); all pixels without limits."""
    if not limits:
        return slice(None), slice(None)
    x, y = ([int(n) for n in part.split(":")] for part in limits.strip(" []").split(","))
    return slice(y[0] - 1, y[1]), slice(x[0] - 1, x[1])
