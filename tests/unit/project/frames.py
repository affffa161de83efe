"""Small simulated frames for the tests of a project."""

import numpy as np
from astropy.io import fits

LIGHT = {
    "TELESCOP": "T1",
    "INSTRUME": "Cam",
    "IMAGETYP": "Light Frame",
    "FILTER": "R",
    "EXPTIME": 60.0,
    "OBJECT": "M 1",
    "EGAIN": 2.0,
    "XPIXSZ": 9.0,
    "FOCALLEN": 1500.0,
}


def write_frame(
    path, *, seed=0, fwhm=3.0, shape=(160, 200), gain=2.0, level=800.0, time="2026-01-01T20:00:00", **cards
):
    """Write a light frame with 30 round stars; `cards` override `LIGHT`, and None removes a card."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    signal = np.full(shape, level)
    for _ in range(30):
        x0, y0 = rng.uniform(8, shape[1] - 8), rng.uniform(8, shape[0] - 8)
        signal += 3000 * np.exp(-4 * np.log(2) * ((x - x0) ** 2 + (y - y0) ** 2) / fwhm**2)
    data = np.rint(rng.poisson(signal * gain) / gain + rng.normal(0, 2, shape)).astype(np.uint16)
    header = fits.Header()
    for key, value in (LIGHT | {"DATE-OBS": time} | cards).items():
        if value is not None:
            header[key] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(data, header).writeto(path)
    return path


def sky_cards(ra, dec, *, scale=1.2):
    """Cards of a WCS whose reference position is the centre of the frame."""
    return {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": ra,
        "CRVAL2": dec,
        "CRPIX1": 100.5,
        "CRPIX2": 80.5,
        "CD1_1": -scale / 3600,
        "CD1_2": 0.0,
        "CD2_1": 0.0,
        "CD2_2": scale / 3600,
    }
