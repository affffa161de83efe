"""What was found in an archive, night by night (step `nights`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.night.nights import nights_files

    nights_files(
        records=list(snakemake.input.records),
        nights=snakemake.output.nights,
        images=snakemake.output.images,
    )
