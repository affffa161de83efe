"""Align the reference of an image and subtract it (step `subtract`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from functools import partial

    from otrain_core.images.subtract import subtract_files
    from otrain_core.plan.pipelines import PsfOptions, SubtractOptions
    from otrain_core.plan.telescopes import Detector
    from otrain_core.stars.removed_stars import remove_stars

    subtract_files(
        prepared=snakemake.input.prepared,
        psf_record=snakemake.input.psf_record,
        reference=snakemake.params.reference,
        difference=snakemake.output.difference,
        record=snakemake.output.record,
        image=snakemake.wildcards.image,
        detector=Detector.model_validate(snakemake.params.detector),
        wcs=snakemake.params.wcs,
        injected=snakemake.input.injected,
        options=SubtractOptions.model_validate(snakemake.params.options),
        remove_stars=partial(remove_stars, options=PsfOptions.model_validate(snakemake.params.psf_options)),
    )
