"""Fine-tune a model on a telescope that it never saw, with ever more labels (step `finetune`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.plan.config import EvaluateOptions, Experiment, FinetuneOptions
    from otrain_core.studies.finetune import finetune_files

    finetune_files(
        model=snakemake.input.get("model") or None,
        source_cube=snakemake.input.get("source_cube") or None,
        source_split=snakemake.input.get("source_split") or None,
        cube=snakemake.input.cube,
        split=snakemake.input.split,
        table=snakemake.output.table,
        source=snakemake.params.source,
        target=f"{snakemake.wildcards.telescope}/{snakemake.wildcards.pipeline}",
        experiment_name=snakemake.wildcards.experiment,
        experiment=Experiment.model_validate(snakemake.params.experiment),
        seed=int(snakemake.wildcards.seed),
        sizes=snakemake.params.sizes,
        options=FinetuneOptions.model_validate(snakemake.params.options),
        evaluate=EvaluateOptions.model_validate(snakemake.params.evaluate),
        guard=snakemake.params.guard,
        threads=snakemake.threads,
    )
