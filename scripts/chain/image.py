"""Run all steps of one or more images in one process (step `image`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.chain.image import image_files
    from otrain_core.classify.finder import load_finder
    from otrain_core.plan.chain import Chain

    chain = Chain.model_validate(snakemake.params.chain)
    image_files(
        chain=chain,
        steps=snakemake.output.steps,
        cache=snakemake.params.cache,
        log=snakemake.log[0],
        finder=load_finder(chain.pipeline.detect),
    )
