"""Deal the candidates of a cube to train, validation and test (step `split`)."""

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
