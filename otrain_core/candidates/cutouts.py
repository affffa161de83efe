"""Cut out the difference, science image, reference, mask and PSF around the candidates (step `cutouts`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.arrays import write_arrays
from otrain_core.candidates.detect import CANDIDATE_COLUMNS
from otrain_core.candidates.measure import difference_psf, point_sources
from otrain_core.errors import ImageError
from otrain_core.images.frames import MASK_MISSING, Held, read_planes
from otrain_core.images.pixels import nearest_pixel
from otrain_core.io import raise_if_failed, read_json, read_table
from otrain_core.stars.psf_model import PSFModel

if TYPE_CHECKING:
    from otrain_core.plan.pipelines import CutoutsOptions

CHANNELS = ("difference", "science", "reference", "mask", "psf")
CUTOUT_COLUMNS = CANDIDATE_COLUMNS | {
    "label": int,
    "reason": str,
    "injection": int,
    "kind": str,
    "artefact": str,
    "seeing": float,
}


def cutouts_files(
    *,
    labelled: str | Path,
    difference: str | Path | Held,
    psf: str | Path,
    psf_record: str | Path,
    subtract_record: str | Path,
    cutouts: str | Path,
    telescope: str,
    pipeline: str,
    image: str,
    options: CutoutsOptions,
    field: str = "",
) -> None:
    """Read the labelled candidates, the planes of the difference and its PSF; write the stack of cutouts.

    Parameters
    ----------
    labelled, psf, psf_record, subtract_record : path-like
        Outputs of the steps `crossmatch`, `psf` and `subtract`.
    difference : path-like or Held
        Planes written by the step `subtract`.
    cutouts : path-like
        ``.npz`` file to write.
    telescope, pipeline, image : str
    options : CutoutsOptions
    field : str
        Field of the image from the sheet, see `otrain_core.plan.inputs.Inputs.field`.

    Raises
    ------
    ImageError
        See `make_cutouts`.
    """
    planes, _ = read_planes(difference, image=image)
    record = read_json(psf_record)
    raise_if_failed(psf)
    subtraction = read_json(subtract_record)
    model, _ = difference_psf(PSFModel.load(psf), record["seeing_px"], subtraction, planes)
    arrays = make_cutouts(
        read_table(labelled),
        planes,
        image=image,
        options=options,
        psf=model,
        pixel_scale=record["pixel_scale"],
        telescope=telescope,
        pipeline=pipeline,
    )
    grid = reference_grid(arrays["x"], arrays["y"], subtraction.get("to_reference"), record["pixel_scale"])
    arrays |= {"field": np.full(len(arrays["x"]), field), "grid_x": grid[0], "grid_y": grid[1]}
    write_arrays(cutouts, arrays)


def reference_grid(
    x: np.ndarray, y: np.ndarray, to_reference: list[list[float]] | None, pixel_scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions on the pixel grid of the reference, which is common to images without a WCS.

    Parameters
    ----------
    x, y : numpy.ndarray
        (N,) pixels of the image.
    to_reference : list or None
        (2, 3), affine transformation from pixels of the image to pixels of the reference.
    pixel_scale : float
        Pixel scale of the image [arcsec/px].

    Returns
    -------
    grid_x, grid_y : numpy.ndarray
        (N,) [arcsec] from the first pixel of the reference; NaN if the transformation is unknown.
    """
    if to_reference is None:
        return np.full(len(x), np.nan), np.full(len(x), np.nan)
    matrix = np.asarray(to_reference, dtype=float)
    scale = pixel_scale / np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    grid_x, grid_y = (scale * (row[0] * x + row[1] * y + row[2]) for row in matrix)
    return grid_x, grid_y


