"""Suspected wrong labels: what a network says of cutouts whose images it was not trained on.

Real variables hide among False, and failed injections among True. Every cutout of train and
tune is scored by a network that saw none of its image; where a score contradicts its label, one
of the two is wrong. Test is never used, so that its labels stay a measure of everything else.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.cubes.inputs import column, input_blocks
from otrain_core.errors import CubeError
from otrain_core.evaluation import metrics
from otrain_core.figures.galleries import CutoutGallery
from otrain_core.networks.predict import score_cutouts
from otrain_core.networks.train import train_model

log = logging.getLogger("otrain")

RANKINGS = ("margin", "self-confidence", "p-wrong")
SUSPECTED = 0.5  # more probably wrong than right
USED_SETS = ("train", "tune")
_MAX_NOISE = 0.45  # labels wrong more often than this say nothing


def deal_folds(split: pd.DataFrame, *, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Fold of every cutout of train and tune, whole images together, classes balanced.

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
        raise CubeError(f"{folds} folds by image need {folds} images in train and tune, not {groups.nunique()}")
    dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=int(rng.integers(2**31)))
    fold = np.full(len(split), -1)
    rows = np.flatnonzero(used)
    for number, (_, out) in enumerate(dealer.split(part, part["label"], groups)):
        fold[rows[out]] = number
    return fold


def out_of_fold_scores(
    cube: dict[str, np.ndarray],
    split: pd.DataFrame,
    *,
    rng: np.random.Generator,
    seed: int,
    folds: int = 4,
    **training: Any,
) -> pd.DataFrame:
    """Score train and tune with networks that saw none of the image.

    One network for each fold, trained on the cutouts of train that are not in the fold and
    watched on those of tune; where these are all in the fold, on the next fold.

    Parameters
    ----------
    cube : dict of arrays
        cube, labels, channels; its labels are what training sees.
    split : pandas.DataFrame
        index, candid, image, set, and field where known.
    rng : numpy.random.Generator
        Deals the folds.
    seed : int
        Of every training.
    folds : int
    **training
        Options of `otrain_core.networks.train.train_model`.

    Returns
    -------
    pandas.DataFrame
        index, candid, image, label, set, fold, score; rows of train and tune.

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
        if not np.any(sets == "tune"):
            sets[(table["fold"] == (number + 1) % folds).to_numpy()] = "tune"
        model, _, _ = train_model(cube, table.assign(set=sets), seed=seed, **training)
        score[out] = score_rows(model, cube, table.loc[out, "index"].to_numpy(int), training)
        log.info("label noise: fold %d of %d scored, %d cutouts", number + 1, folds, int(out.sum()))
    return table[["index", "candid", "image", "label", "set", "fold"]].assign(score=score)


def score_rows(model, cube: Mapping[str, np.ndarray], rows: np.ndarray, training: Mapping[str, Any]) -> np.ndarray:
    inputs, size = training.get("inputs", ("difference",)), training.get("size")
    return score_cutouts(model, input_blocks(cube, inputs=inputs, size=size, rows=rows))


