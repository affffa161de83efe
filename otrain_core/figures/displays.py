"""Figures. A display computes what it shows and keeps it as attributes; `plot` draws it.

No display runs a model, and none touches the global state of pyplot: `new_figure` makes
a figure of the Agg canvas in the house style (see `otrain_core.figures.canvas`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from otrain_core.evaluation import metrics
from otrain_core.figures.canvas import FALSE_COLOUR, NEUTRAL, TRUE_COLOUR, Display, legend_above, new_figure

UNIT = (-0.01, 1.01)  # limits of an axis from 0 to 1: a line at either end is seen


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
        ax.set(xlabel="Score (probability of True)", ylabel="Candidates [%]", yscale="log", xlim=UNIT)
        legend_above(ax)


class HistoryDisplay(Display):
    """Accuracy and loss of train and validation against the epoch.

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
            for prefix, dash, name in (("", "--", "train"), ("validation_", "-", "validation")):
                label = f"{quantity}, {name}"
                lines += axes.plot(epoch, self.history[prefix + quantity], dash, color=colour, label=label)
        if self.kept_epoch:
            lines.append(ax.axvline(self.kept_epoch, color=NEUTRAL, linestyle=":", label="epoch kept"))
        ax.set(xlabel="Epoch", ylabel="Accuracy", ylim=(None, 1.005))
        ax.xaxis.get_major_locator().set_params(integer=True)
        losses = self.history[["loss", "validation_loss"]]
        if losses.min().min() > 0 and losses.max().max() > 20 * losses.min().min():
            twin.set(ylabel="Cross-entropy loss", yscale="log")  # else a wild first epoch hides all others
        else:
            twin.set(ylabel="Cross-entropy loss", ylim=(0, None))
        legend_above(ax, handles=lines)


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
        """From the table that `otrain_core.evaluation.curves.curves` gives."""
        roc = curves[curves["curve"] == "roc"].rename(columns={"x": "fpr", "y": "recall"})
        return cls(roc[["bin", "fpr", "recall"]].assign(bin=roc["bin"].fillna("")).reset_index(drop=True))

    @property
    def lowest(self) -> float:
        """Where the axis of FPR begins: the decade of the smallest FPR that is seen, from 1e-4 to 0.01."""
        seen = self.curves.loc[self.curves["fpr"] > 0, "fpr"].min()
        return float(np.clip(10 ** np.floor(np.log10(seen)), 1e-4, 0.01)) if seen > 0 else 0.01

    def _draw(self, ax):
        colours = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7")
        dashes = ("-", (0, (6, 2)), (0, (3, 3)), (0, (1, 2)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1)))
        left = self.lowest
        for number, (name, part) in enumerate(self.curves.groupby("bin", sort=False)):
            # Dashes, as curves without an error lie on one another.
            colour, width = (colours[(number - 1) % 6], 1.4) if name else ("black", 2.0)
            dash = dashes[number % 6] if name else "-"
            text = f"{name or 'all'}{' mag' if name else ''} (area {self.areas[name]:.4f})"
            # FPR 0 has no logarithm: it is drawn at the left edge.
            fpr = part["fpr"].clip(lower=left)
            ax.plot(fpr, part["recall"], color=colour, linewidth=width, linestyle=dash, label=text)
        ax.set(xlabel="False-positive rate", ylabel="Recall (true-positive rate)", xscale="log", xlim=(0.94 * left, 1))
        ax.set_ylim(min(0.9, float(self.curves.loc[self.curves["fpr"] > max(left, 0.002), "recall"].min())), 1.004)
        legend_above(ax, columns=2)


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
    def from_curves(cls, curves: pd.DataFrame, *, threshold: float | None = None):
        """From the table that `otrain_core.evaluation.curves.curves` gives."""
        f1, mcc = (curves[curves["curve"] == name] for name in ("f1", "mcc"))
        return cls(f1["x"].to_numpy(), f1["y"].to_numpy(), mcc["y"].to_numpy(), threshold)

    def _draw(self, ax):
        ax.plot(self.thresholds, self.f1, color=TRUE_COLOUR, label="F1")
        ax.plot(self.thresholds, self.mcc, color=FALSE_COLOUR, label="MCC")
        if self.threshold is not None:
            ax.axvline(self.threshold, color=NEUTRAL, linestyle="--", label=f"threshold {self.threshold:.2f}")
        inner = np.concatenate([values[5:-5] for values in (self.f1, self.mcc)])
        lowest = np.nanmin(inner) if np.isfinite(inner).any() else 0
        ax.set(xlabel="Threshold", ylabel="F1, MCC", xlim=UNIT, ylim=(max(lowest - 0.02, -0.02), 1.005))
        legend_above(ax)


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
    def from_curves(cls, curves: pd.DataFrame):
        """From the table that `otrain_core.evaluation.curves.curves` gives."""
        names = {"x": "mean_score", "y": "true_fraction"}
        tables = [
            curves.loc[curves["curve"] == name, ["x", "y"]].rename(columns=names)
            for name in ("calibration", "calibration_after")
        ]
        before, after = (table.reset_index(drop=True) for table in tables)
        return cls(before, after if len(after) and not after.equals(before) else None)  # equal: none was used

    def _draw(self, ax):
        ax.plot([0, 1], [0, 1], color=NEUTRAL, linestyle=":", label="perfect")
        parts = (
            (self.before, FALSE_COLOUR, "o--", "network"),
            (self.after, TRUE_COLOUR, "s-", "calibrated on the validation set"),
        )
        for table, colour, marks, name in parts:
            if table is not None:
                ax.plot(table["mean_score"], table["true_fraction"], marks, color=colour, label=name)
        ax.set(xlabel="Mean score", ylabel="Share of True", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        legend_above(ax, columns=2)


class CompletenessDisplay(Display):
    """Share of the injected sources that is found, and that is also called True.

    Attributes
    ----------
    table : pandas.DataFrame
        low, high [mag], injected, found, and accepted where there are scores.
    instrumental : bool
        Whether the zero point of the magnitudes is not known.
    """

    def __init__(self, table, instrumental=False):
        self.table, self.instrumental = table, instrumental

    @classmethod
    def from_counts(cls, table: pd.DataFrame, *, instrumental: bool = False):
        """From a table with columns low, high, injected, found and, if known, accepted."""
        return cls(table.reset_index(drop=True), instrumental)

    def _draw(self, ax):
        middle, n = 0.5 * (self.table["low"] + self.table["high"]), self.table["injected"].where(lambda v: v > 0)
        for name, colour, text in (("found", NEUTRAL, "detected"), ("accepted", TRUE_COLOUR, "and called True")):
            if name in self.table and self.table[name].notna().any():
                share = self.table[name] / n
                error = np.sqrt((share * (1 - share)).clip(lower=0) / n)
                ax.errorbar(middle, 100 * share, 100 * error, fmt="o-", color=colour, capsize=2, label=text)
        ax.axhline(50, color=NEUTRAL, linestyle=":", linewidth=1)
        ax.set(
            xlabel=f"Injected magnitude [{'instrumental ' if self.instrumental else ''}mag]",
            ylabel="Injected sources [%]",
            ylim=(-2, 103),
        )
        legend_above(ax)


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
    return draw_four_panels(
        F1MccDisplay.from_curves(curves, threshold=threshold),
        ScoreHistogramDisplay.from_predictions(labels, scores, threshold=threshold),
        HistoryDisplay.from_history(history, kept_epoch=kept_epoch),
        RocByMagnitudeDisplay.from_curves(curves),
        title=title,
    )


def draw_four_panels(
    f1_mcc: F1MccDisplay,
    scores: ScoreHistogramDisplay,
    history: HistoryDisplay,
    roc: RocByMagnitudeDisplay,
    *,
    title: str = "",
):
    """The same four panels from displays that hold their values; returns the figure."""
    figure, axes = new_figure(9.5, 7.0, rows=2, columns=2)
    for display, ax in zip((f1_mcc, scores, history, roc), axes.ravel(), strict=True):
        display.plot(ax)
    figure.suptitle(title)
    return figure
