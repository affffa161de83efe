"""Simulate ten frames of a small telescope after registration by Siril: one pixel grid, borders of zeros, no WCS, the gain as CVF.

``python -m tests.e2e.ten_frames FOLDER [SCALE]`` writes them; SCALE 1 is 1600 x 1250 px.
"""

import sys
from pathlib import Path

import numpy as np
from astropy.io import fits

FWHM, PIXEL_SCALE, GAIN, READ_NOISE, SKY = 3.8, 1.4, 1.6, 8.0, 900.0
FRAMES = 10
STACKED = 6  # frames of another night that are stacked to the reference


def stars(rng, shape, n):
    """Positions x, y [px] and fluxes [electron] of the stars of a field, drawn from a power law."""
    height, width = shape
    flux = 10 ** (3.0 + rng.exponential(0.55, n).clip(0, 2.6))
    return rng.uniform(-10, width + 10, n), rng.uniform(-10, height + 10, n), flux


def expected(field, shape, *, beta=3.2):
    """Image of the stars [electron] on the common grid: Moffat profiles, averaged over 5 x 5 points per pixel."""
    image = np.zeros(shape)
    alpha = FWHM / (2 * np.sqrt(2 ** (1 / beta) - 1))
    half = int(6 * FWHM)
    sub = (np.arange(5) - 2) / 5
    for x, y, flux in zip(*field, strict=True):
        x0, y0 = int(round(x)), int(round(y))
        rows = np.arange(max(y0 - half, 0), min(y0 + half + 1, shape[0]))
        columns = np.arange(max(x0 - half, 0), min(x0 + half + 1, shape[1]))
        if not (len(rows) and len(columns)):
            continue
        dy = (rows[:, None] + sub - y).ravel()
        dx = (columns[:, None] + sub - x).ravel()
        stamp = (1 + (dy[:, None] ** 2 + dx[None, :] ** 2) / alpha**2) ** -beta
        stamp = stamp.reshape(len(rows), 5, len(columns), 5).sum(axis=(1, 3))
        image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += (
            flux * stamp * (beta - 1) / (np.pi * alpha**2) / 25
        )
    return image


def registered(signal, rng, shape):
    """A frame [ADU] shifted to the grid of the first, as by Siril: zeros outside its detector."""
    data = (rng.poisson(signal + SKY) + rng.normal(0, READ_NOISE, shape)) / GAIN
    hot = rng.random(shape) < 3e-5
    data[hot] += rng.uniform(500, 20000, hot.sum())
    left, bottom = rng.integers(-18, 19, 2)
    data = np.minimum(data, 60000.0)
    if left > 0:
        data[:, :left] = 0
    elif left < 0:
        data[:, left:] = 0
    if bottom > 0:
        data[:bottom] = 0
    elif bottom < 0:
        data[bottom:] = 0
    return data.astype(np.float32)


def write(folder, *, scale=1.0, seed=1):
    """Write ten frames and the stacked reference; return the folder."""
    folder, rng = Path(folder), np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    shape = (int(1250 * scale), int(1600 * scale))
    signal = expected(stars(rng, shape, int(1500 * scale**2)), shape)
    header = fits.Header()
    header["CVF"] = (GAIN, "Conversion factor (e-/adu)")
    header["FILTER"], header["EXPTIME"] = "L", 120.0
    frames = []
    for number in range(FRAMES + STACKED):
        data = registered(signal, rng, shape)
        if number >= FRAMES:
            frames.append(np.where(data == 0, np.nan, data))
            continue
        header["DATE-OBS"] = f"2024-05-01T22:{2 * number:02d}:00"
        fits.PrimaryHDU(data, header).writeto(folder / f"r_light_{number:05d}.fit", overwrite=True)
    with np.errstate(all="ignore"):
        stack = np.nan_to_num(np.nanmedian(frames, axis=0), nan=0.0).astype(np.float32)
    header["DATE-OBS"], header["CVF"] = "2024-04-20T22:00:00", GAIN * STACKED
    fits.PrimaryHDU(stack, header).writeto(folder / "reference.fit", overwrite=True)
    return folder


if __name__ == "__main__":
    print(write(sys.argv[1], scale=float(sys.argv[2]) if len(sys.argv) > 2 else 1.0))
