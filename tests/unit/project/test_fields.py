"""Fields and their references."""

from dataclasses import replace

import numpy as np

from otrain_core.project.fields import best_of, group_fields, nights_of, propose
from otrain_core.project.look import Frame
from otrain_core.project.measure import Measured


def frames(n, *, day=1, **changes):
    made = [
        Frame(
            f"{day}-{k:02d}.fit",
            "science",
            object="M 1",
            filter="R",
            shape=(500, 500),
            time=f"2026-01-{day:02d}T20:{k:02d}:00.000",
        )
        for k in range(n)
    ]
    return [replace(frame, **changes) for frame in made]


def looks(frames, fwhm=3.0):
    return {frame.path: Measured(fwhm, 50, 900.0, 20.0, 4e4, False) for frame in frames}


def test_fields_by_place_by_name_and_by_filter():
    here = frames(2, ra=10.0, dec=20.0, scale=1.0, wcs="header")
    near = frames(1, day=2, ra=10.05, dec=20.0, scale=1.0, wcs="header")
    far = frames(1, day=3, ra=10.5, dec=20.0, scale=1.0, wcs="header", object="")
    named, other = frames(1, day=4), frames(1, day=5, filter="V")
    found = group_fields([*here, *near, *far, *named, *other], fallback="night")
    assert {name: len(group) for name, group in found.items()} == {"M_1-R": 4, "M_1-V": 1, "J10.50+20.00": 1}


def test_numbered_names_of_fields_do_not_collide_with_objects():
    here = frames(1, ra=10.0, dec=20.0, scale=1.0, wcs="header", object="M 1-3")
    there = frames(2, day=2, ra=50.0, dec=20.0, scale=1.0, wcs="header")
    other = frames(3, day=3, ra=90.0, dec=20.0, scale=1.0, wcs="header")
    found = group_fields([*here, *there, *other], fallback="night")
    assert {name: len(group) for name, group in found.items()} == {"M_1-3": 1, "M_1": 2, "M_1-4": 3}


def test_frames_without_position_and_object_are_one_field():
    found = group_fields(frames(3, object=""), fallback="my night")
    assert {name: len(group) for name, group in found.items()} == {"my_night": 3}


def test_places_are_compared_across_zero_hours():
    both = frames(1, ra=359.99, dec=0.0, scale=1.0) + frames(1, day=2, ra=0.01, dec=0.0, scale=1.0)
    assert len(group_fields(both, fallback="x")) == 1


def test_the_reference_is_stacked_from_another_night():
    first, second = frames(5), frames(8, day=9)
    found = propose("M1", first + second, [], looks(first, 2.5) | looks(second, 2.0), alone=True)
    assert found.stacked == first and found.science == second
    assert "2026-01-01" in found.because and "2.5 px" in found.because


def test_the_nights_with_the_best_seeing_are_stacked():
    nights = [frames(3, day=day) for day in range(1, 11)]
    measured = {}
    for k, night in enumerate(nights):
        measured |= looks(night, 2.0 if k in (1, 4, 9) else 3.0)
    found = propose("M1", sum(nights, []), [], measured, alone=True)
    assert {frame.path[0] for frame in found.stacked} >= {"2", "5"} and len(found.stacked) == 9
    assert not {frame.path for frame in nights[9]} & {frame.path for frame in found.stacked}
    assert "2026-01-01 and 2 more" in found.because and len(found.science) == 21


def test_at_least_half_of_the_frames_remain_to_be_searched():
    first = frames(12)
    found = propose("M1", first + frames(1, day=9), [], looks(first), alone=True)
    assert len(found.stacked) == 6 and len(found.science) == 7


def test_the_best_frame_of_each_part_of_a_single_night_is_stacked():
    night = frames(12)
    measured = looks(night) | looks([night[1], night[6], night[11]], 2.0)
    found = propose("M1", night, [], measured, alone=True)
    assert found.stacked == [night[1], night[6], night[11]] and len(found.science) == 9


def test_an_existing_stack_is_preferred():
    stack = Frame("stack.fit", "stack", "'stack' in its name")
    found = propose("M1", frames(5), [stack], {}, alone=True)
    assert found.reference == "stack.fit" and len(found.science) == 5
    other = replace(stack, filter="V")
    assert propose("M1", frames(5), [other], {}, alone=True).reference == ""


def test_two_frames_and_one():
    pair = frames(2)
    found = propose("M1", pair, [], looks(pair[:1], 3.0) | looks(pair[1:], 2.0), alone=True)
    assert found.reference == pair[1].path and found.science == [pair[0]]
    one = propose("M1", frames(1), [], {}, alone=True)
    assert not one.complete and one.because.startswith("only one frame, and Pan-STARRS needs a WCS; add frames")
    south = propose("M1", frames(1, wcs="header", ra=1.0, dec=-40.0), [], {}, alone=True)
    assert not south.complete and south.because.startswith("only one frame, outside Pan-STARRS")
    solved = propose("M1", frames(1, wcs="header", ra=1.0, dec=2.0, filter="SDSS r'"), [], {}, alone=True)
    assert solved.reference == "hips:CDS/P/PanSTARRS/DR1/r" and solved.complete


def test_nights_and_ranks():
    assert [len(night) for night in nights_of(frames(3) + frames(2, day=2))] == [3, 2]
    night = frames(3)
    measured = looks(night[:1], np.nan) | looks(night[1:2], 4.0) | looks(night[2:], 3.0)
    assert best_of(night, 2, measured) == night[1:]
