"""Deal the candidates of a cube to train, tune and test."""

from typing import Any

from otrain_core.cubes.cube import read_cube
from otrain_core.cubes.split import check_split, split_cube, split_random, summarise_split
from otrain_core.io import write_json, write_table


def main(*, cube: str, split: str, split_paper: str, record: str, seed: int, options: dict[str, Any]) -> None:
    """Read a cube, write the split by image and sky, the random one of the paper, and their counts."""
    arrays = read_cube(cube, mmap=True)
    table = split_cube(arrays, seed=seed, **options)
    check_split(table, arrays, guard=options["guard"])
    random = split_random(arrays, seed=seed)
    write_table(split, table)
    write_table(split_paper, random)
    write_json(record, {"seed": seed, "grouped": summarise_split(table), "paper": summarise_split(random)})


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            cube=snakemake.input.cube,
            split=snakemake.output.split,
            split_paper=snakemake.output.split_paper,
            record=snakemake.output.record,
            seed=snakemake.params.seed,
            options=snakemake.params.options,
        )
