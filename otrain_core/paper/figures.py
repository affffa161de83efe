"""The figures of the paper, drawn only from their small tables (see `otrain_core.paper.data`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.figures.canvas import NEUTRAL, STYLE, TRUE_COLOUR, new_figure, save_figure
from otrain_core.io import read_json, read_table
from otrain_core.paper.claims import GAPS, published_value
from otrain_core.paper.data import image_of
from otrain_core.paper.diagrams import draw_architecture, draw_loop, draw_summary
from otrain_core.paper.plan import GALLERIES, MAPS, PANELS

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKS = "os^DvP"
METRICS = {"accuracy": "Accuracy", "f1": "F1", "mcc": "MCC"}


def figures_files(*, figure: str, table: str | Path, caption: str | Path, pictures: Sequence[str | Path]) -> None:
    """Draw one figure of the paper from its small table.

    Parameters
    ----------
    figure : str
        fig01 to fig13, figA1 to figA4.
    table, caption : path-like
        CSV and JSON written by `otrain_core.paper.data.data_files`.
    pictures : sequence of path-like
        PNG and PDF written.
    """
    drawn = draw_figure(figure, read_data(table), read_json(caption))
    for picture in pictures:
        save_figure(picture, drawn)


def draw_figure(figure: str, table: pd.DataFrame, caption: Mapping[str, Any]):
    """Draw one figure.

    Parameters
    ----------
    figure : str
        One of `otrain_core.paper.plan.FIGURES`.
    table : pandas.DataFrame
        As from `otrain_core.paper.data.figure_data`. If it is empty, the figure states what is missing.
    caption : mapping
        Caption of the figure; uses ``missing`` and ``heading``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib import style

    with style.context(STYLE):
        return _draw(figure, table, caption)


def _draw(figure: str, table: pd.DataFrame, caption: Mapping[str, Any]):
    if table.empty:
        return draw_missing(f"Not made: {caption.get('missing') or 'there are no data yet'}.")
    drawers = {"fig01": draw_architecture, "fig02": draw_loop, "fig03": draw_summary, "fig04": draw_magnitudes}
    drawers |= {"fig11": draw_data_size, "fig12": draw_size}
    drawers |= dict.fromkeys(GALLERIES, draw_galleries) | dict.fromkeys(MAPS, draw_maps)
    if figure in PANELS:
        return draw_panels(table, title=str(caption.get("heading", "")))
    return drawers[figure](table)


def read_data(path: str | Path) -> pd.DataFrame:
    """Read the table of a figure; an empty file gives an empty table."""
    return read_table(path) if Path(path).read_bytes().strip() else pd.DataFrame()


def draw_missing(text: str):
    """Draw a figure that states why there is no picture."""
    figure, ax = new_figure(6.0, 1.2)
    ax.axis("off")
    ax.text(0.5, 0.5, text, ha="center", va="center", wrap=True)
    return figure


def draw_magnitudes(table: pd.DataFrame):
    """Draw the numbers of injected and recovered sources by magnitude (Fig. 4)."""
    figure, ax = new_figure(5.6, 3.6)
    edges = np.append(table["low"], table["high"].iloc[-1])
    for name, colour, text in (("injected", NEUTRAL, "injected"), ("found", TRUE_COLOUR, "found again")):
        ax.stairs(table[name], edges, fill=True, alpha=0.3, color=colour)
        ax.stairs(table[name], edges, color=colour, linewidth=1.4, label=f"{text}: {int(table[name].sum()):,}")
    ax.set(xlabel="Injected magnitude [mag]", ylabel=f"Sources per {edges[1] - edges[0]:g} mag", ylim=(0, None))
    ax.set_ylim(0, 1.22 * table["injected"].max())
    ax.legend(loc="upper right", ncols=2)
    return figure


