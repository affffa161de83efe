"""Tables 1 to 5 of the paper, from the results of a run, as data and as TeX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.arrays import arrays_if_there
from otrain_core.cubes.cube_format import TABLE1
from otrain_core.evaluation.summary import SUMMARY_COLUMNS, build_summary
from otrain_core.io import atomic, write_json, write_table
from otrain_core.paper.captions import caption_text, make_caption
from otrain_core.paper.claims import read_published
from otrain_core.paper.data import find_training
from otrain_core.paper.plan import trainings
from otrain_core.results import image_folder, number, read_record, table_if_there

ARRAYS = {
    "cube": "cutouts: number, y, x, channel",
    "labels": "1 True, 0 False",
    "mags": "magnitude [mag], NaN where unknown",
    "errmags": "its error [mag]",
    "filters": "filter",
    "fwhms": "FWHM of the candidate [px]",
    "candids": "name of the candidate",
    "images": "image from which the cutout was taken",
    "x": "column of the candidate [px, from 0]",
    "y": "row of the candidate [px, from 0]",
    "ra": "right ascension [deg]",
    "dec": "declination [deg]",
    "snr": "signal to noise on the difference",
    "seeing": "FWHM of the PSF of the image [px]",
    "pixel_scale": "pixel scale [arcsec/px]",
    "reasons": "reason for the label",
    "artefacts": "cause of a False, if known from the simulation",
    "injections": "number of the injected source, -1 for a False",
    "kinds": "how the position of a True was chosen",
    "times": "time of the image",
    "n_missing": "missing pixels of the cutout",
    "channels": "names of the channels",
    "telescope": "telescope of the cube",
    "pipeline": "pipeline of the cube",
}
CONFUSION = {
    "tp": ("true positive", "True", "accepted"),
    "fn": ("false negative", "True", "refused"),
    "fp": ("false positive", "False", "accepted"),
    "tn": ("true negative", "False", "refused"),
}


def tables_files(
    *,
    name: str,
    plan: Mapping[str, Any],
    table: str | Path,
    tex: str | Path,
    caption: str | Path,
    root: str | Path = "results",
) -> None:
    """Write one table of the paper and its caption.

    Parameters
    ----------
    name : str
        table1 to table5.
    plan : mapping
        As from `otrain_core.paper.plan.plan_paper`.
    table, tex, caption : path-like
        CSV, TeX and JSON written.
    root : path-like
        Folder of the results.
    """
    data, facts = make_table(name, plan, root=root)
    words = make_caption(name, plan, facts, data)
    shown = condensed(data, read_experiments(root)) if name == "table5" and len(data) else data
    write_table(table, data)
    write_json(caption, words)
    with atomic(tex) as temporary:
        temporary.write_text(to_tex(name, shown, caption_text(words)), encoding="utf-8")


def make_table(name: str, plan: Mapping[str, Any], *, root: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Make one table, and the facts that its caption quotes.

    Parameters
    ----------
    name : str
        One of `otrain_core.paper.plan.TABLES`.
    plan : mapping
        As from `otrain_core.paper.plan.plan_paper`.
    root : path-like
        Folder of the results.

    Returns
    -------
    table : pandas.DataFrame
        Empty if there are no data for it yet; ``facts['missing']`` then says what is missing.
    facts : dict
    """
    makers: dict[str, Callable[..., Any]] = {
        "table1": arrays_of_the_cube,
        "table2": telescopes,
        "table3": cubes,
        "table4": confusion,
        "table5": classification,
    }
    return makers[name](plan, Path(root))


