"""Import every training into the MLflow store and name the champions (step `track`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.plan.config import GateOptions
    from otrain_core.registry.track import track_files

    track_files(
        runs=list(snakemake.params.runs),
        store=snakemake.params.store,
        record=snakemake.output.record,
        gate=GateOptions.model_validate(snakemake.params.gate),
        studies=list(snakemake.input.studies),
    )
