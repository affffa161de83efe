"""Gather the tables of a run: trainings, images, pipelines, artefacts, telescopes, experiments (step `summary`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.evaluation.summary import summary_files
    from otrain_core.plan.config import EvaluateOptions

    summary_files(
        cubes=snakemake.params.cubes,
        images=snakemake.params.images,
        runs=snakemake.params.runs,
        tables=dict(snakemake.output.items()),
        options=EvaluateOptions.model_validate(snakemake.params.options),
        seed=snakemake.params.seed,
    )
