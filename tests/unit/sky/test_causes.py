import numpy as np
import pandas as pd

from otrain_core.sky.causes import KINDS, name_artefacts, name_causes


def test_names_follow_the_geometry():
    truth = pd.DataFrame(
        [
            {"kind": "trail", "x": 50.0, "y": 50.0, "size": 100.0, "width": 4.0, "angle": 45.0},
            {"kind": "hot_pixel", "x": 100.0, "y": 20.0, "size": 1.0, "width": 1.0, "angle": 0.0},
            {"kind": "star", "x": 10.0, "y": 90.0, "size": 3.0, "width": 3.0, "angle": 0.0},
        ]
    )
    x, y = np.array([70, 70, 101, 10, 95]), np.array([70, 60, 21, 90, 95])
    names = name_artefacts(truth, x, y, margin=1.5)
    assert list(names) == ["trail", "", "hot_pixel", "", ""]


def test_asteroids_and_variables_are_no_artefacts():
    truth = pd.DataFrame(
        [
            {"kind": kind, "x": x, "y": 20.0, "size": 3.0, "width": 3.0, "angle": 0.0}
            for kind, x in (("asteroid", 20.0), ("variable", 60.0))
        ]
    )
    assert list(name_artefacts(truth, [20, 60], [20, 20], margin=1.0)) == ["", ""]


def sky(*rows):
    """Truth of a simulated image from kind, x, y, flux; sources and spots of 3 px."""
    table = pd.DataFrame(rows, columns=["kind", "x", "y", "flux"])
    return table.assign(size=3.0, width=3.0, angle=0.0)


def causes(truth, *, x, y=50.0, flux=10.0):
    return list(name_causes(truth, np.array([x]), np.array([y]), np.array([flux]), seeing=2.0))


def test_an_artefact_takes_precedence_over_a_source():
    truth = sky(("star", 50.0, 50.0, 1e4), ("cosmic", 51.0, 50.0, 50.0))
    assert causes(truth, x=50.5) == ["cosmic"]


def test_a_moving_or_variable_object_takes_precedence_over_a_star():
    truth = sky(("star", 50.0, 50.0, 1e4), ("asteroid", 52.0, 50.0, 50.0), ("variable", 90.0, 50.0, 50.0))
    assert causes(truth, x=50.0) == ["asteroid"]
    assert causes(truth, x=87.5) == ["variable"]


def test_the_nearest_source_within_reach_is_the_cause():
    truth = sky(("star", 50.0, 50.0, 100.0), ("galaxy", 54.0, 50.0, 100.0))
    assert causes(truth, x=51.5) == ["star"]
    assert causes(truth, x=52.5) == ["galaxy"]
    assert causes(truth, x=80.0) == ["noise"]


def test_the_halo_of_a_bright_star_reaches_further():
    truth = sky(("star", 50.0, 50.0, 1e5))
    assert causes(truth, x=61.0, flux=900.0) == ["star"]
    assert causes(truth, x=61.0, flux=1100.0) == ["noise"]
    assert causes(truth, x=63.0, flux=900.0) == ["noise"]


def test_kinds_are_those_of_the_simulator():
    assert "cosmic" in KINDS and not {"star", "galaxy", "variable", "asteroid"} & set(KINDS)
