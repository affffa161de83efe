"""Rule summary: gather the tables of a run: trainings, images, pipelines, artefacts, telescopes, experiments."""

from pathlib import Path

import numpy as np

from otrain_core import io
from otrain_core.evaluation.comparison import compare_pipelines, compare_telescopes, count_artefacts
from otrain_core.evaluation.experiments import compare_experiments, compare_pairs, read_trainings
from otrain_core.evaluation.summary import TABLES, build_quality, build_summary, quality_row


def main(
    *,
    cubes: list[str],
    images: dict[str, list[str]],
    runs: list[str],
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    root: str = "results",
    **tables: str,
) -> None:
    """Write the tables from what exists under `root`.

    Parameters
    ----------
    cubes : list of str
        telescope/pipeline of each cube.
    images : dict of str to list of str
        Names of the science images of each telescope.
    runs : list of str
        Folders of the trainings.
    bootstrap, confidence, seed
        Draws, confidence and seed of the intervals of experiments and pairs.
    **tables : str
        Files of all of `otrain_core.evaluation.summary.TABLES`.
    """
    rows = []
    for cube in cubes:
        telescope, pipeline = cube.split("/")
        for image in images.get(telescope, []):
            owners = [f"{telescope}/{pipeline}/{image}", f"{telescope}/sky/{image}"]
            rows.append(
                quality_row(
                    Path(root, cube, "images", image),
                    telescope=telescope,
                    pipeline=pipeline,
                    failures=[Path(root, "failures", owner) for owner in owners],
                    benchmarks=[Path(root, "benchmarks", owner) for owner in owners],
                )
            )
    quality = build_quality(rows)
    trainings, options = read_trainings(runs), {"draws": bootstrap, "confidence": confidence}
    made = {
        "summary": build_summary(runs),
        "quality": quality,
        "pipelines": compare_pipelines(quality),
        "artefacts": count_artefacts(quality, {cube: Path(root, cube) for cube in cubes}),
        "telescopes": compare_telescopes(quality),
        "experiments": compare_experiments(trainings, rng=np.random.default_rng(seed), **options),
        "mcnemar": compare_pairs(trainings, rng=np.random.default_rng(seed), **options),
    }
    for name in TABLES:
        io.write_table(tables[name], made[name])


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            cubes=list(snakemake.params.cubes),
            images=dict(snakemake.params.images),
            runs=list(snakemake.params.runs),
            bootstrap=snakemake.params.bootstrap,
            confidence=snakemake.params.confidence,
            seed=snakemake.params.seed,
            **dict(snakemake.output.items()),
        )
