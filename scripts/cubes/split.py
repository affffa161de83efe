"""Split a cube into training, validation and test sets (step `split`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.cubes.split import split_files
    from otrain_core.plan.config import SplitOptions

    split_files(
        cube=snakemake.input.cube,
        split=snakemake.output.split,
        random_split=snakemake.output.random_split,
        record=snakemake.output.record,
        seed=snakemake.params.seed,
        options=SplitOptions.model_validate(snakemake.params.options),
    )
