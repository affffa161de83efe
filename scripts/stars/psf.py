"""Measure the PSF of one science image (step `psf`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.plan.pipelines import PsfOptions
    from otrain_core.plan.telescopes import Detector
    from otrain_core.stars.psf import psf_files

    psf_files(
        science=snakemake.params.science,
        psf=snakemake.output.psf,
        record=snakemake.output.record,
        catalogue=snakemake.input.get("catalogue"),
        image=snakemake.wildcards.image,
        detector=Detector.model_validate(snakemake.params.detector),
        wcs=snakemake.params.wcs,
        options=PsfOptions.model_validate(snakemake.params.options),
        needs_wcs=snakemake.params.needs_wcs,
        cutout_size=snakemake.params.cutout_size,
    )
