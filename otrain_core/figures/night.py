"""Figure of a night beside the training set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from otrain_core.classify.descriptors import limits
from otrain_core.classify.monitor import Comparison


class NightDisplay:
    """Images of a night among those of the training set, a strip for each quantity.

    Attributes
    ----------
    comparisons : list of Comparison
        Those with values on either side.
    quantiles : mapping
        Of the training set, for the range that it knows.
    """

    def __init__(self, comparisons: Sequence[Comparison], quantiles: Mapping[str, Sequence[float]]):
        self.comparisons = [item for item in comparisons if item.n_images or item.n_reference]
        self.quantiles = quantiles

    def plot(self, title: str = ""):
        """Draw; the figure."""
        from matplotlib import style

        from otrain_core.figures.canvas import FALSE_COLOUR, NEUTRAL, STYLE, TRUE_COLOUR, new_figure

        number = len(self.comparisons)
        figure, axes = new_figure(6.5, 0.9 + 0.75 * number, rows=number)
        with style.context(STYLE):
            for ax, item in zip(np.atleast_1d(axes), self.comparisons, strict=True):
                if item.quantity in self.quantiles:
                    ax.axvspan(*limits(item.quantity, self.quantiles[item.quantity]), color="0.93", zorder=0)
                for key, values in item.by_image_reference.items():
                    colour = {"true": TRUE_COLOUR, "false": FALSE_COLOUR}.get(key, NEUTRAL)
                    height = {"true": 2.0, "false": 1.0}.get(key, 1.5)
                    ax.plot(values, np.full(len(values), height), "|", color=colour, markersize=8)
                colour = "#CC0000" if item.alarm else "black"
                ax.plot(item.by_image, np.zeros(item.n_images), "|", color=colour, markersize=8)
                _scale(ax, np.concatenate([item.by_image, *item.by_image_reference.values()]), log=item.ratio)
                classes = [("night", 0.0, colour), ("False", 1.0, FALSE_COLOUR), ("True", 2.0, TRUE_COLOUR)]
                if "all" in item.by_image_reference:
                    classes = [("night", 0.0, colour), ("training", 1.5, NEUTRAL)]
                ax.set(ylim=(-0.7, 2.7), yticks=[place for _, place, _ in classes])
                ax.set_yticklabels([name for name, _, _ in classes], fontsize=7)
                for label, (_, _, tick) in zip(ax.get_yticklabels(), classes, strict=True):
                    label.set_color(tick)
                ax.grid(False, axis="y")
                ax.tick_params(axis="x", labelsize=7)
                told = "  ALARM" if item.alarm else f"  {item.note}" if item.note else ""
                ax.set_title(f"{item.quantity} [{item.unit}]{told}", loc="left", fontsize=8, color=colour)
            told = "one stroke an image; grey: what the training set knows"
            figure.suptitle(f"{title}\n{told}" if title else told, fontsize=8)
            figure.set_layout_engine("tight", h_pad=0.3)
        return figure


def _scale(ax: Any, values: np.ndarray, *, log: bool) -> None:
    """An axis about the values; ratios on a logarithmic one with plain numbers."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    low, high = float(values.min()), float(values.max())
    if not (log and low > 0):
        reach = 0.08 * (high - low) or 0.05
        ax.set(xlim=(low - reach, high + reach))
        return
    ax.set(xscale="log", xlim=(low / 1.05, high * 1.05))
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
