"""Inject point sources into one science image as it came."""

from zlib import crc32

import numpy as np

from otrain_core.images.frames import read_image, write_planes
from otrain_core.io import read_json, write_table
from otrain_core.plan.telescopes import Detector
from otrain_core.stars.inject import inject_sources
from otrain_core.stars.psf_model import PSFModel
from otrain_core.stars.psf_stars import measure_sky
from otrain_core.stars.real_stars import add_real_stars


def main(*, science, psf, record, injected, truth, image, telescope, detector, wcs, seed, options):
    """Read a science image, its PSF model and record; write the image with sources and their truth.

    The random stream belongs to the image: adding or leaving out others changes nothing. Real
    stars have a stream of their own, so that they do not change the injected sources.
    """
    values = read_json(record)  # first: it tells of an image that was left out
    options = dict(options)
    real = {key: options.pop(key, 0) for key in ("removed_stars", "transplanted_stars")}
    real |= {key: options[key] for key in ("bright_mag", "faint_mag") if key in options}
    frame = read_image(science, name=image, detector=Detector.model_validate(detector), wcs_path=wcs, record=values)
    rng = np.random.default_rng([seed, crc32(f"{telescope}/{image}".encode())])
    (own,) = rng.spawn(1)
    model, sky = PSFModel.load(psf), measure_sky(frame)
    data, table = inject_sources(frame, model, record=values, rng=rng, sky=sky, **options)
    data, table = add_real_stars(frame, data, table, model, record=values, rng=own, sky=sky, **real)
    write_planes(injected, {"sci": data}, frame.header.copy(strip=True))
    write_table(truth, table)


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            science=snakemake.params.science,
            psf=snakemake.input.psf,
            record=snakemake.input.record,
            injected=snakemake.output.injected,
            truth=snakemake.output.truth,
            image=snakemake.wildcards.image,
            telescope=snakemake.wildcards.telescope,
            detector=snakemake.params.detector,
            wcs=snakemake.params.wcs,
            seed=snakemake.params.seed,
            options=snakemake.params.options,
        )
