"""Train the detector network on the images of one cube (step `train_finder`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.networks.train_finder import train_finder_files
    from otrain_core.plan.finder import FinderOptions
    from otrain_core.plan.pipelines import CrossmatchOptions
    from otrain_core.registry.live import live_run

    train_finder_files(
        cube=snakemake.params.cube,
        split=snakemake.input.split,
        onnx=snakemake.output.onnx,
        history=snakemake.output.history,
        record=snakemake.output.record,
        options=FinderOptions.model_validate(snakemake.params.options),
        crossmatch=CrossmatchOptions.model_validate(snakemake.params.crossmatch),
        seed=int(snakemake.wildcards.seed),
        code=snakemake.params.code,
        threads=snakemake.threads,
        live_run=live_run,
    )
