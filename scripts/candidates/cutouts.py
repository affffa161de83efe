"""Cut stamps around the candidates of one image."""

from typing import Any

from otrain_core.candidates.cutouts import make_cutouts
from otrain_core.candidates.measure import difference_psf
from otrain_core.io import raise_if_failed, read_json, read_planes, read_table, write_arrays
from otrain_core.stars.psf import PSFModel


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

    with job_logging(snakemake):  # noqa: F821
        main(
            labelled=snakemake.input.labelled,  # noqa: F821
            difference=snakemake.input.difference,  # noqa: F821
            psf=snakemake.input.psf,  # noqa: F821
            psf_record=snakemake.input.psf_record,  # noqa: F821
            subtract_record=snakemake.input.subtract_record,  # noqa: F821
            cutouts=snakemake.output.cutouts,  # noqa: F821
            telescope_name=snakemake.wildcards.telescope,  # noqa: F821
            pipeline=snakemake.wildcards.pipeline,  # noqa: F821
            image=snakemake.wildcards.image,  # noqa: F821
            options=snakemake.params.options,  # noqa: F821
        )
