"""Star catalogue and known objects of one simulated image (step `simulated_catalogue`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.sky.simulated_catalogue import simulated_catalogue_files

    simulated_catalogue_files(
        science=snakemake.input.science,
        truth=snakemake.input.truth,
        catalogue=snakemake.output.catalogue,
        known=snakemake.output.known,
        telescope=snakemake.wildcards.telescope,
        image=snakemake.wildcards.image,
        beta=snakemake.params.beta,
        seed=snakemake.params.seed,
    )
