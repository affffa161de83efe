"""Join the cutouts of all images of a telescope into one cube (step `cube`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.cubes.cube import cube_files
    from otrain_core.plan.config import CubeOptions

    cube_files(
        stacks=list(snakemake.params.stacks),
        cube=snakemake.output.cube,
        real_stars=snakemake.output.real_stars,
        record=snakemake.output.record,
        telescope=snakemake.wildcards.telescope,
        pipeline=snakemake.wildcards.pipeline,
        folder=snakemake.params.folder,
        labels=snakemake.input.labels or None,
        seed=snakemake.params.seed,
        options=CubeOptions.model_validate(snakemake.params.options),
    )
