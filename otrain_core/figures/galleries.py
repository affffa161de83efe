"""Galleries of cutouts and of Grad-CAM maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from otrain_core.cubes.inputs import IMAGES
from otrain_core.figures.canvas import FALSE_COLOUR, STYLE, TRUE_COLOUR, save_figure


class CutoutGallery:
    """Cutouts of True and False candidates side by side, as in Figs. 5 to 8 of the paper.

    Attributes
    ----------
    panels : dict
        By class ("False", "True"): float32 (n, S, S) cutouts, NaN where missing.
    captions : dict
        By class: n lines of text.
    rows : dict
        By class: rows of the cube.
    """

    def __init__(self, panels, captions, rows=None):
        self.panels, self.captions, self.rows = panels, captions, rows or {}

    @classmethod
    def from_cube(
        cls,
        cube: Mapping[str, np.ndarray],
        *,
        rng: np.random.Generator,
        n: int = 16,
        channel: str = "difference",
        scores: np.ndarray | None = None,
        instrumental: bool = False,
    ):
        """Draw `n` cutouts of each class at random; captions give the magnitude and the score if given.

        `instrumental`: the zero point of the magnitudes is not known, and the captions say so.
        """
        position = [str(name) for name in np.atleast_1d(cube["channels"])].index(channel)
        panels, captions, rows = {}, {}, {}
        for value, name in ((0, "False"), (1, "True")):
            index = np.flatnonzero(np.asarray(cube["labels"]) == value)
            index = np.sort(rng.choice(index, min(n, index.size), replace=False))
            rows[name] = index
            panels[name] = np.asarray(cube["cube"][index][..., position], dtype=np.float32)
            captions[name] = [_caption(cube, int(row), scores, instrumental) for row in index]
        return cls(panels, captions, rows)

    def plot(self, figure=None, *, columns: int = 4, text: float = 6.5):
        """Draw into a figure (a new one by default); returns self, with the figure as ``figure_``.

        `text` is the size of the captions [pt].
        """
        from matplotlib import style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        lines = max(-(-len(panel) // columns) for panel in self.panels.values())
        with style.context(STYLE):
            if figure is None:
                figure = Figure(figsize=(2 * 1.25 * columns + 0.4, 1.4 * lines + 0.4))
                FigureCanvasAgg(figure)
            for part, (name, panel) in zip(figure.subfigures(1, 2, wspace=0.04), self.panels.items(), strict=True):
                part.suptitle(
                    name, fontweight="bold", color=TRUE_COLOUR if name.endswith(("True", "Highest")) else FALSE_COLOUR
                )
                axes = np.atleast_1d(part.subplots(lines, columns)).ravel()
                for ax in axes:
                    ax.axis("off")
                for ax, cutout, caption in zip(axes, panel, self.captions[name], strict=False):
                    _show(ax, cutout)
                    ax.set_title(caption, fontsize=text, pad=2)
        self.figure_ = figure
        return self


class Extremes:
    """Cutouts with the lowest and the highest probability of many that pass by, for a `CutoutGallery`.

    Parameters
    ----------
    n : int
        Of either end.
    """

    def __init__(self, n: int = 16):
        self.n = n
        self.kept: list[tuple[float, str, np.ndarray]] = []

    def add(self, cutouts: Mapping[str, np.ndarray], probability: np.ndarray, names) -> None:
        """Look at a block as `otrain_core.classify.classifier.Classifier.classify` takes it; nothing else of it is kept."""
        order = np.argsort(probability, kind="stable")
        ends = np.unique(np.concatenate([order[: self.n], order[-self.n :]]))
        if "cube" in cutouts:
            channels = [str(name) for name in np.atleast_1d(cutouts["channels"])]
            planes = np.asarray(cutouts["cube"][ends][..., channels.index("difference")], dtype=np.float32)
        else:
            planes = np.asarray(cutouts["difference"][ends], dtype=np.float32)
        pairs = zip(ends, planes, strict=True)
        self.kept += [(float(probability[k]), str(names[k]), plane) for k, plane in pairs if probability[k] >= 0]
        self.kept.sort(key=lambda item: item[0])
        if len(self.kept) > 2 * self.n:
            self.kept = self.kept[: self.n] + self.kept[-self.n :]

    def gallery(self) -> CutoutGallery:
        """Lowest and highest, both from the outermost on; none stands in both."""
        half = min(self.n, len(self.kept) // 2)
        ends = {"Lowest": self.kept[:half], "Highest": self.kept[::-1][: min(self.n, len(self.kept) - half)]}
        panels = {name: [plane for _, _, plane in items] for name, items in ends.items()}
        captions = {name: [f"{p:.3f}  {text[-14:]}" for p, text, _ in items] for name, items in ends.items()}
        return CutoutGallery(panels, captions)


class GradCamGallery:
    """Cutout, map and map laid over the cutout, one line a candidate (the paper's Fig. 9).

    Attributes
    ----------
    arrays : dict
        As `otrain_core.networks.explain.explain_model` gives them.
    """

    def __init__(self, arrays):
        self.arrays = arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]):
        return cls(dict(arrays))

    def plot(self, figure=None, *, per_kind: int = 4):
        """Draw up to `per_kind` candidates of each kind; returns self, with ``figure_``."""
        from matplotlib import style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        from otrain_core.evaluation.metrics import OUTCOMES

        kinds = np.asarray(self.arrays["kind"]).astype(str)
        rows = {name: np.flatnonzero(kinds == name)[:per_kind] for name in OUTCOMES}
        shown = {name: found for name, found in rows.items() if found.size}
        names = list(shown)
        pairs = [names[k : k + 2] for k in range(0, len(names), 2)]
        heights = [max(shown[name].size for name in pair) + 0.45 for pair in pairs] or [1.0]
        with style.context(STYLE):
            if figure is None:
                figure = Figure(figsize=(8.6, 1.15 * sum(heights) + 0.3))
                FigureCanvasAgg(figure)
            figure.suptitle(self._none(rows), fontsize=9)
            parts = figure.subfigures(len(heights), 2, squeeze=False, height_ratios=heights)
            for line_of_parts, pair in zip(parts, pairs, strict=False):
                lines = max(shown[name].size for name in pair)
                for part, name in zip(line_of_parts, pair, strict=False):
                    part.suptitle(name, fontweight="bold", fontsize=9)
                    axes = part.subplots(lines, 3, squeeze=False)
                    for ax in axes.ravel():
                        ax.axis("off")
                    for line, row in zip(axes, shown[name], strict=False):
                        self._line(line, row)
        self.figure_ = figure
        return self

    @staticmethod
    def _none(rows: Mapping[str, np.ndarray]) -> str:
        """Which kinds there are none of, in words."""
        none = [name for name, found in rows.items() if not found.size]
        return f"none: {', '.join(none)}" if none else ""

    def _line(self, axes, row: int) -> None:
        channels = [str(name) for name in self.arrays.get("channels", ())]
        image = next((k for k, name in enumerate(channels) if name in IMAGES), 0)
        cutout, side = self.arrays["cutouts"][row, :, :, image], self.arrays["cutouts"].shape[1]
        size = {"extent": (-0.5, side - 0.5, -0.5, side - 0.5)}
        _show(axes[0], cutout)
        axes[1].imshow(self.arrays["maps"][row], cmap="inferno", vmin=0, vmax=1, **size)
        _show(axes[2], cutout)
        axes[2].imshow(self.arrays["resized"][row], cmap="inferno", vmin=0, vmax=1, alpha=0.5)
        axes[0].set_title(f"score {self.arrays['score'][row]:.3f}", fontsize=6.5, pad=2)
        axes[1].set_title(f"Grad-CAM, {self.arrays['layer']}", fontsize=6.5, pad=2)
        energy = self.arrays["energy"][row]
        title = f"{100 * energy:.0f} % within 1 FWHM" if np.isfinite(energy) else "FWHM not known"
        axes[2].set_title(title, fontsize=6.5, pad=2)


def _caption(cube: Mapping[str, np.ndarray], row: int, scores: np.ndarray | None, instrumental: bool = False) -> str:
    parts = []
    if "mags" in cube and np.isfinite(cube["mags"][row]):
        parts.append(f"{cube['mags'][row]:.2f} {'instr. ' if instrumental else ''}mag")
    if scores is not None:
        parts.append(f"score {scores[row]:.2f}")
    return ", ".join(parts) or "no magnitude"


def robust_limits(cutout: np.ndarray) -> tuple[float, float]:
    """Grey levels of a cutout: median - 4 MAD to the peak, at least 8 and at most 60 MAD; missing pixels ignored."""
    finite = cutout[np.isfinite(cutout)]
    if finite.size == 0:
        return 0.0, 1.0
    median = float(np.median(finite))
    mad = float(np.median(np.abs(finite - median))) or float(np.std(finite)) or 1.0
    return median - 4 * mad, median + max(8 * mad, min(float(finite.max()) - median, 60 * mad))


def _show(ax, cutout: np.ndarray) -> None:
    from matplotlib import colormaps

    low, high = robust_limits(cutout)
    grey = colormaps["gray"].with_extremes(bad="#d9c2a0")
    ax.imshow(cutout, cmap=grey, vmin=low, vmax=high, origin="lower", interpolation="nearest")


def draw_grad_cam(arrays: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Write the picture of `otrain_core.networks.explain.explain_model`'s arrays."""
    save_figure(path, GradCamGallery.from_arrays(arrays).plot().figure_)