def draw_galleries(table: pd.DataFrame):
    """Draw cutouts of each cube (Figs. 5 to 8): False left, True right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from otrain_core.figures.galleries import CutoutGallery

    cubes = list(dict.fromkeys(table["cube"]))
    figure = Figure(figsize=(10.4, 3.3 * len(cubes)))
    FigureCanvasAgg(figure)
    for part, cube in zip(figure.subfigures(len(cubes), 1, squeeze=False).ravel(), cubes, strict=True):
        mine = table[table["cube"] == cube]
        named = f"{cube.replace('/', ', ')}, {mine['side'].iloc[0]} px"
        groups = {f"{named}: {name}": mine[mine["label"] == label] for label, name in ((0, "False"), (1, "True"))}
        panels = {name: [image_of(row) for row in rows.to_dict("records")] for name, rows in groups.items()}
        captions = {name: [_words(row) for row in rows.to_dict("records")] for name, rows in groups.items()}
        CutoutGallery(panels, captions).plot(part)
    return figure


def _words(row: Mapping[str, Any]) -> str:
    """Label of a cutout: its magnitude and, for a False, its cause."""
    kind = "" if pd.isna(row["kind"]) else str(row["kind"]).replace("_", " ")
    magnitude = f"{row['mag']:.1f} mag" if np.isfinite(row["mag"]) else ""
    return ", ".join(filter(None, (kind, magnitude))) or "no magnitude"


def draw_panels(table: pd.DataFrame, *, title: str = ""):
    """Draw the four panels of Figs. 10 and A.1 to A.4."""
    from otrain_core.figures.displays import (
        F1MccDisplay,
        HistoryDisplay,
        RocByMagnitudeDisplay,
        ScoreHistogramDisplay,
        draw_four_panels,
    )

    def series(panel: str, name: str) -> pd.DataFrame:
        return table[(table["panel"] == panel) & (table["series"] == name)]

    marks = {name: float(series("marks", name)["x"].iloc[0]) for name in ("threshold", "kept_epoch")}
    f1, mcc = series("f1-mcc", "f1"), series("f1-mcc", "mcc")
    false, true = series("scores", "False"), series("scores", "True")
    history = table[table["panel"] == "history"].pivot(index="x", columns="series", values="y")
    history = history.reset_index().rename(columns={"x": "epoch"})
    roc = table[table["panel"] == "roc"].rename(columns={"series": "bin", "x": "fpr", "y": "recall"})
    roc = roc[["bin", "fpr", "recall"]].replace({"bin": {"all": ""}})
    kept = int(marks["kept_epoch"]) if np.isfinite(marks["kept_epoch"]) else None
    return draw_four_panels(
        F1MccDisplay(f1["x"].to_numpy(), f1["y"].to_numpy(), mcc["y"].to_numpy(), marks["threshold"]),
        ScoreHistogramDisplay(
            np.append(false["x"], 1.0),
            true=true["y"].to_numpy(),
            false=false["y"].to_numpy(),
            threshold=marks["threshold"],
        ),
        HistoryDisplay(history, kept),
        RocByMagnitudeDisplay(roc.reset_index(drop=True)),
        title=title,
    )


def draw_maps(table: pd.DataFrame):
    """Draw the cutout, the Grad-CAM map and the map at the size of the cutout, in a row for each network (Figs. 9 and 13)."""
    from matplotlib import colormaps

    from otrain_core.figures.galleries import robust_limits

    grey = colormaps["gray"].with_extremes(bad="#d9c2a0")  # as in the galleries
    names = list(dict.fromkeys(table["experiment"]))
    figure, axes = new_figure(8.0, 2.75 * len(names), rows=len(names), columns=3)
    for line, name in zip(np.atleast_2d(axes), names, strict=True):
        rows = table[table["experiment"] == name].set_index("panel")
        images = {panel: image_of(rows.loc[panel]) for panel in ("cutout", "map", "resized")}
        about, (low, high) = rows.loc["cutout"], robust_limits(images["cutout"])
        side = images["cutout"].shape[0]
        line[0].imshow(images["cutout"], cmap=grey, vmin=low, vmax=high)
        for ax, panel in zip(line[1:], ("map", "resized"), strict=True):
            shown = ax.imshow(
                images[panel], cmap="inferno", vmin=0, vmax=1, extent=(-0.5, side - 0.5, -0.5, side - 0.5)
            )
        bar = figure.colorbar(shown, ax=list(line[1:]), shrink=0.9, pad=0.02)
        bar.set_label("Grad-CAM, peak = 1", fontsize=8)
        score = f"score {about['score']:.3f}"
        if about["label"] == 1 and np.isfinite(about["score_without"]):
            score += f" ({about['score_without']:.3f} without neighbour)"
        small = images["map"].shape[0]
        titles = (f"{name}: {score}", f"{about['layer']}, {small}×{small}", f"at {side}×{side} px")
        for ax, title in zip(line, titles, strict=True):
            ax.set_title(title, fontsize=8)
            ax.set(xlabel="x [px]")
            ax.grid(False)
        line[0].set_ylabel("y [px]")
    return figure


def draw_data_size(table: pd.DataFrame):
    """Draw the accuracy gap of all cubes, and the scores of the first, against the number of training cutouts (Fig. 11)."""
    from matplotlib.ticker import NullLocator, ScalarFormatter

    names, limit = list(dict.fromkeys(table["experiment"])), published_value("all", "accuracy_gap")["high"]
    images = table["n_images"].astype("Int64").astype(str)
    table = table.assign(cube=table["telescope"] + " " + table["pipeline"] + ", " + images + " images")
    cubes = list(dict.fromkeys(table["cube"]))
    rows = len(GAPS) + 1
    figure, axes = new_figure(4.4 * len(names) + 1.8, 2.9 * rows, rows=rows, columns=len(names))
    axes = np.reshape(axes, (rows, len(names)))
    for (*tops, bottom), name in zip(axes.T, names, strict=True):
        mine = table[table["experiment"] == name]
        for top, gap in zip(tops, GAPS, strict=True):
            for number, cube in enumerate(cubes):
                _line(top, mine[mine["cube"] == cube], gap, number, label=cube, scale=100)
            for sign in (-1, 1):
                top.axhline(100 * sign * limit, color=NEUTRAL, linestyle="--", linewidth=1)
        tops[0].set_title(name)
        for number, (metric, text) in enumerate(METRICS.items()):
            _line(bottom, mine[mine["cube"] == cubes[0]], metric, number, label=text)
        bottom.set(xlabel="Training cutouts (True and False)", title=f"{name}, {cubes[0]}")
        sizes: list[float] = []
        for size in table["n_train"].value_counts(sort=True).index:  # sizes with most trainings first
            if all(abs(np.log(size / other)) > 0.25 for other in sizes):  # tick labels must not overlap
                sizes.append(size)
        for ax in (*tops, bottom):
            ax.set_xscale("log")
            ax.set_xlim(0.9 * table["n_train"].min(), 1.1 * table["n_train"].max())
            ax.set_xticks(sizes)
            ax.xaxis.set_major_formatter(ScalarFormatter())
            ax.xaxis.set_minor_locator(NullLocator())
            ax.tick_params(axis="x", rotation=30)
    _share_y(axes)
    axes[0, 0].set_ylabel("Gap of the paper [%]")
    axes[1, 0].set_ylabel("Gap, dropout off [%]")
    axes[-1, 0].set_ylabel("Score on test images")
    for line in (axes[1], axes[-1]):
        line[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_size(table: pd.DataFrame):
    """Draw accuracy, F1 and MCC against the side of the cutouts, in a row of panels for each size of the cube (Fig. 12)."""
    names, limit = list(dict.fromkeys(table["experiment"])), published_value("all", "largest_cutout")["high"]
    table = table.assign(n_images=table["n_images"].astype("Int64").astype(str))
    cubes = list(dict.fromkeys(table["n_images"]))
    figure, axes = new_figure(4.4 * len(names) + 1.2, 3.4 * len(cubes), rows=len(cubes), columns=len(names))
    axes = np.reshape(axes, (len(cubes), len(names)))
    for (line, n_images), (column, name) in product(enumerate(cubes), enumerate(names)):
        ax, mine = axes[line, column], table[(table["experiment"] == name) & (table["n_images"] == n_images)]
        for number, (metric, text) in enumerate(METRICS.items()):
            _line(ax, mine.assign(n_train=mine["value"]), metric, number, label=text)
        text = f"{limit:g} px (paper)"
        ax.axvline(limit, color=NEUTRAL, linestyle="--", linewidth=1, label=text)
        cube = " ".join(table[["telescope", "pipeline"]].iloc[0])
        ax.set(title=f"{name}, {cube}, {n_images} images", xlabel="Side of the cutouts [px]")
        ax.set_xticks(sorted(table["value"].unique()))
    _share_y(axes)
    for line in axes:
        line[0].set_ylabel("Score on test images")
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _line(ax, part: pd.DataFrame, column: str, number: int, *, label: str, scale: float = 1.0) -> None:
    """Draw means over seeds, with bars from the lowest to the highest value."""
    values = scale * part.groupby("n_train")[column].agg(["mean", "min", "max"]).dropna()
    if values.empty:
        return
    bars = [values["mean"] - values["min"], values["max"] - values["mean"]]
    colour = COLOURS[number % len(COLOURS)]
    ax.errorbar(
        values.index, values["mean"], bars, color=colour, marker=MARKS[number % len(MARKS)], capsize=2, label=label
    )


def _share_y(axes) -> None:
    """Use the same y limits for all panels of a row."""
    for line in axes:
        low, high = min(ax.get_ylim()[0] for ax in line), max(ax.get_ylim()[1] for ax in line)
        for ax in line:
            ax.set_ylim(low, high)
