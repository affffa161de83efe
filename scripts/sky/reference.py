"""Rule reference: stack the reference frames of one field."""

import logging
from pathlib import Path

from otrain_core import io
from otrain_core.errors import ImageError
from otrain_core.images.frames import read_image
from otrain_core.plan.telescopes import Detector
from otrain_core.sky.reference import stack_reference


def main(*, frames, wcs, reference, record, detector, field):
    """Read the frames, stack them, write the reference (FITS) and its record (JSON).

    A frame that cannot be read is left out and named in the record; `wcs` gives the path
    of a WCS header, or None, for each frame.
    """
    from astropy.io import fits

    images, unreadable = [], []
    for path, header in zip(frames, wcs, strict=True):
        name = Path(path).name.split(".fit")[0]
        try:
            images.append(read_image(path, name=name, detector=Detector.model_validate(detector), wcs_path=header))
        except ImageError as error:
            logging.getLogger("otrain").warning("reference of field %s: %s (frame left out)", field, error)
            unreadable.append({"frame": name, "reason": error.message})
    stack = stack_reference(images, field=field)
    with io.atomic(reference) as temporary:
        fits.PrimaryHDU(stack.data, header=stack.header).writeto(temporary, overwrite=True)
    stack.record["left_out"] += unreadable
    io.write_json(record, stack.record)


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            frames=snakemake.params.frames,
            wcs=snakemake.params.wcs,
            reference=snakemake.output.reference,
            record=snakemake.output.record,
            detector=snakemake.params.detector,
            field=snakemake.wildcards.field,
        )
