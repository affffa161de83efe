"""Saccadic Fast Fourier Transform (SFFT) subtraction (Hu et al. 2022, ApJ 936, 157) by STDPipe: every pixel of the kernel is free."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import linalg

from otrain_core.errors import ImageError
from otrain_core.images.alard_lupton import sides, subtract_convolved
from otrain_core.images.backends import Inputs, Matched, affordable_order, kernel_sizes
from otrain_core.images.common_stars import choose_stamps, stars_flux_scale
from otrain_core.images.kernel import KernelField
from otrain_core.images.polynomials import exponents
from otrain_core.plan.pipelines import SubtractOptions
from otrain_core.widths import FWHM_PER_SIGMA

MAX_HALF_WIDTH = 9  # of the kernel [px]; the cost grows with the square of the number of its pixels
MAX_PARAMETERS = 800
HIGHEST_AUTO = 1  # highest order of the kernel with `kernel_order: auto`


def sfft(inputs: Inputs, options: SubtractOptions) -> Matched:
    """Subtract with a kernel whose pixels are all free, fitted around the stars; the sharper image is convolved.

    The order of the kernel is lowered if the stars do not determine it (`affordable_order`) or if the kernel would have
    more than `MAX_PARAMETERS` parameters.

    Raises
    ------
    ImageError
        The image is too small for its seeing, too few stars to fit a kernel, or a flux ratio that is not positive.
    """
    from astropy.table import Table
    from stdpipe.subtraction import run_sfft

    side = sides(inputs)
    broad, sharp = sorted((inputs.seeing, inputs.seeing_reference), reverse=True)
    width, half = free_half_width(broad, sharp, options), kernel_sizes(broad, sharp)[2]
    if min(side.source.shape) < 4 * (half + width) + 1:
        raise ImageError(inputs.name, "subtract", f"the image of {side.source.shape} px is too small for its seeing")
    bad = inputs.bad_science | inputs.bad_reference
    x, y = choose_stamps(inputs.stars, bad, half=half, margin=half + width + 1, max_stamps=options.max_stamps)
    if len(x) < 3:
        raise ImageError(inputs.name, "subtract", f"no kernel could be fitted: {len(x)} usable stars; 3 are needed")
    wanted = HIGHEST_AUTO if options.kernel_order == "auto" else options.kernel_order
    order = affordable_order(wanted, x, y, side.source.shape)
    while order and (2 * width + 1) ** 2 * len(exponents(order)) > MAX_PARAMETERS:
        order -= 1
    background_order = min(options.background_order, order + 1)
    # Scale the source to the flux of the target: the regularisation of the solver is relative to the source.
    scale = stars_flux_scale(inputs.stars)
    ratio = 1 / scale if side.convolve_science else scale
    try:
        _, solution = run_sfft(
            side.target,
            side.source * np.float32(ratio),
            mask=bad,
            template_mask=side.source_bad,
            err=side.target_noise * np.sqrt(side.target_calm),
            template_err=side.source_noise * np.float32(ratio),
            kernel_shape=(2 * width + 1, 2 * width + 1),
            kernel_poly_order=order,
            bg_poly_order=background_order,
            flux_poly_order=0,
            sigma_clip=None,
            obj=Table({"x": x, "y": y}),
            obj_size=half,
            obj_per_cell=None,
            get_kernel=True,
        )
    except (RuntimeError, ValueError, linalg.LinAlgError) as error:
        raise ImageError(inputs.name, "subtract", f"no kernel could be fitted: {error}") from None
    fit = kernel_field(solution, side.source.shape, ratio=ratio)
    return subtract_convolved(
        inputs, side, fit, {"n_stamps": len(x), "kernel_order": order, "kernel_half_width": width}
    )


def free_half_width(broad: float, sharp: float, options: SubtractOptions) -> int:
    """Half width [px] of a kernel of free pixels that broadens the FWHM `sharp` to `broad` [px]."""
    match = np.sqrt(max(broad**2 - sharp**2, 0)) / FWHM_PER_SIGMA
    width = options.kernel_half_width or int(np.ceil(max(4 * match, 1.2 * broad, 3)))
    return min(width, MAX_HALF_WIDTH)


def kernel_field(solution: Any, shape: tuple[int, int], *, ratio: float) -> KernelField:
    """Convert a solution of STDPipe to a `KernelField`.

    Within one degree, the terms of STDPipe begin with the highest power of y, ours with the highest power of x.

    Parameters
    ----------
    solution : stdpipe.sfft.SFFTResult
    shape : tuple of int
        (height, width) of the images.
    ratio : float
        Factor by which the source was multiplied before the fit.
    """
    order, background_order = solution.kernel_poly_order, solution.bg_poly_order
    kernels = solution.kernel_coeffs.T.reshape(-1, *solution.kernel_shape) * ratio
    return KernelField(
        kernels=kernels[_as_ours(order)].astype(np.float64),
        background=solution.bg_coeffs[_as_ours(background_order)],
        shape=shape,
        order=order,
        background_order=background_order,
    )


def _as_ours(order: int) -> list[int]:
    """Indices that sort the terms of STDPipe as `exponents`."""
    theirs = [(i, n - i) for n in range(order + 1) for i in range(n + 1)]
    return [theirs.index(powers) for powers in exponents(order)]
