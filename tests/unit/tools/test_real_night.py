"""Objects of a real night by kind; the night itself in the tool's own run."""

import numpy as np

from otrain_core.night.page import night_objects
from tests.unit.night.detections import detection
from tools.real_night import count


def test_objects_by_kind():
    items = [detection(image, f"new{image}", object=1, object_ra=10.0, dec=20.0) for image in (1, 2, 3)]
    items += [detection(image, f"hot{image}", object=2, object_ra=10.1, n_detector=3) for image in (1, 2)]
    items += [
        detection(1, "once", object=3, object_ra=10.2),
        detection(2, "open", object=3, object_ra=10.2, undecided=1),
    ]
    items += [detection(1, "bogus", object=4, object_ra=10.3, real=0)]
    places = np.array([[10.0002, 20.0, 25.0]])  # 0.7 arcsec away
    rows = {row.pop("kind"): list(row.values()) for row in count(night_objects(items), places, pixel_scale=1.0)}
    # objects, detections, called real, objects called real in one image or more, in two or more
    assert rows == {"added": [1, 3, 3, 1, 1], "fixed": [1, 2, 2, 1, 1], "other": [2, 3, 1, 1, 0]}
