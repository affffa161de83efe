"""Score one model on the test sets of all cubes of the run (step `transfer`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.plan.config import EvaluateOptions
    from otrain_core.studies.transfer import transfer_files

    transfer_files(
        model=snakemake.input.model,
        cube=snakemake.input.cube,
        split=snakemake.input.split,
        target_cubes=list(snakemake.input.target_cubes),
        target_splits=list(snakemake.input.target_splits),
        table=snakemake.output.table,
        source=f"{snakemake.wildcards.telescope}/{snakemake.wildcards.pipeline}",
        targets=snakemake.params.targets,
        experiment=snakemake.wildcards.experiment,
        seed=int(snakemake.wildcards.seed),
        rule=snakemake.params.threshold_rule,
        evaluate=EvaluateOptions.model_validate(snakemake.params.evaluate),
        guard=snakemake.params.guard,
    )
