"""Stack frames of one field into a reference."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from otrain_core.errors import ImageError
from otrain_core.images.align import align_reference
from otrain_core.images.detector import SETTLED
from otrain_core.images.frames import MASK_SATURATED, Image, read_image
from otrain_core.images.prepare import prepare_image
from otrain_core.images.wcs import pixel_to_sky, sky_to_pixel
from otrain_core.io import atomic, write_json
from otrain_core.plan.pipelines import PrepareOptions
from otrain_core.plan.telescopes import Detector
from otrain_core.widths import SIGMA_PER_MAD, mad_sigma

log = logging.getLogger("otrain")

PREPARE = PrepareOptions(cosmics="none", saturation_grow=1)  # the clipped mean rejects cosmic rays
SEEING = 2.5  # approximate FWHM of a star [px]
MIN_FRAMES = 3  # with fewer frames, hot pixels and cosmic rays cannot be rejected
# Largest scatter of the natural logarithm of the flux ratio of matched stars; about 0.03 in frames of the same field.
MAX_FLUX_SPREAD = 0.4
MAX_ANCHORS = 3  # number of frames that are tried as the anchor, to which the other frames are aligned
CLIP = 4.0  # clipping threshold of the mean [sigma]
CORE = 0.25  # relative difference between frames that is accepted in the cores of undersampled stars
MIN_COVERAGE = 0.25  # fraction of the frames that must cover a pixel


@dataclass
class Stack:
    """A stacked reference.

    Attributes
    ----------
    data : numpy.ndarray
        float32 (height, width) [ADU of the anchor frame], background-subtracted; NaN
        where too few frames cover the sky, the saturation level where they saturate.
    header : astropy.io.fits.Header
        WCS of the anchor (if it has one) on the grid that covers all frames, and
        GAIN, RDNOISE, SATURATE of the mean, NCOMBINE, FILTER.
    record : dict
        The frames that were used with their flux scale, and the others with the reason.
    """

    data: np.ndarray
    header: fits.Header
    record: dict[str, Any]


def reference_files(
    *,
    frames: list[str],
    wcs: list[str | None],
    reference: str | Path,
    record: str | Path,
    detector: Detector,
    field: str,
) -> None:
    """Read and stack the frames of a field, and write the reference (FITS) and its record (JSON).

    Unreadable frames are left out and listed in the record.

    Parameters
    ----------
    frames : list of path-like
    wcs : list of path-like or None
        FITS header with the WCS of each frame, for frames without one.
    reference, record : path-like
        Files to write.
    detector : Detector
    field : str
        Name of the field.

    Raises
    ------
    ImageError
        See `stack_reference`.
    """
    images, unreadable = [], []
    for path, header in zip(frames, wcs, strict=True):
        name = Path(path).name.split(".fit")[0]
        try:
            images.append(read_image(path, name=name, detector=detector, wcs_path=header))
        except ImageError as error:
            log.warning("reference of field %s: %s (frame left out)", field, error)
            unreadable.append({"frame": name, "reason": error.message})
    stack = stack_reference(images, field=field)
    stack.record["left_out"] += unreadable
    with atomic(reference) as temporary:
        fits.PrimaryHDU(stack.data, header=stack.header).writeto(temporary, overwrite=True)
    write_json(record, stack.record)


def stack_reference(frames: list[Image], *, field: str) -> Stack:
    """Align frames on their stars, bring them to one flux scale and average them.

    The anchor, to which the others are aligned, is the middle frame of the list. Other frames are tried if it is
    unusable or if fewer than half of the frames can be aligned to it. Cosmic rays, and hot pixels if the pointing
    drifts, are at different positions on the sky in each frame, so the clipped mean rejects them.

    Parameters
    ----------
    frames : list of Image
    field : str
        Name of the field, for the record and for errors.

    Returns
    -------
    Stack

    Raises
    ------
    ImageError
        Fewer than three frames were given or could be aligned.
    """
    if len(frames) < MIN_FRAMES:
        raise ImageError(field, "reference", f"at least {MIN_FRAMES} reference frames are needed, found {len(frames)}")
    found = _best_anchor(frames, field)
    if found is None or len(found.planes) < MIN_FRAMES:
        n = len(found.planes) if found else 0
        raise ImageError(field, "reference", f"only {n} of {len(frames)} reference frames could be aligned")
    anchor, grid, planes = found.anchor, found.grid, found.planes
    stack, counts = _clipped_mean(np.stack(planes), float(np.nanmedian(grid.noise)))
    stack[counts < max(2, MIN_COVERAGE * len(planes))] = np.nan
    level = anchor.saturation - grid.background
    if np.isfinite(level):
        stack[found.saturated > np.maximum(counts, 1)] = level
    record = {
        "field": field,
        "anchor": anchor.name,
        "n_frames": len(planes),
        "shape": list(stack.shape),
        "covered": float(np.isfinite(stack).mean()),
        "frames": found.used,
        "left_out": found.left_out,
    }
    depth = float(np.median(counts[counts > 0]))
    header = _stack_header(anchor, grid.wcs, field=field, n_frames=len(planes), depth=depth, level=level)
    return Stack(stack, header, record)


@dataclass
class _Aligned:
    """Frames on the grid of one anchor: planes [ADU of the anchor], and the number that saturate in each pixel."""

    anchor: Image
    grid: _Grid
    planes: list[np.ndarray]
    saturated: np.ndarray
    used: list[dict[str, Any]]
    left_out: list[dict[str, Any]]


def _best_anchor(frames: list[Image], field: str) -> _Aligned | None:
    """Frames aligned to the best anchor; None if no frame can be the anchor.

    The search ends at an anchor to which at least half of the frames can be aligned, or after `MAX_ANCHORS`.
    """
    n = len(frames)
    order = dict.fromkeys([n // 2, n // 4, 3 * n // 4, *range(n)])
    best, tries = None, 0
    for index in order:
        try:
            grid = _anchor_grid(frames, frames[index])
        except ImageError as error:
            log.warning("reference of field %s: %s (not the anchor)", field, error)
            continue
        found = _align_all(frames, frames[index], grid, field)
        if best is None or len(found.planes) > len(best.planes):
            best = found
        tries += 1
        if len(best.planes) >= max(MIN_FRAMES, n / 2) or tries == MAX_ANCHORS:
            break
    return best


def _align_all(frames: list[Image], anchor: Image, grid: _Grid, field: str) -> _Aligned:
    """Align all frames to one anchor; those that cannot be aligned are logged and left out."""
    found = _Aligned(anchor, grid, [], np.zeros(grid.data.shape, dtype=np.int16), [], [])
    for frame in frames:
        try:
            plane, mask, scale = (grid.data, grid.mask, 1.0) if frame is anchor else _on_grid(frame, grid)
        except Exception as error:  # whatever goes wrong, leave out this frame only
            reason = error.message if isinstance(error, ImageError) else f"{type(error).__name__}: {error}"
            log.warning("reference of field %s: frame %s: %s (left out)", field, frame.name, reason)
            log.info("frame %s", frame.name, exc_info=not isinstance(error, ImageError))
            found.left_out.append({"frame": frame.name, "reason": reason})
            continue
        hit = (mask & MASK_SATURATED) > 0
        found.saturated += hit
        found.planes.append(np.where(hit, np.nan, plane).astype(np.float32))
        found.used.append({"frame": frame.name, "flux_scale": scale})
    return found


@dataclass
class _Grid:
    """The anchor frame on the grid that covers all frames."""

    data: np.ndarray
    noise: np.ndarray
    mask: np.ndarray
    wcs: Any
    background: float


def _anchor_grid(frames: list[Image], anchor: Image) -> _Grid:
    """Prepare the anchor and put it on the grid that covers all frames."""
    x0, y0, shape = _union(frames, anchor)
    prepared = prepare_image(anchor, seeing=SEEING, options=PREPARE)
    here = (slice(-y0, -y0 + anchor.shape[0]), slice(-x0, -x0 + anchor.shape[1]))
    data = np.full(shape, np.nan, dtype=np.float32)
    noise = np.full(shape, np.nan, dtype=np.float32)
    mask = np.ones(shape, dtype=np.uint8)
    data[here], noise[here], mask[here] = prepared.sci, prepared.noise, prepared.mask
    return _Grid(data, noise, mask, _moved(anchor.wcs, x0, y0, shape), float(np.median(prepared.background)))


def _moved(wcs: Any, x0: int, y0: int, shape: tuple[int, int]) -> Any:
    """A WCS, or None, after the origin of the grid has moved to pixel (x0, y0)."""
    from astropy.wcs import Sip

    if wcs is None:
        return None
    wcs = wcs.deepcopy()
    wcs.wcs.crpix -= (x0, y0)
    if wcs.sip is not None:
        sip = wcs.sip
        wcs.sip = Sip(sip.a, sip.b, sip.ap, sip.bp, sip.crpix - np.array([x0, y0]))
    wcs.pixel_shape = shape[::-1]
    return wcs


def _on_grid(frame: Image, grid: _Grid) -> tuple[np.ndarray, np.ndarray, float]:
    """Pixels of a frame on the grid [ADU of the anchor], its mask, and its flux scale.

    Raises
    ------
    ImageError
        The frame cannot be aligned.
    """
    aligned = align_reference(
        frame,
        science_data=grid.data,
        science_noise=grid.noise,
        science_mask=grid.mask,
        science_wcs=grid.wcs,
        name=frame.name,
        seeing=SEEING,
    )
    if len(aligned.stars) < MIN_FRAMES:
        raise ImageError(frame.name, "align", "too few stars in common with the anchor frame")
    bright = aligned.stars.nlargest(200, "flux")
    ratio = (bright["flux"] / bright["flux_reference"]).to_numpy(float)
    scale = float(np.median(ratio))
    if not (np.isfinite(scale) and scale > 0):
        raise ImageError(frame.name, "reference", f"its flux scale relative to the anchor frame is {scale:g}")
    spread = float(mad_sigma(np.log(np.maximum(ratio, 1e-6))))
    if spread > MAX_FLUX_SPREAD:  # chance matches with the stars of another field
        raise ImageError(
            frame.name,
            "align",
            f"the fluxes of its {len(bright)} stars do not agree with the anchor frame; it may show another field",
        )
    return aligned.data * scale, aligned.mask, scale


def _stack_header(anchor: Image, wcs: Any, *, field: str, n_frames: int, depth: float, level: float) -> fits.Header:
    """Header of a stack of `n_frames`; a typical pixel is the mean of `depth` frames and saturates at `level` [ADU]."""
    header = wcs.to_header(relax=True) if wcs is not None else fits.Header()
    header["GAIN"] = (anchor.gain * depth, "electron/ADU of the mean")
    header["RDNOISE"] = (anchor.read_noise * np.sqrt(depth), "electron, of the mean")
    if np.isfinite(level):
        header["SATURATE"] = (level, "ADU above the background")
    header[SETTLED] = "adu"
    header["NCOMBINE"] = (n_frames, "frames stacked")
    header["FILTER"] = anchor.filter
    header["OBJECT"] = field
    if np.isfinite(anchor.zero_point):
        header["MAGZP"] = anchor.zero_point
    return header


def _union(frames: list[Image], anchor: Image) -> tuple[int, int, tuple[int, int]]:
    """Offset (x, y) and shape of the grid that covers all frames, in pixels of the anchor."""
    corners = [np.array([[0, 0], [anchor.shape[1] - 1, anchor.shape[0] - 1]], dtype=float)]
    for frame in frames:
        if anchor.wcs is None or frame.wcs is None:
            continue
        height, width = frame.shape
        x, y = np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1]], dtype=float)
        ra, dec = pixel_to_sky(frame.wcs, x, y)
        there = np.column_stack(sky_to_pixel(anchor.wcs, ra, dec, shape=anchor.shape))
        if np.isfinite(there).all():  # otherwise the frame shows another part of the sky
            corners.append(there)
    points = np.vstack(corners)
    x0, y0 = np.floor(points.min(axis=0)).astype(int)
    x1, y1 = np.ceil(points.max(axis=0)).astype(int)
    limit = 2 * max(anchor.shape)  # frames of another field must not enlarge the grid further
    x0, y0 = max(x0, -limit), max(y0, -limit)
    return x0, y0, (min(y1, limit) - y0 + 1, min(x1, limit) - x0 + 1)


def _clipped_mean(cube: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean over frames (frames, height, width) without outliers, and the number of values used in each pixel."""
    import warnings

    mean = np.full(cube.shape[1:], np.nan, dtype=np.float32)
    used = np.zeros(cube.shape[1:], dtype=np.int16)
    for start in range(0, cube.shape[1], 128):  # some rows at a time, to limit the memory
        part = cube[:, start : start + 128]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # pixels that are NaN in all frames
            middle = np.nanmedian(part, axis=0)
            spread = np.maximum(SIGMA_PER_MAD * np.nanmedian(np.abs(part - middle), axis=0), noise)
            keep = np.abs(part - middle) <= CLIP * spread + CORE * np.maximum(middle, 0)
            mean[start : start + 128] = np.nanmean(np.where(keep, part, np.nan), axis=0)
        used[start : start + 128] = keep.sum(axis=0)
    return mean, used
