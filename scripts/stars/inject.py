"""Inject point sources into one science image as it came (step `inject`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.plan.pipelines import InjectOptions
    from otrain_core.plan.telescopes import Detector
    from otrain_core.stars.inject import inject_files

    inject_files(
        science=snakemake.params.science,
        psf=snakemake.input.psf,
        record=snakemake.input.record,
        injected=snakemake.output.injected,
        truth=snakemake.output.truth,
        telescope=snakemake.wildcards.telescope,
        image=snakemake.wildcards.image,
        detector=Detector.model_validate(snakemake.params.detector),
        wcs=snakemake.params.wcs,
        seed=snakemake.params.seed,
        options=InjectOptions.model_validate(snakemake.params.options),
    )
