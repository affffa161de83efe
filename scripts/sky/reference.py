"""Stack the reference frames of one field (step `reference`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.plan.telescopes import Detector
    from otrain_core.sky.reference import reference_files

    reference_files(
        frames=snakemake.params.frames,
        wcs=snakemake.params.wcs,
        reference=snakemake.output.reference,
        record=snakemake.output.record,
        detector=Detector.model_validate(snakemake.params.detector),
        field=snakemake.wildcards.field,
    )
