"""Suspected wrong labels: what a network says of cutouts whose images it was not trained on.

Real variables hide among False, and failed injections among True. Every cutout of train and
validation is scored by a network that saw none of its image; where a score contradicts its label, one
of the two is wrong. Test is never used, so that its labels stay a measure of everything else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.arrays import read_stack
from otrain_core.cubes.inputs import column
from otrain_core.errors import CubeError
from otrain_core.evaluation import metrics
from otrain_core.evaluation.thresholds import best_threshold
from otrain_core.figures.canvas import save_figure
from otrain_core.figures.galleries import CutoutGallery
from otrain_core.io import read_table, write_json, write_table
from otrain_core.jobs.provenance import provenance
from otrain_core.networks.predict import score_rows
from otrain_core.networks.train import train_model
from otrain_core.studies.confident import label_quality, probability_wrong
from otrain_core.studies.label_flips import flip_labels, measure_flips

if TYPE_CHECKING:
    from otrain_core.plan.config import Experiment, LabelNoiseOptions

log = logging.getLogger("otrain")

SUSPECTED = 0.5  # more probably wrong than right
USED_SETS = ("train", "validation")


def label_noise_files(
    *,
    cube: str | Path,
    split: str | Path,
    suspects: str | Path,
    figure: str | Path,
    record: str | Path,
    experiment: Experiment,
    options: LabelNoiseOptions,
    seed: int,
    threads: int | None = None,
) -> None:
    """Rank suspected wrong labels of a cube, draw the worst, and try how many flips are found where asked.

    Parameters
    ----------
    cube, split : path-like
        ``cube.npz`` and the split's CSV.
    suspects, figure, record : path-like
        Files written: CSV, PNG and JSON.
    experiment : Experiment
        Of the networks.
    options : LabelNoiseOptions
    seed : int
        Of the folds, the trainings and the flips.
    threads : int, optional
        CPU threads.

    Raises
    ------
    CubeError, ConfigError
        As `out_of_fold_scores`.
    """
    started = time.perf_counter()
    arrays, table = read_stack(cube, mmap=("cube",)), read_table(split)
    training: dict[str, Any] = {"experiment": experiment, "seed": seed, "threads": threads}
    scores = out_of_fold_scores(arrays, table, rng=np.random.default_rng(seed), folds=options.folds, **training)
    ranked, result = find_suspects(arrays, scores)
    if options.flip_fraction > 0:
        rng = np.random.default_rng([seed, 1])
        result["trial"] = flip_trial(arrays, table, rng=rng, options=options, **training)
    gallery, channels = suspect_gallery(arrays, ranked, n=options.n_cutouts)
    write_table(suspects, ranked)
    save_figure(figure, gallery.plot(columns=len(channels)).figure_)
    about = {key: str(arrays[key]) for key in ("telescope", "pipeline") if key in arrays}
    took = {"folds": options.folds, "seed": seed, "seconds": time.perf_counter() - started}
    write_json(record, about | took | result | provenance())


def deal_folds(split: pd.DataFrame, *, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Fold of every cutout of train and validation, whole images together, classes balanced.

    Where the split knows at least two fields a fold, fields are dealt whole: a variable is
    labelled alike in every image of its field, and must not vouch for itself.

    Parameters
    ----------
    split : pandas.DataFrame
        Columns image, label, set, and field where known.
    folds : int
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray
        int (N,) from 0, -1 for cutouts of test and unused ones.

    Raises
    ------
    CubeError
        Fewer images than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    used = split["set"].isin(USED_SETS).to_numpy()
    part = split[used]
    by_field = "field" in part and part["field"].nunique() >= 2 * folds
    groups = part["field" if by_field else "image"]
    if groups.nunique() < folds:
        raise CubeError(f"{folds} folds by image need {folds} images in train and validation, not {groups.nunique()}")
    dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=int(rng.integers(2**31)))
    fold = np.full(len(split), -1)
    rows = np.flatnonzero(used)
    for number, (_, out) in enumerate(dealer.split(part, part["label"], groups)):
        fold[rows[out]] = number
    return fold


def out_of_fold_scores(
    cube: Mapping[str, np.ndarray],
    split: pd.DataFrame,
    *,
    rng: np.random.Generator,
    folds: int,
    experiment: Experiment,
    seed: int,
    threads: int | None = None,
) -> pd.DataFrame:
    """Score train and validation with networks that saw none of the image.

    One network for each fold, trained on the cutouts of train that are not in the fold and
    watched on those of validation; where these are all in the fold, on the next fold.

    Parameters
    ----------
    cube : mapping of arrays
        cube, labels, channels; its labels are what training sees.
    split : pandas.DataFrame
        index, candid, image, set, and field where known.
    rng : numpy.random.Generator
        Deals the folds.
    folds : int
    experiment, seed, threads
        Of every training, see `otrain_core.networks.train.train_model`.

    Returns
    -------
    pandas.DataFrame
        index, candid, image, label, set, fold, score; rows of train and validation.

    Raises
    ------
    CubeError
        As `deal_folds` and `otrain_core.networks.train.train_model`.
    """
    labels = np.asarray(cube["labels"]).astype(int)
    split = split.assign(label=labels[split["index"].to_numpy(int)])
    fold = deal_folds(split, folds=folds, rng=rng)
    table = split.assign(fold=fold)[fold >= 0].reset_index(drop=True)
    score = np.full(len(table), np.nan)
    for number in range(folds):
        out = (table["fold"] == number).to_numpy()
        sets = table["set"].where(~out, "out").to_numpy(dtype=object)
        if not np.any(sets == "validation"):
            sets[(table["fold"] == (number + 1) % folds).to_numpy()] = "validation"
        dealt = table.assign(set=sets)
        model, _, _ = train_model(cube, dealt, experiment=experiment, seed=seed, threads=threads)
        score[out] = score_rows(model, cube, table.loc[out, "index"].to_numpy(int))
        log.info("label noise: fold %d of %d scored, %d cutouts", number + 1, folds, int(out.sum()))
    return table[["index", "candid", "image", "label", "set", "fold"]].assign(score=score)


def find_suspects(cube: Mapping[str, np.ndarray], scores: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """All cutouts of train and validation, most suspect label first (see `otrain_core.studies.confident.label_quality`).

    Parameters
    ----------
    cube : mapping
        For the columns ra, dec, mag and reason, as far as it has them.
    scores : pandas.DataFrame
        From `out_of_fold_scores`.

    Returns
    -------
    suspects : pandas.DataFrame
        rank (from 1), index, candid, image, label, set, fold, score, self_confidence, p_wrong,
        suspected (p_wrong above one half), and of the cube ra, dec [deg], mag, reason.
    record : dict
        n, n_suspected, n_suspected_false, n_suspected_true, and the rates of
        `otrain_core.studies.confident.probability_wrong`.
    """
    labels, values = scores["label"].to_numpy(), scores["score"].to_numpy(float)
    p_wrong, noise = probability_wrong(labels, values)
    suspects = scores.assign(
        self_confidence=np.where(labels == 1, values, 1 - values), p_wrong=p_wrong, suspected=p_wrong > SUSPECTED
    )
    rows = suspects["index"].to_numpy(int)
    for name, key in (("ra", "ra"), ("dec", "dec"), ("mag", "mags"), ("reason", "reasons")):
        if key in cube:
            suspects[name] = column(cube, key)[rows]
    order = np.argsort(label_quality(labels, values), kind="stable")
    suspects = suspects.iloc[order].reset_index(drop=True)
    suspects.insert(0, "rank", np.arange(1, len(suspects) + 1))
    found = suspects[suspects["suspected"]]
    return suspects, {
        "n": len(suspects),
        "n_suspected": len(found),
        "n_suspected_false": int(np.sum(found["label"] == 0)),
        "n_suspected_true": int(np.sum(found["label"] == 1)),
        **noise,
    }


def flip_trial(
    cube: Mapping[str, np.ndarray],
    split: pd.DataFrame,
    *,
    rng: np.random.Generator,
    options: LabelNoiseOptions,
    experiment: Experiment,
    seed: int,
    threads: int | None = None,
) -> dict[str, Any]:
    """What flipped labels of train and validation cost, and how many of them are found.

    Takes ``folds + 3`` trainings. Every model is scored on the test set with its own labels; the
    threshold comes from validation as the model knew it, flipped labels included.

    Parameters
    ----------
    cube, split, experiment, seed, threads
        As `out_of_fold_scores`.
    rng : numpy.random.Generator
        Draws the flips and deals the folds.
    options : LabelNoiseOptions
        ``folds``, and ``flip_fraction``, the share of the labels of train and validation that is flipped.

    Returns
    -------
    dict
        fraction; mcc_clean, mcc_flipped and mcc_cleaned (suspected labels left out), mcc_loss and
        mcc_loss_cleaned (against clean); found: the values of `otrain_core.studies.label_flips.measure_flips`;
        and the record of `find_suspects` as noise.
    """
    labels = np.asarray(cube["labels"])
    used = split.loc[split["set"].isin(USED_SETS), "index"].to_numpy(int)
    given, flipped = labels.copy(), np.zeros(len(labels), dtype=bool)
    given[used], flipped[used] = flip_labels(labels[used], rng, options.flip_fraction)
    noisy = {**cube, "labels": given}
    training: dict[str, Any] = {"experiment": experiment, "seed": seed, "threads": threads}
    scores = out_of_fold_scores(noisy, split, rng=rng, folds=options.folds, **training)
    suspects, noise = find_suspects(noisy, scores)
    quality = label_quality(suspects["label"].to_numpy(), suspects["score"].to_numpy())
    kept = split[~split["index"].isin(suspects.loc[suspects["suspected"], "index"])]
    mcc = {
        "clean": _test_mcc(cube, split, labels, **training),
        "flipped": _test_mcc(noisy, split, labels, **training),
        "cleaned": _test_mcc(noisy, kept, labels, **training),
    }
    return {
        "fraction": options.flip_fraction,
        "mcc_clean": mcc["clean"],
        "mcc_flipped": mcc["flipped"],
        "mcc_cleaned": mcc["cleaned"],
        "mcc_loss": mcc["clean"] - mcc["flipped"],
        "mcc_loss_cleaned": mcc["clean"] - mcc["cleaned"],
        "found": measure_flips(flipped[suspects["index"].to_numpy(int)], quality, suspects["suspected"].to_numpy()),
        "noise": noise,
    }


def _test_mcc(
    cube: Mapping[str, np.ndarray],
    split: pd.DataFrame,
    labels: np.ndarray,
    *,
    experiment: Experiment,
    seed: int,
    threads: int | None,
) -> float:
    """MCC on test against some labels, at a threshold from validation as the cube labels it."""
    model, _, _ = train_model(cube, split, experiment=experiment, seed=seed, threads=threads)
    rows = {name: split.loc[split["set"] == name, "index"].to_numpy(int) for name in ("validation", "test")}
    scores = {name: score_rows(model, cube, index) for name, index in rows.items()}
    threshold = best_threshold(
        np.asarray(cube["labels"])[rows["validation"]], scores["validation"], experiment.threshold
    )
    return metrics.rates(**metrics.confusion(labels[rows["test"]], scores["test"], threshold))["mcc"]


def suspect_gallery(
    cube: Mapping[str, np.ndarray],
    suspects: pd.DataFrame,
    *,
    n: int = 12,
    channels: Sequence[str] = ("difference", "science", "reference"),
) -> tuple[CutoutGallery, list[str]]:
    """The most suspect labels of each class, one line a candidate, one column a channel.

    Returns
    -------
    gallery : CutoutGallery
        To be drawn with ``plot(columns=len(channels))``.
    channels : list of str
        Those of `channels` that the cube has.
    """
    names = [str(name) for name in np.atleast_1d(cube["channels"])]
    shown = [name for name in channels if name in names] or names[:1]
    positions = [names.index(name) for name in shown]
    panels, captions, rows = {}, {}, {}
    for value, title in ((0, "labelled False"), (1, "labelled True")):
        worst = suspects[suspects["label"] == value].head(n)
        index = worst["index"].to_numpy(int)
        stack = np.asarray(cube["cube"][index][..., positions], dtype=np.float32)
        panels[title] = np.moveaxis(stack, -1, 1).reshape(-1, *stack.shape[1:3])
        captions[title] = [
            text for row in worst.itertuples() for text in (f"rank {row.rank}, score {row.score:.2f}", *shown[1:])
        ]
        rows[title] = index
    return CutoutGallery(panels, captions, rows), shown
