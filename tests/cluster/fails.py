"""A step that fails as a step of the workflow would: its traceback goes to the log of its rule."""

from pathlib import Path

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):  # noqa: F821
    if snakemake.resources.attempt in snakemake.params.fails_at:  # noqa: F821
        raise ValueError(f"no way through {snakemake.rule}")  # noqa: F821
    text = Path(snakemake.input[0]).read_text() + str(snakemake.resources.attempt)  # noqa: F821
    Path(snakemake.output[0]).write_text(text)  # noqa: F821
