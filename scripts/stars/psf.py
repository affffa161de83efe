"""Measure the PSF of one science image."""

from otrain_core.images.frames import check_fit, read_image
from otrain_core.io import read_table, write_json
from otrain_core.plan.telescopes import Detector
from otrain_core.stars.psf import measure_psf


def main(*, science, psf, record, image, detector, wcs, options, catalogue=None, needs_wcs=False, cutout_size=1):
    """Read a science image as it came; write its PSF model (FITS) and record (JSON).

    `detector` holds the values of an `otrain_core.plan.telescopes.Detector`, `wcs` the path of a WCS header or None,
    `catalogue` that of the star catalogue or None.
    """
    frame = read_image(science, name=image, detector=Detector.model_validate(detector), wcs_path=wcs)
    check_fit(frame, needs_wcs=needs_wcs, cutout_size=cutout_size)
    model, values = measure_psf(frame, catalogue=read_table(catalogue) if catalogue else None, **options)
    model.save(psf)
    write_json(record, values)


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            science=snakemake.params.science,
            psf=snakemake.output.psf,
            record=snakemake.output.record,
            catalogue=snakemake.input.get("catalogue"),
            image=snakemake.wildcards.image,
            detector=snakemake.params.detector,
            wcs=snakemake.params.wcs,
            options=snakemake.params.options,
            needs_wcs=snakemake.params.needs_wcs,
            cutout_size=snakemake.params.cutout_size,
        )
