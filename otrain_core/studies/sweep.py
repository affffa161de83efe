"""Studies of one option of an experiment: a training for each of its values, gathered into one table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otrain_core.evaluation.summary import SCORES, summary_row

if TYPE_CHECKING:
    import pandas as pd

SWEEP_KEYS = ("sweep", "option", "value", "telescope", "pipeline", "experiment", "seed")
SWEEP_COLUMNS = (
    *SWEEP_KEYS,
    "n_images",
    "n_train",
    "n_test",
    *SCORES,
    "accuracy_train",
    "accuracy_validation",
    "train_minus_validation",
    "fit_minus_validation",
    "flops_per_cutout",
    "cpu_seconds",
    "status",
)


def sweep_files(
    *, rows: Iterable[Mapping[str, Any]], table: str | Path, figure: str | Path, root: str | Path = "results"
) -> None:
    """Write the table and the figure of a sweep from the trainings that exist.

    Parameters
    ----------
    rows : iterable of mapping
        Its trainings, see `otrain_core.plan.sweeps.plan_sweep`.
    table, figure : path-like
        CSV and picture written.
    root : path-like
        Folder of the results.
    """
    from otrain_core.figures.canvas import save_figure
    from otrain_core.figures.sweep import draw_sweep
    from otrain_core.io import write_table

    result = gather_sweep(rows, root=root)
    write_table(table, result)
    save_figure(figure, draw_sweep(result))


def gather_sweep(rows: Iterable[Mapping[str, Any]], *, root: str | Path = "results") -> pd.DataFrame:
    """Table of a sweep from what its trainings have written so far.

    Parameters
    ----------
    rows : iterable of mapping
        As from `otrain_core.plan.sweeps.plan_sweep`, the options left out.
    root : path-like
        Folder of the results.

    Returns
    -------
    pandas.DataFrame
        Columns `SWEEP_COLUMNS`, one row a training: scores on test, images of the cube (n_images), n_train cutouts
        trained on, accuracy of train and of validation at the threshold with dropout off, what train is ahead
        (train_minus_validation), and the same by the definition of Makhlouf et al. 2022 (fit_minus_validation): last epoch, train as
        Keras logs it, with dropout and during the updates. CPU seconds of the training. ``status`` as in summary.csv: a
        training that is not there leaves its cells empty.
    """
    import pandas as pd

    from otrain_core.results import number, read_record, table_if_there

    table = []
    for row in rows:
        folder = Path(root) / row["folder"]
        found, train = summary_row(folder), read_record(folder / "train.json")
        gap = read_record(folder / "metrics.json").get("accuracy_gap") or {}
        cube = read_record(Path(root, str(found["telescope"]), str(found["pipeline"]), "cube.json"))
        history = table_if_there(folder / "history.csv")
        last = (
            history.iloc[-1]
            if history is not None and len(history)
            else {"accuracy": float("nan"), "validation_accuracy": 0.0}
        )
        table.append(
            {name: found.get(name) for name in ("telescope", "pipeline", "seed", "status", *SCORES)}
            | {name: row[name] for name in ("sweep", "option", "value", "experiment")}
            | {name: number(train, name) for name in ("n_train", "flops_per_cutout", "cpu_seconds")}
            | {f"accuracy_{name}": number(gap, name) for name in ("train", "validation")}
            | {
                "train_minus_validation": number(gap, "train_minus_validation"),
                "n_test": found["n_true"] + found["n_false"],
            }
            | {
                "fit_minus_validation": last["accuracy"] - last["validation_accuracy"],
                "n_images": number(cube, "n_images_used"),
            }
        )
    counts = dict.fromkeys(("n_images", "n_train", "n_test", "flops_per_cutout"), "Int64")
    return pd.DataFrame(table, columns=list(SWEEP_COLUMNS)).astype(counts)
