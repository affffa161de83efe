"""Clean one injected image: mask, background, noise."""

from otrain_core.images.frames import read_image, write_planes
from otrain_core.images.prepare import prepare_image
from otrain_core.io import read_json


def main(*, injected, psf_record, prepared, image, telescope, wcs, options):
    """Read an injected image and the record of its PSF; write the prepared planes."""
    frame = read_image(injected, name=image, telescope=telescope, wcs_path=wcs)
    psf = read_json(psf_record)
    shape = {"seeing": psf["seeing_px"], "ellipticity": psf["ellipticity"], "angle": psf["angle"]}
    result = prepare_image(frame, **shape, **options)
    planes = {"sci": result.sci, "noise": result.noise, "mask": result.mask, "background": result.background}
    write_planes(prepared, planes, frame.header.copy(strip=True))


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            injected=snakemake.input.injected,
            psf_record=snakemake.input.psf_record,
            prepared=snakemake.output.prepared,
            image=snakemake.wildcards.image,
            telescope=snakemake.params.telescope,
            wcs=snakemake.params.wcs,
            options=snakemake.params.options,
        )
