"""Score a cube with the shipped model (step `shipped`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.classify.shipped_scores import shipped_files

    shipped_files(cube=snakemake.input.cube, scores=snakemake.output.scores, threads=snakemake.threads)
