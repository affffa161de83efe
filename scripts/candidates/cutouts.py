"""Cut stamps around the candidates of one image."""

from typing import Any

from otrain_core.arrays import write_arrays
from otrain_core.candidates.cutouts import make_cutouts
from otrain_core.candidates.measure import difference_psf
from otrain_core.images.frames import read_planes
from otrain_core.io import raise_if_failed, read_json, read_table
from otrain_core.stars.psf_model import PSFModel


def main(
    *,
    labelled: str,
    difference: str,
    psf: str,
    psf_record: str,
    subtract_record: str,
    cutouts: str,
    telescope_name: str,
    pipeline: str,
    image: str,
    options: dict[str, Any],
) -> None:
    """Read the labelled candidates, the planes of the difference and its PSF, write the stack of cutouts."""
    planes, _ = read_planes(difference, image=image)
    record = read_json(psf_record)
    raise_if_failed(psf)
    model, _ = difference_psf(PSFModel.load(psf), record["seeing_px"], read_json(subtract_record))
    arrays = make_cutouts(
        read_table(labelled),
        planes,
        image=image,
        psf=model,
        pixel_scale=record["pixel_scale"],
        telescope=telescope_name,
        pipeline=pipeline,
        **options,
    )
    write_arrays(cutouts, arrays)


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            labelled=snakemake.input.labelled,
            difference=snakemake.input.difference,
            psf=snakemake.input.psf,
            psf_record=snakemake.input.psf_record,
            subtract_record=snakemake.input.subtract_record,
            cutouts=snakemake.output.cutouts,
            telescope_name=snakemake.wildcards.telescope,
            pipeline=snakemake.wildcards.pipeline,
            image=snakemake.wildcards.image,
            options=snakemake.params.options,
        )
