"""Search some images of an archive (step `archive`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.night.archive import archive_files
    from otrain_core.plan.archive import ArchiveOptions

    archive_files(
        images=snakemake.params.images,
        folder="results/archive",
        record=snakemake.output.record,
        options=ArchiveOptions.model_validate(snakemake.params.options),
    )
