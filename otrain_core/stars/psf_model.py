"""Model of a PSF that varies over the field."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from otrain_core.errors import ImageError, first_line
from otrain_core.images.polynomials import exponents, polynomial
from otrain_core.io import atomic, raise_if_failed, truncation_told
from otrain_core.widths import FWHM_PER_SIGMA

MAX_DEGREE, MAX_OVERSAMPLING = 8, 20  # limits of a model in a file, which fits never exceed
AT_A_TIME = 32  # number of stars whose stamps are computed together, to limit the memory
MIN_RADIUS, MAX_RADIUS = 1, 200  # limits of the radius of the stamps of a model in a file [px]


@dataclass
class PSFModel:
    """Effective PSF that is a polynomial of the position on the detector.

    Attributes
    ----------
    table : numpy.ndarray
        float64 (terms, side, side), coefficient of every monomial of the normalised
        position, tabulated in steps of ``1 / oversampling`` px.
    degree, oversampling : int
        Degree of the polynomial, and samples per pixel.
    shape : tuple of int
        (height, width) of the image [px], over which the position is normalised.
    radius : int
        Half width of the stamps [px].
    fwhm, ellipticity, angle : float
        Of the PSF at the centre of the image, see `measure`.
    """

    table: np.ndarray
    degree: int
    oversampling: int
    shape: tuple[int, int]

    def __post_init__(self):
        # B-spline coefficients are linear in the samples, so that filtering the table once is enough.
        self._splines = np.stack(
            [ndimage.spline_filter(plane, order=3, output=np.float64, mode="mirror") for plane in self.table]
        )
        self.radius = (self.table.shape[1] - 1) // 2 // self.oversampling - 1
        self.fwhm, self.ellipticity, self.angle = self.measure((self.shape[1] - 1) / 2, (self.shape[0] - 1) / 2)

    @property
    def size(self) -> int:
        """Side of the stamps [px]."""
        return 2 * self.radius + 1

    def profile(self, x: float, y: float, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """PSF at a position, not normalised.

        Parameters
        ----------
        x, y : float
            Position [px].
        dx, dy : numpy.ndarray
            (columns,) and (rows,), offsets of the pixel centres from the star [px].

        Returns
        -------
        numpy.ndarray
            float64 (rows, columns), at least 0.
        """
        return self._profiles(np.array([x]), np.array([y]), np.asarray(dx)[None], np.asarray(dy)[None])[0]

    def _profiles(self, x: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """As `profile` for several stars at x, y (n,), with offsets (n, columns) and (n, rows)."""
        planes = np.tensordot(polynomial(x, y, self.shape, self.degree, axis=-1), self._splines, axes=1)
        # The interpolation is separable: first along the columns, then along the rows.
        (row, along_y), (column, along_x) = (self._taps(offset) for offset in (dy, dx))
        star = np.arange(len(planes))[:, None]
        lines = sum(planes[star, row[tap]] * along_y[tap][..., None] for tap in range(4)).swapaxes(1, 2)
        values = sum(lines[star, column[tap]] * along_x[tap][..., None] for tap in range(4)).swapaxes(1, 2)
        return np.maximum(values, 0.0)

    def _taps(self, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nodes of the table for a cubic B-spline at the given offsets [px], and their weights, each (4, ...).

        The table is mirrored about its first and last node.
        """
        last = self.table.shape[-1] - 1
        position = last / 2 + np.asarray(offset, float) * self.oversampling
        first = np.floor(position)
        f = position - first
        g = 1 - f
        weights = np.stack([g**3, 4 - 6 * f**2 + 3 * f**3, 4 - 6 * g**2 + 3 * g**3, f**3]) / 6
        node = np.abs(first.astype(int) + np.arange(-1, 3).reshape(-1, *[1] * first.ndim))
        return last - np.abs(last - node % (2 * last)), weights

    def at(self, x: float, y: float) -> np.ndarray:
        """PSF at a position [px], centred in its stamp.

        Returns
        -------
        numpy.ndarray
            float64 (size, size), pixel-integrated, with sum 1.
        """
        offset = np.arange(-self.radius, self.radius + 1.0)
        stamp = self.profile(x, y, offset, offset)
        return stamp / stamp.sum()

    def stamp(self, x: float, y: float) -> tuple[np.ndarray, int, int]:
        """Image of a star of flux 1 at a sub-pixel position [px].

        Returns
        -------
        stamp : numpy.ndarray
            float64 (size, size), pixel-integrated, with sum 1.
        y0, x0 : int
            Pixel of the image under the first pixel of the stamp, which may be off the image.
        """
        stamps, y0, x0 = self.stamps(np.array([x]), np.array([y]))
        return stamps[0], int(y0[0]), int(x0[0])

    def stamps(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `stamp` for stars at x, y (n,): stamps (n, size, size), and y0, x0, int (n,)."""
        x0, y0 = (np.floor(np.asarray(value, float) + 0.5).astype(int) - self.radius for value in (x, y))
        stamps, offset = np.empty((len(x0), self.size, self.size)), np.arange(self.size)
        for start in range(0, len(x0), AT_A_TIME):
            part = slice(start, start + AT_A_TIME)
            dx, dy = ((first[part] - at[part])[:, None] + offset for first, at in ((x0, x), (y0, y)))
            stamps[part] = self._profiles(x[part], y[part], dx, dy)
        return stamps / stamps.sum(axis=(1, 2), keepdims=True), y0, x0

    def noise_area(self, x: float, y: float) -> float:
        """Noise-equivalent area ``1 / sum(PSF^2)`` [px] at a position (King 1983, PASP 95, 163).

        The variance of an optimally weighted flux is this area times the variance of a pixel.
        """
        return float(1.0 / np.sum(self.at(x, y) ** 2))

    def measure(self, x: float, y: float) -> tuple[float, float, float]:
        """Size and shape of the PSF at a position.

        The profile is the effective PSF, which includes the pixel and is as wide as the
        stars in the image.

        Returns
        -------
        fwhm : float
            Diameter of the circle with the area above half the maximum [px].
        ellipticity : float
            1 - b/a, from second moments in a Gaussian window twice as wide as the
            profile, corrected for the window.
        angle : float
            Direction of the major axis, from +x towards +y, -90 to 90 [deg].
        """
        fine = np.arange(-self.radius, self.radius + 0.05, 0.1)
        profile = self.profile(x, y, fine, fine)
        above = profile - profile.max() / 2
        slope = np.maximum(np.hypot(*np.gradient(profile)), 1e-9 * profile.max())
        fwhm = 2 * np.sqrt(
            np.clip(above / slope + 0.5, 0, 1).sum() * 0.01 / np.pi
        )  # fraction of each cell above half the maximum
        window = (2 * fwhm / FWHM_PER_SIGMA) ** 2
        weight = profile * np.exp(-(fine[:, None] ** 2 + fine**2) / (2 * window))
        weight = weight / weight.sum()
        u, v = fine - (weight * fine).sum(), (fine - (weight * fine[:, None]).sum())[:, None]
        xx, yy, xy = (weight * u**2).sum(), (weight * v**2).sum(), (weight * u * v).sum()
        minor, major = np.linalg.eigvalsh([[xx, xy], [xy, yy]])
        minor, major = (1 / (1 / value - 1 / window) for value in (minor, major))
        angle = np.degrees(np.arctan2(2 * xy, xx - yy)) / 2
        return float(fwhm), float(1 - np.sqrt(minor / major)), float(angle)

    def save(self, path: str | Path) -> None:
        """Write the model as a FITS image (terms, side, side)."""
        from astropy.io import fits

        hdu = fits.PrimaryHDU(self.table.astype(np.float32))
        hdu.header["DEGREE"] = (self.degree, "degree of the polynomial in x and y")
        hdu.header["OVERSAMP"] = (self.oversampling, "samples per pixel")
        hdu.header["IMWIDTH"] = (self.shape[1], "width of the image [px]")
        hdu.header["IMHEIGHT"] = (self.shape[0], "height of the image [px]")
        hdu.header["FWHM"] = (self.fwhm, "FWHM at the centre [px]")
        with atomic(path) as temporary:
            hdu.writeto(temporary, overwrite=True)

    @classmethod
    def load(cls, path: str | Path) -> PSFModel:
        """Read a model written by `save`.

        Raises
        ------
        ImageError
            No such file, not FITS, or not a PSF model (key ``psf``).
        UpstreamFailed
            The file marks the failure of an earlier step of the image.
        """
        from astropy.io import fits

        def refuse(reason: str) -> ImageError:
            return ImageError(Path(path).name, "psf", f"{path}: {reason}")

        if not Path(path).is_file():
            raise refuse("no such file")
        raise_if_failed(path)
        try:
            with truncation_told(), fits.open(path, memmap=False) as hdus:
                values = [hdus[0].header[key] for key in ("DEGREE", "OVERSAMP", "IMHEIGHT", "IMWIDTH")]
                sizes = [hdus[0].header.get(f"NAXIS{axis}", 0) for axis in (1, 2, 3)]
                if not all(isinstance(value, int) for value in values):
                    raise refuse(f"DEGREE, OVERSAMP, IMHEIGHT and IMWIDTH must be whole numbers, not {values}")
                degree, oversampling, height, width = values
                if not (0 <= degree <= MAX_DEGREE and 1 <= oversampling <= MAX_OVERSAMPLING):
                    raise refuse(
                        f"DEGREE must be 0 to {MAX_DEGREE} and OVERSAMP 1 to {MAX_OVERSAMPLING}, "
                        f"not {degree} and {oversampling}"
                    )
                least, most = 2 * (MIN_RADIUS + 1) * oversampling + 1, 2 * (MAX_RADIUS + 1) * oversampling + 1
                if sizes[0] != sizes[1] or not least <= sizes[0] <= most or sizes[2] != len(exponents(degree)):
                    raise refuse(
                        f"{len(exponents(degree))} square planes with sides of {least} to {most} samples are needed, "
                        f"not {sizes}"
                    )
                table = hdus[0].data.astype(np.float64)
        except ImageError:
            raise
        except Exception as error:  # astropy raises many kinds for a malformed file
            raise refuse(f"not a readable PSF model ({first_line(error)})") from None
        if not (height > 0 and width > 0):
            raise refuse(f"IMHEIGHT and IMWIDTH must be positive, not {height} and {width}")
        if not (np.isfinite(table).all() and table[0].sum() > 0):
            raise refuse("the PSF model has missing values or no flux")
        return cls(table, degree, oversampling, (height, width))