def arrays_of_the_cube(plan: Mapping[str, Any], root: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table 1: array, dtype, shape, in_paper, meaning."""
    for cube in plan["cubes"]:
        arrays = arrays_if_there(root / cube / "cube.npz")
        if arrays is None:
            continue
        rows = [
            {
                "array": name,
                "dtype": "text" if value.dtype.kind == "U" else str(value.dtype),
                "shape": " x ".join(map(str, value.shape)) or "one value",
                "in_paper": "yes" if name in TABLE1 else "",
                "meaning": ARRAYS.get(name, name.replace("_", " ")),
            }
            for name, value in sorted(arrays.items(), key=lambda item: item[0] not in TABLE1)
        ]
        return pd.DataFrame(rows), {"cube": cube}
    return pd.DataFrame(), {"missing": "no cube yet"}


def telescopes(plan: Mapping[str, Any], root: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table 2: properties of each telescope, medians of measured values, published values, and the assumed properties."""
    quality, published = _quality(plan, root), read_published()
    rows = []
    for name, entry in plan["telescopes"].items():
        mine = quality[(quality["telescope"] == name) & (quality["status"] == "ok")]
        said = published[published["cube"] == name].set_index("quantity")
        filters = str(said.loc["filters", "unit"]) if "filters" in said.index else ""
        detector, sky = entry["detector"], entry["sky"] or {}
        row = {"telescope": name, "source": entry["source"], "filter": detector["filter"]}
        row |= {"pixel_scale": detector["pixel_scale"]} | {key: sky.get(key) for key in ("width", "height", "n_images")}
        row |= {
            "seeing_arcsec": mine["seeing_arcsec"].median(),
            "limit_5sigma_mag": mine["limit_5sigma_mag"].median(),
            "field_sq_deg": mine["field_sq_deg"].median(),
        }
        for key in ("pixel_scale", "aperture", "field"):
            row[f"paper_{key}"] = said["low"].get(key, np.nan)
        rows.append(
            row
            | {"paper_filters": filters, "assumed": "; ".join(key.partition(".")[2] for key in entry["assumptions"])}
        )
    if not rows:
        return pd.DataFrame(), {"missing": "the run has none of the paper's telescopes"}
    return pd.DataFrame(rows), {}


def _quality(plan: Mapping[str, Any], root: Path) -> pd.DataFrame:
    """Read quality.csv, or make its rows if the run has not written it yet."""
    from otrain_core.evaluation.summary import build_quality, quality_row

    table = table_if_there(root / "quality.csv")
    if table is not None:
        return table
    names = [(*cube.split("/"), cube, image) for cube in plan["cubes"] for image in plan["images"][cube.split("/")[0]]]
    return build_quality(
        quality_row(image_folder(root / cube, image), telescope=telescope, pipeline=pipeline)
        for telescope, pipeline, cube, image in names
    )


def cubes(plan: Mapping[str, Any], root: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table 3: telescope, pipeline, n_true, n_false, images, side of the cutouts [px], numbers of candidates and of those left out."""
    published, rows = read_published(), []
    sides = published[published["quantity"] == "size"].set_index("cube")["low"]
    for cube in plan["cubes"]:
        record = read_record(root / cube / "cube.json")
        if not record:
            continue
        telescope, pipeline = cube.split("/")
        row = {"telescope": telescope, "pipeline": pipeline}
        row |= {name: record.get(name) for name in ("n_true", "n_false", "n_images_used", "size", "n_candidates")}
        row |= {name: record.get(name) for name in ("n_labelled_true", "n_labelled_false", "n_left_out", "n_edge")}
        rows.append(row | {"paper_size": sides.get(cube, np.nan)})
    if not rows:
        return pd.DataFrame(), {"missing": "no cube yet"}
    return pd.DataFrame(rows), {}


def confusion(plan: Mapping[str, Any], root: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table 4: component, name, label, called, count and fraction of the scored set."""
    for cube in plan["cubes"]:
        for experiment in plan["experiments"]:
            folder = find_training(root, plan, cube, experiment, file="metrics.json")
            record = read_record(folder / "metrics.json") if folder else {}
            if counts := record.get("confusion"):
                total = sum(counts.values())
                rows = [
                    {"component": key.upper(), "name": name, "label": label, "called": called}
                    | {"count": counts[key], "share": counts[key] / total}
                    for key, (name, label, called) in CONFUSION.items()
                ]
                return pd.DataFrame(rows), {"cube": cube, "experiment": experiment, "protocol": record["protocol"]}
    return pd.DataFrame(), {"missing": "no training is evaluated yet"}


def classification(plan: Mapping[str, Any], root: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table 5: the columns of summary.csv for the experiments of the paper; published values and bounds in paper_*."""
    summary = summary_of(plan, root)
    done = int((summary["status"] == "ok").sum())
    if not done:
        return pd.DataFrame(), {"missing": "no training is evaluated yet"}
    published = read_published()
    names = summary["telescope"] + "/" + summary["pipeline"]
    said = published[published["quantity"] == "threshold"].set_index("cube")["low"]
    summary["paper_threshold"] = names.map(said)
    everywhere = published[published["cube"] == "all"].set_index("quantity")
    for quantity in ("accuracy", "mcc"):
        for end in ("low", "high"):
            summary[f"paper_{quantity}_{end}"] = everywhere.loc[quantity, end]
    summary["paper_fp_share_max"] = everywhere.loc["fp_share", "high"]
    return summary, {"planned": len(summary), "done": done}


def summary_of(plan: Mapping[str, Any], root: str | Path) -> pd.DataFrame:
    """Rows of summary.csv for all trainings of Table 5, made from the trainings themselves."""
    if not trainings(plan):
        return pd.DataFrame(columns=list(SUMMARY_COLUMNS))
    return build_summary(Path(root) / folder for folder in trainings(plan))


def read_experiments(root: str | Path) -> pd.DataFrame | None:
    """Read experiments.csv of a run; None if the run has not written it yet."""
    return table_if_there(Path(root) / "experiments.csv")


def condensed(table: pd.DataFrame, experiments: pd.DataFrame | None = None) -> pd.DataFrame:
    """Shorten Table 5 to one row for each cube, protocol and experiment: means over seeds.

    Parameters
    ----------
    table : pandas.DataFrame
        As from `classification`.
    experiments : pandas.DataFrame, optional
        experiments.csv, for the intervals of the mean. Without it, only rows of a single seed have an interval.

    Returns
    -------
    pandas.DataFrame
        Cube, Network, Split, Seeds, p_t, published p_t, accuracy, precision, recall, F1, MCC with its interval
        and its range over seeds, and FP as a fraction of the scored set; all as text.
    """
    rows = []
    done = table[table["status"] == "ok"]
    for keys, mine in done.groupby(["telescope", "pipeline", "protocol", "experiment"], sort=False):
        bounds = mine[["mcc_low", "mcc_high"]].iloc[0] if len(mine) == 1 else pd.Series(dtype=float)
        if experiments is not None:
            same = (experiments[["telescope", "pipeline", "protocol", "experiment"]] == list(keys)).all(axis=1)
            same &= experiments["seeds"] == len(mine)
            bounds = experiments[same].iloc[0] if same.any() else bounds
        mcc = f"{mine['mcc'].mean():.3f}"
        low, high = number(bounds, "mcc_low"), number(bounds, "mcc_high")
        row = {
            "Cube": f"{keys[0]}-{keys[1]}",
            "Network": keys[3],
            "Split": "random" if keys[2] == "random" else "by image",
        }
        row |= {"Seeds": str(len(mine)), "p_t": f"{mine['threshold'].mean():.2f}"}
        row |= {"p_t, paper": f"{mine['paper_threshold'].iloc[0]:.2f}"}
        shown = {"Accuracy [%]": "accuracy", "Precision [%]": "precision", "Recall [%]": "recall"}
        row |= {title: f"{100 * mine[name].mean():.1f}" for title, name in shown.items()}
        row |= {"F1": f"{mine['f1'].mean():.3f}", "MCC": mcc + (f" [{low:.3f}, {high:.3f}]" if low == low else "")}
        row |= {"MCC by seed": f"{mine['mcc'].min():.3f} to {mine['mcc'].max():.3f}" if len(mine) > 1 else ""}
        rows.append(row | {"FP [%]": f"{100 * mine['fp_share'].mean():.1f}"})
    return pd.DataFrame(rows)


def to_tex(name: str, table: pd.DataFrame, caption: str) -> str:
    """A table as TeX (booktabs), with its caption and short numbers."""
    if table.empty:
        return f"% {caption}\n"
    shown = table.drop(columns=[column for column in ("assumed",) if column in table])
    for column in shown.columns:
        if pd.api.types.is_float_dtype(shown[column]):
            shown[column] = [_short(value) for value in shown[column]]
    body = [" & ".join(_escape(value) for value in row) + r" \\" for row in shown.astype(object).to_numpy()]
    head = " & ".join(_escape(column.replace("_", " ")) for column in shown.columns) + r" \\"
    lines = [r"\begin{table*}", rf"\caption{{{_escape(caption)}}}", rf"\label{{tab:{name}}}", r"\centering\small"]
    lines += [rf"\begin{{tabular}}{{{'l' * len(shown.columns)}}}", r"\toprule", head, r"\midrule", *body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}", ""])


def _short(value: float) -> str:
    return "" if not np.isfinite(value) else f"{value:.4g}"


_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\u202f": r"\,",
    "–": "--",
}


def _escape(value: Any) -> str:
    text = "" if value is None or value is pd.NA or value != value else str(value)
    text = "".join(_SPECIAL.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)
    return text.replace("±", r"$\pm$").replace("×", r"$\times$")
