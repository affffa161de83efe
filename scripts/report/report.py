"""Write the report page of a run (step `report`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.plan.config import Config
    from otrain_core.report.report import report_files
    from otrain_core.results import TABLES

    report_files(
        page=snakemake.output.report,
        tables={name: snakemake.input[name] for name in TABLES},
        cubes=snakemake.params.cubes,
        runs=snakemake.params.runs,
        config=Config.model_validate(snakemake.params.config),
        rows=snakemake.params.rows,
        mlflow=snakemake.input.mlflow,
    )
