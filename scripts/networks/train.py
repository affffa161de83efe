"""Train one network on one cube (steps `train` and `train_random`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.networks.train import train_files
    from otrain_core.plan.config import Experiment, FinetuneOptions
    from otrain_core.registry.live import live_run

    train_files(
        cube=snakemake.input.cube,
        split=snakemake.input.split,
        model=snakemake.output.model,
        history=snakemake.output.history,
        record=snakemake.output.record,
        experiment=Experiment.model_validate(snakemake.params.experiment),
        seed=int(snakemake.wildcards.seed),
        protocol=snakemake.params.protocol,
        code=snakemake.params.code,
        threads=snakemake.threads,
        live_run=live_run,
        finetune=FinetuneOptions.model_validate(snakemake.params.tuned["options"]) if snakemake.params.tuned else None,
    )
