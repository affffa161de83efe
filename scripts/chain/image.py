"""Run all steps of one image, or of some images, in one process (step `image`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.chain.image import image_files
    from otrain_core.plan.chain import Chain

    image_files(
        chain=Chain.model_validate(snakemake.params.chain),
        steps=snakemake.output.steps,
        cache=snakemake.params.cache,
        log=snakemake.log[0],
    )
