"""Star catalogue and known objects of the field of one image (steps `catalogue` and `fetch_catalogue`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.plan.telescopes import Detector
    from otrain_core.sky.catalogue import catalogue_files

    catalogue_files(
        science=snakemake.params.science,
        catalogue=snakemake.output.catalogue,
        known=snakemake.output.known,
        image=snakemake.wildcards.image,
        detector=Detector.model_validate(snakemake.params.detector),
        wcs=snakemake.params.wcs,
        source=snakemake.params.source,
        known_source=snakemake.params.known_source,
        cache=snakemake.params.cache,
    )
