"""Clean one injected image: mask, background, noise."""

from otrain_core.images.prepare import prepare_image
from otrain_core.io import read_image, read_json, write_planes


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

    with job_logging(snakemake):  # noqa: F821
        main(
            injected=snakemake.input.injected,  # noqa: F821
            psf_record=snakemake.input.psf_record,  # noqa: F821
            prepared=snakemake.output.prepared,  # noqa: F821
            image=snakemake.wildcards.image,  # noqa: F821
            telescope=snakemake.params.telescope,  # noqa: F821
            wcs=snakemake.params.wcs,  # noqa: F821
            options=snakemake.params.options,  # noqa: F821
        )
