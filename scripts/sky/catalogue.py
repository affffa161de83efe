"""Star catalogue and known objects of the field of one image (rules `catalogue` and `fetch_catalogue`)."""

from pathlib import Path
from zlib import crc32

import numpy as np

from otrain_core import io
from otrain_core.errors import ImageError
from otrain_core.images.frames import image_wcs, read_fits
from otrain_core.sky import catalogue as sky
from otrain_core.sky import simulated_catalogue
from otrain_core.sky.fields import COLUMNS, KNOWN_COLUMNS, empty, field_of


def main(
    *,
    science: str | Path,
    truth: str | Path | None,
    catalogue: str | Path,
    known: str | Path,
    image: str,
    telescope: str,
    psf_beta: float | None,
    wcs: str | None,
    source: str | None,
    known_source: str | None,
    cache: str | Path,
    seed: int = 0,
) -> None:
    """Write both tables; without a source, and for real telescopes, they have no rows.

    `source` is None, simulated, gaia, panstarrs or the path of a CSV file; `known_source` is None, or
    vsx, skybot and paths of CSV files, joined by +. Simulated telescopes list their own where it is None;
    `psf_beta` is the Moffat beta of their PSF, None for real ones.
    """
    data, header = read_fits(science, image=image)
    field = None
    if source not in (None, "simulated") or known_source:
        solution = image_wcs(header, wcs, image=image)
        if solution is None:
            raise ImageError(
                image, "WCS", "a star catalogue or known objects need a celestial WCS; give one (column wcs)"
            )
        field = field_of(solution, data.shape, image=image, header=header)
    stars, objects = empty(COLUMNS), empty(KNOWN_COLUMNS)
    table = io.read_table(truth) if truth else None
    if source not in (None, "simulated"):
        stars = sky.star_catalogue(source, field, cache=cache)
    elif table is not None:
        rng = np.random.default_rng([seed, crc32(f"catalogue/{telescope}/{image}".encode())])
        limit = simulated_catalogue.simulated_limit(header, beta=psf_beta)
        stars = simulated_catalogue.survey_of(table, limit=limit, rng=rng)
    if known_source:
        objects = sky.known_objects(known_source, field, cache=cache)
    elif table is not None:
        objects = simulated_catalogue.known_of(table)
    io.write_table(catalogue, stars)
    io.write_table(known, objects)


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            science=snakemake.params.science,
            truth=snakemake.input.get("truth"),
            catalogue=snakemake.output.catalogue,
            known=snakemake.output.known,
            image=snakemake.wildcards.image,
            telescope=snakemake.wildcards.telescope,
            psf_beta=snakemake.params.psf_beta,
            wcs=snakemake.params.wcs,
            source=snakemake.params.source,
            known_source=snakemake.params.known_source,
            cache=snakemake.params.cache,
            seed=snakemake.params.seed,
        )
