"""Write the small table behind one figure of the paper, and its caption (step `paper_data`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.paper.data import data_files

    data_files(
        figure=snakemake.wildcards.figure,
        plan=snakemake.params.plan,
        table=snakemake.output.table,
        caption=snakemake.output.caption,
    )
