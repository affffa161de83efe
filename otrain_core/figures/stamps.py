"""The best candidates of an image as science, reference and difference stamps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from otrain_core.figures.canvas import STYLE
from otrain_core.figures.galleries import robust_limits

PANELS = ("science", "reference", "difference")


def draw_stamps(
    table: Mapping[str, np.ndarray], stamps: np.ndarray, *, channels: Sequence[str], n: int = 24, title: str = ""
) -> Any:
    """Draw the first candidates of a table, three stamps each.

    Parameters
    ----------
    table : mapping of arrays
        ``candid``, ``probability``, ``mag``, ``snr``, ``undecided``, ``reason``, each (N,), best first.
    stamps : numpy.ndarray
        (N, S, S, C), NaN where missing.
    channels : sequence of str
        Of the last axis; science, reference and difference are drawn where they are there.
    n : int
        Candidates drawn at most.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown, columns = min(n, len(stamps)), 4
    rows = max(1, -(-shown // columns))
    with style.context(STYLE):
        figure = Figure(figsize=(3.3 * columns, 1.5 * rows + 0.5))
        FigureCanvasAgg(figure)
        figure.suptitle(title or f"{shown} candidates of highest probability", fontsize=10)
        parts = figure.subfigures(rows, columns, squeeze=False).ravel()
        for k, part in enumerate(parts[:shown]):
            axes = part.subplots(1, len(PANELS), squeeze=False)[0]
            part.suptitle(_words(table, k), fontsize=7, y=0.98)
            for ax, name in zip(axes, PANELS, strict=True):
                ax.axis("off")
                if name in channels:
                    _show(ax, stamps[k, :, :, list(channels).index(name)])
                if k < columns:
                    ax.set_title(name, fontsize=6, y=-0.18)
    return figure


def _words(table: Mapping[str, np.ndarray], k: int) -> str:
    mag, snr = float(table["mag"][k]), float(table["snr"][k])
    text = f"{table['candid'][k]}\np {float(table['probability'][k]):.3f}, S/N {snr:.1f}"
    text += f", {mag:.2f} mag" if np.isfinite(mag) else ""
    return text + (", undecided" if table["undecided"][k] else "") + (", unlike training" if table["reason"][k] else "")


def _show(ax: Any, plane: np.ndarray) -> None:
    if not np.isfinite(plane).any():
        ax.text(0.5, 0.5, "none", ha="center", va="center", fontsize=6, transform=ax.transAxes)
        return
    low, high = robust_limits(plane)
    ax.imshow(plane, origin="lower", cmap="gray", vmin=low, vmax=high, interpolation="nearest")
