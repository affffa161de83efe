"""Join the cutouts of randomly drawn telescopes, and split them by telescope (step `drawn`)."""

from otrain_core.jobs.job import job_logging

with job_logging(snakemake):
    from otrain_core.cubes.drawn import drawn_files
    from otrain_core.plan.config import CubeOptions
    from otrain_core.plan.pools import DRAWN

    drawn_files(
        stacks=snakemake.params.stacks,
        telescopes=snakemake.params.telescopes,
        sets=snakemake.params.sets,
        cube=snakemake.output.cube,
        real_stars=snakemake.output.drawn_stars,
        cube_record=snakemake.output.cube_record,
        split=snakemake.output.split,
        split_record=snakemake.output.split_record,
        name=DRAWN.split("/")[0],
        pipeline=DRAWN.split("/")[1],
        seed=snakemake.params.seed,
        max_per_class=snakemake.params.max_per_class,
        options=CubeOptions.model_validate(snakemake.params.options),
    )
