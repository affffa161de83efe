"""The figure of a night."""

import numpy as np

from otrain_core.classify.monitor import Comparison
from otrain_core.figures.night import NightDisplay

REFERENCE = {"true": np.array([2.0, 2.5, 3.0]), "false": np.array([2.1, 2.6])}


def test_one_strip_for_each_quantity_that_has_values():
    seeing = Comparison(
        "seeing",
        "px",
        ratio=True,
        alarm=True,
        n_images=2,
        n_reference=5,
        by_image=np.array([4.0, 6.0]),
        by_image_reference=REFERENCE,
    )
    level = Comparison("level", "sigma", n_images=1, note="one image", by_image=np.array([0.1]), by_image_reference={})
    empty = Comparison("noise", "ADU")
    figure = NightDisplay([seeing, level, empty], {"seeing": [1.5, 2.0, 3.5]}).plot("tonight")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["seeing [px]  ALARM", "level [sigma]  one image"]
    strip = figure.axes[0]
    assert [line.get_xdata().tolist() for line in strip.lines] == [[2.0, 2.5, 3.0], [2.1, 2.6], [4.0, 6.0]]
    assert strip.get_xscale() == "log" and strip.get_xlim()[0] < 2.0 and strip.get_xlim()[1] > 6.0
    assert [label.get_text() for label in strip.get_yticklabels()] == ["night", "False", "True"]
    assert figure.axes[1].get_xscale() == "linear"
    assert figure.get_suptitle().startswith("tonight\n")