def make_cutouts(
    candidates: pd.DataFrame,
    planes: dict[str, np.ndarray],
    *,
    image: str,
    options: CutoutsOptions,
    psf: Any = None,
    pixel_scale: float = np.nan,
    telescope: str = "",
    pipeline: str = "",
) -> dict[str, np.ndarray]:
    """Cut a square from every plane around every candidate.

    The pixel nearest to the candidate has index ``size // 2`` on both axes. In the difference, pixels that are masked,
    outside the image or without a value are NaN. The channel psf is the image of a point source of flux 1 at the measured
    position of the candidate. A candidate of negative flux is cut from reference - science, see `flipped`.

    Parameters
    ----------
    candidates : pandas.DataFrame
        Columns `CUTOUT_COLUMNS`.
    planes : dict of numpy.ndarray
        ``diff``, ``science``, ``reference`` [ADU] and ``mask`` (uint8), all (height, width).
    image, telescope, pipeline : str
    options : CutoutsOptions
        A cutout in which a larger share of the difference than ``max_missing`` is missing becomes EDGE (label -1).
    psf : optional
        PSF of the difference, with the method ``stamp`` of `otrain_core.stars.psf_model.PSFModel`. If it is missing, the
        channel psf is NaN.
    pixel_scale : float
        [arcsec/px]

    Returns
    -------
    dict of numpy.ndarray
        ``stack``, float32 (N, size, size, 5) with channels `CHANNELS` (the mask as numbers, 1 outside the image); one
        array (N,) for each of `CUTOUT_COLUMNS`; ``n_missing`` (N,), missing pixels of the difference; ``sign`` (N,), -1
        for flipped cutouts; ``pixel_scale`` (N,); and ``channels``, ``image_name``, ``telescope``, ``pipeline``.

    Raises
    ------
    ImageError
        The cutouts are larger than the image (key ``cutouts.size``), the planes have different shapes, or a candidate lies
        outside the image.
    """
    size, shape = options.size, planes["diff"].shape
    _check_planes(planes, size=size, image=image)
    table = _typed(candidates)
    x, y = nearest_pixel(table["x"]), nearest_pixel(table["y"])
    outside = (x < 0) | (y < 0) | (x >= shape[1]) | (y >= shape[0])
    if outside.any():
        candid = table["candid"][int(outside.argmax())]
        raise ImageError(
            image, "candidates", f"candidate {candid} lies outside the image of {shape[1]} x {shape[0]} px"
        )

    offset = np.arange(size) - size // 2 + size  # the planes are padded by `size` on every side
    rows, columns = (y[:, None] + offset)[:, :, None], (x[:, None] + offset)[:, None, :]
    mask = np.pad(planes["mask"], size, constant_values=MASK_MISSING)
    stack = np.empty((len(x), size, size, len(CHANNELS)), dtype=np.float32)
    for index, name in enumerate(("diff", "science", "reference")):
        plane = np.where(np.isfinite(planes[name]), planes[name], np.nan).astype(np.float32)
        stack[..., index] = np.pad(plane, size, constant_values=np.nan)[rows, columns]
    stack[..., 3] = mask[rows, columns]
    stack[..., 0][stack[..., 3] != 0] = np.nan
    stack[..., 4] = np.nan if psf is None else point_sources(psf, table["x"], table["y"], size)
    sign = np.where(table["flux"] < 0, -1, 1)
    stack = flipped(stack, sign, channels=CHANNELS)
    n_missing = np.isnan(stack[..., 0]).sum(axis=(1, 2))
    lost = n_missing > options.max_missing * size**2
    table["edge"] = table["edge"] | lost
    table["label"] = np.where(lost, -1, table["label"])
    table["reason"] = np.where(lost, "EDGE", table["reason"])
    return {
        "stack": stack,
        **table,
        "n_missing": n_missing,
        "sign": sign,
        "pixel_scale": np.full(len(x), float(pixel_scale)),
        "channels": np.array(CHANNELS),
        "image_name": np.array(image),
        "telescope": np.array(telescope),
        "pipeline": np.array(pipeline),
    }


def flipped(stack: np.ndarray, signs: np.ndarray, *, channels: Sequence[str]) -> np.ndarray:
    """Turn cutouts of negative sources into cutouts of reference - science, in which the source is positive.

    Parameters
    ----------
    stack : numpy.ndarray
        (N, S, S, C)
    signs : numpy.ndarray
        (N,), 1 or -1; for -1 the difference changes sign, and science and reference are exchanged.
    channels : sequence of str
        Names along the last axis.

    Returns
    -------
    numpy.ndarray
        (N, S, S, C); `stack` itself if no sign is negative.
    """
    negative = np.flatnonzero(signs < 0)
    if len(negative) == 0:
        return stack
    stack, where = stack.copy(), {name: k for k, name in enumerate(channels)}
    if "difference" in where:
        stack[negative, :, :, where["difference"]] *= -1
    if {"science", "reference"} <= where.keys():
        science, reference = where["science"], where["reference"]
        stack[negative, :, :, science], stack[negative, :, :, reference] = (
            stack[negative, :, :, reference],
            stack[negative, :, :, science],
        )
    return stack


def _check_planes(planes: dict[str, np.ndarray], *, size: int, image: str) -> None:
    shape = planes["diff"].shape
    for name in ("science", "reference", "mask"):
        if name not in planes:
            raise ImageError(image, name, "the file of the difference does not have this plane")
        if planes[name].shape != shape:
            raise ImageError(
                image, name, f"its shape {planes[name].shape} differs from the shape of the difference, {shape}"
            )
    if size > min(shape):
        raise ImageError(
            image, "cutouts.size", f"cutouts of {size} px are larger than the image of {shape[1]} x {shape[0]} px"
        )


def _typed(table: pd.DataFrame) -> dict[str, Any]:
    """Columns as arrays of fixed types: pandas guesses the type of a CSV column, wrongly if it is empty."""
    arrays: dict[str, Any] = {}
    for column, kind in CUTOUT_COLUMNS.items():
        values = table[column]
        if kind is str:
            arrays[column] = values.astype(object).where(values.notna(), "").to_numpy().astype("U")
        else:
            arrays[column] = values.to_numpy().astype({float: np.float64, int: np.int64, bool: bool}[kind])
    return arrays
