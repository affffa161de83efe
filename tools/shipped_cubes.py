"""Evaluate the shipped model on the cubes of a run: ``python -m tools.shipped_cubes RESULTS -o FOLDER [--labels 20 50] [--seeds 1 2]``.

Compares five models on the test images of every cube, which none of them has seen: a model trained on the cube (own), the
shipped model, the shipped model at a threshold from the labels of the validation set (rethresholded), the shipped model
fine-tuned with some labels of the set train (tuned), and a network trained from scratch on these labels. The decisions are
stored in RESULTS/shipped, those of the shipped model by its digest, so that scoring another shipped model takes only a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.cubes.cube_format import read_cube
from otrain_core.errors import OtrainError
from otrain_core.evaluation.bootstrap import draw_images, percentile_interval
from otrain_core.evaluation.metrics import rates
from otrain_core.io import read_table, write_json, write_table

DRAWS, CONFIDENCE, SIZE = 2000, 0.95, 32
COLUMNS = ["cube", "model", "n_labels", "seeds", "n_images", "n_true", "n_false", "mcc", "recall", "fpr"]
COLUMNS += [f"mcc_minus_{other}{end}" for other in ("own", "shipped") for end in ("", "_low", "_high")] + ["step"]


def decide(cube: Mapping[str, Any], split: pd.DataFrame, model: str, n: int, seed: int, name: str) -> pd.DataFrame:
    """Decisions of a model on the test cutouts of a cube: image, label, called, step (how far fine-tuning moved the weights)."""
    from otrain_core.networks import adapt
    from otrain_core.networks.predict import model_inputs
    from otrain_core.networks.train import train_model
    from otrain_core.plan.config import Config
    from otrain_core.studies import finetune, transfer

    experiment = Config().experiments["otrain2"].model_copy(update={"size": SIZE})
    labels, images = np.asarray(cube["labels"]).astype(int), transfer.image_names(cube, name.split("/")[0])
    validation, test = transfer.rows_of(split, "validation"), transfer.rows_of(split, "test")
    drawn, step = finetune.draw_labels(split, n, seed=seed) if n else np.empty(0, int), np.nan
    if model in ("own", "scratch"):
        left_out = (split["set"] == "train") & ~split["index"].isin(drawn) if n else np.zeros(len(split), bool)
        used = split.assign(set=split["set"].where(~left_out, "unused"))
        network = train_model(cube, used, experiment=experiment, seed=seed, threads=1)[0]
        threshold = transfer.validation_threshold(
            labels[validation], transfer.score_fitted(network, cube, validation), experiment.threshold
        )
    else:  # shipped: unchanged; rethresholded: only the threshold is new; tuned: fine-tuned weights
        network, classifier, trained_with = adapt.load_shipped()
        network = transfer.fit_to(network, min(cube["cube"].shape[1:3]))
        threshold = float(classifier.threshold)
        if model == "rethresholded":
            scores = transfer.score_fitted(network, cube, validation)
            threshold = transfer.validation_threshold(labels[validation], scores, "platt")
        if n:
            _, record = adapt.adapt(
                network,
                model_inputs(network, cube, drawn),
                labels[drawn],
                images[drawn],
                start=adapt.even_odds(threshold),
                seed=seed,
                options=Config().finetune,
                experiment=experiment.model_copy(update={"inputs": trained_with["inputs"]}),
            )
            threshold, step = 0.5, record["step"]
    score = transfer.score_fitted(network, cube, test)
    called = (score >= threshold).astype(int)
    return pd.DataFrame(
        {"image": images[test], "label": labels[test], "called": called, "score": score, "step": step, "row": test}
    )


def all_decisions(
    root: Path,
    labels: Sequence[int],
    seeds: Sequence[int],
    *,
    digest: str,
    decide: Callable[..., pd.DataFrame] = decide,
) -> pd.DataFrame:
    """Decisions on all cubes under a folder of results, stored or new: cube, model, n_labels, seed and the columns of `decide`."""
    cubes, tables = sorted(path.parent for path in root.glob("*/*/cube.npz")), []
    if not cubes:
        raise OtrainError(f"{root}: contains no cube (telescope/pipeline/cube.npz)")
    asked = [(n, seed, model) for n in sorted(labels) for seed in seeds for model in ("tuned", "scratch")]
    for n, seed, model in [(0, 0, "shipped"), (0, 0, "rethresholded"), *((0, seed, "own") for seed in seeds), *asked]:
        for folder in cubes:
            cube, split = read_cube(folder / "cube.npz", mmap=True), read_table(folder / "split.csv")
            name = f"{folder.parent.name}/{folder.name}"
            if n > np.sum(split["set"] == "train"):
                continue
            of = "any" if model in ("own", "scratch") else digest
            kept = root / "shipped" / f"{name.replace('/', '-')}-{model}-{n}-{seed}-{of}.csv"
            if not kept.is_file():
                kept.parent.mkdir(exist_ok=True)
                write_table(kept, decide(cube, split, model, n, seed, name))
            tables.append(read_table(kept).assign(cube=name, model=model, n_labels=n, seed=seed))
    return pd.concat(tables, ignore_index=True)


def counts(table: pd.DataFrame, images: np.ndarray) -> np.ndarray:
    """TP, FP, FN and TN of each image, averaged over seeds: float (images, 4)."""
    true, called = table["label"] == 1, table["called"] == 1
    cells = {"tp": true & called, "fp": ~true & called, "fn": true & ~called, "tn": ~true & ~called}
    return (pd.DataFrame(cells).groupby(table["image"]).sum() / table["seed"].nunique()).reindex(images).to_numpy(float)


def compare(decisions: pd.DataFrame, *, rng: np.random.Generator) -> pd.DataFrame:
    """MCC of every model on each cube and on all test images, and its difference from the models own and shipped.

    Intervals come from a bootstrap over whole images, with the same draws for both models; a cube with fewer than five test
    images has none. The counts of several seeds are averaged. Cubes with too few labels are left out for both models.
    """
    rows = []
    for name in ["all", *decisions["cube"].unique()]:
        part = decisions if name == "all" else decisions[decisions["cube"] == name]
        for (model, n), mine in part.groupby(["model", "n_labels"], sort=False):
            same = part[part["image"].isin(mine["image"])]
            images = np.unique(mine["image"])
            draws = draw_images(len(images), rng=rng, draws=DRAWS)
            own = counts(mine, images)
            total = own.sum(axis=0)
            row = {
                "cube": name,
                "model": model,
                "n_labels": n,
                "seeds": mine["seed"].nunique(),
                "n_images": len(images),
            }
            row |= {"n_true": round(total[0] + total[2]), "n_false": round(total[1] + total[3])}
            row |= {key: float(rates(*total)[key]) for key in ("mcc", "recall", "fpr")} | {"step": mine["step"].mean()}
            for other in ("own", "shipped"):
                if other == model:
                    continue
                theirs = counts(same[same["model"] == other], images)
                row[f"mcc_minus_{other}"] = row["mcc"] - float(rates(*theirs.sum(axis=0))["mcc"])
                spread = rates(*(draws @ own).T)["mcc"] - rates(*(draws @ theirs).T)["mcc"]
                low, high = percentile_interval(spread, CONFIDENCE)
                row[f"mcc_minus_{other}_low"], row[f"mcc_minus_{other}_high"] = low, high
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def main() -> None:
    from otrain_core.classify.shipped import shipped_digest
    from otrain_core.jobs.provenance import provenance

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of results with cubes and splits")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the table written")
    parser.add_argument("--labels", type=int, nargs="*", default=[50], help="numbers of labels for fine-tuning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    asked = parser.parse_args()
    digest = shipped_digest()[:8]
    made = all_decisions(asked.results, asked.labels, asked.seeds, digest=digest)
    write_table(asked.output / "shipped.csv", compare(made, rng=np.random.default_rng(1)))
    write_json(asked.output / "about.json", provenance() | {"shipped": digest, "confidence": CONFIDENCE})


if __name__ == "__main__":
    main()
