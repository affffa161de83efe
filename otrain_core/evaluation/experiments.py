"""Comparison of the experiments of a run: metrics and costs of each, and every pair on the same cutouts.

Only files of the trainings are read. All intervals are over images, as in
`otrain_core.evaluation.bootstrap`, with the same images drawn for all seeds and for both experiments of a pair.
Pipelines of one telescope share its images: an image is drawn for all of them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.evaluation import metrics
from otrain_core.evaluation.bootstrap import counts_intervals, draw_images, hull, percentile_interval
from otrain_core.evaluation.thresholds import best_threshold
from otrain_core.results import number, read_record, read_scores, run_keys

POOLED = "all"  # telescope and pipeline of the rows over all cubes
GROUP = ("telescope", "pipeline", "protocol", "experiment")
COSTS = ("n_parameters", "flops_per_cutout", "cpu_seconds", "cutouts_per_second")
EXPERIMENT_COLUMNS = (
    *GROUP,
    "cubes",
    "seeds",
    "n_test",
    "n_images",
    "errors",
    "error_rate",
    "error_rate_low",
    "error_rate_high",
    "mcc",
    "mcc_low",
    "mcc_high",
    "mcc_sd",
    "recall",
    "fpr",
    "mcc_tuned_on_test",
    *COSTS,
)
PAIR_COLUMNS = (
    *GROUP,
    "other",
    "cubes",
    "seeds",
    "n",
    "n_images",
    "errors",
    "errors_other",
    "error_ratio",
    "error_ratio_low",
    "error_ratio_high",
    "only_experiment_wrong",
    "only_other_wrong",
    "p_value",
)


@dataclass(frozen=True)
class Training:
    """Decisions of one training on the cutouts of its test set.

    Attributes
    ----------
    cube : tuple of str
        telescope, pipeline.
    protocol, experiment : str
    seed : int
    cutouts : pandas.DataFrame
        image (with its telescope), label, called and called_tuned (bool); the index is the name of the
        cutout. called_tuned is the decision with a threshold set on these cutouts themselves.
    costs : dict
        `COSTS`, NaN if not recorded.
    """

    cube: tuple[str, str]
    protocol: str
    experiment: str
    seed: int
    cutouts: pd.DataFrame
    costs: dict[str, float]

    @property
    def key(self) -> tuple:
        """cube, protocol, experiment, seed."""
        return self.cube, self.protocol, self.experiment, self.seed


def read_training(folder: str | Path) -> Training | None:
    """Read one training from scores.csv, metrics.json (threshold) and train.json; None if it is not finished."""
    keys, record, table = run_keys(folder), read_record(Path(folder) / "metrics.json"), read_scores(folder)
    threshold = number(record.get("headline") or {}, "threshold")
    if table is None or not np.isfinite(threshold):
        return None
    table = table[table["set"] == record.get("scored_set", "test")]
    if table.empty:
        return None
    label, score = table["label"].to_numpy() == 1, table["score"].to_numpy(float)
    tuned = threshold
    if label.any() and not label.all():
        tuned = best_threshold(label, score, record["threshold_rule"])
    cutouts = pd.DataFrame(
        {
            "image": f"{keys['telescope']}:" + table["image"].astype(str),
            "label": label,
            "called": score >= threshold,
            "called_tuned": score >= tuned,
        }
    )
    names = table["candid"] if table["candid"].is_unique else table["index"]
    cutouts.index = f"{keys['telescope']}/{keys['pipeline']}:" + names.astype(str)
    train = read_record(Path(folder) / "train.json")
    return Training(
        cube=(keys["telescope"], keys["pipeline"]),
        protocol=keys["protocol"],
        experiment=keys["experiment"],
        seed=keys["seed"],
        cutouts=cutouts,
        costs={name: number(train, name) for name in COSTS},
    )


def read_trainings(folders: Iterable[str | Path]) -> list[Training]:
    """Read all trainings that are finished, in the order given."""
    return [training for folder in folders if (training := read_training(folder)) is not None]


def compare_experiments(
    trainings: Sequence[Training], *, rng: np.random.Generator, draws: int, confidence: float
) -> pd.DataFrame:
    """Metrics and costs of the experiments on each cube and on all cubes together, over all seeds.

    Parameters
    ----------
    trainings : sequence of Training
    rng, draws, confidence
        For the bootstrap over images.

    Returns
    -------
    pandas.DataFrame
        `EXPERIMENT_COLUMNS`. cubes and seeds are their numbers; for all cubes together only those seeds count that
        the experiment has on every cube on which it was trained. n_test is the number of scored cutouts;
        errors, rates and costs are means over seeds (costs also over cubes). Intervals are those of
        the mean, as in `otrain_core.evaluation.bootstrap.bootstrap_intervals`, with the intervals from counts averaged
        over seeds. mcc_sd is the standard deviation over seeds, NaN for one seed. mcc_tuned_on_test is the MCC
        with a threshold set on the scored cutouts themselves. cpu_seconds [s] are those of one training.
    """
    rows = []
    for protocol, experiment in dict.fromkeys((t.protocol, t.experiment) for t in trainings):
        for cube, parts in _by_cube(trainings, protocol, experiment):
            tables = [pd.concat([training.cutouts for (training,) in seed]) for seed in parts]
            images = _images(tables)
            counts = np.stack([_counts(table, images) for table in tables], axis=1)  # images, seeds, cells
            drawn = np.tensordot(
                draw_images(len(images), rng=rng, draws=draws).astype(float), counts, axes=1
            )  # draws, seeds, cells
            rates, sample = (metrics.rates(*np.moveaxis(cells, -1, 0)) for cells in (counts.sum(axis=0), drawn))
            tuned = np.stack([_counts(table, images, "called_tuned").sum(axis=0) for table in tables])
            row: dict[str, Any] = dict(zip(GROUP, (*cube, protocol, experiment), strict=True))
            row |= {"cubes": len(parts[0]), "seeds": len(parts), "n_images": len(images)}
            row |= {"n_test": len(tables[0]), "errors": counts[..., 1:3].sum() / len(parts)}
            row["error_rate"] = 1 - rates["accuracy"].mean()
            counted = [counts_intervals(tp, fp, fn, tn, confidence) for tp, fp, fn, tn in counts.sum(axis=0)]
            low, high = np.mean([of["accuracy"] for of in counted], axis=0)
            row |= _interval("error_rate", 1 - sample["accuracy"].mean(axis=-1), confidence, (1 - high, 1 - low))
            row |= {name: rates[name].mean() for name in ("mcc", "recall", "fpr")}
            ends = tuple(np.mean([of["mcc"] for of in counted], axis=0))
            row |= _interval("mcc", sample["mcc"].mean(axis=-1), confidence, ends)
            row["mcc_sd"] = np.std(rates["mcc"], ddof=1) if len(parts) > 1 else np.nan
            row["mcc_tuned_on_test"] = metrics.rates(*tuned.T)["mcc"].mean()
            for name in COSTS:
                row[name] = np.mean([training.costs[name] for seed in parts for (training,) in seed])
            rows.append(row)
    return _in_order(pd.DataFrame(rows, columns=list(EXPERIMENT_COLUMNS)), trainings)


def compare_pairs(
    trainings: Sequence[Training], *, rng: np.random.Generator, draws: int, confidence: float
) -> pd.DataFrame:
    """Compare every pair of experiments on the same cutouts, on each cube and on all cubes together.

    Trainings with the same seed are paired. p_value is that of the exact test of McNemar 1947, whose null hypothesis
    is that, of the cutouts that only one of the two gets wrong, each has the same number. All seeds
    share the cutouts, so their counts are not independent and must not be added:
    the largest p over seeds is given. The test assumes independent cutouts; error_ratio_low and _high
    do not, because they come from draws of whole images.

    Parameters
    ----------
    trainings : sequence of Training
        A training without a partner of the same seed is left out.
    rng, draws, confidence
        For the bootstrap over images.

    Returns
    -------
    pandas.DataFrame
        `PAIR_COLUMNS`. n is the number of cutouts on which both were scored; errors and counts are means over seeds;
        error_ratio is errors / errors_other, NaN if the other makes no errors.
    """
    rows = []
    for protocol in dict.fromkeys(t.protocol for t in trainings):
        names = list(dict.fromkeys(t.experiment for t in trainings if t.protocol == protocol))
        for place, experiment in enumerate(names):
            for other in names[:place]:
                for cube, parts in _by_cube(trainings, protocol, experiment, other):
                    tables = [table for seed in parts if len(table := _paired(seed))]
                    if not tables:
                        continue
                    images = _images(tables)
                    by_image = np.sum([_errors(table, images) for table in tables], axis=0) / len(tables)
                    errors, drawn = by_image.sum(axis=0), draw_images(len(images), rng=rng, draws=draws) @ by_image
                    only = np.array([_discordant(table) for table in tables])
                    row: dict[str, Any] = dict(zip(GROUP, (*cube, protocol, experiment), strict=True))
                    row |= {"other": other, "cubes": len(parts[0]), "seeds": len(tables)}
                    row |= {"n": round(np.mean([len(table) for table in tables])), "n_images": len(images)}
                    row |= {"errors": errors[0], "errors_other": errors[1], "error_ratio": _ratio(*errors)}
                    row |= _interval("error_ratio", _ratio(*drawn.T), confidence)
                    row |= dict(zip(("only_experiment_wrong", "only_other_wrong"), only.mean(axis=0), strict=True))
                    row["p_value"] = max(_mcnemar(int(ours), int(theirs)) for ours, theirs in only)
                    rows.append(row)
    return _in_order(pd.DataFrame(rows, columns=list(PAIR_COLUMNS)), trainings)


def _mcnemar(ours: int, theirs: int) -> float:
    """Two-sided binomial p of a split at least as unequal as `ours` to `theirs`; 1 if both are 0."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(ours, theirs), ours + theirs, 0.5))) if ours + theirs else 1.0


