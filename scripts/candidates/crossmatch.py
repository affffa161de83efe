"""Label the candidates of one image by its injected sources (step `crossmatch`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.candidates.crossmatch import crossmatch_files
    from otrain_core.plan.pipelines import CrossmatchOptions

    crossmatch_files(
        candidates=snakemake.input.candidates,
        injected=snakemake.input.injected,
        psf_record=snakemake.input.psf_record,
        subtract_record=snakemake.input.subtract_record,
        known=snakemake.input.known or None,
        sky_truth=snakemake.input.sky_truth or None,
        labelled=snakemake.output.labelled,
        record=snakemake.output.record,
        image=snakemake.wildcards.image,
        options=CrossmatchOptions.model_validate(snakemake.params.options),
    )
