"""Pictures of the report page as data URIs, drawn from the files of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.arrays import read_arrays
from otrain_core.figures.canvas import FALSE_COLOUR, NEUTRAL, STYLE, TRUE_COLOUR, embed, legend_above, new_figure
from otrain_core.figures.displays import CompletenessDisplay
from otrain_core.figures.galleries import CutoutGallery, GradCamGallery, robust_limits
from otrain_core.figures.training import draw_training


def training_figures(folder: str | Path) -> dict[str, str]:
    """Data URIs of `draw_training`, and of the Grad-CAM gallery under ``gradcam``."""
    drawn = draw_training(folder)
    if (Path(folder) / "gradcam.npz").is_file():
        arrays = read_arrays(Path(folder) / "gradcam.npz")
        drawn["gradcam"] = GradCamGallery.from_arrays(arrays).plot().figure_
    return {name: embed(figure) for name, figure in drawn.items()}


def gallery(
    cube: Mapping[str, np.ndarray], *, scores: np.ndarray | None = None, seed: int = 0, instrumental: bool = False
) -> str:
    """Gallery of random True and False cutouts of the difference, with magnitude and score as captions."""
    rng = np.random.default_rng(seed)
    shown = CutoutGallery.from_cube(cube, rng=rng, n=12, scores=scores, instrumental=instrumental)
    long = instrumental or scores is not None
    return embed(shown.plot(columns=3, text=6.5 if long else 9.0).figure_)


def triplets(cube: Mapping[str, np.ndarray], *, label: int, seed: int = 0, n: int = 10) -> str:
    """Science, reference and difference of candidates of one class, one column per candidate.

    False cutouts are drawn evenly over the kinds of artefacts, as far as they are known.
    """
    from matplotlib import colormaps

    channels = [str(name) for name in np.atleast_1d(cube["channels"])]
    rows = [name for name in ("science", "reference", "difference") if name in channels]
    chosen = _even_draw(cube, label, np.random.default_rng(seed), n)
    side = cube["cube"].shape[1]
    step = side + max(1, side // 12)
    grey = colormaps["gray"].with_extremes(bad="#d9c2a0")
    # All cutouts are one picture, because laying out one axis per cutout takes seconds.
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
    order = np.empty(len(index), dtype=int)  # number of cutouts of the same kind before it
    for kind in np.unique(kinds):
        order[kinds == kind] = np.arange((kinds == kind).sum())
    first = index[np.lexsort((kinds, order))][:n]
    return first[np.argsort(np.asarray(cube["artefacts"])[first].astype(str), kind="stable")]


def completeness(table: pd.DataFrame, *, instrumental: bool = False) -> str:
    """Fraction of injected sources that are found, and called True, against magnitude (see `completeness_table`)."""
    _, ax = new_figure(5.2, 3.6)
    return embed(CompletenessDisplay.from_counts(table, instrumental=instrumental).plot(ax).figure_)


def quality_plots(quality: pd.DataFrame, *, instrumental: bool = False) -> str:
    """Noise spread, depth, seeing and numbers of candidates of all images of a cube, in the order of the sheet."""
    from matplotlib import style

    figure, axes = new_figure(10.0, 4.6, rows=2, columns=2)
    number_ = np.arange(1, len(quality) + 1)
    panels: list[tuple[Any, ...]] = [
        (axes[0, 0], "Noise spread of the difference", [("noise_spread", TRUE_COLOUR, "")], 1.0),
        (
            axes[0, 1],
            f"Depth [{'instrumental ' if instrumental else ''}mag]",
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
                legend_above(ax)
            ax.set(xlabel="Image", ylabel=label)
            ax.xaxis.get_major_locator().set_params(integer=True)
    return embed(figure)
