"""Write a trained network as one ONNX file (step `export_onnx`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.networks.export_onnx import export_onnx_files

    export_onnx_files(
        cube=snakemake.input.cube,
        model=snakemake.input.model,
        train_record=snakemake.input.train_record,
        scores=snakemake.input.scores,
        metrics=snakemake.input.metrics,
        onnx=snakemake.output.onnx,
        seed=snakemake.params.seed,
        recipe=snakemake.params.recipe,
    )
