"""Score a cube with a trained network and measure it (step `evaluate`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.evaluation.evaluate import evaluate_files
    from otrain_core.networks.architecture import load_model
    from otrain_core.networks.predict import score_cube, score_real_stars
    from otrain_core.plan.config import EvaluateOptions

    evaluate_files(
        **dict(snakemake.input.items()),
        **dict(snakemake.output.items()),
        load_model=load_model,
        score_cube=score_cube,
        score_real_stars=score_real_stars,
        options=EvaluateOptions.model_validate(snakemake.params.options),
        threshold_rule=snakemake.params.threshold_rule,
        protocol=snakemake.params.protocol,
        experiment_name=snakemake.wildcards.experiment,
        seed=int(snakemake.wildcards.seed),
    )
