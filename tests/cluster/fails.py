"""A step that fails as a step of the workflow would: its traceback goes to the log of its rule."""

from otrain_core.job import job_logging

with job_logging(snakemake):  # noqa: F821
    raise ValueError(f"no way through {snakemake.rule}")  # noqa: F821
