"""Influence of a neighbour on the score: cutouts are scored again without it (Makhlouf et al. 2022, Fig. 13)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.cubes.inputs import IMAGES, select_inputs
from otrain_core.errors import CubeError
from otrain_core.evaluation.metrics import OUTCOMES
from otrain_core.networks.explain import cutout_fwhm, logits_of
from otrain_core.widths import FWHM_PER_SIGMA, mad_sigma

NEIGHBOUR_COLUMNS = (
    "index",
    "candid",
    "image",
    "label",
    "kind",
    "fwhm",
    "distance",
    "neighbour_flux",
    "neighbour_snr",
    "score_before",
    "score_after",
    "score_control",
    "score_change",
    "logit_before",
    "logit_after",
    "logit_control",
    "logit_change",
)


def significance_map(cutout: np.ndarray, fwhm: float) -> np.ndarray:
    """Signal-to-noise map of a cutout smoothed with a Gaussian of the given FWHM [px].

    Background and noise are the median and MAD of the pixels more than 2 FWHM from the candidate (pixel side // 2). Missing
    pixels count as background.

    Returns
    -------
    numpy.ndarray
        (S, S); all NaN if the FWHM is not known, if fewer than ten pixels lie beyond 2 FWHM, or if these have no noise.
    """
    from scipy.ndimage import gaussian_filter

    blank, valid = np.full(cutout.shape, np.nan), np.isfinite(cutout)
    far = valid & (_distance(cutout.shape) > 2 * fwhm)
    if not fwhm > 0 or far.sum() < 10:
        return blank
    background = np.median(cutout[far])
    # Padded with background, because repeated edge pixels would repeat their noise.
    smooth = gaussian_filter(
        np.where(valid, cutout - background, 0.0).astype(float), fwhm / FWHM_PER_SIGMA, mode="constant"
    )
    smooth -= np.median(smooth[far])
    sigma = mad_sigma(smooth[far], 0.0)
    return smooth / sigma if sigma > 0 else blank


def find_neighbour(significance: np.ndarray, fwhm: float, *, n_sigma: float) -> tuple[int, int] | None:
    """Position (x, y) of the highest peak above `n_sigma` that is more than 2 FWHM from the candidate, or None."""
    from scipy.ndimage import maximum_filter

    # Only local maxima: the wing of the candidate can be the brightest part beyond 2 FWHM.
    peak = (significance == maximum_filter(significance, 3, mode="nearest")) & (significance >= n_sigma)
    peak &= _distance(significance.shape) > 2 * fwhm
    if not peak.any():
        return None
    y, x = np.unravel_index(np.argmax(np.where(peak, significance, -np.inf)), peak.shape)
    return int(x), int(y)


def remove_patch(
    cutout: np.ndarray, x: float, y: float, fwhm: float, *, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Replace the pixels within 1.5 FWHM of a position by background and noise.

    These are the median and MAD in a ring from 1.5 to 3 FWHM, without the pixels within 1.5 FWHM of the candidate. If the
    ring has fewer than ten pixels, all pixels outside the patch are used. Missing pixels remain missing.

    Returns
    -------
    cutout : numpy.ndarray
        A copy.
    flux : float
        Flux that was removed, in the unit of the pixels; NaN if there is no background.
    """
    distance, valid = _distance(cutout.shape, x, y), np.isfinite(cutout)
    patch = valid & (distance <= 1.5 * fwhm)
    ring = valid & ~patch & (distance <= 3 * fwhm) & (_distance(cutout.shape) > 1.5 * fwhm)
    pixels = cutout[ring if ring.sum() >= 10 else valid & ~patch].astype(float)
    if pixels.size == 0:
        return cutout.copy(), np.nan
    background = np.median(pixels)
    changed = cutout.copy()
    changed[patch] = rng.normal(background, mad_sigma(pixels, background), int(patch.sum()))
    return changed, float(np.sum(cutout[patch] - background))


def _distance(shape: tuple[int, int], x: float | None = None, y: float | None = None) -> np.ndarray:
    """Distance of each pixel from a position (default: the candidate) [px]."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(rows - (shape[0] // 2 if y is None else y), columns - (shape[1] // 2 if x is None else x))


def neighbour_test(
    model,
    cube: Mapping[str, np.ndarray],
    scores: pd.DataFrame,
    *,
    threshold: float,
    rng: np.random.Generator,
    n_sigma: float,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Change of the scores when a neighbour is removed from the cutout (Makhlouf et al. 2022, Fig. 13).

    The neighbour is searched in the first image channel of the model, and removed from all image channels; other channels
    such as the mask are not changed. As a control, the patch on the opposite side of the candidate is replaced instead, if
    it is empty. The change of the score is then the noise of the test.

    Parameters
    ----------
    model : keras.Model
    cube : dict of arrays
    scores : pandas.DataFrame
        index, candid, image, label, score, set; all rows of the test set are used.
    threshold : float
        Decision threshold of the model.
    rng : numpy.random.Generator
        Draws the noise of the replaced pixels.
    n_sigma : float
        Least significance of a neighbour, see `significance_map`.

    Returns
    -------
    table : pandas.DataFrame
        `NEIGHBOUR_COLUMNS`, one row per cutout of the test set: fwhm and distance [px], neighbour_flux (unit of the
        pixels, in the channel where it was found), neighbour_snr (of its smoothed peak), scores and log odds of True
        before and after, and changes (after - before). Without a neighbour all of these except fwhm are NaN; the values
        of the control are NaN if its patch is not empty.
    record : dict
        n_sigma, threshold, and for each of `OUTCOMES` and all: n, n_neighbours, mean_score_change, median_logit_change,
        median_abs_logit_change, median_abs_logit_control, decisions_changed (share; NaN without neighbours).

    Raises
    ------
    CubeError
        The test set is empty, or the model reads no images.
    """
    from otrain_core.networks.architecture import input_stage

    test = scores[scores["set"] == "test"]
    if test.empty:
        raise CubeError("the set test is empty: there is nothing to explain")
    index, channels = test["index"].to_numpy(int), list(input_stage(model).channels)
    before = select_inputs(cube, inputs=channels, size=model.input_shape[1], rows=index)
    fwhm, pixels = cutout_fwhm(cube, index), [k for k, name in enumerate(channels) if name in IMAGES]
    if not pixels:
        raise CubeError("the model reads no images, so that its cutouts show no neighbours")
    accepted, true = test["score"].to_numpy() >= threshold, test["label"].to_numpy() == 1
    kind = np.where(accepted == true, "right ", "wrong ").astype(object) + np.where(true, "True", "False")
    table = test[["index", "candid", "image", "label"]].assign(kind=kind, fwhm=fwhm).reset_index(drop=True)
    table = table.reindex(columns=list(NEIGHBOUR_COLUMNS))
    rows: list[int] = []
    without: list[np.ndarray] = []
    control: list[np.ndarray] = []
    empty: list[bool] = []
    for row, (cutout, width) in enumerate(zip(before, fwhm, strict=True)):
        significance = significance_map(cutout[..., pixels[0]], width)
        found = find_neighbour(significance, width, n_sigma=n_sigma)
        if found is None:
            continue
        x, y = found
        opposite = 2 * (cutout.shape[1] // 2) - x, 2 * (cutout.shape[0] // 2) - y
        there = _distance(significance.shape, *opposite) <= 1.5 * width
        empty.append(not np.any(significance[there] >= n_sigma))
        rows.append(row)
        for changed, place in ((control, opposite), (without, found)):
            changed.append(cutout.copy())
            for k in reversed(pixels):  # the last flux is that of the channel in which the neighbour was found
                changed[-1][..., k], flux = remove_patch(cutout[..., k], place[0], place[1], width, rng=rng)
        about = {"distance": _distance(significance.shape)[y, x], "neighbour_snr": significance[y, x]}
        table.loc[row, [*about, "neighbour_flux"]] = [*about.values(), flux]
    if rows:
        # In one call, because Keras compiles again for each model and batch size.
        every = _log_odds(model, np.concatenate([before[rows], np.stack(without), np.stack(control)]))
        for name, odds in zip(("before", "after", "control"), np.split(every, 3), strict=True):
            table.loc[rows, f"logit_{name}"] = odds if name != "control" else np.where(empty, odds, np.nan)
    for name in ("before", "after", "control"):
        table[f"score_{name}"] = 0.5 * (1 + np.tanh(0.5 * table[f"logit_{name}"].astype(float)))
    for name in ("score", "logit"):
        table[f"{name}_change"] = table[f"{name}_after"] - table[f"{name}_before"]
    record: dict[str, Any] = {"n_sigma": n_sigma, "threshold": threshold}
    for name in (*OUTCOMES, "all"):
        record[name] = _neighbour_numbers(table[(table["kind"] == name) | (name == "all")], threshold)
    return table, record


def _log_odds(model, cutouts: np.ndarray) -> np.ndarray:
    from keras import Model

    logits = np.asarray(Model(model.input, logits_of(model)).predict(cutouts, batch_size=256, verbose=0), dtype=float)
    return logits[:, 1] - logits[:, 0]


def _neighbour_numbers(table: pd.DataFrame, threshold: float) -> dict[str, float]:
    part = table[table["distance"].notna()]
    control = (part["logit_control"] - part["logit_before"]).abs()
    turned = (part["score_after"] >= threshold) != (part["score_before"] >= threshold)
    return {
        "n": len(table),
        "n_neighbours": len(part),
        "mean_score_change": float(part["score_change"].mean()),
        "median_logit_change": float(part["logit_change"].median()),
        "median_abs_logit_change": float(part["logit_change"].abs().median()),
        "median_abs_logit_control": float(control.median()),
        "decisions_changed": float(turned.mean()) if len(part) else np.nan,
    }
