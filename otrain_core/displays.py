"""Figures. A display computes what it shows and keeps it as attributes; `plot` draws it.

No display runs a model, and none touches the global state of pyplot: `new_figure` makes
a figure of the Agg canvas in the house style, `save_figure` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core import metrics

STYLE = Path(__file__).with_name("otrain.mplstyle")
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


class ScoreHistogramDisplay(Display):
    """Distribution of the scores of True and of False candidates.

    Attributes
    ----------
    edges : numpy.ndarray
        Edges of the bins of the score.
    true, false : numpy.ndarray
        Shares of all candidates in each bin, of either class.
    threshold : float or None
    """

    def __init__(self, edges, true, false, threshold=None):
        self.edges, self.true, self.false, self.threshold = edges, true, false, threshold

    @classmethod
    def from_predictions(cls, labels, scores, *, threshold: float | None = None, bins: int = 40):
        labels, scores = metrics.check_scores(labels, scores)
        edges = np.linspace(0, 1, bins + 1)
        true, false = (np.histogram(scores[chosen], edges)[0] / scores.size for chosen in (labels, ~labels))
        return cls(edges, true, false, threshold)

    def _draw(self, ax):
        for values, colour, name in ((self.false, FALSE_COLOUR, "False"), (self.true, TRUE_COLOUR, "True")):
            ax.stairs(100 * values, self.edges, fill=True, alpha=0.35, color=colour)
            ax.stairs(100 * values, self.edges, color=colour, label=name, linewidth=1.3)
        if self.threshold is not None:
            ax.axvline(self.threshold, color=NEUTRAL, linestyle="--", label=f"threshold {self.threshold:.2f}")
        ax.set(xlabel="Score (probability of True)", ylabel="Candidates [%]", yscale="log", xlim=(0, 1))
        ax.legend()


class HistoryDisplay(Display):
    """Accuracy and loss of train and tune against the epoch.

    Attributes
    ----------
    history : pandas.DataFrame
    kept_epoch : int or None
    """

    def __init__(self, history, kept_epoch=None):
        self.history, self.kept_epoch = history, kept_epoch

    @classmethod
    def from_history(cls, history: pd.DataFrame, *, kept_epoch: int | None = None):
        return cls(history, kept_epoch)

    def _draw(self, ax):
        epoch, twin = self.history["epoch"], ax.twinx()
        twin.spines["right"].set_visible(True)
        twin.grid(False)
        lines = []
        for axes, quantity, colour in ((ax, "accuracy", TRUE_COLOUR), (twin, "loss", FALSE_COLOUR)):
            for prefix, dash, name in (("", "--", "train"), ("tune_", "-", "tune")):
                label = f"{quantity}, {name}"
                lines += axes.plot(epoch, self.history[prefix + quantity], dash, color=colour, label=label)
        if self.kept_epoch:
            lines.append(ax.axvline(self.kept_epoch, color=NEUTRAL, linestyle=":", label="epoch kept"))
        ax.set(xlabel="Epoch", ylabel="Accuracy", ylim=(None, 1.005))
        ax.xaxis.get_major_locator().set_params(integer=True)
        twin.set(ylabel="Cross-entropy loss", ylim=(0, None))
        ax.legend(handles=lines, loc="center")


class RocByMagnitudeDisplay(Display):
    """ROC curve of all candidates and in bins of magnitude.

    Attributes
    ----------
    curves : pandas.DataFrame
        bin ('' for all), fpr, recall.
    areas : dict
        Area under the curve by bin, NaN where the whole curve is not known.
    """

    def __init__(self, curves):
        self.curves = curves
        self.areas = {
            name: float(np.trapezoid(part["recall"], part["fpr"])) for name, part in curves.groupby("bin", sort=False)
        }

    @classmethod
    def from_curves(cls, curves: pd.DataFrame):
        """From the table that `otrain_core.evaluate.curves` gives."""
        roc = curves[curves["curve"] == "roc"].rename(columns={"x": "fpr", "y": "recall"})
        return cls(roc[["bin", "fpr", "recall"]].assign(bin=roc["bin"].fillna("")).reset_index(drop=True))

    @classmethod
    def from_predictions(cls, labels, scores, mags, *, bins: int = 4):
        from otrain_core.evaluate import curves

        labels, scores = np.asarray(labels), np.asarray(scores, dtype=float)
        return cls.from_curves(curves(labels, scores, scores, np.asarray(mags, dtype=float), bins=bins))

    def _draw(self, ax):
        colours = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7")
        for number, (name, part) in enumerate(self.curves.groupby("bin", sort=False)):
            colour, width = ("black", 2) if name == "" else (colours[(number - 1) % len(colours)], 1.2)
            text = f"{name or 'all'}{' mag' if name else ''} (area {self.areas[name]:.4f})"
            # FPR 0 has no logarithm: it is drawn at the left edge.
            ax.plot(part["fpr"].clip(lower=1e-4), part["recall"], color=colour, linewidth=width, label=text)
        ax.set(xlabel="False-positive rate", ylabel="Recall (true-positive rate)", xscale="log", xlim=(1e-4, 1))
        ax.set_ylim(min(0.9, float(self.curves.loc[self.curves["fpr"] > 0.002, "recall"].min())), 1.004)
        ax.legend(loc="lower right", title="Magnitude", title_fontsize=8)


class F1MccDisplay(Display):
    """F1 and MCC against the threshold.

    Attributes
    ----------
    thresholds, f1, mcc : numpy.ndarray
    threshold : float or None
        The chosen one.
    """

    def __init__(self, thresholds, f1, mcc, threshold=None):
        self.thresholds, self.f1, self.mcc, self.threshold = thresholds, f1, mcc, threshold

    @classmethod
    def from_predictions(cls, labels, scores, *, threshold: float | None = None):
        thresholds = np.linspace(0, 1, 201)
        rates = metrics.rates(**metrics.counts_at(labels, scores, thresholds))
        return cls(thresholds, rates["f1"], rates["mcc"], threshold)

    @classmethod
    def from_curves(cls, curves: pd.DataFrame, *, threshold: float | None = None):
        """From the table that `otrain_core.evaluate.curves` gives."""
        f1, mcc = (curves[curves["curve"] == name] for name in ("f1", "mcc"))
        return cls(f1["x"].to_numpy(), f1["y"].to_numpy(), mcc["y"].to_numpy(), threshold)

    def _draw(self, ax):
        ax.plot(self.thresholds, self.f1, color=TRUE_COLOUR, label="F1")
        ax.plot(self.thresholds, self.mcc, color=FALSE_COLOUR, label="MCC")
        if self.threshold is not None:
            ax.axvline(self.threshold, color=NEUTRAL, linestyle="--", label=f"threshold {self.threshold:.2f}")
        inner = np.concatenate([values[5:-5] for values in (self.f1, self.mcc)])
        lowest = np.nanmin(inner) if np.isfinite(inner).any() else 0
        ax.set(xlabel="Threshold", ylabel="F1, MCC", xlim=(0, 1), ylim=(max(lowest - 0.02, -0.02), 1.005))
        ax.legend()


class ConfusionDisplay(Display):
    """Confusion matrix, as counts and as shares of all candidates.

    Attributes
    ----------
    matrix : numpy.ndarray
        (2, 2) counts; rows: truly True, truly False; columns: accepted, refused.
    """

    def __init__(self, matrix):
        self.matrix = matrix

    @classmethod
    def from_predictions(cls, labels, scores, *, threshold: float):
        return cls.from_counts(**metrics.confusion(labels, scores, threshold))

    @classmethod
    def from_counts(cls, tp: int, fp: int, fn: int, tn: int):
        return cls(np.array([[tp, fn], [fp, tn]]))

    def _draw(self, ax):
        share = self.matrix / max(self.matrix.sum(), 1)
        ax.imshow(share, cmap="Blues", vmin=0, vmax=max(0.5, share.max()), origin="upper")
        names = (("TP", "FN"), ("FP", "TN"))
        for row, column in np.ndindex(2, 2):
            text = f"{names[row][column]}\n{self.matrix[row, column]:,}\n{100 * share[row, column]:.2f} %"
            shade = "white" if share[row, column] > 0.3 else "black"
            ax.text(column, row, text, ha="center", va="center", color=shade)
        ax.set_xticks([0, 1], ["True", "False"])
        ax.set_yticks([0, 1], ["True", "False"])
        ax.set(xlabel="Called", ylabel="Label")
        ax.grid(False)


class CalibrationDisplay(Display):
    """Share of True against the score, before and after calibration.

    Attributes
    ----------
    before, after : pandas.DataFrame or None
        Columns mean_score and true_fraction.
    """

    def __init__(self, before, after=None):
        self.before, self.after = before, after

    @classmethod
    def from_predictions(cls, labels, scores, *, calibrated=None):
        after = None if calibrated is None else metrics.calibration_curve(labels, calibrated)
        return cls(metrics.calibration_curve(labels, scores), after)

    @classmethod
    def from_curves(cls, curves: pd.DataFrame):
        """From the table that `otrain_core.evaluate.curves` gives."""
        names = {"x": "mean_score", "y": "true_fraction"}
        tables = [
            curves.loc[curves["curve"] == name, ["x", "y"]].rename(columns=names)
            for name in ("calibration", "calibration_after")
        ]
        return cls(tables[0], tables[1] if len(tables[1]) else None)

    def _draw(self, ax):
        ax.plot([0, 1], [0, 1], color=NEUTRAL, linestyle=":", label="perfect")
        parts = ((self.before, FALSE_COLOUR, "o--", "network"), (self.after, TRUE_COLOUR, "s-", "calibrated on tune"))
        for table, colour, marks, name in parts:
            if table is not None:
                ax.plot(table["mean_score"], table["true_fraction"], marks, color=colour, label=name)
        ax.set(xlabel="Mean score", ylabel="Share of True", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        ax.legend()


class CompletenessDisplay(Display):
    """Share of the injected sources that is found, and that is also called True.

    Attributes
    ----------
    table : pandas.DataFrame
        low, high [mag], injected, found, and accepted where there are scores.
    """

    def __init__(self, table):
        self.table = table

    @classmethod
    def from_counts(cls, table: pd.DataFrame):
        """From a table with columns low, high, injected, found and, if known, accepted."""
        return cls(table.reset_index(drop=True))

    @classmethod
    def from_injections(cls, mags, found, *, accepted=None, bins: int = 12):
        """From one entry for each injected source.

        Parameters
        ----------
        mags : array
            (N,) injected magnitudes.
        found : array of bool
            (N,) whether a candidate was matched to it.
        accepted : array of bool, optional
            (N,) whether that candidate was called True.
        """
        mags = np.asarray(mags, dtype=float)
        edges = np.linspace(np.nanmin(mags), np.nanmax(mags), bins + 1)
        table = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "injected": np.histogram(mags, edges)[0]})
        for name, flags in (("found", found), ("accepted", accepted)):
            if flags is not None:
                table[name] = np.histogram(mags[np.asarray(flags, dtype=bool)], edges)[0]
        return cls(table)

    def _draw(self, ax):
        middle, n = 0.5 * (self.table["low"] + self.table["high"]), self.table["injected"].where(lambda v: v > 0)
        for name, colour, text in (("found", NEUTRAL, "detected"), ("accepted", TRUE_COLOUR, "and called True")):
            if name in self.table:
                share = self.table[name] / n
                error = np.sqrt((share * (1 - share)).clip(lower=0) / n)
                ax.errorbar(middle, 100 * share, 100 * error, fmt="o-", color=colour, capsize=2, label=text)
        ax.axhline(50, color=NEUTRAL, linestyle=":", linewidth=1)
        ax.set(xlabel="Injected magnitude [mag]", ylabel="Injected sources [%]", ylim=(-2, 103))
        ax.legend()


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
    ):
        """Draw `n` cutouts of each class at random; captions give the magnitude and the score if given."""
        position = [str(name) for name in np.atleast_1d(cube["channels"])].index(channel)
        panels, captions, rows = {}, {}, {}
        for value, name in ((0, "False"), (1, "True")):
            index = np.flatnonzero(np.asarray(cube["labels"]) == value)
            index = np.sort(rng.choice(index, min(n, index.size), replace=False))
            rows[name] = index
            panels[name] = np.asarray(cube["cube"][index][..., position], dtype=np.float32)
            captions[name] = [_caption(cube, row, scores) for row in index]
        return cls(panels, captions, rows)

    def plot(self, figure=None, *, columns: int = 4):
        """Draw into a figure (a new one by default); returns self, with the figure as ``figure_``."""
        from matplotlib import style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        lines = max(-(-len(panel) // columns) for panel in self.panels.values())
        with style.context(STYLE):
            if figure is None:
                figure = Figure(figsize=(2 * 1.25 * columns + 0.4, 1.4 * lines + 0.4))
                FigureCanvasAgg(figure)
            for part, (name, panel) in zip(figure.subfigures(1, 2, wspace=0.04), self.panels.items(), strict=True):
                part.suptitle(name, fontweight="bold", color=TRUE_COLOUR if name == "True" else FALSE_COLOUR)
                axes = np.atleast_1d(part.subplots(lines, columns)).ravel()
                for ax in axes:
                    ax.axis("off")
                for ax, cutout, caption in zip(axes, panel, self.captions[name], strict=False):
                    _show(ax, cutout)
                    ax.set_title(caption, fontsize=6.5, pad=2)
        self.figure_ = figure
        return self


class GradCamGallery:
    """Cutout, map and map laid over the cutout, one line a candidate (the paper's Fig. 9).

    Attributes
    ----------
    arrays : dict
        As `otrain_core.explain.explain_model` gives them.
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

        from otrain_core.explain import KINDS

        kinds = np.asarray(self.arrays["kind"]).astype(str)
        shown = {name: np.flatnonzero(kinds == name)[:per_kind] for name in KINDS}
        with style.context(STYLE):
            if figure is None:
                figure = Figure(figsize=(8.6, 2 * (1.15 * per_kind + 0.45)))
                FigureCanvasAgg(figure)
            for part, (name, rows) in zip(figure.subfigures(2, 2).ravel(), shown.items(), strict=True):
                part.suptitle(f"{name}{'' if rows.size else ': none'}", fontweight="bold", fontsize=9)
                axes = part.subplots(per_kind, 3, squeeze=False)
                for ax in axes.ravel():
                    ax.axis("off")
                for line, row in zip(axes, rows, strict=False):
                    self._line(line, row)
        self.figure_ = figure
        return self

    def _line(self, axes, row: int) -> None:
        cutout, side = self.arrays["cutouts"][row, :, :, 0], self.arrays["cutouts"].shape[1]
        size = {"extent": (-0.5, side - 0.5, -0.5, side - 0.5)}
        _show(axes[0], cutout)
        axes[1].imshow(self.arrays["maps"][row], cmap="inferno", vmin=0, vmax=1, **size)
        _show(axes[2], cutout)
        axes[2].imshow(self.arrays["resized"][row], cmap="inferno", vmin=0, vmax=1, alpha=0.5)
        axes[0].set_title(f"score {self.arrays['score'][row]:.3f}", fontsize=6.5, pad=2)
        axes[1].set_title(str(self.arrays["layer"]), fontsize=6.5, pad=2)
        axes[2].set_title(f"{100 * self.arrays['energy'][row]:.0f} % within 1 FWHM", fontsize=6.5, pad=2)


def _caption(cube: Mapping[str, np.ndarray], row: int, scores: np.ndarray | None) -> str:
    parts = []
    if "mags" in cube and np.isfinite(cube["mags"][row]):
        parts.append(f"{cube['mags'][row]:.2f} mag")
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


def four_panels(
    *,
    labels: Sequence[int],
    scores: Sequence[float],
    history: pd.DataFrame,
    curves: pd.DataFrame,
    threshold: float,
    kept_epoch: int | None = None,
    title: str = "",
):
    """The four panels of Figs. 10 and A.1 to A.4 of Makhlouf et al. 2022.

    Parameters
    ----------
    labels, scores : sequences
        Of the set that is scored.
    history, curves : pandas.DataFrame
        ``history.csv`` and ``curves.csv`` of the training.
    threshold : float
    kept_epoch : int, optional
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = new_figure(9.5, 7.0, rows=2, columns=2)
    F1MccDisplay.from_curves(curves, threshold=threshold).plot(axes[0, 0])
    ScoreHistogramDisplay.from_predictions(labels, scores, threshold=threshold).plot(axes[0, 1])
    HistoryDisplay.from_history(history, kept_epoch=kept_epoch).plot(axes[1, 0])
    RocByMagnitudeDisplay.from_curves(curves).plot(axes[1, 1])
    figure.suptitle(title)
    return figure
