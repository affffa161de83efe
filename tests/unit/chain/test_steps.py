"""The clock and the files of the steps of one image. tests/e2e/test_fused.py compares the steps with the rules."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.chain.steps import Clock, ImageSteps, held_planes
from otrain_core.images.frames import read_planes, write_planes
from otrain_core.plan.pipelines import Pipeline
from otrain_core.plan.recipe import Recipe
from otrain_core.plan.telescopes import Detector


def test_clock_counts_cpu_seconds_of_steps():
    clock = Clock()
    with clock("sum"):
        assert sum(range(2_000_000)) > 0
    assert clock.seconds["sum"] > 0 and clock.peak["sum"] > 10


def test_kept_and_temporary_files_are_in_their_folders():
    steps = ImageSteps("i", Recipe(Pipeline(), Detector()), Path("kept"), Path("gone"), Clock())
    assert steps.file("cutouts.npz") == Path("kept/cutouts.npz") and steps.file("psf.json") == Path("kept/psf.json")
    assert steps.file("difference.fits") == Path("gone/difference.fits")
    assert steps.file("candidates.csv") == Path("gone/candidates.csv")


def test_held_planes_are_read_as_they_were_written_and_cannot_be_changed(tmp_path):
    held, plane = held_planes()["difference.fits"], np.arange(6, dtype=np.float32).reshape(2, 3)
    header = fits.Header({"OBJECT": "field"})
    write_planes(held, {"diff": plane}, header)
    write_planes(tmp_path / "planes.fits", {"diff": plane}, header)
    (in_memory, own), (in_file, _) = (read_planes(path, image="i") for path in (held, tmp_path / "planes.fits"))
    np.testing.assert_array_equal(in_memory["diff"], in_file["diff"])
    assert own["OBJECT"] == "field"
    with pytest.raises(ValueError, match="read-only"):
        in_memory["diff"][0, 0] = 1
