"""Align the reference of an image and subtract it (step `subtract`)."""

from typing import Any


def main(
    *,
    prepared: str,
    psf_record: str,
    reference: str,
    difference: str,
    record: str,
    image: str,
    telescope: dict[str, Any],
    wcs: str | None,
    injected: str | None = None,
    options: dict[str, Any],
) -> None:
    """Write difference.fits and its quality record.

    Stars that `injected` lists as removed are taken out of the reference first.
    """
    from otrain_core import io
    from otrain_core.errors import ImageError, UpstreamFailed
    from otrain_core.images.align import align_reference
    from otrain_core.images.frames import image_wcs, read_image, read_planes, write_planes
    from otrain_core.images.subtract import subtract_images

    options = dict(options)
    planes, header = read_planes(prepared, image=image)
    psf = io.read_json(psf_record)
    seeing = psf.get("seeing_px")
    # Gain and saturation of the telescope hold for a reference whose header does not say otherwise.
    try:
        other = read_image(reference, name=image, telescope=telescope)
    except UpstreamFailed:
        raise
    except ImageError as error:
        key = "reference" if error.key == "path" else f"reference {error.key}"
        raise ImageError(image, key, error.message) from None
    removed = {}
    if injected is not None:
        truth = io.read_table(injected)
        stars = truth[truth["kind"] == "removed"]
        if len(stars):
            from otrain_core.stars.real_stars import remove_stars

            other, stars_record = remove_stars(other, stars, name=image)
            removed = {"removed": stars_record.pop("removed")}
            removed |= {f"removed_{key}": value for key, value in stars_record.items()}
    aligned = align_reference(
        other,
        science_data=planes["sci"],
        science_noise=planes["noise"],
        science_mask=planes["mask"],
        science_wcs=image_wcs(header, wcs, image=image, record=psf),
        name=image,
        method=options.pop("align", "auto"),
        resampling=options.pop("resampling", "bilinear"),
        seeing=seeing,
    )
    result = subtract_images(
        planes["sci"], planes["noise"], planes["mask"], aligned, name=image, seeing=seeing, **options
    )
    written = {"diff": result.diff, "noise": result.noise, "mask": result.mask}
    written |= {"science": planes["sci"], "reference": result.reference}
    write_planes(difference, written, header)
    io.write_json(record, {"image": image, **aligned.record, **result.record, **removed})


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            prepared=snakemake.input.prepared,
            psf_record=snakemake.input.psf_record,
            reference=snakemake.params.reference,
            difference=snakemake.output.difference,
            record=snakemake.output.record,
            image=snakemake.wildcards.image,
            telescope=snakemake.params.telescope,
            wcs=snakemake.params.wcs,
            injected=snakemake.input.get("injected"),
            options=snakemake.params.options,
        )
