"""Detect candidates on the difference of one image (step `detect`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.candidates.detect import detect_files
    from otrain_core.classify.finder import load_finder
    from otrain_core.plan.pipelines import DetectOptions

    options = DetectOptions.model_validate(snakemake.params.options)
    detect_files(
        difference=snakemake.input.difference,
        psf=snakemake.input.psf,
        psf_record=snakemake.input.psf_record,
        subtract_record=snakemake.input.subtract_record,
        catalogue=snakemake.input.catalogue or None,
        candidates=snakemake.output.candidates,
        image=snakemake.wildcards.image,
        telescope=snakemake.wildcards.telescope,
        size=snakemake.params.size,
        wcs=snakemake.params.get("wcs"),
        options=options,
        finder=load_finder(options),
    )
