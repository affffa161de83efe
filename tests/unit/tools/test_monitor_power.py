"""The measurement of alarms, and its table in the documentation."""

import json

import numpy as np
import pandas as pd

from otrain_core.arrays import write_arrays
from tests.unit.synthetic_cube import make_cube
from tools import monitor_power


def test_a_cube_is_measured(tmp_path, monkeypatch):
    """Twelve images whose seeing hardly differs: a change of 30 % is always found, nothing else is."""
    cube = make_cube(480, n_images=14)
    rng = np.random.default_rng(1)
    cube["seeing"] = np.exp(rng.normal(1, 0.03, 14))[np.unique(cube["images"], return_inverse=True)[1]]
    write_arrays(tmp_path / "cube.npz", cube)
    monkeypatch.setattr(monitor_power, "NIGHTS", (1, 4, 10))
    monitor_power.main([str(tmp_path / "cube.npz")], str(tmp_path / "out"), trials=20)
    table = pd.read_csv(tmp_path / "out" / "monitor.csv")
    assert table.night_images.tolist() == [1, 4]  # with ten, too few would be left for the training set
    assert (table[["found_wider", "found_narrower"]] == 1).all(axis=None) and table.false_alarms.max() <= 0.1
    assert table.detectable.is_monotonic_decreasing and (table.detectable < 0.3).all()
    assert json.loads((tmp_path / "out" / "about.json").read_text())["versions"]["numpy"]


def test_the_documentation_quotes_what_was_measured(root):
    table = pd.read_csv(root / "results/published/monitor/monitor.csv")
    block = (
        (root / "docs/how-to/monitoring.md")
        .read_text()
        .split("<!-- monitor from here -->\n")[1]
        .split("\n<!-- to here -->")[0]
    )
    assert block == monitor_power.as_markdown(table), "python -m tools.monitor_power CUBE... and quote it again"
    assert (table.false_alarms < 0.03).all()
