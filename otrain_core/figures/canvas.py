"""What every figure is drawn on: the house style, figures without pyplot, the base of the displays."""

from __future__ import annotations

import base64
import io as bytes_io
from pathlib import Path
from typing import Any

STYLE = Path(__file__).with_name("otrain.mplstyle")
RESOLUTION = 120  # dots per inch of the embedded pictures
TRUE_COLOUR, FALSE_COLOUR, NEUTRAL = "#0072B2", "#D55E00", "#555555"


def new_figure(width: float = 5.0, height: float = 3.8, *, rows: int = 1, columns: int = 1):
    """Figure and axes in the house style, sizes in inches.

    Returns
    -------
    figure : matplotlib.figure.Figure
    axes : Axes, or an array of them where there is more than one
    """
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style.context(STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        return figure, figure.subplots(rows, columns)


def save_figure(path: str | Path, figure, **options: Any) -> None:
    """Write a figure as its suffix says (PNG, PDF); the file appears only when it is whole."""
    from matplotlib import style

    from otrain_core.io import atomic

    # Without a date or a version in it, the same figure gives the same bytes.
    blank = {".pdf": {"CreationDate": None}, ".png": {"Software": None}}
    with atomic(path) as temporary, style.context(STYLE):
        figure.savefig(temporary, metadata=blank.get(Path(path).suffix, {}), **options)


def legend_above(ax, *, columns: int = 3, handles=None) -> None:
    """A legend above the axes: inside, there may be no corner without points."""
    options = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": columns}
    ax.legend(**options) if handles is None else ax.legend(handles=handles, **options)


class Display:
    """Base of all displays: `plot` draws into given axes, or into a new figure."""

    figure_: Any = None
    ax_: Any = None

    def plot(self, ax=None):
        """Draw; returns self, with the axes as ``ax_`` and their figure as ``figure_``."""
        from matplotlib import style

        if ax is None:
            _, ax = new_figure()
        self.ax_, self.figure_ = ax, ax.figure
        with style.context(STYLE):
            self._draw(ax)
        return self

    def _draw(self, ax) -> None:
        raise NotImplementedError


def embed(figure) -> str:
    """A figure as a PNG data URI."""
    from matplotlib import style

    buffer = bytes_io.BytesIO()
    with style.context(STYLE):
        figure.savefig(buffer, format="png", dpi=RESOLUTION, metadata={"Software": None})
    return data_uri(buffer.getvalue())


def data_uri(png: bytes) -> str:
    """The bytes of a PNG file as a data URI, which needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
