"""Label the candidates of one image by its injected sources."""

from pathlib import Path
from typing import Any

from otrain_core.crossmatch import crossmatch_candidates
from otrain_core.errors import ConfigError
from otrain_core.io import read_json, read_table, write_json, write_table


def main(
    *,
    candidates: str,
    injected: str,
    psf_record: str,
    sky_truth: str | None,
    labelled: str,
    record: str,
    image: str,
    options: dict[str, Any],
) -> None:
    """Read candidates, injected sources and known objects, write the labelled table and its record."""
    options = dict(options)
    psf = read_json(psf_record)
    table, counts = crossmatch_candidates(
        read_table(candidates),
        read_table(injected),
        image=image,
        seeing=psf["seeing_px"],
        seeing_arcsec=psf["seeing_arcsec"],
        known=read_known(options.pop("known_objects", None)),
        sky_truth=read_table(sky_truth) if sky_truth else None,
        **options,
    )
    write_table(labelled, table)
    write_json(record, counts)


def read_known(path: str | None):
    """Table of known objects, or None."""
    if not path:
        return None
    if not Path(path).is_file():
        raise ConfigError(f"crossmatch.known_objects: {path}: no such file")
    table = read_table(path)
    for column in ("ra", "dec"):
        if column not in table or table[column].dtype.kind not in "fi":
            raise ConfigError(f"crossmatch.known_objects: {path}: a column {column!r} of numbers (deg) is needed")
    return table


if "snakemake" in globals():
    from otrain_core.job import job_logging

    with job_logging(snakemake):  # noqa: F821
        main(
            candidates=snakemake.input.candidates,  # noqa: F821
            injected=snakemake.input.injected,  # noqa: F821
            psf_record=snakemake.input.psf_record,  # noqa: F821
            sky_truth=snakemake.input.get("sky_truth"),  # noqa: F821
            labelled=snakemake.output.labelled,  # noqa: F821
            record=snakemake.output.record,  # noqa: F821
            image=snakemake.wildcards.image,  # noqa: F821
            options=snakemake.params.options,  # noqa: F821
        )
