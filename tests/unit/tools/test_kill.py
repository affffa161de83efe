"""SIGKILL at random moments of a night, and the check that would tell of what went wrong."""

import os
import sys

import numpy as np
import pytest

from otrain_core.night.ledger import Ledger
from tests.unit.tiny_onnx import write_tiny
from tools import kill


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A night of 8 images after 4 kills."""
    folder = tmp_path_factory.mktemp("kill")
    reference = kill.write_images(folder, 8)
    model = write_tiny(folder / "model.onnx", size=21, channels=("difference", "psf"))
    command = [sys.executable, "-m", "otrain_core.cli.main", "night", str(folder / "images"), "--once"]
    command += ["--references", str(reference), "-m", str(model), "-o", str(folder / "nights")]
    env, ledger = os.environ | {"OMP_NUM_THREADS": "1"}, folder / "nights/ledger.sqlite"
    times = kill.kill_and_finish(command, ledger, kills=4, rng=np.random.default_rng(1), env=env)
    assert times >= 2  # a very fast machine may end before all four
    return folder / "nights"


def test_each_image_is_scored_once_through_kills(killed):
    assert kill.problems(killed, 8) == []


def test_what_went_wrong_is_told(killed):
    assert kill.problems(killed, 9) == ["8 images in the ledger, not 9"]
    ledger = Ledger(killed / "ledger.sqlite")
    try:
        number, name = ledger.begin("0" * 64, path="x.fits", name="x")
        ledger.refuse(number, "why")
    finally:
        ledger.close()
    table = next(killed.glob("*/im000.ecsv"))
    table.rename(table.with_name("other.ecsv"))
    found = kill.problems(killed, 9)
    assert any("x: refused (why)" in text for text in found)
    assert sum("a table without an image, or an image without a table" in text for text in found) == 2
