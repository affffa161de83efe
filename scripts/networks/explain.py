"""Draw Grad-CAM maps of one network's decisions on its test set (step `explain`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.figures.galleries import draw_grad_cam
    from otrain_core.networks.explain import explain_files
    from otrain_core.plan.config import ExplainOptions

    explain_files(
        model=snakemake.input.model,
        cube=snakemake.input.cube,
        scores=snakemake.input.scores,
        metrics=snakemake.input.metrics,
        gradcam=snakemake.output.gradcam,
        figure=snakemake.output.figure,
        draw=draw_grad_cam,
        options=ExplainOptions.model_validate(snakemake.params.options),
        seed=snakemake.params.seed,
        neighbours=snakemake.output.neighbours,
        record=snakemake.output.record,
    )