def _by_cube(
    trainings: Sequence[Training], protocol: str, *experiments: str
) -> Iterator[tuple[tuple[str, str], list[list[tuple[Training, ...]]]]]:
    """Trainings of some experiments by seed and cube, for each cube and for all cubes together.

    Only seeds that all of the experiments have are used; for all cubes together, only those that every cube has.
    """
    found = {training.key: training for training in trainings}
    seeds = {}
    for cube in dict.fromkeys(t.cube for t in trainings):
        mine = [{key[3] for key in found if key[:3] == (cube, protocol, name)} for name in experiments]
        if shared := set.intersection(*mine):
            seeds[cube] = shared
    groups = [(cube, [cube], shared) for cube, shared in seeds.items()]
    if len(seeds) > 1:
        groups.append(((POOLED, POOLED), list(seeds), set.intersection(*seeds.values())))
    for name, cubes, shared in groups:
        if shared:
            yield (
                name,
                [
                    [tuple(found[cube, protocol, experiment, seed] for experiment in experiments) for cube in cubes]
                    for seed in sorted(shared)
                ],
            )


def _paired(seed: list[tuple[Training, ...]]) -> pd.DataFrame:
    """image, wrong and wrong_other of the cutouts on which both trainings of a seed were scored."""
    ours, theirs = (pd.concat([pair[k].cutouts for pair in seed]) for k in (0, 1))
    both = ours[["image"]].assign(wrong=ours["called"] != ours["label"])
    return both.join((theirs["called"] != theirs["label"]).rename("wrong_other"), how="inner")


