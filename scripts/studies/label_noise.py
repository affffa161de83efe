"""Rank suspected wrong labels of a cube by scores out of fold, and draw the worst (step `label_noise`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.plan.config import Experiment, LabelNoiseOptions
    from otrain_core.studies.label_noise import label_noise_files

    label_noise_files(
        cube=snakemake.input.cube,
        split=snakemake.input.split,
        suspects=snakemake.output.suspects,
        figure=snakemake.output.figure,
        record=snakemake.output.record,
        experiment=Experiment.model_validate(snakemake.params.experiment),
        options=LabelNoiseOptions.model_validate(snakemake.params.options),
        seed=snakemake.params.seed,
        threads=snakemake.threads,
    )
