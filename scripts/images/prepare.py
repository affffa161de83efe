"""Clean one injected image: mask, background, noise (step `prepare`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.images.prepare import prepare_files
    from otrain_core.plan.pipelines import PrepareOptions
    from otrain_core.plan.telescopes import Detector

    prepare_files(
        injected=snakemake.input.injected,
        psf_record=snakemake.input.psf_record,
        prepared=snakemake.output.prepared,
        image=snakemake.wildcards.image,
        detector=Detector.model_validate(snakemake.params.detector),
        options=PrepareOptions.model_validate(snakemake.params.options),
    )
