"""Label the candidates of one image by its injected sources."""

from typing import Any

from otrain_core.candidates.crossmatch import crossmatch_candidates
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
    subtract_record: str | None = None,
    known: str | None = None,
) -> None:
    """Read candidates, injected sources and known objects, write the labelled table and its record.

    The record of the subtraction tells which stars were taken out of the reference.
    """
    psf = read_json(psf_record)
    limit = psf.get("limit_mag")
    table, counts = crossmatch_candidates(
        read_table(candidates),
        read_table(injected),
        image=image,
        seeing=psf["seeing_px"],
        seeing_arcsec=psf["seeing_arcsec"],
        limit_mag=float("nan") if limit is None else limit,
        known=read_table(known) if known else None,
        sky_truth=read_table(sky_truth) if sky_truth else None,
        removed=removed_stars(read_json(subtract_record)) if subtract_record else (),
        **options,
    )
    write_table(labelled, table)
    write_json(record, counts)


def removed_stars(record: dict[str, Any]) -> list[int]:
    """Ids of the stars that the subtraction took out of the reference."""
    removed = record.get("removed") or []
    return removed.get("removed", []) if isinstance(removed, dict) else removed


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            candidates=snakemake.input.candidates,
            injected=snakemake.input.injected,
            psf_record=snakemake.input.psf_record,
            subtract_record=snakemake.input.get("subtract_record"),
            known=snakemake.input.get("known"),
            sky_truth=snakemake.input.get("sky_truth"),
            labelled=snakemake.output.labelled,
            record=snakemake.output.record,
            image=snakemake.wildcards.image,
            options=snakemake.params.options,
        )
