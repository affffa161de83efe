"""Measure the detection limits of a search: add sources to a copy of the image and search it in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.candidates.recovery import MAG_BIN, completeness_limit
from otrain_core.chain.steps import Clock, ImageSteps, held_planes
from otrain_core.classify.finder import load_finder
from otrain_core.evaluation.bootstrap import wilson_interval
from otrain_core.io import read_json, read_table, write_json, write_table
from otrain_core.night.search import Search, scored_candidates
from otrain_core.plan.pipelines import InjectOptions
from otrain_core.plan.recipe import Recipe
from otrain_core.positions import match_one_to_one
from otrain_core.temporary import temporary_folder

if TYPE_CHECKING:
    from otrain_core.classify import Classifier

SHARES = (0.5, 0.9)  # completeness at which a limit is stated
RESAMPLES = 200
CONFIDENCE = 0.95
FAINTER = 1.0  # the faintest injected sources are this much below the 5-sigma limit [mag]


@dataclass
class Limits:
    """Which added sources a search finds.

    Attributes
    ----------
    sources : pandas.DataFrame
        x, y [px], mag, flux [ADU] of each source, found (there is a candidate at its position), accepted (this candidate
        is called real), probability.
    table : pandas.DataFrame
        Per magnitude bin: low, high [mag], injected, found, accepted, completeness (accepted / injected),
        completeness_low, completeness_high (Wilson 1927), called_real (candidates of the image without injection).
    record : dict
        n, seed, limits at 50 and 90 % with their intervals [mag], and false_alarms: candidates of the image without
        injection that are called real. This is an upper limit, because it includes real transients in the image.
    """

    sources: pd.DataFrame
    table: pd.DataFrame
    record: dict[str, Any]


def measure_limits(
    science: str | Path,
    *,
    reference: str | Path,
    classifier: Classifier,
    recipe: Recipe,
    found: Search,
    n: int,
    seed: int,
    wcs: str | Path | None = None,
    catalogue: str | Path | None = None,
) -> Limits:
    """Add point sources at random positions to a copy of an image, and search the copy like the image.

    Parameters
    ----------
    science, reference, classifier, recipe, wcs, catalogue
        See `otrain_core.night.search.search_image`.
    found : Search
        Result for the image itself. Added sources that fall on one of its candidates are not counted.
    n : int
        Number of sources; a few hundred do not crowd an image of 2000 x 2000 px.
    seed : int
        Seed of the positions and magnitudes, and of the resampling.

    Raises
    ------
    ImageError
        See `search_image`; also if there is no room for a source.
    """
    options = InjectOptions(n_sources=n, faint_mag=FAINTER, mix={"random": 1.0}, removed_stars=0, transplanted_stars=0)
    recipe = Recipe(
        recipe.pipeline.model_copy(update={"inject": options}), recipe.detector, recipe.telescope, recipe.name
    )
    image = found.record["image"]
    with temporary_folder("search") as folder:
        run = ImageSteps(
            image, recipe, folder, folder, Clock(), wcs, load_finder(recipe.pipeline.detect), held=held_planes()
        )
        run.psf(science, catalogue=catalogue)
        run.inject(science, seed=seed)
        run.subtract(run.file("injected.fits"), reference, injected=run.file("injected.csv"))
        run.detect(catalogue=catalogue)
        stack, scored = scored_candidates(run, classifier)
        sources = read_table(run.file("injected.csv"))[["x", "y", "mag", "flux"]]
        seeing = read_json(run.file("psf.json"))["seeing_px"]
    radius = recipe.pipeline.crossmatch.radius * seeing
    sources = _recovered(sources, stack | dict(scored), found.table, radius=radius)
    return _summary(sources, found.table, n=n, seed=seed, image=image)


def _recovered(
    sources: pd.DataFrame, after: Mapping[str, Any], before: Mapping[str, np.ndarray], *, radius: float
) -> pd.DataFrame:
    """The sources at whose position there was no candidate before, with the candidates found there after injection."""
    x, y = sources["x"].to_numpy(float), sources["y"].to_numpy(float)
    taken, _ = match_one_to_one(x, y, before["x"], before["y"], radius=radius)
    partner, _ = match_one_to_one(x, y, np.asarray(after["x"]), np.asarray(after["y"]), radius=radius)
    there = partner >= 0
    probability, accepted = np.full(len(x), np.nan), np.zeros(len(x), bool)
    probability[there] = np.asarray(after["probability"])[partner[there]]
    accepted[there] = (np.asarray(after["real"]) & ~np.asarray(after["undecided"]))[partner[there]]
    table = sources.assign(found=there, accepted=accepted, probability=probability)
    return table[taken < 0].reset_index(drop=True)


def _summary(sources: pd.DataFrame, before: Mapping[str, np.ndarray], *, n: int, seed: int, image: str) -> Limits:
    real = np.asarray(before["real"], bool) & ~np.asarray(before["undecided"], bool)
    called = np.asarray(before["mag"], float)[real]
    table = _by_magnitude(sources, called)
    mag, accepted = sources["mag"].to_numpy(float), sources["accepted"].to_numpy(bool)
    rng = np.random.default_rng(seed)
    samples = [rng.integers(0, len(mag), len(mag)) for _ in range(RESAMPLES)] if len(mag) else []
    limits: dict[str, float] = {}
    for share in SHARES:
        spread = [completeness_limit(mag[rows], accepted[rows], share=share) for rows in samples]
        low, high = _interval(np.array(spread))
        key = f"limit_{round(100 * share)}"
        limits |= {key: completeness_limit(mag, accepted, share=share), f"{key}_low": low, f"{key}_high": high}
    record = {
        "image": image,
        "n": n,
        "used": len(sources),
        "seed": seed,
        "confidence": CONFIDENCE,
        **limits,
        "false_alarms": int(real.sum()),
    }
    return Limits(sources, table, record)


def _by_magnitude(sources: pd.DataFrame, called: np.ndarray) -> pd.DataFrame:
    low = np.floor(sources["mag"].min() / MAG_BIN) if len(sources) else 0
    last = np.floor(sources["mag"].max() / MAG_BIN) if len(sources) else 0
    rows = []
    for edge in np.arange(low, last + 1) * MAG_BIN:
        part = sources[(sources["mag"] >= edge) & (sources["mag"] < edge + MAG_BIN)]
        row = {"low": edge, "high": edge + MAG_BIN, "injected": len(part)}
        row |= {"found": int(part["found"].sum()), "accepted": int(part["accepted"].sum())}
        interval = wilson_interval(row["accepted"], len(part), CONFIDENCE)
        share = row["accepted"] / len(part) if len(part) else np.nan
        row |= {"completeness": share, "completeness_low": interval[0], "completeness_high": interval[1]}
        rows.append(row | {"called_real": int(((called >= edge) & (called < edge + MAG_BIN)).sum())})
    return pd.DataFrame(rows)


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Central interval with the share `CONFIDENCE` of the resampled limits; NaN if too many of them are undefined."""
    if np.isfinite(values).sum() < max(1, CONFIDENCE * len(values)):
        return np.nan, np.nan
    low, high = np.nanquantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def write_limits(folder: Path, name: str, limits: Limits, *, instrumental: bool) -> None:
    """Write NAME.limits.csv (per magnitude bin), NAME.injected.csv (each source), NAME.limits.json and NAME.limits.png."""
    from otrain_core.figures.canvas import new_figure, save_figure
    from otrain_core.figures.displays import CompletenessDisplay

    write_table(folder / f"{name}.limits.csv", limits.table)
    write_table(folder / f"{name}.injected.csv", limits.sources)
    write_json(folder / f"{name}.limits.json", limits.record)
    _, ax = new_figure(5.4, 3.8)
    figure = CompletenessDisplay.from_counts(limits.table, instrumental=instrumental).plot(ax).figure_
    for share in SHARES:
        key = f"limit_{round(100 * share)}"
        if np.isfinite(limits.record[key]):
            ax.axvline(limits.record[key], color="0.4", linestyle="--", linewidth=1)
            text = f" {round(100 * share)} %: {limits.record[key]:.2f}"
            ax.annotate(text, (limits.record[key], 4), fontsize=8, rotation=90, ha="right", va="bottom")
    save_figure(folder / f"{name}.limits.png", figure)


def limits_in_words(record: Mapping[str, Any]) -> str:
    """The limits as a sentence."""
    parts = []
    for share in SHARES:
        key = f"limit_{round(100 * share)}"
        if np.isfinite(record[key]):
            between = (
                f" ({record[f'{key}_low']:.2f} to {record[f'{key}_high']:.2f})"
                if np.isfinite(record[f"{key}_low"])
                else ""
            )
            parts.append(f"{round(100 * share)} % of new sources are found at {record[key]:.2f} mag{between}")
        else:
            parts.append(f"the magnitude at which {round(100 * share)} % are found is unknown")
    n = record["false_alarms"]
    return "; ".join(parts) + f"; {n} candidate{'s' * (n != 1)} called real without injection"
