"""Write one table of the paper as CSV and TeX, and its caption (step `paper_tables`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.paper.tables import tables_files

    tables_files(
        name=snakemake.wildcards.table,
        plan=snakemake.params.plan,
        table=snakemake.output.table,
        tex=snakemake.output.tex,
        caption=snakemake.output.caption,
    )
