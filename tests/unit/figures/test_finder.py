import pandas as pd
import pytest

from otrain_core.figures.finder import draw_finder


def test_means_over_the_seeds_are_drawn():
    names, rows, curves, tests = ("detector", "finder"), [], [], []
    for seed, found in ((1, 0.6), (2, 0.8)):
        for name in names:
            for low, high in ((4.0, 5.0), (5.0, 10.0), (20.0, float("inf"))):
                row = {"detector": name, "seed": seed, "snr_low": low, "snr_high": high, "kind": "all"}
                row |= {"false_alarms": 1.0, "completeness": found, "completeness_low": found - 0.1}
                rows.append(row | {"completeness_high": found + 0.1})
            curves += [
                {"detector": name, "seed": seed, "false_alarms": rate, "completeness": found} for rate in (0.0, 0.5, 2)
            ]
            for test in ("as they are", "pairs 1.5 FWHM apart"):
                tests.append({"test": test, "detector": name, "seed": seed, "completeness": found})
    figure = draw_finder(pd.DataFrame(curves), pd.DataFrame(rows), pd.DataFrame(tests))
    roc, by_snr, spoilt, pairs = figure.axes
    assert [line.get_label() for line in roc.lines] == list(names)
    assert roc.lines[0].get_xdata().tolist() == [0.5, 2]  # the axis is logarithmic
    assert [label.get_text() for label in by_snr.get_xticklabels()] == ["4 to 5", "above 20"]
    assert spoilt.lines[0].get_xdata().tolist() == pytest.approx([70])
    assert pairs.lines[1].get_xdata().tolist() == [1.5] and pairs.lines[1].get_ydata().tolist() == pytest.approx([70])
