"""Fetch the reference of one image from a sky survey (step `survey_reference`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.plan.telescopes import Detector
    from otrain_core.sky.survey_reference import survey_reference_files

    survey_reference_files(
        science=snakemake.params.science,
        reference=snakemake.output.reference,
        image=snakemake.wildcards.image,
        detector=Detector.model_validate(snakemake.params.detector),
        wcs=snakemake.params.wcs,
        hips=snakemake.params.hips,
        cache=snakemake.params.cache,
    )
