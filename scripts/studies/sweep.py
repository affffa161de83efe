"""Gather the trainings of one study into a table and a figure (step `sweep`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.studies.sweep import sweep_files

    sweep_files(
        rows=snakemake.params.rows,
        table=snakemake.output.table,
        figure=snakemake.output.figure,
    )
