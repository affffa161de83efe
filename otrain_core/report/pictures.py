"""The pictures of the report page, as data URIs, each drawn from what a run has written."""

from __future__ import annotations

import base64
import io as bytes_io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.errors import OtrainError
from otrain_core.evaluation.summary import number, read_record, read_scores
from otrain_core.io import read_arrays, read_table

FEW_SOURCES = 5
RESOLUTION = 120  # dots per inch of the embedded pictures


def embed(figure) -> str:
    """A figure as a PNG data URI."""
    from matplotlib import style

    from otrain_core.figures.displays import STYLE

    buffer = bytes_io.BytesIO()
    with style.context(STYLE):
        figure.savefig(buffer, format="png", dpi=RESOLUTION, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def draw_training(folder: str | Path) -> dict[str, Any]:
    """Panels, confusion matrix and calibration of one training, as far as its files exist.

    Returns
    -------
    dict
        matplotlib.figure.Figure under panels, confusion, calibration.
    """
    from otrain_core.figures.displays import CalibrationDisplay, ConfusionDisplay, four_panels, new_figure

    folder = Path(folder)
    metrics, train, scores = (
        read_record(folder / "metrics.json"),
        read_record(folder / "train.json"),
        read_scores(folder),
    )
    drawn: dict[str, Any] = {}
    if not metrics.get("headline"):
        return drawn
    curves = read_table(folder / "curves.csv") if (folder / "curves.csv").is_file() else None
    if scores is not None and curves is not None and (folder / "history.csv").is_file():
        scored = scores[scores["set"] == metrics.get("scored_set", "test")]
        drawn["panels"] = four_panels(
            labels=scored["label"].to_numpy(),
            scores=scored["score"].to_numpy(),
            history=read_table(folder / "history.csv"),
            curves=curves,
            threshold=number(metrics["headline"], "threshold"),
            kept_epoch=train.get("kept_epoch"),
        )
    if metrics.get("confusion"):
        _, ax = new_figure(3.1, 2.9)
        drawn["confusion"] = ConfusionDisplay.from_counts(**metrics["confusion"]).plot(ax).figure_
    if curves is not None:
        _, ax = new_figure(3.1, 2.9)
        drawn["calibration"] = CalibrationDisplay.from_curves(curves).plot(ax).figure_
    return drawn


def training_figures(folder: str | Path) -> dict[str, str]:
    """Data URIs of `draw_training`, and of the Grad-CAM gallery under ``gradcam``."""
    from otrain_core.figures.displays import GradCamGallery

    drawn = draw_training(folder)
    if (Path(folder) / "gradcam.npz").is_file():
        arrays = read_arrays(Path(folder) / "gradcam.npz")
        drawn["gradcam"] = GradCamGallery.from_arrays(arrays).plot().figure_
    return {name: embed(figure) for name, figure in drawn.items()}


def gallery(cube: Mapping[str, np.ndarray], *, scores: np.ndarray | None = None, seed: int = 0) -> str:
    """Random True and False cutouts of the difference, captions with magnitude and score."""
    from otrain_core.figures.displays import CutoutGallery

    shown = CutoutGallery.from_cube(cube, rng=np.random.default_rng(seed), n=20, scores=scores)
    return embed(shown.plot(columns=5).figure_)


def triplets(cube: Mapping[str, np.ndarray], *, label: int, seed: int = 0, n: int = 10) -> str:
    """Science, reference and difference of the same candidates of one class, one column each.

    False cutouts are drawn evenly over the kinds of artefacts, as far as they are known.
    """
    from matplotlib import colormaps

    from otrain_core.figures.displays import new_figure, robust_limits

    channels = [str(name) for name in np.atleast_1d(cube["channels"])]
    rows = [name for name in ("science", "reference", "difference") if name in channels]
    chosen = _even_draw(cube, label, np.random.default_rng(seed), n)
    side = cube["cube"].shape[1]
    step = side + max(1, side // 12)
    grey = colormaps["gray"].with_extremes(bad="#d9c2a0")
    # One picture of all cutouts: a figure with an axis for each takes seconds to lay out.
    mosaic = np.ones((step * len(rows), step * n, 4))
    for line, name in enumerate(rows):
        for column, row in enumerate(chosen):
            cutout = np.asarray(cube["cube"][row, :, :, channels.index(name)], dtype=float)
            low, high = robust_limits(cutout)
            # Rows of the mosaic run downwards, rows of a cutout upwards.
            place = np.s_[line * step : line * step + side, column * step : column * step + side]
            mosaic[place] = grey(np.ma.masked_invalid((cutout - low) / (high - low)))[::-1]
    figure, ax = new_figure(0.98 * n + 0.5, 0.98 * len(rows) + 0.3)
    ax.imshow(mosaic, origin="upper", interpolation="nearest")
    ax.set_frame_on(False)
    ax.grid(False)
    ax.xaxis.tick_top()
    middle = 0.5 * (side - 1)
    ax.set_xticks(middle + step * np.arange(len(chosen)), [_title(cube, row) for row in chosen])
    ax.set_yticks(middle + step * np.arange(len(rows)), rows, rotation=90, va="center")
    ax.tick_params(length=0, pad=1, labelsize=8)
    return embed(figure)


def _title(cube: Mapping[str, np.ndarray], row: int) -> str:
    artefact = str(cube["artefacts"][row]) if "artefacts" in cube else ""
    if artefact:
        return artefact.replace("_", " ")
    snr = cube["snr"][row] if "snr" in cube else np.nan
    return f"S/N {snr:.0f}" if np.isfinite(snr) else ""


def _even_draw(cube: Mapping[str, np.ndarray], label: int, rng: np.random.Generator, n: int) -> np.ndarray:
    index = rng.permutation(np.flatnonzero(np.asarray(cube["labels"]) == label))
    if label == 1 or "artefacts" not in cube:
        return index[:n]
    kinds = np.asarray(cube["artefacts"])[index].astype(str)
    order = np.empty(len(index), dtype=int)  # how many of its kind stand before it
    for kind in np.unique(kinds):
        order[kinds == kind] = np.arange((kinds == kind).sum())
    first = index[np.lexsort((kinds, order))][:n]
    return first[np.argsort(np.asarray(cube["artefacts"])[first].astype(str), kind="stable")]


def completeness(table: pd.DataFrame) -> str:
    """Injected sources found, and called True, against magnitude (see `completeness_table`)."""
    from otrain_core.figures.displays import CompletenessDisplay, new_figure

    _, ax = new_figure(5.2, 3.6)
    return embed(CompletenessDisplay.from_counts(table).plot(ax).figure_)


def completeness_table(images: list[Path], accepted: pd.DataFrame | None = None) -> pd.DataFrame:
    """Injected and found sources of all images in bins of the injected magnitude.

    Parameters
    ----------
    images : list of path
        Folders with crossmatch.json.
    accepted : pandas.DataFrame, optional
        mag (injected) and called (bool) of the True cutouts of the test set. The column
        ``accepted`` is then the number found times the share of these that is called True,
        NaN where that is a share of fewer than `FEW_SOURCES`.

    Returns
    -------
    pandas.DataFrame
        low, high [mag], injected, found and, if known, accepted.
    """
    rows = [row for folder in images for row in read_record(folder / "crossmatch.json").get("completeness") or []]
    if not rows:
        return pd.DataFrame(columns=["low", "high", "injected", "found"])
    table = pd.DataFrame(rows).rename(columns={"mag_low": "low", "mag_high": "high", "recovered": "found"})
    table = table.groupby(["low", "high"], as_index=False)[["injected", "found"]].sum()
    table = table[table["injected"] > 0].reset_index(drop=True)
    if accepted is not None and len(accepted):
        bins = pd.cut(accepted["mag"], [*table["low"], table["high"].iloc[-1]], labels=False, include_lowest=True)
        recall = accepted.groupby(bins)["called"].agg(["mean", "size"]).reindex(range(len(table)))
        enough = recall["mean"].where(recall["size"] >= FEW_SOURCES)
        table["accepted"] = table["found"] * enough.to_numpy(float)
    return table


def accepted_injections(cube: Mapping[str, np.ndarray], folder: Path, images: Path) -> pd.DataFrame | None:
    """Injected magnitude and decision of every True cutout of the test set of one training."""
    scores, metrics = read_scores(folder), read_record(folder / "metrics.json")
    if scores is None or not metrics or "injections" not in cube:
        return None
    part = scores[(scores["set"] == "test") & (scores["label"] == 1)]
    rows = part["index"].to_numpy()
    table = pd.DataFrame(
        {
            "image": np.asarray(cube["images"])[rows].astype(str),
            "id": np.asarray(cube["injections"])[rows],
            "called": part["score"].to_numpy() >= number(metrics["headline"], "threshold"),
        }
    )
    truths = []
    for name in table["image"].unique():
        try:
            truths.append(read_table(images / name / "injected.csv")[["id", "mag"]].assign(image=name))
        except (OSError, OtrainError, KeyError):
            continue
    return table.merge(pd.concat(truths), on=["image", "id"]) if truths else None


def quality_plots(quality: pd.DataFrame) -> str:
    """Noise spread, depth, seeing and flux bias of all images of a cube, in the order of the sheet."""
    from matplotlib import style

    from otrain_core.figures.displays import FALSE_COLOUR, NEUTRAL, STYLE, TRUE_COLOUR, new_figure

    figure, axes = new_figure(10.0, 4.6, rows=2, columns=2)
    number_ = np.arange(1, len(quality) + 1)
    panels: list[tuple[Any, ...]] = [
        (axes[0, 0], "Noise spread of the difference", [("noise_spread", TRUE_COLOUR, "")], 1.0),
        (
            axes[0, 1],
            "Depth [mag]",
            [("limit_5sigma_mag", NEUTRAL, "5-sigma limit"), ("completeness_50_mag", TRUE_COLOUR, "50 % completeness")],
            None,
        ),
        (axes[1, 0], "Seeing [arcsec]", [("seeing_arcsec", TRUE_COLOUR, "")], None),
        (axes[1, 1], "Candidates", [("n_true", TRUE_COLOUR, "True"), ("n_false", FALSE_COLOUR, "False")], None),
    ]
    with style.context(STYLE):
        for ax, label, series, wanted in panels:
            for column, colour, name in series:
                ax.plot(number_, quality[column].astype(float), "o", color=colour, label=name or None)
            if wanted is not None:
                ax.axhline(wanted, color=NEUTRAL, linestyle=":", linewidth=1)
            if len(series) > 1:
                ax.legend()
            ax.set(xlabel="Image", ylabel=label)
            ax.xaxis.get_major_locator().set_params(integer=True)
    return embed(figure)