def _errors(table: pd.DataFrame, images: np.ndarray) -> np.ndarray:
    """Errors of the two experiments in every image, (images, 2)."""
    errors = np.zeros((len(images), 2))
    places = np.searchsorted(images, table["image"].to_numpy(str))
    np.add.at(errors, places, table[["wrong", "wrong_other"]].to_numpy(float))
    return errors


def _discordant(table: pd.DataFrame) -> tuple[int, int]:
    """Number of cutouts that only the first gets wrong, and that only the other does."""
    wrong, other = table["wrong"].to_numpy(bool), table["wrong_other"].to_numpy(bool)
    return int(np.sum(wrong & ~other)), int(np.sum(other & ~wrong))


def _images(tables: list[pd.DataFrame]) -> np.ndarray:
    return np.unique(np.concatenate([table["image"].unique() for table in tables]))


def _counts(table: pd.DataFrame, images: np.ndarray, called: str = "called") -> np.ndarray:
    """Counts tp, fp, fn, tn of every image, (images, 4)."""
    counts = np.zeros((len(images), 4))
    cell = 2 * ~table[called].to_numpy() + ~table["label"].to_numpy()
    np.add.at(counts, (np.searchsorted(images, table["image"].to_numpy(str)), cell.astype(int)), 1)
    return counts


def _interval(
    name: str, sample: np.ndarray, confidence: float, counted: tuple[float, float] = (np.nan, np.nan)
) -> dict[str, float]:
    """Percentile interval, extended to contain the interval from counts, as two columns."""
    low, high = hull(percentile_interval(sample, confidence), counted)
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


def _ratio(part: Any, whole: Any) -> Any:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(np.asarray(whole) > 0, np.divide(part, whole), np.nan)
    return float(ratio) if ratio.ndim == 0 else ratio


def _in_order(table: pd.DataFrame, trainings: Sequence[Training]) -> pd.DataFrame:
    """Sort the rows by cube, with those of all cubes last."""
    rank = {cube: place for place, cube in enumerate(dict.fromkeys(t.cube for t in trainings))}
    cubes = zip(table["telescope"], table["pipeline"], strict=True)
    order = np.argsort([rank.get(cube, len(rank)) for cube in cubes], kind="stable")
    return table.iloc[order].reset_index(drop=True)
