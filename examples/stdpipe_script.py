"""An STDPipe script that scores what it finds: python stdpipe_script.py science.fits difference.fits model.onnx

Detection, PSF and filtering are STDPipe's; its candidates go to the classifier with the PSF of their place,
and those called real are written as STDPipe's own cutouts beside the table.
"""

import sys

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from stdpipe import cutouts, photometry, pipeline, psf

from otrain_core.classify import Classifier


def main(science_path, difference_path, model_path, output="candidates.csv"):
    science = fits.getdata(science_path).astype(float)
    difference, header = fits.getdata(difference_path, header=True)
    difference, wcs, mask = difference.astype(float), WCS(header), ~np.isfinite(difference)
    classifier = Classifier.load(model_path)

    stars = photometry.get_objects_sep(science, mask=mask, thresh=10, aper=3, wcs=wcs, verbose=False)
    seeing = float(np.median(stars["fwhm"][stars["flags"] == 0]))
    psf_model = psf.create_psf_model(science, obj=stars[stars["flags"] == 0], fwhm=seeing, mask=mask)

    found = photometry.get_objects_sep(
        difference, mask=mask, thresh=3, aper=seeing, r0=1, sn=5, fwhm=seeing, wcs=wcs, verbose=False
    )
    found = pipeline.filter_transient_candidates(found, sr=1 / 3600, fwhm=seeing, vizier=[], skybot=False)

    planes, psfs = [], []
    for candidate in found:
        planes.append(cut(difference, candidate["x"], candidate["y"], classifier.size))
        stamp = psf.get_psf_stamp(psf_model, candidate["x"], candidate["y"])
        psfs.append(cut(stamp, stamp.shape[1] // 2, stamp.shape[0] // 2, classifier.size, outside=0.0))
    table = Table(found, copy=True)
    if len(found):
        scored = classifier.classify({"difference": np.array(planes), "psf": np.array(psfs)}, seeing=seeing)
        for name in ("probability", "real", "undecided", "reason"):
            table[name] = scored[name]
        for k in np.flatnonzero(scored["real"] & ~scored["undecided"]):
            one = cutouts.get_cutout(science, found[k], classifier.size // 2, wcs=wcs, header=header, diff=difference)
            cutouts.write_cutout(one, f"candidate_{k}.fits")
    table.write(output, format="ascii.csv", overwrite=True)


def cut(plane, x, y, size, outside=np.nan):
    """Square with the pixel nearest to (x, y) in its pixel size // 2."""
    column, row = (int(np.floor(value + 0.5)) + size - size // 2 for value in (x, y))
    return np.pad(plane, size, constant_values=outside)[row : row + size, column : column + size]


if __name__ == "__main__":
    main(*sys.argv[1:])
