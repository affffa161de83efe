"""The table printed at the end of a run, also by ``python -m otrain_core.evaluation.closing results``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.evaluation.bootstrap import FEW_IMAGES
from otrain_core.evaluation.gate import CUTS, NOT_TRAINED, SHIPPED, not_beaten, not_better
from otrain_core.evaluation.words import count, interval, num, several
from otrain_core.io import read_table
from otrain_core.results import number, store_path

_WIDTH = 100  # columns of the closing table
SHIPPED_COLUMNS = ("shipped_mcc", "shipped_gain", "shipped_gain_low", "shipped_gain_high")


def closing_table(
    summary: pd.DataFrame,
    quality: pd.DataFrame,
    *,
    report: str = "results/report.html",
    store: str = "results/mlflow.db",
) -> str:
    """Summary of the trainings of a run for the terminal, at most 100 columns wide.

    True, False, MCC and FPR are those of images that the model never saw (protocol by-image)
    or, for the protocol random, of the set on which the threshold was set; intervals are in brackets.

    Parameters
    ----------
    summary, quality : pandas.DataFrame
        As from `otrain_core.evaluation.summary.build_summary` and `build_quality`.
    report, store : str
        Paths that are printed below the table.
    """
    # Tables of earlier runs may lack the newer columns.
    summary = summary.reindex(
        columns=list(dict.fromkeys([*summary.columns, "interval", "sky_unknown", *SHIPPED_COLUMNS]))
    )
    recalls = summary["stated_recall"].dropna().unique()
    recall = f"recall {100 * recalls[0]:g} %" if len(recalls) == 1 else "stated recall"
    header = ("experiment", "seed", "protocol", "images", "True/False", "thr.", "MCC", f"FPR at {recall}")
    cubes = list(dict.fromkeys([*_cubes(quality), *_cubes(summary)]))
    blocks: list[tuple[str, list[tuple[str, ...]]]] = []
    for telescope, pipeline in cubes:
        rows = summary[(summary["telescope"] == telescope) & (summary["pipeline"] == pipeline)]
        blocks.append((_cube_line(telescope, pipeline, quality), [_cells(row) for row in rows.to_dict("records")]))
    everything = [header, *(cells for _, rows in blocks for cells in rows)]
    widths = [max(len(cells[i]) for cells in everything) for i in range(len(header))]
    widths[0] = min(
        widths[0], _WIDTH + 1 - 2 * len(header) - sum(widths[1:])
    )  # long names are shortened, numbers are not

    def line(cells: tuple[str, ...]) -> str:
        return (
            " " + "  ".join(f"{_fit(cell, width):<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
        )

    lines = [line(header), "-" * _WIDTH]
    for title, rows in blocks:
        lines += [_fit(title, _WIDTH), *map(line, rows)]
    lines += ["-" * _WIDTH, *_cautions(summary), *_legend(summary), f"report  {report}", f"MLflow  {store}  (make ui)"]
    return "\n".join(lines)


def _cubes(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(table[["telescope", "pipeline"]].drop_duplicates().itertuples(index=False, name=None))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    name, protocol = str(row["experiment"]), str(row["protocol"])
    seed = "-" if name in NOT_TRAINED else str(row["seed"])
    if row["status"] != "ok":
        return name, seed, protocol, "", "", "", str(row["status"]), ""
    counts = f"{count(row['n_true'])}/{count(row['n_false'])}"
    mcc, fpr = interval(row, "mcc"), interval(row, "fpr_at_stated_recall")
    cells = (name, seed, protocol, count(row["n_images"]), counts, num(row["threshold"]), mcc, fpr)
    return tuple(map(_plain, cells))


def _cube_line(telescope: str, pipeline: str, quality: pd.DataFrame) -> str:
    rows = quality[(quality["telescope"] == telescope) & (quality["pipeline"] == pipeline)]
    if rows.empty:
        return f"{telescope}/{pipeline}"
    good = rows[rows["status"] == "ok"]
    candidates, n_true, n_false, left_out = (
        int(good[name].sum()) for name in ("candidates", "n_true", "n_false", "n_left_out")
    )
    text = f"{telescope}/{pipeline}: {several(len(good), 'image')}, {several(candidates, 'candidate')}: {n_true} True,"
    text += f" {n_false} False, {left_out} left out"
    failed = len(rows) - len(good)
    return _plain(text + (f"; {several(failed, 'image')} failed" if failed else ""))


def _cautions(summary: pd.DataFrame) -> list[str]:
    """Warnings: trainings that do not beat the fixed cuts or the shipped model, and cubes whose sky is not known."""
    by_image = summary[(summary["protocol"] == "by-image") & (summary["status"] == "ok")]
    lines = []
    rivals = (("gain", not_beaten, "the fixed cuts"), ("shipped_gain", not_better, "the shipped model"))
    for row in by_image.to_dict("records"):
        where = f"{row['telescope']}/{row['pipeline']} {row['experiment']} seed {row['seed']}"
        for key, lost, rival in rivals:
            if row["experiment"] not in NOT_TRAINED and np.isfinite(number(row, key)) and lost(row):
                no_interval = "" if np.isfinite(number(row, f"{key}_low")) else " (no interval)"
                warning = f": does not beat {rival}; gain in MCC {_plain(interval(row, key))}{no_interval}"
                lines.append("! " + _fit(where, _WIDTH - 2 - len(warning)) + warning)
    unknown = by_image[by_image["sky_unknown"] > 0]
    for telescope, pipeline in _cubes(unknown):
        warning = ": it is not known which images show the same sky; the scores may be too high"
        lines.append("! " + _fit(f"{telescope}/{pipeline}", _WIDTH - 2 - len(warning)) + warning)
    return lines


def _legend(summary: pd.DataFrame) -> list[str]:
    lines = ["images, True/False, MCC, FPR: of the scored set, with intervals over images in brackets"]
    if (summary["interval"] == "counts").any():
        lines.append(f"with fewer than {FEW_IMAGES} images: intervals from counts, which ignore how images differ")
    if (summary["experiment"] == SHIPPED).any():
        lines.append("universal: the shipped model, the default of otrain classify; it saw none of these images")
    if (summary["experiment"] == CUTS).any():
        lines.append("fixed-cuts: the best cuts on S/N, FWHM and shape, found on train and validation")
    if (summary["protocol"] == "by-image").any():
        lines.append("by-image: scored on images that the model never saw, threshold set on other images")
    if (summary["protocol"] == "random").any():
        lines.append("random: random split by cutout, threshold set on the scored cutouts (optimistic)")
    return lines


def _plain(text: str) -> str:
    """Only ASCII, which every terminal can show."""
    return text.replace("\u202f", "").replace("–", "-")


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"


def main(root: Path) -> None:
    """Print the closing table of the run in `root`."""
    if not (root / "summary.csv").is_file() or not (root / "quality.csv").is_file():
        sys.exit(f"{root}/summary.csv: no such file; the run has not written its summary yet")
    summary, quality = (read_table(root / f"{name}.csv") for name in ("summary", "quality"))
    print("\n" + closing_table(summary, quality, report=f"{root}/report.html", store=str(store_path(root))))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results"))
