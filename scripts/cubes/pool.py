"""Join the cubes and splits of several telescopes under one pipeline."""

import tempfile
from pathlib import Path
from typing import Any

from otrain_core.arrays import write_arrays
from otrain_core.cubes.cube import read_cube
from otrain_core.cubes.pool import check_pool, join_rows, pool_cubes, summarise_pool
from otrain_core.cubes.split import SETS, summarise_split
from otrain_core.io import read_json, read_table, write_json, write_table
from otrain_core.plan.pools import left_out


def main(
    *,
    cubes: list[str],
    splits: list[str],
    records: list[str],
    real_stars: list[str],
    telescopes: list[str],
    cube: str,
    split: str,
    cube_record: str,
    split_record: str,
    pooled_stars: str,
    name: str,
    pipeline: str,
    seed: int,
    equal: bool = False,
    channels: list[str] | None = None,
) -> None:
    """Write the pool in the files of a cube.

    Parameters
    ----------
    cubes, splits, records, real_stars : list of path
        ``cube.npz``, ``split.csv``, ``cube.json`` and ``real_stars.npz`` of each of `telescopes`.
    cube, split, cube_record, split_record, pooled_stars : path
        The same files of the pool, and ``split.json``.
    name : str
        pool, or pool-without-{telescope}: train and tune only, as the target brings its own test.
    pipeline : str
    seed, equal, channels
        See `otrain_core.cubes.pool.pool_cubes`.
    """
    without = left_out(name)
    sets = SETS if without is None else ("train", "tune")
    opened = {key: read_cube(path, mmap=True) for key, path in zip(telescopes, cubes, strict=True)}
    tables = {key: read_table(path) for key, path in zip(telescopes, splits, strict=True)}
    stars = {
        key: read_cube(path, mmap=True, both_classes=False) for key, path in zip(telescopes, real_stars, strict=True)
    }
    about: dict[str, Any] = {"telescope": name, "pipeline": pipeline}
    Path(cube).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=Path(cube).parent, prefix=".pool") as folder:
        file = Path(folder) / "pixels.npy"
        arrays, table = pool_cubes(opened, tables, seed=seed, sets=sets, equal=equal, channels=channels, file=file)
        check_pool(arrays, table, without=without)
        write_arrays(cube, arrays | about)
        counts = summarise_pool(arrays, table, dict(zip(telescopes, map(read_json, records), strict=True)))
    write_arrays(pooled_stars, join_rows(stars, channels=arrays["channels"].tolist()) | about)
    write_table(split, table)
    write_json(cube_record, {**about, "seed": seed, "sets": list(sets), "equal": equal, **counts})
    write_json(split_record, {"seed": seed, "grouped": summarise_split(table)})


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            **{key: list(snakemake.input[key]) for key in ("cubes", "splits", "records", "real_stars")},
            **{key: str(path) for key, path in snakemake.output.items()},
            **{key: snakemake.params[key] for key in ("telescopes", "seed", "equal", "channels")},
            name=snakemake.wildcards.telescope,
            pipeline=snakemake.wildcards.pipeline,
        )
