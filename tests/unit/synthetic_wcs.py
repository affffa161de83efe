"""Tangential WCSs, plain and with SIP."""

import numpy as np
from astropy.wcs import WCS


def frame(shape, *, scale=1.0, angle=0.0, shift=(0.0, 0.0), kind="TAN"):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"RA---{kind}", f"DEC--{kind}"]
    wcs.wcs.crval = 150.0, 20.0
    wcs.wcs.crpix = shape[1] / 2 + shift[0], shape[0] / 2 + shift[1]
    c, s = np.cos(angle) * scale / 3600, np.sin(angle) * scale / 3600
    wcs.wcs.cd = [[-c, -s], [-s, c]]
    wcs.wcs.set()
    wcs.array_shape = shape
    return wcs


def distorted(shape):
    header = frame(shape).to_header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header["A_ORDER"], header["B_ORDER"] = 3, 3
    header["A_2_0"], header["A_1_1"], header["B_0_2"], header["A_3_0"], header["B_0_3"] = 3e-6, -2e-6, 4e-6, 2e-9, 3e-9
    return WCS(header)
