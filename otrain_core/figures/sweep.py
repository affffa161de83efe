"""Figure of a sweep."""

from __future__ import annotations

import pandas as pd


def draw_sweep(table: pd.DataFrame):
    """MCC on test against the value: a panel for each cube, a line for each experiment.

    Lines go through the means over seeds; bars span the seeds.

    Returns
    -------
    matplotlib.figure.Figure
    """
    import pandas as pd

    from otrain_core.figures.canvas import legend_above, new_figure

    done = table[table["mcc"].notna()]
    cubes = list(dict.fromkeys(zip(table["telescope"], table["pipeline"], strict=True)))
    values = list(dict.fromkeys(table["value"]))
    numbers = pd.to_numeric(pd.Series(values), errors="coerce")
    places = dict(zip(values, numbers if numbers.notna().all() else range(len(values)), strict=True))
    figure, axes = new_figure(max(2.6 * len(cubes), 4.2), 3.2, columns=len(cubes))
    for ax, (telescope, pipeline) in zip([axes] if len(cubes) == 1 else axes, cubes, strict=True):
        part = done[(done["telescope"] == telescope) & (done["pipeline"] == pipeline)]
        for number, (experiment, mine) in enumerate(part.groupby("experiment", sort=False)):
            mcc = mine.groupby("value", sort=False)["mcc"].agg(["mean", "min", "max"])
            mcc.index = [places[value] for value in mcc.index]
            mcc = mcc.sort_index()
            bars = [mcc["mean"] - mcc["min"], mcc["max"] - mcc["mean"]]
            ax.errorbar(mcc.index, mcc["mean"], bars, label=experiment, marker="os^Dv"[number % 5], capsize=2)
        ax.set(title=f"{telescope} {pipeline}", xlabel=axis_label(str(table["option"].iloc[0])))
        if numbers.isna().any():
            ax.set_xticks(list(places.values()), values, rotation=30, ha="right")
        elif numbers.min() > 0 and numbers.max() / numbers.min() > 20:
            ax.set_xscale("log")
    first = axes if len(cubes) == 1 else axes[0]
    first.set_ylabel("MCC on test images")
    if first.get_legend_handles_labels()[0]:
        legend_above(first)
    return figure


def axis_label(option: str) -> str:
    """An option of an experiment as the label of an axis, with its unit."""
    known = {"size": "Side of the cutouts [px]", "n_train": "Training cutouts", "learning_rate": "Learning rate"}
    return known.get(option, option.replace("_", " ").capitalize())
