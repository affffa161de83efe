"""A night's pair of frames on disk, with two new sources and one that faded."""

import threading
import time

import numpy as np
from astropy.io import fits

from tests.unit.synthetic_pair import GAIN, READ_NOISE, make_sky, observe
from tests.unit.tiny_onnx import write_tiny

NEW = ((80.0, 200.0, 9000.0), (250.0, 120.0, 6000.0))
FADED = ((180.0, 260.0, 8000.0),)


def write(path, image):
    header = image.header.copy()
    header.update({"GAIN": GAIN, "RDNOISE": READ_NOISE, "SATURATE": image.saturation, "FILTER": "r"})
    header["DATE-OBS"] = "2024-03-01T02:03:04.5"
    fits.PrimaryHDU(image.data, header).writeto(path, overwrite=True)
    return path


def write_pair(folder):
    """Paths of science image, reference and model."""
    sky = make_sky()
    science = write(folder / "science.fits", observe(sky, seed=1, extra=NEW))
    reference = write(folder / "reference.fits", observe(sky, seed=2, extra=FADED, name="reference"))
    model = write_tiny(folder / "model.onnx", size=21, channels=("difference", "psf"))
    return science, reference, model


def nearest(table, place):
    """Row of the candidate nearest to a place, and its distance [px]."""
    distance = np.hypot(np.asarray(table["x"]) - place[0], np.asarray(table["y"]) - place[1])
    return int(distance.argmin()), float(distance.min())


class Stop(threading.Event):
    """A watch that is not stopped in time fails: it asks at every look."""

    end = None

    def is_set(self):
        self.end = self.end or time.monotonic() + 300
        assert time.monotonic() < self.end, "not stopped in time"
        return super().is_set()
