"""Draw one figure of the paper from its small table (step `paper_figures`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.paper.figures import figures_files

    figures_files(
        figure=snakemake.wildcards.figure,
        table=snakemake.input.table,
        caption=snakemake.input.caption,
        pictures=list(snakemake.output),
    )
