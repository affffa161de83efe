"""The clock and the files of the steps of one image; that they run as the rules do: tests/e2e/test_fused.py."""

from pathlib import Path

from otrain_core.chain.steps import Clock, ImageSteps
from otrain_core.plan.pipelines import Pipeline
from otrain_core.plan.recipe import Recipe
from otrain_core.plan.telescopes import Detector


def test_clock_counts_cpu_seconds_of_steps():
    clock = Clock()
    with clock("sum"):
        assert sum(range(2_000_000)) > 0
    assert clock.seconds["sum"] > 0 and clock.peak["sum"] > 10


def test_what_is_kept_stands_in_its_folder_and_all_else_is_temporary():
    steps = ImageSteps("i", Recipe(Pipeline(), Detector()), Path("kept"), Path("gone"), Clock())
    assert steps.file("cutouts.npz") == Path("kept/cutouts.npz") and steps.file("psf.json") == Path("kept/psf.json")
    assert steps.file("difference.fits") == Path("gone/difference.fits")
    assert steps.file("candidates.csv") == Path("gone/candidates.csv")
