"""Cut stamps around the candidates of one image (step `cutouts`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.candidates.cutouts import cutouts_files
    from otrain_core.plan.pipelines import CutoutsOptions

    cutouts_files(
        labelled=snakemake.input.labelled,
        difference=snakemake.input.difference,
        psf=snakemake.input.psf,
        psf_record=snakemake.input.psf_record,
        subtract_record=snakemake.input.subtract_record,
        cutouts=snakemake.output.cutouts,
        telescope=snakemake.wildcards.telescope,
        pipeline=snakemake.wildcards.pipeline,
        image=snakemake.wildcards.image,
        field=snakemake.params.field,
        options=CutoutsOptions.model_validate(snakemake.params.options),
    )
