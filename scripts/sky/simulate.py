"""Simulate the science image and the reference of one field (step `simulate`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.plan.telescopes import Telescope
    from otrain_core.sky.simulate import simulate_files

    simulate_files(
        science=snakemake.output.science,
        reference=snakemake.output.reference,
        truth=snakemake.output.truth,
        telescope=Telescope.model_validate(snakemake.params.telescope),
        image=snakemake.wildcards.image,
        index=snakemake.params.index,
        seed=snakemake.params.seed,
    )
