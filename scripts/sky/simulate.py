"""Simulate the science image and the reference of one field."""

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from otrain_core import io
from otrain_core.plan.telescopes import Telescope
from otrain_core.sky.simulate import simulate_pair


def main(
    *,
    science: str | Path,
    reference: str | Path,
    truth: str | Path,
    telescope: dict[str, Any],
    image: str,
    index: int,
    seed: int,
) -> None:
    """Write a science image, its reference and the table of what is in them."""
    pair = simulate_pair(Telescope.model_validate(telescope), index=index, seed=seed)
    pair.science_header["OBJECT"] = image
    pair.reference_header["OBJECT"] = image
    _write(science, pair.science, pair.science_header)
    _write(reference, pair.reference, pair.reference_header)
    io.write_table(truth, pair.truth)


def _write(path: str | Path, data: np.ndarray, header: fits.Header) -> None:
    with io.atomic(path) as temporary:
        fits.PrimaryHDU(data, header=header).writeto(temporary, overwrite=True)


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            science=snakemake.output.science,
            reference=snakemake.output.reference,
            truth=snakemake.output.truth,
            telescope=snakemake.params.telescope,
            image=snakemake.wildcards.image,
            index=snakemake.params.index,
            seed=snakemake.params.seed,
        )
