"""Join the cubes and splits of several telescopes under one pipeline (step `pool`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.cubes.pool import pool_files

    pool_files(
        cubes=list(snakemake.input.cubes),
        splits=list(snakemake.input.splits),
        records=list(snakemake.input.records),
        real_stars=list(snakemake.input.real_stars),
        cube=snakemake.output.cube,
        split=snakemake.output.split,
        cube_record=snakemake.output.cube_record,
        split_record=snakemake.output.split_record,
        pooled_stars=snakemake.output.pooled_stars,
        telescopes=snakemake.params.telescopes,
        name=snakemake.wildcards.telescope,
        pipeline=snakemake.wildcards.pipeline,
        seed=snakemake.params.seed,
        channels=snakemake.params.channels,
    )
