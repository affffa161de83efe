"""Judge the detector networks of one cube on its test images (step `finder`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.figures.finder import TABLES
    from otrain_core.plan.config import EvaluateOptions
    from otrain_core.plan.finder import FinderOptions
    from otrain_core.plan.pipelines import CrossmatchOptions
    from otrain_core.studies.finder import finder_study_files

    finder_study_files(
        cube=snakemake.params.cube,
        split=snakemake.input.split,
        finders=dict(zip(snakemake.params.seeds, snakemake.input.finders, strict=True)),
        classifier=snakemake.input.classifier,
        tables={name: snakemake.output[name] for name in TABLES},
        figure=snakemake.output.figure,
        options=FinderOptions.model_validate(snakemake.params.options),
        evaluate=EvaluateOptions.model_validate(snakemake.params.evaluate),
        crossmatch=CrossmatchOptions.model_validate(snakemake.params.crossmatch),
        seed=snakemake.params.seed,
    )
