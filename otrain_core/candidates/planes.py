"""The input of the detector network for one image, and the sources that the network has to find."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.candidates.crossmatch import removed_stars
from otrain_core.candidates.measure import difference_psf, filtered_significance, filtered_spread
from otrain_core.errors import ImageError
from otrain_core.images.frames import read_planes
from otrain_core.images.pixels import add_stamp
from otrain_core.io import read_json, read_table
from otrain_core.stars.kinds import REAL_KINDS
from otrain_core.stars.psf_model import PSFModel

PLANES = ("science", "reference", "difference", "mask", "filtered", "filtered_raw", "has_difference")
LARGEST = 1e6  # largest absolute value of a pixel in units of its noise
STEP = 0.1  # shift of a PSF for its derivative [px]


@dataclass(frozen=True)
class Planes:
    """The planes of an image, all (height, width).

    Attributes
    ----------
    science, reference : numpy.ndarray
        float32, without background, on the same pixels [ADU].
    difference : numpy.ndarray or None
        float32 [ADU].
    noise : numpy.ndarray
        float32, 1 sigma of the difference [ADU].
    bad : numpy.ndarray
        bool, pixels that are not used; they are 0 in the images.
    seeing : float
        FWHM of the PSF of the difference [px].
    """

    science: np.ndarray
    reference: np.ndarray
    difference: np.ndarray | None
    noise: np.ndarray
    bad: np.ndarray
    seeing: float

    @classmethod
    def of(
        cls,
        science: np.ndarray,
        reference: np.ndarray,
        difference: np.ndarray | None,
        noise: np.ndarray,
        mask: np.ndarray,
        *,
        seeing: float,
        image: str = "",
    ) -> Planes:
        """Make the planes from those of the step `subtract`, in which NaN or a mask other than 0 marks a bad pixel.

        Raises
        ------
        ImageError
            There is no usable pixel or seeing, or the planes have different shapes.
        """
        images = [plane for plane in (science, reference, difference) if plane is not None]
        if not (np.isfinite(seeing) and seeing > 0):
            raise ImageError(image, "detect.seeing", f"a positive seeing [px] is needed, found {seeing}")
        if len({plane.shape for plane in (*images, noise, mask)}) != 1:
            raise ImageError(image, "detect", "science, reference, difference, noise and mask differ in shape")
        with np.errstate(invalid="ignore"):
            bad = (mask != 0) | ~(noise > 0) | ~np.isfinite(noise)
        for plane in images:
            bad |= ~np.isfinite(plane)
        if bad.all():
            raise ImageError(image, "detect", "no usable pixel for the detector network")
        science, reference = (np.where(bad, 0, plane).astype(np.float32) for plane in (science, reference))
        difference = None if difference is None else np.where(bad, 0, difference).astype(np.float32)
        error = np.where(bad, np.median(noise[~bad]), noise).astype(np.float32)
        return cls(science, reference, difference, error, bad, float(seeing))

    @property
    def shape(self) -> tuple[int, int]:
        return self.science.shape

    def without_difference(self) -> Planes:
        return replace(self, difference=None)

    def swapped(self) -> Planes:
        """The planes with science and reference exchanged, in which fading sources brighten."""
        difference = None if self.difference is None else -self.difference
        return replace(self, science=self.reference, reference=self.science, difference=difference)

    def cut(self, rows: slice, columns: slice) -> Planes:
        """A part of the image."""
        part = (rows, columns)
        return Planes(
            self.science[part],
            self.reference[part],
            None if self.difference is None else self.difference[part],
            self.noise[part],
            self.bad[part],
            self.seeing,
        )

    def spread(self) -> float:
        """Robust spread of the filtered difference (or, without it, of science - reference) in units of its noise."""
        light = self.science - self.reference if self.difference is None else self.difference
        return filtered_spread(light, self.noise, self.bad, self.seeing)

    def inputs(self, spread: float) -> np.ndarray:
        """Input of the network.

        Parameters
        ----------
        spread : float
            As returned by `Planes.spread`.

        Returns
        -------
        numpy.ndarray
            float32 (height, width, len(`PLANES`)), finite: asinh of the images in units of noise times `spread`; the bad
            pixels; asinh of the difference and of science - reference after the matched filter of a Gaussian of the seeing;
            and 1 if there is a difference. Without a difference its planes are 0.
        """
        error = self.noise * np.float32(spread)
        nothing = np.zeros(self.shape, np.float32)
        raw = self.science - self.reference
        light = [self.science, self.reference, nothing if self.difference is None else self.difference]
        sigmas = [np.clip(plane / error, -LARGEST, LARGEST) for plane in light]
        filtered = [
            nothing if plane is None else np.nan_to_num(filtered_significance(plane, error, self.bad, self.seeing))
            for plane in (self.difference, raw)
        ]
        known = np.full(self.shape, np.float32(self.difference is not None))
        found = [*map(np.arcsinh, sigmas), self.bad.astype(np.float32), *map(np.arcsinh, filtered), known]
        return np.stack(found, axis=-1).astype(np.float32)


@dataclass(frozen=True)
class Field:
    """An image with its sources.

    Attributes
    ----------
    image : str
    planes : Planes
    sources : pandas.DataFrame
        x, y [px], flux [ADU], kind, snr (of the PSF fit), limit (Cramer-Rao limit: smallest possible standard deviation of
        each coordinate [px]), real (whether it is a transplanted or removed star), usable.
    psf, science_psf : object
        PSF of the difference and of the science image, see `otrain_core.stars.psf_model.PSFModel.stamp`.
    unused : numpy.ndarray or None
        bool (height, width), pixels that belong to another set of the split.
    """

    image: str
    planes: Planes
    sources: pd.DataFrame
    psf: Any
    science_psf: Any
    unused: np.ndarray | None = None


def read_field(folder: str | Path, *, image: str) -> Field:
    """Read an image from the folder with the files of the steps `psf` to `subtract`, including ``difference.fits``.

    Raises
    ------
    ImageError
        The difference was not kept; see also `Planes.of`.
    UpstreamFailed
        A step failed for the image.
    """
    folder = Path(folder)
    if not (folder / "difference.fits").is_file():
        raise ImageError(
            image, "finder.train", f"{folder}/difference.fits is missing: it is kept only if finder.train is set"
        )
    planes, _ = read_planes(folder / "difference.fits", image=image)
    record, subtraction = read_json(folder / "psf.json"), read_json(folder / "subtract.json")
    science_psf = PSFModel.load(folder / "psf.fits")
    psf, seeing = difference_psf(science_psf, record["seeing_px"], subtraction, planes)
    found = Planes.of(
        planes["science"],
        planes["reference"],
        planes["diff"],
        planes["noise"],
        planes["mask"],
        seeing=seeing,
        image=image,
    )
    sources = read_table(folder / "injected.csv")
    there = ~sources["kind"].eq("removed") | sources["id"].isin(removed_stars(subtraction))
    sources = sources[there].reset_index(drop=True)
    sources["real"] = sources["kind"].isin(REAL_KINDS)
    return Field(image, found, add_limits(sources, found, psf), psf, science_psf)


def add_limits(sources: pd.DataFrame, planes: Planes, psf: Any) -> pd.DataFrame:
    """Add the columns ``snr`` and ``limit`` of `Field` to a table of sources; 0 and NaN without usable pixels.

    The Cramer-Rao limit of a coordinate is 1 / sqrt(sum((F dP/dx)^2 / noise^2)) (King 1983, PASP 95, 163). The column has
    the root mean square of the limits of x and y.

    Parameters
    ----------
    sources : pandas.DataFrame
        x, y [px], flux [ADU].
    planes : Planes
    psf : object
        PSF of the difference, with the method ``stamp`` of `PSFModel`.
    """
    snr, limit = np.zeros(len(sources)), np.full(len(sources), np.nan)
    weights = np.where(planes.bad, 0, 1 / (planes.spread() * planes.noise) ** 2)
    size = int(np.ceil(2 * planes.seeing)) + 2
    moves = ((0, 0), (STEP, 0), (-STEP, 0), (0, STEP), (0, -STEP))
    for number, (x, y, flux) in enumerate(sources[["x", "y", "flux"]].to_numpy(float)):
        x0, y0 = int(np.floor(x + 0.5)) - size, int(np.floor(y + 0.5)) - size
        weight, *light = np.zeros((1 + len(moves), 2 * size + 1, 2 * size + 1))
        add_stamp(weight, weights, -y0, -x0)
        for canvas, (dx, dy) in zip(light, moves, strict=True):
            stamp, top, left = psf.stamp(x + dx, y + dy)
            add_stamp(canvas, stamp, top - y0, left - x0)
        slopes = [(light[1] - light[2]) / (2 * STEP), (light[3] - light[4]) / (2 * STEP)]
        information = [np.sum(weight * slope**2) for slope in slopes]
        snr[number] = abs(flux) * np.sqrt(np.sum(weight * light[0] ** 2))
        if min(information) > 0 and flux != 0:
            limit[number] = np.sqrt(np.mean(1 / np.array(information))) / abs(flux)
    return sources.assign(snr=snr, limit=limit)
