"""Reference of one science image from a survey of the sky (rule `survey_reference`)."""

from pathlib import Path

from astropy.io import fits

from otrain_core import io
from otrain_core.errors import ImageError
from otrain_core.images.frames import image_wcs, read_fits
from otrain_core.sky.survey_reference import survey_reference


def main(
    *, science: str | Path, reference: str | Path, image: str, wcs: str | None, hips: str, cache: str | Path
) -> None:
    """Read the WCS and the size of a science image, fetch the survey, write the reference."""
    data, header = read_fits(science, image=image)
    solution = image_wcs(header, wcs, image=image)
    if solution is None:
        raise ImageError(image, "WCS", "a reference from a survey needs a celestial WCS; give one (column wcs)")
    pixels, header = survey_reference(hips, solution, data.shape, image=image, cache=cache)
    with io.atomic(reference) as temporary:
        fits.PrimaryHDU(pixels, header=header).writeto(temporary, overwrite=True)


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            science=snakemake.params.science,
            reference=snakemake.output.reference,
            image=snakemake.wildcards.image,
            wcs=snakemake.params.wcs,
            hips=snakemake.params.hips,
            cache=snakemake.params.cache,
        )
