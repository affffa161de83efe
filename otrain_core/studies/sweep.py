"""Studies of one option of an experiment: a training for each of its values, gathered into one table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from otrain_core.errors import ConfigError
from otrain_core.plan.pipelines import NAME_PATTERN, explain_first

if TYPE_CHECKING:
    import pandas as pd

    from otrain_core.plan.config import Config, Experiment

SWEEP_KEYS = ("sweep", "option", "value", "telescope", "pipeline", "experiment", "seed")
SCORES = (
    *("accuracy", "precision", "recall", "f1", "mcc", "mcc_low", "mcc_high"),
    *("fpr_at_1pct_missed", "fpr_at_5pct_missed", "ece"),
)
SWEEP_COLUMNS = (
    *SWEEP_KEYS,
    *("n_train", "n_test", *SCORES),
    *("accuracy_train", "accuracy_tune", "train_minus_tune"),
    *("flops_per_cutout", "cpu_seconds", "status"),
)


def plan_sweep(config: Config, sweep: str) -> list[dict[str, Any]]:
    """Trainings of one sweep, in the order of the configuration.

    Returns
    -------
    list of dict
        folder (of the training, telescope/pipeline/experiment/seedN), trained (name of the experiment it is
        trained under: one of its own, or the experiment of the run that has the same options) and its options as an `Experiment` under options; and sweep, option, value, experiment.

    Raises
    ------
    ConfigError
        A value that the option cannot have.
    """
    plan, study = [], config.studies.sweeps[sweep]
    for cube in study.cubes or config.run.cubes:
        for experiment in study.experiments or config.run.experiments:
            for value in study.values:
                name = f"{experiment}-{sweep}-{value_name(value)}"
                options = _varied(config, sweep, experiment, value, name)
                # what is an experiment of the run already is not trained twice
                name = next((key for key in config.run.experiments if config.experiments[key] == options), name)
                for seed in study.seeds or config.run.seeds:
                    row = {"sweep": sweep, "option": study.option, "value": value_name(value), "experiment": experiment}
                    plan.append({**row, "trained": name, "options": options, "folder": f"{cube}/{name}/seed{seed}"})
    return plan


def value_name(value: Any) -> str:
    """A value as part of a name, as in 31 or difference+science."""
    return "+".join(value) if isinstance(value, list) else str(value)


def _varied(config: Config, sweep: str, experiment: str, value: Any, name: str) -> Experiment:
    where = f"studies.sweeps.{sweep}"
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(f"{where}.values: {value!r} cannot be part of a name")
    if name in config.experiments:
        raise ConfigError(f"{where}: experiments has a {name!r} of its own")
    try:
        return config.studies.sweeps[sweep].experiment(config.experiments[experiment], value)
    except ValidationError as error:
        raise ConfigError(explain_first(error, where)) from None


def gather_sweep(rows: Iterable[Mapping[str, Any]], *, root: str | Path = "results") -> pd.DataFrame:
    """Table of a sweep from what its trainings have written so far.

    Parameters
    ----------
    rows : iterable of mapping
        As from `plan_sweep`, the options left out.
    root : path-like
        Folder of the results.

    Returns
    -------
    pandas.DataFrame
        Columns `SWEEP_COLUMNS`, one row a training: scores on test, n_train cutouts trained on, accuracy of train
        and of tune at the threshold with dropout off, CPU seconds of the training. ``status`` as in summary.csv: a
        training that is not there leaves its cells empty.
    """
    import pandas as pd

    from otrain_core.evaluation.summary import number, read_record, summary_row

    table = []
    for row in rows:
        folder = Path(root) / row["folder"]
        found, train = summary_row(folder), read_record(folder / "train.json")
        gap = read_record(folder / "metrics.json").get("accuracy_gap") or {}
        table.append(
            {name: found.get(name) for name in ("telescope", "pipeline", "seed", "status", *SCORES)}
            | {name: row[name] for name in ("sweep", "option", "value", "experiment")}
            | {name: number(train, name) for name in ("n_train", "flops_per_cutout", "cpu_seconds")}
            | {f"accuracy_{name}": number(gap, name) for name in ("train", "tune")}
            | {"train_minus_tune": number(gap, "train_minus_tune"), "n_test": found["n_true"] + found["n_false"]}
        )
    counts = dict.fromkeys(("n_train", "n_test", "flops_per_cutout"), "Int64")
    return pd.DataFrame(table, columns=list(SWEEP_COLUMNS)).astype(counts)


def draw_sweep(table: pd.DataFrame):
    """MCC on test against the value: a panel for each cube, a line for each experiment.

    Lines go through the means over seeds; bars span the seeds.

    Returns
    -------
    matplotlib.figure.Figure
    """
    import pandas as pd

    from otrain_core.figures.canvas import new_figure

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
        first.legend(frameon=False)
    return figure


def axis_label(option: str) -> str:
    """An option of an experiment as the label of an axis, with its unit."""
    known = {"size": "Side of the cutouts [px]", "n_train": "Training cutouts", "learning_rate": "Learning rate"}
    return known.get(option, option.replace("_", " ").capitalize())
