"""Cutouts for a classifier, from a difference image and a list of candidates."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.classify.candidate_lists import MAX_CANDIDATES, read_candidates
from otrain_core.errors import ConfigError, ImageError
from otrain_core.widths import FWHM_PER_SIGMA

BRIGHT = 8.0  # detection threshold of the sources that give the FWHM [sigma of a pixel]
FEW_SOURCES = 5  # with fewer sources their FWHM is not used
UNKNOWN_FWHM = 3.0  # FWHM if nothing else is known [px]
BLOCK = 2048  # candidates at a time: 40 MB of cutouts of 32 px

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MoffatPSF:
    """A round Moffat profile, for images of which only the width of the PSF is known.

    Attributes
    ----------
    fwhm : float
        [px]
    beta : float
    """

    fwhm: float
    beta: float = 3.0

    def stamp(self, x: float, y: float) -> tuple[np.ndarray, int, int]:
        """Image of a star of flux 1 at (x, y), integrated over pixels, and the position of its first pixel (y0, x0)."""
        radius = max(4, int(np.ceil(3 * self.fwhm)))
        x0, y0 = (int(np.floor(value + 0.5)) - radius for value in (x, y))
        fine = (np.arange(5 * (2 * radius + 1)) - 2) / 5
        alpha = self.fwhm / (2 * np.sqrt(2 ** (1 / self.beta) - 1))
        r2 = (fine[:, None] + y0 - y) ** 2 + (fine[None, :] + x0 - x) ** 2
        stamp = ((1 + r2 / alpha**2) ** -self.beta).reshape(2 * radius + 1, 5, 2 * radius + 1, 5).sum(axis=(1, 3))
        return stamp / stamp.sum(), y0, x0


@dataclass(frozen=True)
class BinnedPSF:
    """A PSF on binned pixels, each the sum of `bin` x `bin` pixels.

    Attributes
    ----------
    model
        PSF on the original pixels, with a method ``stamp`` like that of `MoffatPSF`.
    bin : int
    """

    model: Any
    bin: int

    def stamp(self, x: float, y: float) -> tuple[np.ndarray, int, int]:
        """As `MoffatPSF.stamp`, in binned pixels."""
        stamp, y0, x0 = self.model.stamp(*(_unbinned(value, self.bin) for value in (x, y)))
        before = y0 % self.bin, x0 % self.bin
        after = [-(start + length) % self.bin for start, length in zip(before, stamp.shape, strict=True)]
        stamp = np.pad(stamp, list(zip(before, after, strict=True)))
        return bin_plane(stamp, self.bin), y0 // self.bin, x0 // self.bin


def bin_plane(plane: np.ndarray, bin: int) -> np.ndarray:
    """Sum blocks of `bin` x `bin` pixels; a block with a NaN is NaN. Pixels left over at the far edges are cut off."""
    height, width = (length // bin for length in plane.shape)
    return plane[: height * bin, : width * bin].reshape(height, bin, width, bin).sum(axis=(1, 3))


def _unbinned(value: Any, bin: int) -> Any:
    """Convert a position from binned pixels to pixels of the image."""
    return value * bin + (bin - 1) / 2


def choose_psf(psf: Any, *, science: Any = None) -> tuple[Any, float | None]:
    """Choose the PSF of a difference image, and return it with its FWHM [px].

    Parameters
    ----------
    psf : None, float or path-like
        FWHM [px]; or a file written by `otrain_core.stars.psf_model.PSFModel.save`; or an image whose stars have this
        PSF. With None the PSF is measured on `science`.
    science : otrain_core.images.frames.Image, optional

    Returns
    -------
    psf, fwhm
        Both are None if `psf` and `science` are None.

    Raises
    ------
    ImageError
        The file cannot be read, or there are too few stars.
    ConfigError
        The FWHM is not between 0.5 and 100 px.
    """
    from otrain_core.images.frames import read_image
    from otrain_core.plan.telescopes import Detector
    from otrain_core.safe import check_compressed, check_header

    if psf is None and science is None:
        return None, None
    try:
        fwhm = float(psf) if psf is not None else None
    except (TypeError, ValueError):
        fwhm = None
    if fwhm is not None:
        if not 0.5 <= fwhm <= 100:
            raise ConfigError(f"psf: the FWHM must be from 0.5 to 100 px, not {fwhm:g}")
        return MoffatPSF(fwhm), fwhm
    from otrain_core.stars.psf import measure_psf
    from otrain_core.stars.psf_model import PSFModel

    if psf is not None:
        from astropy.io import fits

        if not Path(psf).is_file():
            raise ImageError(Path(psf).stem, "psf", f"{psf}: neither a number nor an existing file")
        try:
            check_compressed(psf, image=Path(psf).stem)
            header = fits.getheader(psf)
            if "OVERSAMP" in header:
                check_header(header, psf, image=Path(psf).stem)
                model = PSFModel.load(psf)
                return model, model.fwhm
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ImageError(Path(psf).stem, "psf", f"{psf}: not a readable FITS file ({error})") from None
        science = read_image(psf, name=Path(psf).stem, detector=Detector(gain=1.0, pixel_scale=1.0))
    model, record = measure_psf(science)
    return model, record["seeing_px"]


def cut_candidates(
    difference: str | Path | np.ndarray, candidates: Any = None, **options: Any
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Cutouts of all candidates of a difference image, as one block of `cut_blocks`, which takes the same arguments."""
    return next(cut_blocks(difference, candidates, block=MAX_CANDIDATES, **options))


