"""Figure of the study finder: what detectors find at how many false alarms, and what harms them."""

from __future__ import annotations

import numpy as np
import pandas as pd

TABLES = ("completeness", "curves", "precision", "stress")  # of the study
MAIN = (5.0, 10.0)  # S/N, by which the study judges
MARKERS = "os^Dv"
SMALLEST = 0.05  # false alarms an image at the left end of the axis
AT_RATE = 1.0  # false alarms an image of the second panel


def draw_finder(curves: pd.DataFrame, completeness: pd.DataFrame, stress: pd.DataFrame):
    """Completeness against false alarms, completeness by S/N, and completeness of spoilt images.

    Parameters
    ----------
    curves, completeness, stress : pandas.DataFrame
        Tables of `otrain_core.studies.finder`. Means over the seeds are drawn; curves are those of the first seed.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.ticker import FuncFormatter

    from otrain_core.figures.canvas import legend_above, new_figure

    figure, axes = new_figure(10.5, 7.4, rows=2, columns=2)
    (roc, by_snr), (tests, pairs) = axes
    names = list(dict.fromkeys(completeness["detector"]))
    style = {name: {"color": f"C{k}", "marker": MARKERS[k % len(MARKERS)]} for k, name in enumerate(names)}
    first = curves[curves["seed"] == curves["seed"].min()]
    for name in names:
        mine = first[first["detector"] == name]
        shown = mine[mine["false_alarms"] >= SMALLEST]
        roc.plot(shown["false_alarms"], 100 * shown["completeness"], color=style[name]["color"], label=name)
    roc.set(xscale="log", xlabel="False alarms an image", ylabel="Completeness, S/N 5 to 10 [%]", xlim=(SMALLEST, 60))
    roc.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    legend_above(roc)
    _by_snr(by_snr, completeness, style)
    spoilt = stress[~stress["test"].str.startswith("pairs")]
    _bars(tests, spoilt, names, style)
    tests.set(xlabel="Completeness, S/N 5 to 10, at the score of 1 false alarm [%]")
    two = stress[stress["test"].str.startswith("pairs")]
    two = two.assign(separation=two["test"].str.extract(r"([\d.]+)", expand=False).astype(float))
    for name, mine in two.groupby("detector", sort=False):
        mean = mine.groupby("separation")["completeness"].mean()
        pairs.plot(mean.index, 100 * mean, label=name, **style.get(name, {}))
    pairs.set(xlabel="Separation of two equal sources [seeing FWHM]", ylabel="Both found [%]", ylim=(-3, 103))
    return figure


def _by_snr(ax, completeness: pd.DataFrame, style) -> None:
    """At `AT_RATE` false alarms an image, with intervals over images."""
    table = completeness[(completeness["kind"] == "all") & (completeness["false_alarms"] == AT_RATE)]
    table = table[~((table["snr_low"] == 5) & (table["snr_high"] == 10))]  # the whole of two bins
    bins = sorted(set(zip(table["snr_low"], table["snr_high"], strict=True)))
    for k, (name, mine) in enumerate(table.groupby("detector", sort=False)):
        mean = mine.groupby(["snr_low", "snr_high"])[["completeness", "completeness_low", "completeness_high"]].mean()
        mean = 100 * mean.reindex(bins)
        bars = [mean["completeness"] - mean["completeness_low"], mean["completeness_high"] - mean["completeness"]]
        place = np.arange(len(bins)) + 0.08 * (k - 2)
        ax.errorbar(
            place, mean["completeness"], np.nan_to_num(np.abs(bars)), linestyle="none", capsize=2, **style[name]
        )
    words = [f"{low:g} to {high:g}" if np.isfinite(high) else f"above {low:g}" for low, high in bins]
    ax.set_xticks(range(len(bins)), words)
    ax.set(xlabel="S/N", ylabel="Completeness at 1 false alarm an image [%]")


def _bars(ax, table: pd.DataFrame, names: list[str], style) -> None:
    """A row for each test, a point for each detector."""
    tests = list(dict.fromkeys(table["test"]))
    for name in names:
        mean = table[table["detector"] == name].groupby("test")["completeness"].mean().reindex(tests)
        ax.plot(100 * mean, np.arange(len(tests)), linestyle="none", **style[name])
    ax.set_yticks(range(len(tests)), tests)
    ax.invert_yaxis()
    ax.grid(axis="y", alpha=0.3)
