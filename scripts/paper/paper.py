"""Write claims, captions and page of the reproduction of the paper (step `paper`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.paper.paper import paper_files

    paper_files(
        plan=snakemake.params.plan,
        page=snakemake.output.page,
        claims=snakemake.output.claims,
        captions=snakemake.output.captions,
        about=snakemake.output.about,
        comparison=snakemake.output.comparison,
    )