def cut_blocks(
    difference: str | Path | np.ndarray,
    candidates: Any = None,
    *,
    size: int = 32,
    science: str | Path | None = None,
    reference: str | Path | None = None,
    mask: str | Path | None = None,
    psf: Any = None,
    threshold: float = 4.5,
    bin: int = 1,
    block: int = BLOCK,
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Cut candidates out of a difference image, block by block, in the same way as for the cubes of the workflow.

    Parameters
    ----------
    difference : path-like or numpy.ndarray
    candidates : optional
        List of candidates, see `read_candidates`. Without it they are detected on the difference image, with the FWHM
        of its bright sources if the PSF is not known.
    size : int
        Side of the cutouts [px].
    science, reference, mask : path-like, optional
        Images on the pixels of the difference. The mask is not 0 where a pixel cannot be used. The background of science
        and reference image is subtracted, as in the cubes of the workflow.
    psf : optional
        See `choose_psf`.
    threshold : float
        Detection threshold [sigma].
    bin : int
        Sum `bin` x `bin` pixels first, for images that are sampled much more finely than those of the training set. The
        positions of candidates and table stay in pixels of the image.
    block : int
        Number of candidates that are processed, and held in memory, at a time.

    Yields
    ------
    cutouts : dict
        ``cube`` (N, size, size, 5), ``channels``, ``seeing`` (N,) if it is known, ``pixel_scale``.
    table : dict
        ``candid``, ``x``, ``y``, ``ra``, ``dec``, ``edge``, each (N,): candidates in the image, in the order of the list.
        A warning gives the number of candidates outside the image. Without candidates there is one empty block.

    Raises
    ------
    ImageError, ConfigError
        A file or option cannot be used, the images have different shapes, or no candidate lies in the image.
    """
    from otrain_core.candidates.cutouts import make_cutouts
    from otrain_core.images.wcs import pixel_to_sky
    from otrain_core.plan.pipelines import CutoutsOptions

    name = "difference" if isinstance(difference, np.ndarray) else Path(difference).name.split(".")[0]
    planes, wcs = _read_planes(difference, name=name, science=science, reference=reference, mask=mask)
    height, width = planes["diff"].shape
    if min(height, width) < size:
        raise ImageError(
            name,
            "size",
            f"the image of {width} x {height} px is smaller than a cutout of the model, {size} x {size} px",
        )
    if not 1 <= bin <= min(height, width) // size:
        raise ConfigError(f"bin: must be from 1 to {min(height, width) // size} for this image, not {bin}")
    model, fwhm = _psf_of(psf, science, name=name)
    if bin > 1:
        planes = {key: bin_plane(values, bin) for key, values in planes.items()}
        planes["mask"] = (planes["mask"] > 0).astype(np.uint8)
        model = BinnedPSF(model, bin) if model is not None else None
        fwhm = fwhm / bin if fwhm is not None else None
    if candidates is None:
        found = _detect(planes["diff"], planes["mask"], name=name, psf=model, fwhm=fwhm, threshold=threshold)
        if wcs is not None and len(found["x"]):
            found["ra"], found["dec"] = pixel_to_sky(wcs, _unbinned(found["x"], bin), _unbinned(found["y"], bin))
    else:
        found = read_candidates(candidates, wcs=wcs, shape=(height, width))
        found |= {key: (found[key] - (bin - 1) / 2) / bin for key in "xy"}
        found = _inside(found, planes["diff"].shape, name=name)
    scale = 3600 * bin * np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) if wcs is not None else np.nan
    for start in range(0, max(1, len(found["x"])), block):
        part = {key: values[start : start + block] for key, values in found.items()}
        options = CutoutsOptions().model_copy(update={"size": size})
        arrays = make_cutouts(_as_table(part, fwhm), planes, image=name, options=options, psf=model, pixel_scale=scale)
        cutouts = {"cube": arrays["stack"], "channels": arrays["channels"], "pixel_scale": arrays["pixel_scale"]}
        if fwhm is not None:
            cutouts["seeing"] = arrays["seeing"]
        table = {key: arrays[key] for key in ("candid", "x", "y", "ra", "dec", "edge")}
        yield cutouts, table | {key: _unbinned(table[key], bin) for key in "xy"}


def _read_planes(
    difference: str | Path | np.ndarray, *, name: str, **others: str | Path | None
) -> tuple[dict[str, np.ndarray], Any]:
    """Planes diff, science, reference and mask, all of one shape, and the WCS of the difference (or None)."""
    from otrain_core.images.hdus import read_fits
    from otrain_core.images.wcs import celestial_wcs

    wcs = None
    if isinstance(difference, np.ndarray):
        plane = np.ma.filled(np.ma.asarray(difference, dtype=np.float32), np.nan)
    else:
        plane, header = read_fits(difference, image=name)
        wcs = celestial_wcs(header, image=name)
    planes: dict[str, np.ndarray] = {"diff": plane, "mask": (~np.isfinite(plane)).astype(np.uint8)}
    for key, path in others.items():
        if path is None:
            if key != "mask":
                planes[key] = np.full_like(plane, np.nan)
            continue
        other = read_fits(path, image=name)[0]
        if other.shape != plane.shape:
            raise ImageError(
                name, key, f"{path}: the shape {other.shape} differs from that of the difference image, {plane.shape}"
            )
        planes[key] = planes["mask"] | (~(other == 0)).astype(np.uint8) if key == "mask" else _without_sky(other)
    return planes, wcs


def _psf_of(psf: Any, science: str | Path | None, *, name: str) -> tuple[Any, float | None]:
    from otrain_core.images.frames import read_image
    from otrain_core.plan.telescopes import Detector

    if psf is not None or science is None:
        return choose_psf(psf)
    row = Detector(gain=1.0, pixel_scale=1.0)  # defaults for the header; the PSF does not depend much on them
    return choose_psf(None, science=read_image(science, name=name, detector=row))


def _inside(found: dict[str, np.ndarray], shape: tuple[int, int], *, name: str) -> dict[str, np.ndarray]:
    """Candidates whose pixel lies in the image; the others are counted in a warning."""
    height, width = shape
    inside = (found["x"] > -0.5) & (found["x"] < width - 0.5) & (found["y"] > -0.5) & (found["y"] < height - 0.5)
    outside = int(len(inside) - inside.sum())
    if outside and not inside.any():
        raise ConfigError(f"{name}: none of the {outside} candidates lies in the image of {width} x {height} px")
    if outside:
        log.warning("%s: %d of %d candidates lie outside the image and are ignored", name, outside, len(inside))
    return {key: values[inside] for key, values in found.items()}


def _without_sky(plane: np.ndarray) -> np.ndarray:
    """An image with its background subtracted, in boxes of 64 px as `otrain_core.images.prepare` does."""
    import sep

    void = ~np.isfinite(plane)
    if void.all():
        return plane
    return plane - sep.Background(np.where(void, 0, plane).astype(np.float32), mask=void).back()


def _detect(
    plane: np.ndarray, mask: np.ndarray, *, name: str, psf: Any, fwhm: float | None, threshold: float
) -> dict[str, np.ndarray]:
    import sep

    from otrain_core.candidates.detect import detect_candidates
    from otrain_core.plan.pipelines import CutoutsOptions, DetectOptions

    if not (np.isfinite(threshold) and threshold > 0):
        raise ConfigError(f"threshold: must be a positive number of sigma, not {threshold}")
    background = sep.Background(np.where(mask != 0, 0, plane).astype(np.float32), mask=mask != 0)
    plane, rms = plane - background.back(), background.rms()
    if fwhm is None:
        fwhm = _fwhm_of_sources(plane, rms, mask)
        log.warning(
            "%s: no PSF and no science image: the detection assumes a FWHM of %.1f px; better give the PSF", name, fwhm
        )
    table = detect_candidates(
        plane,
        rms,
        mask,
        image=name,
        seeing=fwhm,
        zero_point=30.0,
        zero_point_source="assumed",
        size=CutoutsOptions().size,
        options=DetectOptions(threshold=threshold),
        psf=psf,
    )
    return {key: table[key].to_numpy() for key in ("candid", "x", "y", "ra", "dec")}


def _fwhm_of_sources(plane: np.ndarray, rms: np.ndarray, mask: np.ndarray) -> float:
    """Median FWHM [px] of the bright positive sources of a difference; `UNKNOWN_FWHM` if there are too few."""
    import sep

    lost = (mask != 0) | ~np.isfinite(plane)
    found = sep.extract(np.where(lost, 0, plane).astype(np.float32), BRIGHT, err=rms.astype(np.float32), mask=lost)
    width = FWHM_PER_SIGMA * np.sqrt(found["a"] * found["b"])
    width = width[(found["b"] > 0.5 * found["a"]) & (width > 1)]  # excludes trails, columns and cosmic rays
    return float(np.clip(np.median(width), 1.2, 10)) if len(width) >= FEW_SOURCES else UNKNOWN_FWHM


def _as_table(found: Mapping[str, Any], fwhm: float | None) -> Any:
    """Table with all columns that `make_cutouts` needs; unknown values are empty."""
    import pandas as pd

    from otrain_core.candidates.cutouts import CUTOUT_COLUMNS

    void = {str: "", float: np.nan, int: 0, bool: False}
    table = pd.DataFrame({key: void[kind] for key, kind in CUTOUT_COLUMNS.items()}, index=range(len(found["x"])))
    for key in ("candid", "x", "y", "ra", "dec"):
        table[key] = found[key]
    table["seeing"] = np.nan if fwhm is None else fwhm
    return table
