"""A step that fails as a step of the workflow would: its traceback goes to the log of its rule."""

from pathlib import Path

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    if snakemake.resources.attempt in snakemake.params.fails_at:
        raise ValueError(f"no way through {snakemake.rule}")
    text = Path(snakemake.input[0]).read_text() + str(snakemake.resources.attempt)
    Path(snakemake.output[0]).write_text(text)
