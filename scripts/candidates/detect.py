"""Detect candidates on the difference image of one image."""

from typing import Any

from otrain_core.candidates.detect import detect_candidates
from otrain_core.candidates.measure import difference_psf
from otrain_core.errors import ImageError
from otrain_core.images.frames import image_wcs, read_planes
from otrain_core.io import raise_if_failed, read_json, read_table, write_table
from otrain_core.stars.psf_model import PSFModel


def main(
    *,
    difference: str,
    psf: str,
    psf_record: str,
    candidates: str,
    image: str,
    telescope_name: str,
    size: int,
    options: dict[str, Any],
    wcs: str | None = None,
    subtract_record: str | None = None,
    catalogue: str | None = None,
) -> None:
    """Read the difference and what is known of its PSF, write the table of candidates.

    `wcs` is a FITS header file with the WCS, for images that have none; one refined with the PSF
    comes first. The record of the subtraction tells whether the science image was convolved to
    the seeing of the reference. `catalogue` is a table of known sources (ra, dec).
    """
    planes, header = read_planes(difference, image=image)
    record = read_json(psf_record)
    raise_if_failed(psf)
    if record.get("zero_point") is None:
        raise ImageError(image, "zero_point", f"{psf_record} holds no zero point")
    science_psf = PSFModel.load(psf)
    subtraction = read_json(subtract_record) if subtract_record else {}
    model, seeing = difference_psf(science_psf, record["seeing_px"], subtraction)
    table = detect_candidates(
        planes["diff"],
        planes["noise"],
        planes["mask"],
        image=image,
        telescope=telescope_name,
        seeing=seeing,
        zero_point=record["zero_point"],
        wcs=image_wcs(header, wcs, image=image, record=record),
        psf=model,
        science=planes.get("science"),
        science_psf=science_psf,
        science_seeing=record["seeing_px"],
        catalogue=read_table(catalogue) if catalogue else None,
        time=record.get("time") or "",
        filter=record.get("filter") or "",
        size=size,
        **options,
    )
    write_table(candidates, table)


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            difference=snakemake.input.difference,
            psf=snakemake.input.psf,
            psf_record=snakemake.input.psf_record,
            subtract_record=snakemake.input.get("subtract_record"),
            candidates=snakemake.output.candidates,
            image=snakemake.wildcards.image,
            telescope_name=snakemake.wildcards.telescope,
            size=snakemake.params.size,
            wcs=snakemake.params.get("wcs"),
            catalogue=snakemake.input.get("catalogue") or None,
            options=snakemake.params.options,
        )