def confident_joint(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Estimated counts of given label against true label (Northcutt et al. 2021, confident learning).

    A cutout counts as of class j where its probability of j is at least the mean of that
    probability over all cutouts labelled j, the more probable class where both hold. Rows are then
    scaled to the number of cutouts with each given label.

    Parameters
    ----------
    labels, scores : array
        (N,) given labels, and probabilities of True out of fold.

    Returns
    -------
    numpy.ndarray
        float (2, 2), given label by row and true label by column.

    Raises
    ------
    CubeError
        One class only, or what `otrain_core.evaluation.metrics.check_scores` refuses.
    """
    given, scores = metrics.check_scores(labels, scores)
    if given.all() or not given.any():
        raise CubeError("suspected labels cannot be found in one class alone")
    probability = np.stack([1 - scores, scores], axis=1)
    bar = np.array([probability[~given, 0].mean(), probability[given, 1].mean()])
    sure = probability >= bar - 1e-9
    called = np.argmax(np.where(sure, probability, -1), axis=1)
    joint = np.zeros((2, 2))
    np.add.at(joint, (given[sure.any(axis=1)].astype(int), called[sure.any(axis=1)]), 1)
    joint = np.where(joint.sum(axis=1, keepdims=True) > 0, joint, np.eye(2))
    return joint * (np.bincount(given, minlength=2) / joint.sum(axis=1))[:, None]


def probability_wrong(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Probability that each label is wrong, were labels flipped at random within a class.

    With shares of wrong labels a = P(given True | False) and b = P(given False | True), the
    probability s of a given label True is q (1 - b) + (1 - q) a, where q is the probability of
    a true True (Natarajan et al. 2013). s is the out-of-fold score, calibrated to the given labels by a
    rising curve; a and b come from the confident joint. By Bayes' rule a label False is wrong with the
    probability q b / (q b + (1 - q) (1 - a)), a label True with (1 - q) a / ((1 - q) a + q (1 - b)).

    A network's own errors count as noise here: what it cannot know is suspected with the
    wrong labels, and the rates are upper limits.

    Returns
    -------
    p_wrong : numpy.ndarray
        float (N,).
    rates : dict
        false_called_true (a), true_called_false (b), n_wrong_false, n_wrong_true: estimated wrong
        labels among the given False and the given True.
    """
    from scipy.optimize import isotonic_regression

    given, scores = metrics.check_scores(labels, scores)
    joint = confident_joint(labels, scores)
    a, b = (min(float(joint[1 - k, k] / max(joint[:, k].sum(), 1e-9)), _MAX_NOISE) for k in (0, 1))
    # Targets drawn in, as for a calibration, would hide the rates where few labels are wrong.
    places, place = np.unique(scores, return_inverse=True)
    n = np.bincount(place)
    s = isotonic_regression(np.bincount(place, given) / n, weights=n).x[place]
    q = np.clip((s - a) / (1 - a - b), 0, 1)
    wrong = np.where(given, (1 - q) * a, q * b)
    right = np.where(given, q * (1 - b), (1 - q) * (1 - a))
    p_wrong = np.divide(wrong, wrong + right, out=np.zeros_like(wrong), where=wrong + right > 0)
    return p_wrong, {
        **{"false_called_true": a, "true_called_false": b},
        **{"n_wrong_false": float(joint[0, 1]), "n_wrong_true": float(joint[1, 0])},
    }


def label_quality(labels: np.ndarray, scores: np.ndarray, *, ranking: str = "margin") -> np.ndarray:
    """A number for every label, lowest where it is most suspect.

    Parameters
    ----------
    labels, scores : array
        (N,) given labels, and probabilities of True out of fold.
    ranking : {'margin', 'self-confidence', 'p-wrong'}
        Self-confidence is the probability of the given label. ``margin`` is that less its mean over
        the class, because a network may be less sure of one class: the order of the adjusted margin
        of Northcutt et al. 2021. ``p-wrong`` is 1 - `probability_wrong`, ties by self-confidence.

    Returns
    -------
    numpy.ndarray
        float (N,) in [-1, 1].

    Raises
    ------
    CubeError
        As `confident_joint`.
    """
    if ranking not in RANKINGS:
        raise ValueError(f"ranking must be one of {', '.join(RANKINGS)}, not {ranking!r}")
    given, scores = metrics.check_scores(labels, scores)
    own = np.where(given, scores, 1 - scores)
    if ranking == "self-confidence":
        return own
    if ranking == "margin":
        return own - np.where(given, own[given].mean(), own[~given].mean())
    p_wrong, _ = probability_wrong(labels, scores)
    return 1 - p_wrong - 1e-6 * (1 - own)


def find_suspects(
    cube: Mapping[str, np.ndarray], scores: pd.DataFrame, *, ranking: str = "margin"
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """All cutouts of train and tune, most suspect label first.

    Parameters
    ----------
    cube : mapping
        For the columns ra, dec, mag and reason, as far as it has them.
    scores : pandas.DataFrame
        From `out_of_fold_scores`.
    ranking : str
        See `label_quality`.

    Returns
    -------
    suspects : pandas.DataFrame
        rank (from 1), index, candid, image, label, set, fold, score, self_confidence, p_wrong,
        suspected (p_wrong above one half), and of the cube ra, dec [deg], mag, reason.
    record : dict
        ranking, n, n_suspected, n_suspected_false, n_suspected_true, and the rates of
        `probability_wrong`.
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
    order = np.argsort(label_quality(labels, values, ranking=ranking), kind="stable")
    suspects = suspects.iloc[order].reset_index(drop=True)
    suspects.insert(0, "rank", np.arange(1, len(suspects) + 1))
    found = suspects[suspects["suspected"]]
    return suspects, {
        **{"ranking": ranking, "n": len(suspects), "n_suspected": len(found)},
        **{f"n_suspected_{name}": int(np.sum(found["label"] == value)) for value, name in ((0, "false"), (1, "true"))},
        **noise,
    }


def suspect_gallery(
    cube: Mapping[str, np.ndarray],
    suspects: pd.DataFrame,
    *,
    n: int = 12,
    channels: Sequence[str] = ("difference", "science", "reference"),
) -> CutoutGallery:
    """The most suspect labels of each class, one line a candidate, one column a channel.

    Draw it with ``plot(columns=len(gallery.channels))``: those of `channels` that the cube has.
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
    gallery = CutoutGallery(panels, captions, rows)
    gallery.channels = shown
    return gallery
